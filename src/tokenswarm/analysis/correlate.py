"""Swaps beside everything else: by second, superposed on their demand, as a share of the run."""

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np

from tokenswarm.analysis.collateral import ready_s
from tokenswarm.analysis.columns import Bools, Floats, Ints
from tokenswarm.analysis.figures import Affected, SwapEvent, Thrash
from tokenswarm.analysis.percentiles import nearest_rank
from tokenswarm.analysis.requests import Requests
from tokenswarm.analysis.throughput import TokenSeries
from tokenswarm.analysis.vram import DeviceMemory

BACK_S = 30.0
CAME_BACK = 0.5
TAX = 0.1
"""Thrashing: over half of the displaced come back within 30 s, and a tenth of the time is lost."""
BEFORE_S, AFTER_S, STEP_S = 2.0, 30.0, 0.25
SUPERPOSED = 60
"""Events drawn over each other; the longest are kept."""

Numbers = list[float | None]


class Seconds(msgspec.Struct, frozen=True):
    """One entry a whole second of the run: tokens of all models, P95 over ok requests sent in
    it, requests in flight at its end, device memory (highest sample; all GPUs), what was left of
    it, and whether a model was coming in."""

    t_s: list[int] = []
    tok_s: Numbers = []
    n: list[int] = []
    ttft_p95_s: Numbers = []
    e2e_p95_s: Numbers = []
    in_flight: list[int] = []
    vram_used_bytes: Numbers = []
    headroom_bytes: Numbers = []
    swapping: list[bool] = []


class Trace(msgspec.Struct, frozen=True):
    """One event on seconds since its demand: device memory on the grid of `Superposed`."""

    event: int
    model_in: str
    t5_s: float | None
    vram_used_bytes: Numbers


class Superposed(msgspec.Struct, frozen=True):
    """Events laid over each other; `t_s` is seconds since t0."""

    t_s: list[float] = []
    traces: list[Trace] = []


def seconds(
    requests: Requests,
    tokens: TokenSeries,
    memories: Sequence[DeviceMemory],
    events: Sequence[SwapEvent],
) -> Seconds:
    """Everything by second."""
    n = tokens.seconds
    edges = np.arange(n + 1, dtype=np.float64)
    sent = np.where(requests.ok, requests.t_sent, np.nan)
    order = np.flatnonzero(~np.isnan(sent))  # requests are sorted by t_sent already
    bounds = np.searchsorted(sent[order], edges).astype(np.int64)
    used, left = _memory(memories, edges)
    return Seconds(
        t_s=list(range(n)),
        tok_s=_numbers(tokens.per_second.sum(axis=0), 2),
        n=np.diff(bounds).tolist(),
        ttft_p95_s=_p95(requests.ttft[order], bounds),
        e2e_p95_s=_p95(requests.e2e[order], bounds),
        in_flight=_in_flight(requests, edges[1:]),
        vram_used_bytes=_numbers(used, 0),
        headroom_bytes=_numbers(left, 0),
        swapping=_swapping(events, edges),
    )


def _swapping(events: Sequence[SwapEvent], edges: Floats) -> list[bool]:
    """Whether an event is going on, [t0, t4], in each second between two `edges`."""
    found = np.zeros(len(edges) - 1, dtype=np.bool_)
    for e in events:
        found |= (edges[1:] > e.t0_s) & (edges[:-1] <= ready_s(e))
    return [bool(x) for x in found]


def _numbers(values: Floats, digits: int) -> Numbers:
    return [None if np.isnan(v) else round(float(v), digits) for v in values]


def _p95(values: Floats, bounds: Ints) -> Numbers:
    return [nearest_rank(values[a:b], 0.95) if b > a else None for a, b in pairwise(bounds)]


def _in_flight(requests: Requests, at_s: Floats) -> list[int]:
    sent = requests.t_sent[~np.isnan(requests.t_sent)]
    ended = np.sort(requests.t_end[~np.isnan(requests.t_sent) & ~np.isnan(requests.t_end)])
    begun = np.searchsorted(sent, at_s, side="right")
    return [int(x) for x in begun - np.searchsorted(ended, at_s, side="right")]


