"""Events and strata as rows of the schema."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tokenswarm.analysis.columns import Ints
from tokenswarm.analysis.figures import SwapEvent
from tokenswarm.analysis.requests import Requests
from tokenswarm.analysis.swaps import Found
from tokenswarm.store.schema import SWAP


def swap_row(run_id: str, e: SwapEvent) -> list[Any]:
    """One event, at its t0."""
    values = [getattr(e, name) for name in SWAP.columns[2:]]
    return [e.start_ms * 1_000_000, run_id, *values]


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
