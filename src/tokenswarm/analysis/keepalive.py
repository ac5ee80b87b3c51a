"""Models that go by themselves: how long an engine keeps one that nobody asks for (keep_alive)."""

from collections.abc import Sequence

import numpy as np

from tokenswarm.analysis.columns import Ints
from tokenswarm.analysis.requests import Requests
from tokenswarm.analysis.residency import Stay

GOING_S = 1.0
"""Within this time a model is gone after its time was up: its process is ended, or has to end."""
OFF_S = 0.01
"""What the ends of a request and of its keep_alive may lie apart, for client and server."""


def expired(requests: Requests, stay: Stay, stays: Sequence[Stay]) -> bool:
    """Whether the time of the model was up when `stay` (a GPU's) ended.

    The engine says when it is to go, and says it anew after each request: where none was served
    since it said so, that is the moment; else as long after the last one.
    """
    rows = _rows(requests, stay.model)
    ended = requests.t_end[rows[requests.t_first[rows] <= stay.end_s]]
    told = [s for s in stays if s.model == stay.model and s.told_s is not None]
    if not len(ended) or ended.max() > stay.last_s or not told:
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
    rows = _rows(requests, told.model)
    rows = rows[requests.t_sent[rows] <= said]
    before = float(requests.t_end[rows].max()) if len(rows) else said
    return used + up_s - min(before, said)  # while one is served, it has all its time left


def _rows(requests: Requests, model: str) -> Ints:
    mine = [i for (_, m), i in requests.groups.items() if m == model]
    return np.concatenate([np.zeros(0, np.int64), *mine])
