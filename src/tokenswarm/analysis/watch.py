"""A run as it grows: its rows so far, analysed again and again; what is sealed is told once.

A request is sealed once it ended so long ago that no event still unknown can reach it any more
(`delay_s`), or when the run is over; an event when it is warm again, or as long after its ready.
What was sealed is never changed: whatever comes later than the delay is left to the report.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tokenswarm.analysis.collateral import ready_s
from tokenswarm.analysis.columns import Columns, columns_of
from tokenswarm.analysis.evidence import SIDES, evidence
from tokenswarm.analysis.figures import SwapEvent
from tokenswarm.analysis.requests import Requests, requests
from tokenswarm.analysis.rows import stratum_rows, swap_row
from tokenswarm.analysis.swaps import Found
from tokenswarm.store import reading
from tokenswarm.store.rundir import Manifest, RunDir
from tokenswarm.store.schema import REQUEST
from tokenswarm.store.spool import Writer

SOURCE = "watch"
DELAY_S = 30.0
STEP_S = 2.0
_NEEDED = ("request", *SIDES)
_GAPS = REQUEST.columns.index("gaps_us")
Pair = tuple[str, list[Any]]


@dataclass(frozen=True, slots=True)
class Sealed:
    """What one look sealed: events, and rows of swap and request_stratum in schema order."""

    events: list[SwapEvent]
    rows: list[Pair]


@dataclass(slots=True)
class Watch:
    """The rows of one run so far, and what has been sealed of it."""

    manifest: Manifest
    delay_s: float = DELAY_S
    rows: dict[str, list[list[Any]]] = field(default_factory=lambda: {n: [] for n in _NEEDED})
    _requests: set[str] = field(default_factory=set)
    _events: set[str] = field(default_factory=set)

    def take(self, pairs: Iterable[Pair]) -> None:
        """Add rows of any measurement; those that swaps do not need are passed over."""
        for name, row in pairs:
            if name in self.rows:
                self.rows[name].append(_without_gaps(row) if name == "request" else row)

    def look(self, now_s: float, *, over: bool = False) -> Sealed:
        """Analyse everything so far; `now_s` on the run's clock. `over`: the run has ended, so
        everything is sealed."""
        table = requests(self._columns("request"))
        seen = evidence(
            {name: self._columns(name) for name in SIDES},
            self.manifest.t0_unix_ns,
            self.manifest.telemetry,
            self.manifest.scenario,
        )
        found = seen.find(table)
        horizon_s = np.inf if over else now_s - self.delay_s
        events = self._sealed_events(found, horizon_s)
        swaps: list[Pair] = [("swap", swap_row(self.manifest.run_id, e)) for e in events]
        return Sealed(events, swaps + self._sealed_requests(found, table, horizon_s))

    def _columns(self, name: str) -> Columns:
        return columns_of(name, self.rows[name])

    def _sealed_events(self, found: Found, horizon_s: float) -> list[SwapEvent]:
        new = [
            e
            for e in found.events
            if e.trigger_id not in self._events
            and (ready_s(e) <= horizon_s or (e.t6_s is not None and horizon_s >= e.t0_s))
        ]
        self._events |= {e.trigger_id for e in new}
        return new

    def _sealed_requests(self, found: Found, table: Requests, horizon_s: float) -> list[Pair]:
        due = np.nan_to_num(table.t_end, nan=-np.inf) <= horizon_s
        new = [i for i in np.flatnonzero(due) if table.id[i] not in self._requests]
        self._requests |= {str(table.id[i]) for i in new}
        rows = stratum_rows(self.manifest.run_id, table, found, np.array(new, dtype=np.int64))
        return [("request_stratum", row) for row in rows]


def _without_gaps(row: list[Any]) -> list[Any]:
    """A request without its token gaps: strata need its longest stall only."""
    return [*row[:_GAPS], None, *row[_GAPS + 1 :]]


def follow(
    run: RunDir,
    tell: Callable[[SwapEvent], None],
    delay_s: float = DELAY_S,
    step_s: float = STEP_S,
    ended: Callable[[], bool] = lambda: False,
) -> int:
    """Watch `run` until its manifest says that it ended, or `ended` does; the number of rows.

    Rows go to the source `watch` of a spool of their own, RUN_DIR/watch, each once; `tell` gets
    every event as it is sealed.
    """
    watch, position, told = Watch(run.read_manifest(), delay_s), reading.Position(), 0
    with Writer(run.path / "watch", SOURCE) as writer:
        while True:
            watch.manifest = run.read_manifest()
            over = watch.manifest.end_unix_ns is not None or ended()
            for frame in reading.follow(run.spool, position):
                watch.take(frame.rows())
            sealed = watch.look((time.time_ns() - watch.manifest.t0_unix_ns) / 1e9, over=over)
            if sealed.rows:
                writer.append(sealed.rows)
                told += len(sealed.rows)
            for event in sealed.events:
                tell(event)
            if over:
                return told
            time.sleep(step_s)
