"""The last half hour of a run that goes on, as data for the live page: RUN_DIR/live.json.

`python -m tokenswarm.analysis.live RUN_DIR` follows the run's spool and writes the file anew every
second or two, until the run has ended or its standard input has. Token rates are those of ticks
(what arrived); a request shows when it has ended.
"""

import os
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tokenswarm.analysis.columns import NS, Columns, floats, run_seconds, texts
from tokenswarm.analysis.evidence import SIDES, Evidence, evidence
from tokenswarm.analysis.figures import STRATA
from tokenswarm.analysis.growing import growing
from tokenswarm.analysis.percentiles import nearest_rank
from tokenswarm.analysis.requests import COLUMNS, Requests, requests
from tokenswarm.analysis.swaps import Found
from tokenswarm.analysis.throughput import TokenSeries
from tokenswarm.analysis.timeline import Timeline, timeline
from tokenswarm.store import reading
from tokenswarm.store.rundir import Manifest, RunDir
from tokenswarm.store.schema import REQUEST

KEPT_S = 1800.0
KEPT_REQUESTS = 200_000
"""Where half an hour brings more requests, the page begins later: memory stays bounded."""
RECENT_S = 10.0
"""Rates of the table are over so many seconds."""
STEP_S = 1.0
REST = 4
"""So much longer than a look takes is the rest after it: the load comes first."""
NICE = 10
_MODEL, _GAPS = REQUEST.columns.index("model"), REQUEST.columns.index("gaps_us")
FAILED = np.array(["error", "timeout"], dtype=object)
ITL_REQUESTS = 1000
"""ITL is pooled over so many requests of a model, the last ones."""
Pair = tuple[str, list[Any]]
Ints = NDArray[np.uint32]
Gaps = defaultdict[str, deque[tuple[int, Ints]]]
"""Model -> of its last requests, when each ended (ns) and the gaps between its tokens, us."""


class ModelNow(msgspec.Struct, frozen=True):
    """One model's line: rates over the last seconds, percentiles over what is kept."""

    model: str
    requests_s: float
    tok_s: float
    in_flight: int
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    e2e_p95_s: float | None
    itl_p95_s: float | None
    requests: int
    cold: int
    errors: int
    state: str | None
    vram_used_bytes: int | None


class LivePage(msgspec.Struct, frozen=True):
    """What the live page draws. Times of the timeline count from `offset_s` on the run's clock."""

    run_id: str
    scenario: str | None
    simulated: bool
    over: bool
    offset_s: float
    now_s: float
    t0_unix_ns: int
    rows: list[ModelNow]
    models: list[str]
    strata: tuple[str, ...]
    timeline: Timeline
    events: list[dict[str, Any]]


class Live:
    """The rows of the last half hour."""

    def __init__(self, manifest: Manifest, kept_requests: int = KEPT_REQUESTS) -> None:
        self.manifest = manifest
        self._kept_requests = kept_requests
        self._rows = growing([("request", COLUMNS), *((name, None) for name in ("tick", *SIDES))])
        self._gaps: Gaps = defaultdict(lambda: deque(maxlen=ITL_REQUESTS))
        self._start_s = 0.0

    def take(self, pairs: Iterable[Pair]) -> None:
        """Add rows of any measurement; those that the page does not need are passed over."""
        for name, row in pairs:
            if name in self._rows:
                self._rows[name].add(row)
                if name == "request" and row[_GAPS]:
                    gaps = np.array(row[_GAPS][1:], dtype=np.uint32)
                    self._gaps[row[_MODEL]].append((row[0], gaps))

    def page(self, now_s: float, *, over: bool = False) -> LivePage:
        """Everything as it is at `now_s` on the run's clock."""
        manifest, start_s = self.manifest, self._forget(now_s)
        t0_unix_ns = manifest.t0_unix_ns + round(start_s * NS)
        columns = {name: rows.columns() for name, rows in self._rows.items()}
        table = requests(_moved(columns["request"], start_s))
        seen = evidence(columns, t0_unix_ns, manifest.telemetry, manifest.scenario)
        found = seen.find(table)
        names = self._names(table, columns["tick"])
        tokens = _tokens(names, columns["tick"], t0_unix_ns, now_s - start_s)
        line = _line(names, table, found, tokens, seen, columns, now_s - start_s)
        return LivePage(
            run_id=manifest.run_id,
            scenario=(manifest.scenario or {}).get("name"),
            simulated=manifest.simulated,
            over=over,
            offset_s=start_s,
            now_s=now_s,
            t0_unix_ns=manifest.t0_unix_ns,
            rows=[
                _now(n, table, found, columns, line, self._gaps_since(n, t0_unix_ns)) for n in names
            ],
            models=names,
            strata=STRATA,
            timeline=line,
            events=_events(found),
        )

    def _gaps_since(self, model: str, unix_ns: int) -> list[Ints]:
        return [gaps for ended_ns, gaps in self._gaps[model] if ended_ns >= unix_ns]

    def _forget(self, now_s: float) -> float:
        """Let go of what is too old or too much; where the page begins, on the run's clock."""
        self._start_s = max(self._start_s, now_s - KEPT_S, self._last_of_too_many_s())
        for rows in self._rows.values():
            rows.forget(self.manifest.t0_unix_ns + round(self._start_s * NS))
        return self._start_s

    def _last_of_too_many_s(self) -> float:
        """When the last request ended that is one too many, on the run's clock; else 0."""
        too_many = len(self._rows["request"]) - self._kept_requests
        if too_many <= 0:
            return 0.0
        ended_ns = np.sort(self._rows["request"].columns()["time_ns"])
        return float(ended_ns[too_many - 1] + 1 - self.manifest.t0_unix_ns) / NS

    def _names(self, table: Requests, ticks: Columns) -> list[str]:
        said = [m["name"] for m in (self.manifest.scenario or {}).get("models", [])]
        more = {*table.model.tolist(), *texts(ticks, "model").tolist()} - set(said)
        return [*said, *sorted(more)]


