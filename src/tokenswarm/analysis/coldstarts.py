"""Cold starts: arrivals that a request was waiting for, with that request and their victims."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tokenswarm.analysis.arrivals import SLACK_S, Arrival, arrivals
from tokenswarm.analysis.columns import Floats, Ints
from tokenswarm.analysis.requests import Requests
from tokenswarm.analysis.residency import Stay
from tokenswarm.analysis.slopes import Move
from tokenswarm.analysis.strata import Window
from tokenswarm.analysis.vram import Line


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
    """`own`: the stay of the same model that had to end for it (another configuration).
    `before`: the model's last stay that ended before it came in."""

    @property
    def fall(self) -> Move | None:
        return self.arrival.fall

    @property
    def key(self) -> tuple[str, str]:
        return self.arrival.target, self.arrival.model

    @property
    def done_s(self) -> float:
        """The earliest moment at which it can have been ready; t4 where the client tells it."""
        return self.t4_s if self.arrival.members else self.arrival.lo_s

    @property
    def window(self) -> Window:
        return Window(*self.key, self.t0_s, self.t4_s, self.trigger)


def coldstarts(
    requests: Requests, stays: list[Stay], speed: float = 1.0, lines: Sequence[Line] = ()
) -> list[Coldstart]:
    """Arrivals that a request was waiting for, by t0. The others (preloads) are no cold starts."""
    found: list[Coldstart] = []
    served: dict[tuple[str, str], float] = {}
    taken: set[int] = set()
    queues = {key: _Line(requests, mine) for key, mine in requests.groups.items()}
    for a in arrivals(requests, stays, speed, lines):
        key = (a.target, a.model)
        waiting = queues[key].waiting(a, served.get(key, -np.inf))
        free = [i for i in waiting if i not in taken]
        if not free:
            continue
        start = _bounds(requests, a, free[0])
        served[key] = start.t4_s + SLACK_S
        taken |= {start.trigger, *a.members}
        found.append(start)
    found = [_corroborated(c, lines) for c in sorted(found, key=lambda c: c.t0_s)]
    return _with_victims(requests, found, stays)


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


def _bounds(requests: Requests, a: Arrival, trigger: int) -> Coldstart:
    first = float(requests.t_first[trigger])
    t5 = None if np.isnan(first) else first
    t4 = a.ready_s if a.ready_known or t5 is None else t5
    t0 = float(requests.t_sent[trigger])
    return Coldstart(a, trigger, t0, max(t0, min(t4, t5 if t5 is not None else t4)), t5)


def _with_victims(
    requests: Requests, starts: list[Coldstart], stays: list[Stay]
) -> list[Coldstart]:
    """Give each departure to the one event whose turn it overlaps most."""
    victims: dict[int, list[Stay]] = {}
    owns: dict[int, Stay] = {}
    begin, until = _turns(starts)
    targets = np.array([c.arrival.target for c in starts], dtype=object)
    models = np.array([c.arrival.model for c in starts], dtype=object)
    for stay in _served(requests, _departures(stays)):
        share = np.minimum(until, stay.end_s) - np.maximum(begin, stay.last_s)
        here = (stay.target is None) | (targets == stay.target)
        share = np.where(here & (models != stay.model), share, -1.0)
        mine = [k for k, c in enumerate(starts) if _reloads(c, stay)]
        if mine and not (len(share) and share.max() >= 0 and _same(starts[mine[0]], stay)):
            owns[mine[0]] = stay
        elif len(share) and share.max() >= 0:
            victims.setdefault(int(np.argmax(share)), []).append(stay)
    watched = {s.target for s in stays}  # None: a GPU saw processes
    return [
        replace(
            c,
            victims=tuple(victims.get(k, ())),
            known=None in watched or c.arrival.target in watched or bool(c.fall),
            own=owns.get(k),
            before=_before(c, stays),
        )
        for k, c in enumerate(starts)
    ]


def _reloads(c: Coldstart, stay: Stay) -> bool:
    """Whether `stay`, of the model that comes in, was still there when that was asked for."""
    if stay.model != c.arrival.model or stay.target not in (None, c.arrival.target):
        return False
    return c.t0_s <= stay.end_s <= c.t4_s + SLACK_S and stay.start_s < c.t0_s


def _same(c: Coldstart, stay: Stay) -> bool:
    """Whether nothing says that it came back with another context length."""
    new = c.arrival.engine.context if c.arrival.engine else None
    return new is None or stay.context is None or new == stay.context


def _before(c: Coldstart, stays: list[Stay]) -> Stay | None:
    mine = [
        s
        for s in stays
        if s.went
        and s.model == c.arrival.model
        and s.target in (None, c.arrival.target)
        and s.end_s <= c.t4_s + SLACK_S
        and s not in (c.arrival.engine, c.arrival.gpu)
    ]
    return max(mine, key=lambda s: s.end_s, default=None)


def _departures(stays: list[Stay]) -> list[Stay]:
    """Stays that ended; the engine's only where no GPU saw the same end more precisely."""
    gone = [s for s in stays if s.went]
    gpu = [s for s in gone if s.side == "gpu"]
    ends = {m: np.array([g.end_s for g in gpu if g.model == m]) for m in {g.model for g in gpu}}
    return gpu + [s for s in gone if s.side == "engine" and not _seen_too(s, ends.get(s.model))]


def _seen_too(engine: Stay, ends: Floats | None) -> bool:
    if ends is None:
        return False
    return bool(np.any((engine.last_s - SLACK_S <= ends) & (ends <= engine.end_s + SLACK_S)))


def _served(requests: Requests, departures: list[Stay]) -> list[Stay]:
    """`departures` with the last sight moved on to the last token that the model gave before it
    was seen gone: polls are far apart, tokens are not."""
    last = {
        model: np.sort(requests.t_last[mine][~np.isnan(requests.t_last[mine])])
        for (_, model), mine in requests.groups.items()
    }
    moved = []
    for stay in departures:
        tokens = last.get(stay.model, np.zeros(0))
        i = int(np.searchsorted(tokens, stay.end_s, side="right"))
        moved.append(replace(stay, last_s=max(stay.last_s, tokens[i - 1])) if i else stay)
    return moved


def _turns(
    starts: list[Coldstart],
) -> tuple[Floats, Floats]:
    """When each event can have evicted: from t0, or from when the load before it in the same
    target was done (whoever is in the queue has not evicted anybody yet), until there was no
    time left to load: half of the shortest time that the model ever took before t4."""
    begin = np.array([c.t0_s for c in starts])
    done: dict[str, float] = {}
    for k in sorted(range(len(starts)), key=lambda k: starts[k].t4_s):
        target = starts[k].arrival.target
        begin[k] = max(begin[k], done.get(target, -np.inf))
        done[target] = max(done.get(target, -np.inf), starts[k].done_s)
    quickest: dict[tuple[str, str], float] = {}
    for k, c in enumerate(starts):
        born = c.arrival.gpu.birth_s if c.arrival.gpu else None
        took = c.t4_s - max(float(begin[k]), born or -np.inf)
        quickest[c.key] = min(quickest.get(c.key, np.inf), took)
    until = np.array([c.t4_s - quickest[c.key] / 2 for c in starts])
    return begin - SLACK_S, until + SLACK_S
