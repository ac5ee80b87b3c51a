"""Who paid for a model coming in: one stratum for every request.

swap_trigger: the earliest request for the model that comes in. swap_waiter: other requests for
it sent in [t0, t4], but not one that was still served before the load began, nor one whose server
says that it had the model before. swap_collateral: a request for another model that overlaps
[t0, t4] and whose wait for the first token, or longest stall, exceeds max(50 ms, 3 x that model's
warm P99 of the same). warm: all others. The words hold for a cold start that displaced nobody as
well. Where one request fits several, the first of this order wins.

The warm P99 is taken over ok requests that are neither trigger nor waiter and overlap no
[t0, t4]; a model without any is judged by its lower quartile over ok requests that are neither
trigger nor waiter. The failed and the cut wait until their end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenswarm.analysis.columns import Bools, Floats, Ints, Texts
from tokenswarm.analysis.percentiles import nearest_rank
from tokenswarm.analysis.requests import Requests

FLOOR_S = 0.05
FACTOR = 3.0
ONE_MOMENT_S = 0.005
"""Requests sent so shortly one after the other may reach their server in any order."""


@dataclass(frozen=True, slots=True)
class Window:
    """One model coming in, as far as strata care: [t0, t4], the index of its trigger, and when
    its load began (whoever had a first token by then waited for nothing)."""

    target: str
    model: str
    t0_s: float
    t4_s: float
    trigger: int
    began_s: float = -np.inf


@dataclass(frozen=True, slots=True)
class Strata:
    """`name[i]` is request i's stratum, `event[i]` the index of the window it paid for (-1)."""

    name: Texts
    event: Ints

    def counts(self, stratum: str, events: int) -> Ints:
        """(events,): requests of `stratum` that paid for each event."""
        return np.bincount(self.event[self.name == stratum], minlength=events)


def strata(requests: Requests, windows: Sequence[Window]) -> Strata:
    """Give every request its stratum."""
    name = np.full(len(requests), "warm", dtype=object)
    event = np.full(len(requests), -1, dtype=np.int64)
    for k, w in enumerate(windows):
        name[w.trigger], event[w.trigger] = "swap_trigger", k
    for k, w in enumerate(windows):
        waiting = _sent_within(requests, w)
        waiting = waiting[name[waiting] == "warm"]
        name[waiting], event[waiting] = "swap_waiter", k
    _collateral(requests, windows, name, event)
    return Strata(name, event)


def _sent_within(requests: Requests, w: Window) -> Ints:
    """Requests for the model of `w` sent in [t0, t4]; t_sent is sorted."""
    lo, hi = (
        np.searchsorted(requests.t_sent, w.t0_s - ONE_MOMENT_S),
        np.searchsorted(requests.t_sent, w.t4_s, side="right"),
    )
    near = np.arange(lo, hi, dtype=np.int64)
    mine = (requests.model[near] == w.model) & (requests.target[near] == w.target)
    had = requests.came_in[near] + requests.load[near]  # its server says that it had the model
    waited = ~(requests.t_first[near] < w.began_s) & ~(had < w.t4_s - ONE_MOMENT_S)
    return near[np.asarray(mine & waited, dtype=np.bool_)]


def _collateral(requests: Requests, windows: Sequence[Window], name: Texts, event: Ints) -> None:
    first = _first_overlap(requests, windows)
    for model in set(requests.model):
        mine = np.asarray((requests.model == model) & (name == "warm"), dtype=np.bool_)
        calm = mine & (first < 0) & requests.ok
        slow = np.zeros(len(requests), dtype=np.bool_)
        for values in (requests.wait, requests.stall):
            slow |= values > _bound(values, calm, mine & requests.ok)
        hit = mine & slow & (first >= 0)
        name[hit], event[hit] = "swap_collateral", first[hit]


def _bound(values: Floats, calm: Bools, others: Bools) -> float:
    usual = nearest_rank(values[calm], 0.99)
    if usual is None:
        usual = nearest_rank(values[others], 0.25)
    return max(FLOOR_S, FACTOR * (usual or 0.0))


def _first_overlap(requests: Requests, windows: Sequence[Window]) -> Ints:
    """Index of the earliest window of another model that each request overlaps, -1 for none."""
    first = np.full(len(requests), -1, dtype=np.int64)
    longest = requests.t_end - requests.t_sent
    reach = float(np.nanmax(longest)) if np.any(~np.isnan(longest)) else 0.0
    for k in sorted(range(len(windows)), key=lambda k: windows[k].t0_s):
        w = windows[k]
        near = np.arange(
            np.searchsorted(requests.t_sent, w.t0_s - reach),
            np.searchsorted(requests.t_sent, w.t4_s, side="right"),
        )
        hit = near[(requests.t_end[near] >= w.t0_s) & (first[near] < 0)]
        other = (requests.model[hit] != w.model) | (requests.target[hit] != w.target)
        first[hit[other]] = k
    return first
