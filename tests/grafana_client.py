"""What Grafana does with a dashboard before InfluxDB sees a query, and with the answer after it.

As the InfluxDB data source of Grafana 11 to 13 has it (InfluxQL, through the backend): variables
are interpolated, then $timeFilter and the intervals, and one statement is sent by POST to /query.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from tests.services import Influxd

Json = dict[str, Any]
SPECIAL = re.compile(r"[\\^$*+?.()|\[\]{}/]")
ROUNDED_MS = (1000, 2000, 5000, 10_000, 15_000, 20_000, 30_000, 60_000, 120_000, 300_000, 600_000)


@dataclass(frozen=True)
class View:
    """A dashboard as somebody looks at it: time range and variables (a list: several chosen)."""

    from_ms: int
    to_ms: int
    variables: dict[str, str | list[str]]
    width: int = 1000


def panels(dashboard: Json) -> Iterator[Json]:
    """All panels with data, out of their rows."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panels(panel)
        elif panel["type"] != "text":
            yield panel


def interpolated(text: str, view: View) -> str:
    """Variables as the data source formats them: several become (a|b), escaped as regular
    expressions; what All stands for is taken as it is."""
    for name, value in view.variables.items():
        if isinstance(value, list):
            value = f"({'|'.join(SPECIAL.sub(lambda m: chr(92) + m[0], v) for v in value)})"
        text = re.sub(rf"\$\{{{name}\}}|\${name}\b", lambda _, v=value: v, text)  # type: ignore[misc]
    return text


def interval_ms(view: View, least_ms: int = 1000) -> int:
    """$__interval in ms: range over width, rounded up to what Grafana rounds to."""
    wanted = (view.to_ms - view.from_ms) / view.width
    return next(ms for ms in ROUNDED_MS if ms >= max(wanted, least_ms))


def expanded(text: str, view: View) -> str:
    """The query that is sent, in the backend's order of replacement."""
    text = interpolated(text, view)
    ms = interval_ms(view)
    text = text.replace("$timeFilter", f"time >= {view.from_ms}ms and time <= {view.to_ms}ms")
    text = text.replace("$interval", f"{ms // 1000}s")
    text = text.replace("$__interval_ms", str(ms))
    return text.replace("$__interval", f"{ms // 1000}s")


def ask(server: Influxd, db: str, query: str) -> list[Json]:
    """The series of the one result that Grafana parses."""
    body = msgspec.json.decode(server.post("/query", b"", db=db, epoch="ms", q=query))
    assert "error" not in body, f"{query}: {body}"
    (result,) = body["results"]
    assert "error" not in result, f"{query}: {result}"
    return list(result.get("series", []))


def named(series: Json, alias: str, column: str) -> str:
    """A frame's name: $tag_NAME and $col of its alias."""
    tags = series.get("tags", {})
    name = re.sub(r"\$tag_(\w+)", lambda m: str(tags.get(m[1], m[0])), alias)
    return name.replace("$col", column)


def frames(server: Influxd, db: str, target: Json, view: View) -> dict[str, list[list[Any]]]:
    """Of a time series target: name -> [[time in ms, value], ...], one for each series."""
    out: dict[str, list[list[Any]]] = {}
    for series in ask(server, db, expanded(target["query"], view)):
        assert series["columns"][0] == "time"
        for i, column in enumerate(series["columns"][1:], 1):
            name = named(series, target["alias"], column)
            assert name not in out, f"two series are named {name}: {target['query']}"
            out[name] = [[row[0], row[i]] for row in series["values"]]
    return out


def rows(server: Influxd, db: str, target: Json, view: View) -> list[Json]:
    """Of a table target: rows by column, tags among them; the time is in column Time."""
    out = []
    for series in ask(server, db, expanded(target["query"], view)):
        for values in series["values"]:
            row = dict(zip(series["columns"], values, strict=True))
            row["Time"] = row.pop("time")
            out.append({**series.get("tags", {}), **row})
    return out


def choices(server: Influxd, db: str, query: str, view: View) -> list[str]:
    """What a query variable offers."""
    found = ask(server, db, interpolated(query, view))
    return [value for series in found for _, value in series["values"]]
