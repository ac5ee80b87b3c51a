"""Models that go by themselves: how long an engine keeps one that nobody asks for (keep_alive)."""

from collections.abc import Sequence

import numpy as np

from tokenswarm.analysis.columns import Ints
from tokenswarm.analysis.requests import Requests
from tokenswarm.analysis.residency import Stay

GOING_S = 1.0
"""Within this time a model is gone after its time was up: its process is ended, or has to end."""
RECENT = 1000
"""More requests than that are not in flight at once, for one model."""
OFF_S = 0.01
"""What the ends of a request and of its keep_alive may lie apart, for client and server."""


def expired(requests: Requests, stay: Stay, stays: Sequence[Stay]) -> bool:
    """Whether the time of the model was up when `stay` (a GPU's) ended.

    The engine says when it is to go, and says it anew after each request: where none was served
    since it said so, that is the moment; else as long after the last one.
    """
    told = [s for s in stays if s.model == stay.model and s.told_s is not None]
    if not told:
        return False
    rows = _rows(requests, stay.model, stay.end_s)
    ended = requests.t_end[rows[requests.t_first[rows] <= stay.end_s]]
    if not len(ended) or ended.max() > stay.last_s:
        return False
    used = float(ended.max())
    mine = [s for s in told if s.start_s <= stay.end_s and s.end_s >= stay.start_s]
    up_s = _up_s(requests, max(mine or told, key=lambda s: s.told_s or 0.0), stay, used)
    return stay.last_s - GOING_S <= up_s <= stay.end_s + OFF_S


def _up_s(requests: Requests, told: Stay, stay: Stay, used: float) -> float:
    """When it was up for `stay`, which was last used at `used`, by what was `told`."""
    said, up_s = told.told_s or 0.0, told.expires_s or 0.0
    if used < said <= stay.end_s:
        return up_s
    rows = _rows(requests, told.model, said)
    before = float(requests.t_end[rows].max()) if len(rows) else said
    return used + up_s - min(before, said)  # while one is served, it has all its time left


def _rows(requests: Requests, model: str, until_s: float) -> Ints:
    """The last requests for the model that were sent by then."""
    found = [np.zeros(0, np.int64)]
    for (_, m), mine in requests.groups.items():
        if m == model:
            past = int(np.searchsorted(requests.t_sent[mine], until_s, side="right"))
            found.append(mine[max(0, past - RECENT) : past])
    return np.concatenate(found)
