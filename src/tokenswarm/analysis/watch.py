"""A run as it grows: its rows so far, analysed again and again; what is sealed is told once.

A request is sealed once it ended so long ago that no event still unknown can reach it any more
(`delay_s`), or when the run is over; an event when it is warm again, or as long after its ready.
What was sealed is never changed: it is the live word. What comes later than the delay, and what
is known better in the end, is in the report, which has the last word.

Every row is decoded once. A look costs what is kept (`KEPT_S`, `KEPT_REQUESTS`), and looks are so
far apart that they take no more than `CPU_SHARE` of a core.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from tokenswarm.analysis.columns import NS, Bools, length
from tokenswarm.analysis.evidence import SIDES, evidence
from tokenswarm.analysis.figures import SwapEvent
from tokenswarm.analysis.growing import Growing, growing
from tokenswarm.analysis.requests import COLUMNS, Requests, requests
from tokenswarm.analysis.rows import active_rows, stratum_rows, swap_row
from tokenswarm.analysis.swaps import Found
from tokenswarm.errors import SourceBusyError, SpoolError
from tokenswarm.store import reading
from tokenswarm.store.makers import LIVE, LIVE_MEASUREMENTS
from tokenswarm.store.rundir import Manifest, RunDir
from tokenswarm.store.schema import REQUEST_STRATUM, SWAP
from tokenswarm.store.spool import Writer

DELAY_S = 30.0
STEP_S = 2.0
KEPT_S = 1800.0
"""Rows older than this are let go; what an hour-long stay began with is not needed any more."""
KEPT_REQUESTS = 100_000
"""Of requests that are sealed only the last are kept, to know what is usual for a model."""
CPU_SHARE = 0.05
_STRATUM_ID = REQUEST_STRATUM.columns.index("id")
Pair = tuple[str, list[Any]]


class Said(msgspec.Struct):
    """What a watch has done: events and requests sealed, looks taken, processor time of it."""

    swaps: int = 0
    requests: int = 0
    looks: int = 0
    cpu_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Sealed:
    """What one look sealed: events, and rows of LIVE_MEASUREMENTS in schema order."""

    events: list[SwapEvent]
    rows: list[Pair]


@dataclass(frozen=True, slots=True)
class _Load:
    """The time a sealed event's weights came in, from the first mark after the demand to ready:
    one copy of a model never does so twice at once. Demands do overlap, those of a crowd."""

    target: str
    model: str
    trigger: str
    begin_s: float
    ready_s: float

    def same(self, other: "_Load") -> bool:
        """Whether it is the same event, seen again and perhaps better."""
        if (self.target, self.model) != (other.target, other.model):
            return False
        overlap = other.begin_s <= self.ready_s and self.begin_s <= other.ready_s
        return overlap or (bool(self.trigger) and self.trigger == other.trigger)


@dataclass(slots=True)
class Watch:
    """The rows of one run so far, and what has been sealed of it."""

    manifest: Manifest
    delay_s: float = DELAY_S
    kept_s: float = KEPT_S
    kept_requests: int = KEPT_REQUESTS
    rows: dict[str, Growing] = field(
        default_factory=lambda: growing([("request", COLUMNS), *((s, None) for s in SIDES)])
    )
    _sealed: Bools = field(default_factory=lambda: np.zeros(0, np.bool_))
    """Which of the requests held are sealed, in the order in which they came."""
    _told: set[str] = field(default_factory=set)
    """Ids of requests that an earlier watch sealed and that have not come by yet."""
    _loads: list[_Load] = field(default_factory=list)
    _last_s: float = -np.inf
    """When the look before this one was: what ended long before it is sealed."""
    _times: dict[str, set[int]] = field(
        default_factory=lambda: {name: set() for name in LIVE_MEASUREMENTS}
    )

    def take(self, pairs: Iterable[Pair]) -> None:
        """Add rows of any measurement; those that swaps do not need are passed over."""
        for name, row in pairs:
            if name in self.rows:
                self.rows[name].add(row)

    def resume(self, pairs: Iterable[Pair]) -> None:
        """What a watch before this one has sealed is sealed already."""
        for name, row in pairs:
            self._times[name].add(row[0])
            if name == "request_stratum":
                self._told.add(row[_STRATUM_ID])
            elif name == "swap":
                self._loads.append(_load_of(dict(zip(SWAP.columns, row, strict=True))))

    def look(self, now_s: float, *, over: bool = False) -> Sealed:
        """Analyse everything so far; `now_s` on the run's clock. `over`: the run has ended, so
        everything is sealed."""
        self._know_sealed()
        self._forget()
        self._forget_sealed()
        self._last_s = now_s
        table = requests(self.rows["request"].columns())
        seen = evidence(
            {name: self.rows[name].columns() for name in SIDES},
            self.manifest.t0_unix_ns,
            self.manifest.telemetry,
            self.manifest.scenario,
        )
        found = seen.find(table)
        horizon_s = np.inf if over else now_s - self.delay_s
        events = self._sealed_events(found, horizon_s)
        rows: list[Pair] = [("swap", swap_row(self.manifest.run_id, e)) for e in events]
        active = active_rows(self.manifest, events)
        # that nothing was going on at t0 is for the report to say
        rows += [("swap_active", r) for r in active if r[0] != self.manifest.t0_unix_ns]
        rows += self._sealed_requests(found, table, horizon_s)
        return Sealed(events, [self._apart(name, row) for name, row in rows])

    def _know_sealed(self) -> None:
        """Requests that came since the last look are not sealed, but by an earlier watch."""
        held = self.rows["request"].columns()
        fresh = np.zeros(length(held) - len(self._sealed), np.bool_)
        if self._told:
            ids = held["id"][len(self._sealed) :].tolist()
            fresh |= np.array([i in self._told for i in ids], dtype=np.bool_)
            self._told.difference_update(ids)
        self._sealed = np.concatenate([self._sealed, fresh])

    def _forget(self) -> None:
        """Let go of what was older than `kept_s` when it was last looked for what to seal."""
        before_s = self._last_s - self.delay_s - self.kept_s
        if before_s < 0:
            return
        before_ns = self.manifest.t0_unix_ns + round(before_s * NS)
        for name, rows in self.rows.items():
            kept = rows.forget(before_ns)
            if name == "request" and kept is not None:
                self._sealed = self._sealed[kept]
        self._loads = [x for x in self._loads if x.ready_s >= before_s - self.kept_s]
        for name, times in self._times.items():
            self._times[name] = {t for t in times if t >= before_ns}

    def _forget_sealed(self) -> None:
        """Let go of the first sealed requests where more than `kept_requests` are held."""
        too_many = len(self.rows["request"]) - self.kept_requests
        if too_many <= 0:
            return
        keep = np.ones(len(self._sealed), np.bool_)
        keep[np.flatnonzero(self._sealed)[:too_many]] = False
        self.rows["request"].keep(keep)
        self._sealed = self._sealed[keep]
        held_ns = self.rows["request"].columns()["time_ns"]
        first_ns = int(held_ns.min()) if len(held_ns) else 0
        strata = self._times["request_stratum"]
        self._times["request_stratum"] = {t for t in strata if t >= first_ns}

    def _sealed_events(self, found: Found, horizon_s: float) -> list[SwapEvent]:
        new = []
        for e in found.events:
            load = _load_of(msgspec.structs.asdict(e))
            warm_again = e.t6_s is not None and horizon_s >= e.t0_s
            if not (warm_again or load.ready_s <= horizon_s):
                continue
            if any(x.same(load) for x in self._loads):
                continue
            self._loads.append(load)
            new.append(e)
        return new

    def _sealed_requests(self, found: Found, table: Requests, horizon_s: float) -> list[Pair]:
        ended = np.nan_to_num(table.t_end, nan=-np.inf) <= horizon_s
        new = np.flatnonzero(ended & ~self._sealed[table.row])
        self._sealed[table.row[new]] = True
        rows = stratum_rows(self.manifest.run_id, table, found, new.astype(np.int64))
        return [("request_stratum", row) for row in rows]

    def _apart(self, name: str, row: list[Any]) -> Pair:
        """The row at a time of its own: of two at the same ns, one would hide the other."""
        times = self._times[name]
        while row[0] in times:
            row[0] += 1
        times.add(row[0])
        return name, row


def _load_of(cells: dict[str, Any]) -> _Load:
    """When an event's model came in, from its marks or its row of swap by column."""
    marks = (cells[f"{m}_s"] for m in ("t4", "t5", "t3", "t2", "t1", "t0"))
    ready = float(next(t for t in marks if t is not None))
    begun = (cells[f"{m}_s"] for m in ("t3", "t2", "t1"))
    begin = next((t for t in begun if t is not None), ready)
    return _Load(cells["target"], cells["model_in"], cells["trigger_id"], min(begin, ready), ready)