def _moved(columns: Columns, start_s: float) -> dict[str, Any]:
    """Requests with their times counted from `start_s`."""
    return {
        name: values - start_s if name.startswith("t_") and name.endswith("_s") else values
        for name, values in columns.items()
    }


def _tokens(names: list[str], ticks: Columns, t0_unix_ns: int, length_s: float) -> TokenSeries:
    """Token events by the second in which they arrived."""
    series = TokenSeries(len(names), max(length_s, 1.0), max(length_s, 1.0))
    model, events = texts(ticks, "model"), floats(ticks, "token_events")
    middle = run_seconds(ticks, t0_unix_ns) - floats(ticks, "interval_s") / 2
    second = np.clip(middle, 0, series.seconds - 1).astype(np.int64)
    for place, name in enumerate(names):
        mine = model == name
        np.add.at(series.per_second[place], second[mine], np.nan_to_num(events[mine]))
    return series


def _line(
    names: list[str],
    table: Requests,
    found: Found,
    tokens: TokenSeries,
    seen: Evidence,
    columns: Mapping[str, Columns],
    length_s: float,
) -> Timeline:
    return timeline(
        names, table, found, tokens, seen.memories, columns["gpu_process"],
        columns["residency"], seen.stays, max(length_s, 1.0), seen.t0_unix_ns,
    )  # fmt: skip


def _events(found: Found) -> list[dict[str, Any]]:
    keys = ("model_in", "model_out", "displaced", "t0_s", "t1_s", "t3_s", "t4_s", "t5_s")
    return [{k: getattr(e, k) for k in keys} for e in found.events]


def _now(
    name: str, table: Requests, found: Found, columns: Mapping[str, Columns], line: Timeline,
    gaps: Iterable[Ints],
) -> ModelNow:  # fmt: skip
    mine = table.model == name
    ok = mine & table.ok
    ticks = columns["tick"]
    own = texts(ticks, "model") == name
    recent = own & (ticks["time_ns"] > _last_ns(ticks) - RECENT_S * 1e9)
    over_s = min(RECENT_S, line.duration_s)
    return ModelNow(
        model=name,
        requests_s=round(float(_sum(ticks, "done", recent)) / over_s, 2),
        tok_s=round(float(_sum(ticks, "token_events", recent)) / over_s, 1),
        in_flight=_in_flight(ticks, own),
        ttft_p50_s=nearest_rank(table.ttft[ok], 0.50),
        ttft_p95_s=nearest_rank(table.ttft[ok], 0.95),
        e2e_p95_s=nearest_rank(table.e2e[ok], 0.95),
        itl_p95_s=_itl_p95_s(gaps),
        requests=int(mine.sum()),
        cold=sum(e.model_in == name for e in found.events),
        errors=int((mine & np.isin(table.status, FAILED)).sum()),
        state=_last_state(columns["residency"], name),
        vram_used_bytes=_memory(line, name),
    )


def _last_ns(ticks: Columns) -> int:
    return int(max(ticks["time_ns"], default=0))


def _sum(ticks: Columns, name: str, where: Any) -> float:
    return float(np.nansum(floats(ticks, name)[where]))


def _in_flight(ticks: Columns, own: Any) -> int:
    """The last word of every worker."""
    worker, count = texts(ticks, "worker")[own], floats(ticks, "in_flight")[own]
    last = dict(zip(worker.tolist(), count.tolist(), strict=True))
    return int(sum(last.values()))


def _itl_p95_s(gaps: Iterable[Ints]) -> float | None:
    pooled = np.concatenate([np.empty(0), *gaps])
    found = nearest_rank(pooled, 0.95)
    return None if found is None else found / 1e6


def _last_state(residency: Columns, model: str) -> str | None:
    """Where the model's weights are, as the engine said last; None: no engine says."""
    said = np.flatnonzero(texts(residency, "model") == model)
    if not len(said):
        return None
    latest = said[np.argmax(residency["time_ns"][said])]
    return str(residency["state"][latest])


def _memory(line: Timeline, model: str) -> int | None:
    """Bytes that the model's processes hold at the last sample; None: nobody names processes."""
    known = [m.models for m in line.memory if m.models]
    if not known:
        return None
    return int(sum((models[model][-1] or 0) for models in known if models.get(model)))


def follow(run: RunDir, ended: threading.Event) -> None:
    """Write live.json until the run is over or `ended` is set."""
    live, position = Live(run.read_manifest()), reading.Position()
    while True:
        began = time.monotonic()
        over = live.manifest.end_unix_ns is not None or ended.is_set()
        for frame in reading.follow(run.spool, position):
            live.take(frame.rows())
        now_s = _now_s(live.manifest)
        if now_s > 0:
            page = live.page(now_s, over=over)
            run.write(run.live, msgspec.json.encode(page))
        if over:
            return
        took_s = time.monotonic() - began
        ended.wait(max(STEP_S, REST * took_s))
        live.manifest = run.read_manifest()


def _now_s(manifest: Manifest) -> float:
    now_ns = manifest.end_unix_ns or time.time_ns()
    return (now_ns - manifest.t0_unix_ns) / 1e9


def _main(path: str) -> None:
    os.nice(NICE)
    ended = threading.Event()

    def until_eof() -> None:
        sys.stdin.buffer.read()
        ended.set()

    threading.Thread(target=until_eof, daemon=True).start()
    follow(RunDir.open(Path(path)), ended)


if __name__ == "__main__":
    _main(sys.argv[1])
