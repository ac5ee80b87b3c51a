"""InfluxQL as the dashboards use it: every name is of store/schema.py, or it is an error here.

The subset is what InfluxDB 1.x, 2.x and 3 Core share, one statement a target. Grafana expands
$timeFilter, $__interval and the variables ($run and so on, as regular expressions).
"""

import re
from dataclasses import dataclass

from tokenswarm.store.schema import MEASUREMENTS

QUOTED = re.compile(r'"([^"]+)"')

VARIABLES = {"run_id": "run", "model": "model", "engine": "engine", "host": "host", "gpu": "gpu"}
"""Tag -> dashboard variable that narrows it."""

RUN = ("run_id",)
MODELS = ("run_id", "model")
ENGINES = ("run_id", "model", "engine")
DEVICES = ("run_id", "host", "gpu")
TOO_MANY = 20_000
"""Raw points of one series that a panel asks for at most; a browser draws no more."""


@dataclass(frozen=True, slots=True)
class Query:
    """One target of a panel. `alias` names its series; `table` asks for columns instead."""

    text: str
    alias: str = ""
    table: bool = False


def condition(measurement: str, scope: tuple[str, ...], where: str = "") -> str:
    """The variables of `scope` that are tags of `measurement`, and `where`."""
    tags = MEASUREMENTS[measurement].tags
    terms = [f'"{tag}" =~ /^${VARIABLES[tag]}$/' for tag in scope if tag in tags]
    return " AND ".join([*terms, *([where] if where else [])])


def series(
    measurement: str,
    select: str,
    *,
    by: tuple[str, ...] = (),
    where: str = "",
    scope: tuple[str, ...] = MODELS,
    every: str = "$__interval",
    fill: str = "none",
    alias: str = "",
) -> Query:
    """`select` over each interval `every`, a series for each value of the tags `by`."""
    groups = ", ".join([f"time({every})", *(f'"{tag}"' for tag in by)])
    text = (
        f'SELECT {select} FROM "{measurement}" WHERE {condition(measurement, scope, where)} '
        f"AND $timeFilter GROUP BY {groups} fill({fill})"
    )
    return Query(checked(measurement, text), alias)


def summed(
    measurement: str,
    inner: str,
    outer: str,
    *,
    each: tuple[str, ...],
    by: tuple[str, ...] = (),
    every: str = "$__interval",
    inner_every: str = "",
    scope: tuple[str, ...] = MODELS,
    alias: str = "",
) -> Query:
    """`outer` over "part", which is `inner` for every combination of the tags `each`."""
    first = ", ".join([f"time({inner_every or every})", *(f'"{t}"' for t in (*by, *each))])
    then = ", ".join([f"time({every})", *(f'"{t}"' for t in by)])
    text = (
        f'SELECT {outer} FROM (SELECT {inner} AS "part" FROM "{measurement}" WHERE '
        f"{condition(measurement, scope)} AND $timeFilter GROUP BY {first} fill(none)) "
        f"WHERE $timeFilter GROUP BY {then} fill(none)"
    )
    return Query(checked(measurement, text), alias)


def raw(
    measurement: str,
    field: str,
    *,
    by: tuple[str, ...] = (),
    where: str = "",
    scope: tuple[str, ...] = MODELS,
    alias: str = "",
) -> Query:
    """Every value of `field`, as it was measured."""
    text = (
        f'SELECT "{field}" FROM "{measurement}" WHERE {condition(measurement, scope, where)} '
        f"AND $timeFilter{_grouped(by)} LIMIT {TOO_MANY}"
    )
    return Query(checked(measurement, text), alias)


def figure(
    measurement: str,
    select: str,
    *,
    where: str = "",
    by: tuple[str, ...] = (),
    scope: tuple[str, ...] = RUN,
    alias: str = "",
) -> Query:
    """One number over the whole run, whatever part of it is shown."""
    text = (
        f'SELECT {select} FROM "{measurement}" '
        f"WHERE {condition(measurement, scope, where)}{_grouped(by)}"
    )
    return Query(checked(measurement, text), alias)


def _grouped(by: tuple[str, ...]) -> str:
    return " GROUP BY " + ", ".join(f'"{tag}"' for tag in by) if by else ""


def table(
    measurement: str,
    *columns: str,
    where: str = "",
    scope: tuple[str, ...] = MODELS,
    in_time: bool = False,
    tail: str = "",
) -> Query:
    """Rows with `columns` (names, or expressions with AS), `in_time` those of the time shown."""
    names = ", ".join(c if '"' in c else f'"{c}"' for c in columns)
    filters = [condition(measurement, scope, where), "$timeFilter" if in_time else ""]
    found = " AND ".join(filter(None, filters))
    text = f'SELECT {names} FROM "{measurement}"{f" WHERE {found}" if found else ""} {tail}'.strip()
    return Query(checked(measurement, text), table=True)


def tag_values(measurement: str, tag: str, where: str = "") -> str:
    """The query of a dashboard variable."""
    text = f'SHOW TAG VALUES FROM "{measurement}" WITH KEY = "{tag}"'
    return checked(measurement, f"{text} WHERE {where}" if where else text)


def checked(measurement: str, text: str) -> str:
    """`text`, whose quoted names are all columns of `measurement`, or are made by AS in it."""
    made = set(re.findall(r'AS "([^"]+)"', text))
    known = {*MEASUREMENTS[measurement].columns, measurement} | made
    if unknown := set(QUOTED.findall(text)) - known:
        raise ValueError(f"{measurement} has no {sorted(unknown)}: {text}")
    return text
