"""Events and strata as rows of the schema."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tokenswarm.analysis.columns import Ints
from tokenswarm.analysis.figures import SwapEvent
from tokenswarm.analysis.requests import Requests
from tokenswarm.analysis.swaps import Found
from tokenswarm.store.rundir import Manifest
from tokenswarm.store.schema import SWAP

SECOND_NS = 1_000_000_000


def swap_row(run_id: str, e: SwapEvent) -> list[Any]:
    """One event, at its t0."""
    values = [getattr(e, name) for name in SWAP.columns[2:]]
    return [e.start_ms * 1_000_000, run_id, *values]


def active_rows(manifest: Manifest, events: Sequence[SwapEvent]) -> list[list[Any]]:
    """Rows of swap_active: 0 at a target's start, 1 from t0 of a cold start to its first token
    (else the last mark known), once a second, and 0 after it."""
    rows: list[list[Any]] = []
    for target in dict.fromkeys(e.target for e in events):
        busy = [_busy_ns(manifest, e) for e in events if e.target == target]
        steps = _steps(manifest.t0_unix_ns, sorted(busy))
        rows += [[at, manifest.run_id, target, active] for at, active in steps]
    return rows


def _busy_ns(manifest: Manifest, e: SwapEvent) -> tuple[int, int]:
    last = e.t5_s if e.t5_s is not None else max(m for m in (e.t0_s, e.t1_s, e.t2_s, e.t3_s, e.t4_s)
                                                 if m is not None)  # fmt: skip
    return (manifest.t0_unix_ns + int(e.t0_s * 1e9), manifest.t0_unix_ns + int(last * 1e9))


def _steps(start: int, busy: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """(time, 0 or 1), times strictly increasing, of spans that may overlap or touch."""
    yield start, 0
    last = start
    for begin, end in busy:
        at = max(begin, last + 1)
        while at < end:
            yield at, 1
            last = at
            at += SECOND_NS
        if end > last:
            yield end, 0
            last = end


def stratum_rows(run_id: str, r: Requests, found: Found, which: Ints) -> Iterator[list[Any]]:
    """One row for each of the requests `which`, at its own time."""
    for i in which[np.argsort(r.time_ns[which], kind="stable")].tolist():
        k = int(found.strata.event[i])
        figures = (r.ttft[i], r.ttft_user[i], r.e2e[i], r.tpot[i], r.stall[i])
        yield [
            int(r.time_ns[i]),
            run_id,
            *(str(c[i]) for c in (r.model, r.target, r.engine, found.strata.name)),
            str(r.id[i]),
            None if k < 0 else found.events[k].evidence,
            *(None if np.isnan(f) else float(f) for f in figures),
        ]