def _memory(memories: Sequence[DeviceMemory], edges: Floats) -> tuple[Floats, Floats]:
    """(used, left) in each second, over all GPUs; NaN where one of them has no sample."""
    n = len(edges) - 1
    used, left = np.zeros(n), np.zeros(n)
    for m in memories:
        high = np.full(n, np.nan)
        cuts = np.searchsorted(m.at_s, edges)
        for s in range(n):
            some = m.used[cuts[s] : cuts[s + 1]]
            if np.any(~np.isnan(some)):
                high[s] = np.nanmax(some)
        used += high
        left += (np.nan if m.capacity is None else m.capacity) - high
    nothing = np.full(n, np.nan)
    return (used, left) if memories else (nothing, nothing)


def superposed(events: Sequence[SwapEvent], memories: Sequence[DeviceMemory]) -> Superposed:
    """Device memory of each event from 2 s before its demand on, up to 30 s after it."""
    longest = sorted(range(len(events)), key=lambda k: -(events[k].latency_s or 0.0))
    kept = sorted(longest[:SUPERPOSED])
    if not kept or len(memories) != 1:
        return Superposed()
    until = max(ready_s(e) - e.t0_s for e in events) + BEFORE_S
    grid = np.arange(-BEFORE_S, min(AFTER_S, until) + STEP_S, STEP_S)
    traces = [
        Trace(
            event=k,
            model_in=events[k].model_in,
            t5_s=events[k].latency_s,
            vram_used_bytes=[memories[0].at(events[k].t0_s + s) for s in grid],
        )
        for k in kept
    ]
    return Superposed([round(float(s), 3) for s in grid], traces)


def affected(requests: Requests, events: Sequence[SwapEvent]) -> Bools:
    """Which requests overlap [t0, t6] of an event; t6 unknown: t5, then t4."""
    hit = np.zeros(len(requests), dtype=np.bool_)
    for e in events:
        end = next(t for t in (e.t6_s, e.t5_s, ready_s(e)) if t is not None)
        hit |= (requests.t_sent <= end) & (requests.t_end >= e.t0_s)
    return hit


def with_and_without(requests: Requests, events: Sequence[SwapEvent]) -> dict[str, Affected]:
    """P95 of each model with and without the requests that a cold start touched."""
    hit = affected(requests, events)
    found = {}
    for model in sorted(set(requests.model)):
        mine = np.asarray(requests.model == model, dtype=np.bool_) & requests.ok
        found[str(model)] = Affected(
            requests=int(np.count_nonzero(mine)),
            affected=int(np.count_nonzero(mine & hit)),
            ttft_all_s=nearest_rank(requests.ttft[mine], 0.95),
            ttft_without_s=nearest_rank(requests.ttft[mine & ~hit], 0.95),
            ttft_affected_s=nearest_rank(requests.ttft[mine & hit], 0.95),
            e2e_all_s=nearest_rank(requests.e2e[mine], 0.95),
            e2e_without_s=nearest_rank(requests.e2e[mine & ~hit], 0.95),
            e2e_affected_s=nearest_rank(requests.e2e[mine & hit], 0.95),
        )
    return found


def thrash(
    requests: Requests, events: Sequence[SwapEvent], load_s: float, tax: float | None
) -> Thrash | None:
    """Swaps a minute against how often the mix wants another model; None without load."""
    if load_s <= 0:
        return None
    swaps = [e for e in events if e.displaced and e.t0_s < load_s]
    wanted = requests.model[requests.t_sent < load_s]
    changes = int(np.count_nonzero(wanted[1:] != wanted[:-1]))
    back = [_back(e, events) for e in swaps]
    share = sum(back) / len(back) if back else None
    return Thrash(
        swaps_per_minute=len(swaps) / load_s * 60,
        changes_per_minute=changes / load_s * 60,
        swaps_per_change=len(swaps) / changes if changes else None,
        came_back=share,
        back_s=BACK_S,
        thrashing=bool(share is not None and share > CAME_BACK and (tax or 0.0) > TAX),
    )


def _back(e: SwapEvent, events: Sequence[SwapEvent]) -> bool:
    """Whether one that `e` displaced was brought in again soon."""
    gone = e.model_out.split("-and-")
    return any(
        o.model_in in gone and o.target == e.target and e.t0_s < o.t0_s <= e.t0_s + BACK_S
        for o in events
    )
