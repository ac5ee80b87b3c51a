"""Panels of Grafana's classic dashboard model, as plain dictionaries."""

from collections.abc import Sequence
from typing import Any

from grafana.query import Query
from tokenswarm.store.schema import MEASUREMENTS

Json = dict[str, Any]

DATASOURCE = {"type": "influxdb", "uid": "${datasource}"}
UNITS = {
    "s": "s", "ms": "dateTimeAsIso", "bytes": "bytes", "bytes/s": "Bps", "W": "watt", "J": "joule",
    "Hz": "hertz", "degC": "celsius", "tok/s": "suffix: tok/s", "1/s": "reqps", "us": "µs",
}  # fmt: skip
"""Unit of the schema -> Grafana's."""

GREEN, YELLOW, ORANGE, RED = "#56A64B", "#F2CC0C", "#FF9830", "#E02F44"
BLUE, PURPLE, GREY = "#3274D9", "#A352CC", "#6E7681"
STRATA = {"warm": GREEN, "swap_trigger": RED, "swap_waiter": ORANGE, "swap_collateral": PURPLE}
STATES = {
    "resident": GREEN, "loading": ORANGE, "partial": YELLOW, "asleep": BLUE, "absent": "#3B3F46"
}  # fmt: skip
STATUSES = {"ok": GREEN, "failed": RED}
SWAP_BAND = "a swap or cold start is under way"
AFTER_THE_RUN = "known when the run has ended"


def unit_of(column: str) -> str | None:
    """Grafana's unit for a column of the schema; None for text and plain numbers."""
    if column.endswith("_ratio"):
        return "percentunit"
    for m in MEASUREMENTS.values():
        for f in m.fields:
            if f.name == column:
                return UNITS.get(f.unit)
    return None


def targets(queries: Sequence[Query]) -> list[Json]:
    return [
        {
            "refId": chr(ord("A") + i),
            "datasource": DATASOURCE,
            "query": q.text,
            "rawQuery": True,
            "resultFormat": "table" if q.table else "time_series",
            "alias": q.alias,
        }
        for i, q in enumerate(queries)
    ]


def panel(kind: str, title: str, text: str, queries: Sequence[Query], **more: Any) -> Json:
    return {
        "type": kind,
        "title": title,
        "description": text,
        "datasource": DATASOURCE,
        "interval": "1s",
        "targets": targets(queries),
        **more,
    }


def override(matcher: str, options: Any, **properties: Any) -> Json:
    """`properties`: `__` stands for the dot of custom.*."""
    return {
        "matcher": {"id": matcher, "options": options},
        "properties": [{"id": k.replace("__", "."), "value": v} for k, v in properties.items()],
    }


def fixed(color: str) -> Json:
    return {"mode": "fixed", "fixedColor": color}


def coloured(colors: dict[str, str]) -> list[Json]:
    """A fixed colour for each series name."""
    return [override("byName", name, color=fixed(color)) for name, color in colors.items()]


def steps(*pairs: tuple[float | None, str]) -> Json:
    """Thresholds: colours from a value on; None is minus infinity."""
    return {"mode": "absolute", "steps": [{"value": v, "color": c} for v, c in pairs]}


def band(query: Query) -> tuple[Query, Json]:
    """The 0/1 series of swaps behind a panel, on a hidden axis of its own."""
    shade = override(
        "byName",
        SWAP_BAND,
        color=fixed(ORANGE),
        unit="bool",
        min=0,
        max=1,
        custom__axisPlacement="hidden",
        custom__lineInterpolation="stepAfter",
        custom__lineWidth=0,
        custom__fillOpacity=14,
        custom__stacking={"mode": "none", "group": "swaps"},
        custom__drawStyle="line",
        custom__showPoints="never",
        custom__spanNulls=True,
        custom__hideFrom={"legend": True, "tooltip": True, "viz": False},
    )
    return query, shade