def follow(
    run: RunDir,
    tell: Callable[[SwapEvent], None],
    delay_s: float = DELAY_S,
    step_s: float = STEP_S,
    ended: Callable[[], bool] = lambda: False,
    rest: Callable[[float], object] = time.sleep,
) -> Said:
    """Watch `run` until its manifest says that it ended, or `ended` does; what was done.

    While the run is on, rows go to its spool, to the source `watch`, each once, unless another
    watch is there already. `tell` gets every event as it is sealed. After `ended` there is no
    further look: the report follows.
    """
    watch, position, said = Watch(run.read_manifest(), delay_s), reading.Position(), Said()
    writer = None if watch.manifest.end_unix_ns is not None else _writer(run)
    try:
        if writer is not None:
            _resume(watch, run, position)
        while not ended():
            began_s = time.process_time()
            watch.manifest = run.read_manifest()
            over = watch.manifest.end_unix_ns is not None
            _take(watch, run, position)
            now_ns = watch.manifest.end_unix_ns or time.time_ns()
            sealed = watch.look((now_ns - watch.manifest.t0_unix_ns) / NS, over=over)
            if writer is not None and sealed.rows:
                writer.append(sealed.rows)
            for event in sealed.events:
                tell(event)
            took_s = time.process_time() - began_s
            _count(said, sealed, took_s)
            if over:
                break
            rest(max(step_s, took_s / CPU_SHARE))
    finally:
        if writer is not None:
            writer.close()
    return said


def _writer(run: RunDir) -> Writer | None:
    """The writer of the source `watch`; None when another watch has it."""
    try:
        return Writer(run.spool, LIVE)
    except SourceBusyError:
        return None


def _resume(watch: Watch, run: RunDir, position: reading.Position) -> None:
    for frame in reading.follow(run.spool, position, LIVE):
        watch.resume(frame.rows())


def _take(watch: Watch, run: RunDir, position: reading.Position) -> None:
    for frame in reading.follow(run.spool, position):
        if frame.source == LIVE:
            continue
        with suppress(SpoolError):  # checksum holds, but these are no rows: the report says so
            watch.take(frame.rows())


def _count(said: Said, sealed: Sealed, took_s: float) -> None:
    said.swaps += len(sealed.events)
    said.requests += sum(name == "request_stratum" for name, _ in sealed.rows)
    said.looks += 1
    said.cpu_s = round(said.cpu_s + took_s, 3)
