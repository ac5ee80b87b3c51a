"""Cold starts: arrivals that a request was waiting for, with that request and their victims."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tokenswarm.analysis.arrivals import SLACK_S, Arrival, arrivals
from tokenswarm.analysis.columns import Floats, Ints
from tokenswarm.analysis.requests import Requests
from tokenswarm.analysis.residency import Stay
from tokenswarm.analysis.slopes import Move
from tokenswarm.analysis.strata import FLOOR_S, Window
from tokenswarm.analysis.vram import Line

QUICK, QUICK_RATIO = 3, 1.5
"""So many first tokens that come about equally soon are as soon as the model gives one."""


@dataclass(frozen=True, slots=True)
class Coldstart:
    """An arrival with the request that caused it. `victims`: stays of other models of the same
    target that ended for it; `known`: somebody could have seen a victim."""

    arrival: Arrival
    trigger: int
    t0_s: float
    t4_s: float
    t5_s: float | None
    victims: tuple[Stay, ...] = ()
    known: bool = False
    own: Stay | None = None
    before: Stay | None = None
    slept: Stay | None = None
    """`own`: the stay of the same model that had to end for it (another configuration).
    `before`: the model's last stay that ended before it came in; `slept`: the one after which it
    slept, where it woke up."""

    @property
    def fall(self) -> Move | None:
        return self.arrival.fall

    @property
    def key(self) -> tuple[str, str]:
        return self.arrival.target, self.arrival.model

    @property
    def woke(self) -> bool:
        """Whether its server was there, asleep: an engine said so, or the process stayed."""
        return any(s and s.woke for s in (self.arrival.engine, self.arrival.gpu))

    @property
    def done_s(self) -> float:
        """The earliest moment at which it can have been ready; t4 where the client tells it."""
        return self.t4_s if self.arrival.members else self.arrival.lo_s

    @property
    def window(self) -> Window:
        began = self.born_s - SLACK_S if np.isfinite(self.born_s) else self.t0_s
        return Window(*self.key, self.t0_s, self.t4_s, self.trigger, began)

    @property
    def born_s(self) -> float:
        """When its load showed itself; NaN when nothing did."""
        gpu, move = self.arrival.gpu, self.arrival.move
        if gpu and gpu.came and gpu.birth_s is not None:
            return gpu.birth_s
        return move.start_s if move else np.nan


def coldstarts(
    requests: Requests, stays: list[Stay], speed: float = 1.0, lines: Sequence[Line] = ()
) -> list[Coldstart]:
    """Arrivals that a request was waiting for, by t0, victims apart. The others (preloads) are no
    cold starts."""
    found: list[Coldstart] = []
    served: dict[tuple[str, str], float] = {}
    taken: set[int] = set()
    queues = {key: _Line(requests, mine) for key, mine in requests.groups.items()}
    coming = arrivals(requests, stays, speed, lines)
    theirs = _Claims(requests, coming)
    quickest = {key: _quickest_s(requests.ttft[mine]) for key, mine in requests.groups.items()}
    for k, a in enumerate(coming):
        key = (a.target, a.model)
        waiting = queues[key].waiting(a, served.get(key, -np.inf))
        free = [i for i in waiting if i not in taken and theirs.may(i, k)]
        free = _served_by(requests, a, free) or free
        if not free:
            continue
        start = _bounds(requests, a, free[0], quickest[key])
        served[key] = start.t4_s + SLACK_S
        taken |= {start.trigger, *a.members}
        found.append(start)
    return [_corroborated(c, lines) for c in sorted(found, key=lambda c: c.t0_s)]


def _corroborated(c: Coldstart, lines: Sequence[Line]) -> Coldstart:
    """`c` with the largest rise of a nameless line in it, where no process shows it."""
    if c.arrival.gpu or c.arrival.move:
        return c
    inside = [
        (k, line.moves)
        for line in lines
        for k, m in enumerate(line.moves)
        if m.bytes > 0 and c.t0_s - SLACK_S <= m.start_s <= c.t4_s
    ]
    if not inside:
        return c
    k, moves = max(inside, key=lambda x: x[1][x[0]].bytes)
    fall = moves[k - 1] if k and moves[k - 1].bytes < 0 and moves[k - 1].end_s >= c.t0_s else None
    return replace(c, arrival=replace(c.arrival, move=moves[k], fall=fall))


def _served_by(requests: Requests, a: Arrival, waiting: list[int]) -> list[int]:
    """Of those who were `waiting`, whom `a` can have been brought in for. Whoever got nothing and
    gave up before its process came had not caused it; and where its server told who waited for
    it, whoever got nothing for long after it was ready stood in line for something else."""
    first, until = requests.t_first, requests.waited_until
    came_s, over_s = -np.inf, np.inf
    if a.gpu and a.gpu.came and a.gpu.birth_s is not None:
        came_s = (a.gpu.after_s + a.gpu.birth_s) / 2
    if a.members:
        over_s = a.ready_s + SLACK_S
    return [
        i
        for i in waiting
        if i in a.members or not np.isnan(first[i]) or came_s <= until[i] <= over_s
    ]


class _Claims:
    """Which arrival a request waited for in the end: the one whose load its server told of, else
    the last one of its model that began before it was served."""

    def __init__(self, requests: Requests, coming: Sequence[Arrival]):
        self._until = requests.waited_until
        self._member = {i: k for k, a in enumerate(coming) for i in a.members}
        self._later: dict[int, float] = {}
        last: dict[tuple[str, str], int] = {}
        for k, a in enumerate(coming):
            before = last.get((a.target, a.model))
            if before is not None:
                self._later[before] = max(a.lo_s, coming[before].ready_s)
            last[(a.target, a.model)] = k

    def may(self, i: int, k: int) -> bool:
        """Whether request `i` can have waited for arrival `k`."""
        if i in self._member:
            return self._member[i] == k
        return bool(self._until[i] <= self._later.get(k, np.inf) + SLACK_S)


class _Line:
    """The requests of one model in order of t_sent, and until when each waited."""

    def __init__(self, requests: Requests, mine: Ints):
        self._index = mine
        self._sent = requests.t_sent[mine]
        self._until = requests.waited_until[mine]
        waits = self._until - self._sent
        self._reach = float(np.nanmax(waits)) if np.any(~np.isnan(waits)) else 0.0

    def waiting(self, a: Arrival, served_s: float) -> list[int]:
        """Those sent before `a` was ready that waited for it, and beyond `served_s`."""
        since = max(a.ready_s - SLACK_S if a.members else a.lo_s, served_s)
        last = a.ready_s + (0 if a.ready_known else SLACK_S)
        lo = int(np.searchsorted(self._sent, since - self._reach))
        hi = int(np.searchsorted(self._sent, last, side="right"))
        return [int(i) for i in self._index[lo:hi][self._until[lo:hi] >= since]]


def _bounds(requests: Requests, a: Arrival, trigger: int, quickest_s: float) -> Coldstart:
    first = float(requests.t_first[trigger])
    t5 = None if np.isnan(first) else first
    t0 = float(requests.t_sent[trigger])
    t4 = a.ready_s
    if t5 is not None:
        spoke = t5 if a.members else t5 - quickest_s
        t4 = min(t4, spoke) if a.ready_known else spoke
    elif a.gpu and not a.ready_known:  # it was waited for until its process, or the wait, had ended
        t4 = max(t4, min(a.gpu.end_s, float(requests.waited_until[trigger])))
    return Coldstart(a, trigger, t0, max(t0, t4), t5)


def _quickest_s(waits: Floats) -> float:
    """The shortest time in which a model gives a first token: so long before one it was ready.
    0 where it did so less than thrice, or never in less than a wait: it was hardly ever warm, and
    that one had waited as well."""
    quick = np.sort(waits[waits < FLOOR_S])[:QUICK]
    alike = len(quick) == QUICK and quick[-1] <= QUICK_RATIO * quick[0]
    return float(quick[0]) if alike else 0.0