def timeseries(
    title: str,
    text: str,
    queries: Sequence[Query],
    unit: str,
    *,
    swaps: Query | None = None,
    overrides: Sequence[Json] = (),
    custom: Json | None = None,
    defaults: Json | None = None,
    transformations: Sequence[Json] = (),
    legend: str = "right",
) -> Json:
    """Lines over time, with last and max of each in the legend; `swaps`: the band behind them."""
    drawn = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 8,
        "gradientMode": "none",
        "showPoints": "never",
        "pointSize": 5,
        "spanNulls": 5000,
        "axisPlacement": "auto",
        "stacking": {"mode": "none", "group": "A"},
        **(custom or {}),
    }
    shown = list(overrides)
    if swaps is not None:
        query, shade = band(swaps)
        queries, shown = [*queries, query], [*shown, shade]
    return panel(
        "timeseries", title, text, queries,
        fieldConfig={
            "defaults": {
                "unit": unit,
                "min": 0,
                "color": {"mode": "palette-classic-by-name"},
                "custom": drawn,
                **(defaults or {}),
            },
            "overrides": shown,
        },
        options={
            "legend": {
                "displayMode": "table", "placement": legend, "showLegend": True,
                "calcs": ["lastNotNull", "max"],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        **({"transformations": list(transformations)} if transformations else {}),
    )  # fmt: skip


def stat(
    title: str,
    text: str,
    queries: Sequence[Query],
    unit: str,
    *,
    thresholds: Json | None = None,
    decimals: int | None = None,
    none: str = AFTER_THE_RUN,
    calc: str = "lastNotNull",
    graph: bool = False,
    fields: str = "",
    mappings: Sequence[Json] = (),
) -> Json:
    """One number a series, large."""
    defaults: Json = {
        "unit": unit,
        "noValue": none,
        "color": {"mode": "thresholds"},
        "thresholds": thresholds or steps((None, BLUE)),
        "mappings": list(mappings),
    }
    if decimals is not None:
        defaults["decimals"] = decimals
    several = len(queries) > 1
    return panel(
        "stat", title, text, queries,
        fieldConfig={"defaults": defaults, "overrides": []},
        options={
            "reduceOptions": {"calcs": [calc], "fields": fields, "values": False},
            "orientation": "horizontal" if several else "auto",
            "textMode": "value_and_name" if several else "value",
            "colorMode": "value",
            "graphMode": "area" if graph else "none",
            "justifyMode": "auto",
            "wideLayout": True,
        },
    )  # fmt: skip


def table(
    title: str,
    text: str,
    queries: Sequence[Query],
    columns: dict[str, str],
    *,
    overrides: Sequence[Json] = (),
    join: str = "",
    sort: tuple[str, bool] | None = None,
    none: str = AFTER_THE_RUN,
) -> Json:
    """`columns`: name in the data -> heading, in order; all others are hidden. Units come from
    the schema. `join`: the column that the queries share."""
    shown = []
    for name, heading in columns.items():
        if unit := unit_of(name):
            shown.append(override("byName", heading, unit=unit))
    return panel(
        "table", title, text, queries,
        fieldConfig={
            "defaults": {
                "unit": "none",
                "noValue": none,
                "custom": {"align": "auto", "cellOptions": {"type": "auto"}, "filterable": True},
            },
            "overrides": [*shown, *overrides],
        },
        options={
            "showHeader": True,
            "cellHeight": "sm",
            "sortBy": [{"displayName": sort[0], "desc": sort[1]}] if sort else [],
        },
        transformations=[*_joined(join), *arranged(columns)],
    )  # fmt: skip


def _joined(by: str) -> list[Json]:
    if not by:
        return []
    return [{"id": "joinByField", "options": {"byField": by, "mode": "outer"}}]


def arranged(columns: dict[str, str]) -> list[Json]:
    """Show `columns`, in this order, under their headings."""
    return [
        {"id": "filterFieldsByName", "options": {"include": {"names": list(columns)}}},
        {
            "id": "organize",
            "options": {
                "excludeByName": {},
                "indexByName": {name: i for i, name in enumerate(columns)},
                "renameByName": dict(columns),
            },
        },
    ]


def timeline(
    title: str, text: str, queries: Sequence[Query], colors: dict[str, str], **custom: Any
) -> Json:
    """States over time, a row a series."""
    return panel(
        "state-timeline", title, text, queries,
        fieldConfig={
            "defaults": {
                "unit": "string",
                "color": {"mode": "thresholds"},
                "thresholds": steps((None, GREY)),
                "mappings": [value_mapping(colors)],
                "custom": {"lineWidth": 0, "fillOpacity": 85, "spanNulls": 5000, **custom},
            },
            "overrides": [],
        },
        options={
            "mergeValues": True,
            "showValue": "auto",
            "alignValue": "left",
            "rowHeight": 0.85,
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "single", "sort": "none"},
        },
    )  # fmt: skip


def value_mapping(colors: dict[str, str], texts: dict[str, str] | None = None) -> Json:
    return {
        "type": "value",
        "options": {
            value: {"index": i, "color": color, "text": (texts or {}).get(value, value)}
            for i, (value, color) in enumerate(colors.items())
        },
    }


def bars(title: str, text: str, queries: Sequence[Query], unit: str, x: str, **more: Any) -> Json:
    """A bar chart over the text or time column `x`; every other column is a series."""
    options = {
        "orientation": "auto",
        "stacking": "none",
        "showValue": "auto",
        "barWidth": 0.9,
        "groupWidth": 0.75,
        "xTickLabelRotation": 0,
        **more.pop("options", {}),
        "xField": x,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "none"},
    }
    return panel(
        "barchart", title, text, queries,
        fieldConfig={
            "defaults": {
                "unit": unit,
                "min": 0,
                "noValue": more.pop("none", AFTER_THE_RUN),
                "color": {"mode": "palette-classic-by-name"},
                "custom": {"fillOpacity": 85, "lineWidth": 0},
            },
            "overrides": more.pop("overrides", []),
        },
        options=options,
        **more,
    )  # fmt: skip


def markdown(title: str, text: str, content: str) -> Json:
    return {
        "type": "text",
        "title": title,
        "description": text,
        "options": {"mode": "markdown", "content": content},
    }
