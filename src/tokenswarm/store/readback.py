"""What a database holds of a run: how many values of each field there are, and their sums."""

import json
import math
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import urllib3
from urllib3.exceptions import HTTPError

from tokenswarm.errors import TargetError, UsageError
from tokenswarm.store.influx import BUILD, CONNECT_S, Database, quoted
from tokenswarm.store.schema import MEASUREMENTS, Kind, Measurement

READ_S = 300.0
NUMBERS: tuple[Kind, ...] = ("float", "int")
FAR_S = "4102444800"  # the year 2100


@dataclass(frozen=True, slots=True)
class Tally:
    """`count` values and their sum; of a field that is no number the sum is None."""

    count: int
    total: float | int | None


Tags: TypeAlias = tuple[str, ...]
Tallies: TypeAlias = dict[Tags, dict[str, Tally]]
"""Tag values in schema order -> field -> its tally; fields without values are not in it."""


class InfluxQL:
    """A database that answers InfluxQL: InfluxDB 1.x, 2.x and 3 Core."""

    kinds: frozenset[Kind] = frozenset(("float", "int", "bool", "str"))

    def __init__(self, database: Database, pool: urllib3.PoolManager):
        self._database, self._pool = database, pool

    def tallies(self, measurement: str, run_id: str) -> Tallies:
        """What there is of one run. TargetError: no answer; UsageError: denied."""
        m = MEASUREMENTS[measurement]
        fields = [f for f in m.fields if not f.files_only]
        terms = []
        for i, f in enumerate(fields):
            terms.append(f"COUNT({quoted(f.name)}) AS c{i}")
            if f.kind in NUMBERS:
                terms.append(f"SUM({quoted(f.name)}) AS s{i}")
        q = (
            f"SELECT {', '.join(terms)} FROM {quoted(measurement)} "
            f"WHERE {_where('run_id', run_id)} GROUP BY {', '.join(map(quoted, m.tags))}"
        )
        found: Tallies = {}
        for series in self._query(q):
            cells = dict(zip(series["columns"], series["values"][0], strict=True))
            found[tuple(series["tags"][tag] for tag in m.tags)] = {
                f.name: Tally(cells[f"c{i}"], cells.get(f"s{i}"))
                for i, f in enumerate(fields)
                if cells.get(f"c{i}")
            }
        return found

    def _query(self, q: str) -> list[dict[str, Any]]:
        asked = {"db": self._database.name, "epoch": "ns", "q": q}
        reply = _ask(self._pool, self._database, "POST", "/query", asked)
        results = json.loads(reply.data).get("results", [{}])
        if "error" in results[0]:
            raise TargetError(f"{self._database.url}: {results[0]['error']:.300}")
        return list(results[0].get("series", []))


class Metrics:
    """VictoriaMetrics: numbers only, times in ms, a metric is named MEASUREMENT_FIELD."""

    kinds: frozenset[Kind] = frozenset(("float", "int", "bool"))

    def __init__(self, database: Database, pool: urllib3.PoolManager):
        self._database, self._pool = database, pool
        _ask(pool, database, "GET", "/internal/force_flush", {})

    def tallies(self, measurement: str, run_id: str) -> Tallies:
        """What there is of one run, as raw samples. TargetError: no answer."""
        m = MEASUREMENTS[measurement]
        found: Tallies = {}
        for sample in self._export(m, run_id):
            tags = tuple(sample["metric"].get(tag, "none") for tag in m.tags)
            name = sample["metric"]["__name__"].removeprefix(f"{measurement}_")
            before = found.setdefault(tags, {}).get(name, Tally(0, 0))
            found[tags][name] = Tally(
                before.count + len(sample["values"]),
                (before.total or 0) + math.fsum(sample["values"]),
            )
        return found

    def _export(self, m: Measurement, run_id: str) -> Iterator[Any]:
        names = "|".join(f.name for f in m.fields if f.kind in self.kinds)
        match = f'{{__name__=~"{m.name}_({names})",run_id="{run_id}"}}'
        asked = {"match[]": match, "start": "0", "end": FAR_S}
        reply = _ask(self._pool, self._database, "GET", "/api/v1/export", asked)
        for line in reply.data.splitlines():
            yield json.loads(line)


def reader(database: Database, pool: urllib3.PoolManager) -> InfluxQL | Metrics:
    """How to read from this database. TargetError: it cannot be reached."""
    reply = _ask(pool, database, "GET", BUILD, {}, allowed=(200, 400, 401, 403, 404, 405))
    if reply.status == 200 and b'"success"' in reply.data:
        return Metrics(database, pool)
    return InfluxQL(database, pool)


def pool() -> urllib3.PoolManager:
    """Connections to read with."""
    return urllib3.PoolManager(
        retries=False, timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S)
    )


def _ask(
    pool: urllib3.PoolManager,
    database: Database,
    method: str,
    path: str,
    asked: Mapping[str, str],
    allowed: tuple[int, ...] = (200,),
) -> urllib3.BaseHTTPResponse:
    url = f"{database.base}{path}?{urllib.parse.urlencode(asked)}"
    try:
        reply = pool.request(method, url, headers=database.headers())
    except HTTPError as e:
        raise TargetError(f"{database.url}: cannot read it back: {str(e)[:300]}") from e
    if reply.status in allowed:
        return reply
    said = f"{database.url}: HTTP {reply.status}: {reply.data[:300].decode(errors='replace')}"
    if reply.status in (401, 403):
        raise UsageError(f"{said}; check the token (--token-file or TOKENSWARM_INFLUX_TOKEN)")
    raise TargetError(said)


def _where(tag: str, value: str) -> str:
    literal = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{quoted(tag)} = '{literal}'"
