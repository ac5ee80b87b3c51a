"""A dashboard around its panels: grid, variables, links, annotations."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from grafana.panel import DATASOURCE, ORANGE, Json
from grafana.query import checked, tag_values

WIDTH = 24
SCHEMA_VERSION = 41
TAG = "tokenswarm"
UIDS = {
    "swaps": "tokenswarm-swaps",
    "overview": "tokenswarm-overview",
    "hardware": "tokenswarm-hardware",
}
SOURCE_UID = "tokenswarm-influxdb"
"""The data source's, in provisioning/datasources/influxdb.yaml."""

OF_RUN = '"run_id" =~ /^$run$/'


@dataclass(frozen=True, slots=True)
class Row:
    """Panels side by side, equally wide unless `widths` says otherwise."""

    height: int
    panels: Sequence[Json]
    heading: str = ""
    widths: Sequence[int] = field(default=())


def placed(rows: Sequence[Row]) -> list[Json]:
    """All panels with ids and places in the grid, top to bottom."""
    out: list[Json] = []
    y = 0
    for row in rows:
        if row.heading:
            out.append(_heading(len(out) + 1, row.heading, y))
            y += 1
        widths = row.widths or [WIDTH // len(row.panels)] * len(row.panels)
        x = 0
        for panel, width in zip(row.panels, widths, strict=True):
            place = {"h": row.height, "w": width, "x": x, "y": y}
            out.append({"id": len(out) + 1, "gridPos": place, **panel})
            x += width
        y += row.height
    return out


def _heading(number: int, title: str, y: int) -> Json:
    place = {"h": 1, "w": WIDTH, "x": 0, "y": y}
    return {
        "id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place,
        "panels": [],
    }  # fmt: skip


def source() -> Json:
    return {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": "influxdb",
        "regex": "",
        "hide": 0,
        "refresh": 1,
        "current": {"selected": True, "text": "tokenswarm", "value": SOURCE_UID},
        "options": [],
    }


def one_of(name: str, label: str, text: str, query: str) -> Json:
    """A run: the newest first, since ids begin with their time."""
    return {**_queried(name, label, text, query), "sort": 2, "multi": False, "includeAll": False}


def any_of(name: str, label: str, text: str, query: str) -> Json:
    """Some of a list, or all, which then also takes in what the list does not name."""
    return {
        **_queried(name, label, text, query),
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": "All", "value": "$__all"},
    }


def _queried(name: str, label: str, text: str, query: str) -> Json:
    return {
        "type": "query",
        "name": name,
        "label": label,
        "description": text,
        "datasource": DATASOURCE,
        "query": query,
        "definition": query,
        "refresh": 2,
        "regex": "",
        "hide": 0,
    }


def window() -> Json:
    """How long the windows of percentiles are."""
    lengths = ["5s", "10s", "30s", "1m", "5m"]
    return {
        "type": "custom",
        "name": "window",
        "label": "Percentiles over",
        "description": "A percentile of each window of this length, over the raw requests in it.",
        "query": ",".join(lengths),
        "hide": 0,
        "multi": False,
        "includeAll": False,
        "current": {"selected": True, "text": "10s", "value": "10s"},
        "options": [{"selected": w == "10s", "text": w, "value": w} for w in lengths],
    }


def run() -> Json:
    return one_of("run", "Run", "A run, the newest first.", tag_values("generator", "run_id"))


def model() -> Json:
    text = "Models of the run."
    return any_of("model", "Model", text, tag_values("tick", "model", OF_RUN))


def engine() -> Json:
    text = "Types of engines of the run: ollama, vllm and so on."
    return any_of("engine", "Engine", text, tag_values("tick", "engine", OF_RUN))


def swap_regions() -> Json:
    """Annotation: every cold start and swap as a region, from demand to its last mark.

    Grafana's InfluxQL data source wants all three columns named, the end as
    measurement.field, in epoch milliseconds.
    """
    text = f'SELECT "text", "kind", "end_ms" FROM "swap" WHERE {OF_RUN} AND $timeFilter'
    return {
        "name": "Swaps",
        "enable": True,
        "hide": False,
        "iconColor": ORANGE,
        "datasource": DATASOURCE,
        "target": {
            "refId": "Anno",
            "fromAnnotations": True,
            "rawQuery": True,
            "query": checked("swap", text),
            "textColumn": "text",
            "tagsColumn": "kind",
            "timeEndColumn": "swap.end_ms",
        },
    }


def link(title: str, which: str, *parameters: str) -> Json:
    """A link from a value to another dashboard."""
    query = "&".join(["var-datasource=${datasource}", *parameters])
    return {"title": title, "url": f"/d/{UIDS[which]}?{query}", "targetBlank": False}


def dashboard(
    which: str, title: str, text: str, variables: Sequence[Json], rows: Sequence[Row],
    annotations: Sequence[Json] = (),
) -> Json:  # fmt: skip
    others: dict[str, Any] = {
        "type": "dashboards", "title": "tokenswarm", "tags": [TAG], "asDropdown": False,
        "icon": "external link", "includeVars": True, "keepTime": True, "targetBlank": False,
        "tooltip": "the other dashboards, same run and time", "url": "",
    }  # fmt: skip
    return {
        "uid": UIDS[which],
        "title": title,
        "description": text,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "timezone": "browser",
        "time": {"from": "now-15m", "to": "now"},
        "timepicker": {"refresh_intervals": ["1s", "2s", "5s", "10s", "30s", "1m"]},
        "refresh": "5s",
        "liveNow": False,
        "links": [others],
        "templating": {"list": [source(), *variables]},
        "annotations": {"list": list(annotations)},
        "panels": placed(rows),
    }
