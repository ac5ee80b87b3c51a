"""Who had to go for each cold start.

The loads of one target follow one another, and a victim goes before the load that needs its room
begins: so each departure belongs to the event between whose turn and whose load it lies, if there
is one. What left at another time left by itself (idle, told to, or crashed).
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tokenswarm.analysis.arrivals import SLACK_S
from tokenswarm.analysis.coldstarts import Coldstart
from tokenswarm.analysis.columns import Floats, Ints, Texts
from tokenswarm.analysis.crowd import NOBODY, Crowd, by_model
from tokenswarm.analysis.keepalive import expired
from tokenswarm.analysis.percentiles import nearest_rank
from tokenswarm.analysis.requests import Requests
from tokenswarm.analysis.residency import Stay, crashed
from tokenswarm.analysis.vram import DeviceMemory

SAMPLE_S = 0.06
"""A little more than a sample: what two marks of one side may be off against each other."""
NARROW_S = 0.2
REST_S = 0.08
LET_GO_LEAST = 3
ALIKE_S, ALIKE_RATIO = 0.08, 0.1
"""Where nearly all that need not have left had been idle equally long, give or take that, a
clock did it."""
REST_LEAST_S = 0.3
"""Whoever goes sooner than that after its last request was waited for."""
WHOLE_RATIO = 0.9
"""A process with less of its model than this share had not come to its end."""
FIT_RATIO = 0.8
"""Ollama wants a newcomer to take no more than this share of what is free."""


@dataclass(frozen=True, slots=True)
class _Turns:
    """One entry an event: from when to when it can have sent a victim away."""

    target: Texts
    model: Texts
    open_s: Floats
    shut_s: Floats
    exact: Floats
    """1 where a process or a line of memory showed the load begin."""


def with_victims(
    requests: Requests,
    starts: Sequence[Coldstart],
    stays: Sequence[Stay],
    capacity: DeviceMemory | None = None,
) -> list[Coldstart]:
    """`starts` with their victims, and with the model's own stay where it had to be loaded anew
    or had gone to sleep.

    `capacity`: the one GPU there is, to tell whether there was room anyway.
    """
    victims: dict[int, list[Stay]] = {}
    owns: dict[int, Stay] = {}
    lone = _lone(requests)
    turns = _turns(starts, lone)
    stillborn = _stillborn(requests, starts, stays)
    gone = _served(requests, _departures(stays))
    unforced = _Unforced.of(requests, starts, turns, stays, lone, capacity)
    comings = _comings(starts)
    for stay in gone:
        if any(_one(s, stay) for s in stillborn) or unforced.says(stay):
            continue
        own = _own(starts, comings, stay)
        other = _event_of(turns, stay, lone)
        if own is not None and (other is None or not _same(starts[own], stay)):
            if not starts[own].woke:
                owns[own] = stay
        elif other is not None:
            victims.setdefault(other, []).append(stay)
    went = by_model([s for s in stays if s.went])
    watched = {s.target for s in stays}  # None: a GPU saw processes
    return [
        replace(
            c,
            victims=tuple(victims.get(k, ())),
            known=None in watched or c.arrival.target in watched or bool(c.fall),
            own=owns.get(k),
            before=_before(c, went.get(c.arrival.model, NOBODY)),
            slept=_slept(c, stays) if c.woke else None,
        )
        for k, c in enumerate(starts)
    ]


def _event_of(turns: _Turns, stay: Stay, lone: set[str]) -> int | None:
    """The event whose turn the departure overlaps most; None: it lies in none."""
    here = (stay.target is None) | (turns.target == stay.target)
    if stay.target in lone:
        here |= np.isin(turns.target.astype(str), list(lone))
    slack = np.where((turns.exact > 0) & (stay.side == "gpu"), SAMPLE_S, SLACK_S)
    share = np.minimum(turns.shut_s, stay.end_s) - np.maximum(turns.open_s, stay.last_s)
    fits = np.asarray(here & (turns.model != stay.model) & (share >= -slack), dtype=np.bool_)
    if not fits.any():
        return None
    if np.any(fits & (share >= 0)):
        fits &= share >= 0
    if stay.end_s - stay.last_s <= NARROW_S:  # a moment: the next load to begin
        return int(np.argmin(np.where(fits, turns.shut_s, np.inf)))
    return int(np.argmax(np.where(fits, share, -np.inf)))


@dataclass(frozen=True, slots=True)
class _Unforced:
    """Departures that were no event's doing, though they lie in the turn of one."""

    requests: Requests
    starts: Sequence[Coldstart]
    turns: _Turns
    stays: Sequence[Stay]
    lone: set[str]
    capacity: DeviceMemory | None
    patience_s: float
    """How long a model may be idle before its server lets it go: a lower quartile over those
    that left in nobody's turn, or for whose successor there was room, and equally long idle; inf
    where those are not most of all."""
    most: int
    """Most models held at once."""
    told: Sequence[Stay]
    """What engines said."""

    @classmethod
    def of(
        cls,
        requests: Requests,
        starts: Sequence[Coldstart],
        turns: _Turns,
        stays: Sequence[Stay],
        lone: set[str],
        capacity: DeviceMemory | None,
    ) -> "_Unforced":
        gpu = [s for s in stays if s.side == "gpu"]
        most = max((_held(gpu, s.start_s) for s in gpu), default=0)
        told = [s for s in stays if s.side == "engine"]
        self = cls(requests, starts, turns, gpu, lone, capacity, np.inf, most, told)
        return replace(self, patience_s=self._patience_s())

    def says(self, stay: Stay) -> bool:
        """Its server died with its requests; its time was up; it had been idle for as long as
        those that left by themselves; or there was room for the newcomer and one model more."""
        if stay.side != "gpu" or any(s.woke and s.model == stay.model for s in self.stays):
            return False
        if crashed(self.requests, stay) or expired(self.requests, stay, self.told):
            return True
        k = _event_of(self.turns, stay, self.lone)
        room = k is not None and self._room(stay, k)
        if room and k is not None and stay.last_s >= self.turns.shut_s[k]:
            return True  # still there when the newcomer was, which had room beside it
        rest = _rest_s(self.requests, stay)
        if rest is None or rest < REST_LEAST_S:
            return False
        fewer = _others(self.stays, stay) + 1 < self.most
        return rest >= self.patience_s - REST_S or (room and fewer)

    def _patience_s(self) -> float:
        gone = [s for s in self.stays if s.went]
        turn = [_event_of(self.turns, s, self.lone) for s in gone]
        rests = [_rest_s(self.requests, s) or 0.0 for s in gone]
        free = [r for r, k in zip(rests, turn, strict=True) if k is None and r >= REST_LEAST_S]
        if len(free) >= max(LET_GO_LEAST, len(gone) / 2):
            return nearest_rank(np.array(free), 0.25) or np.inf
        roomy = np.array(
            [r for s, r, k in zip(gone, rests, turn, strict=True) if k is None or self._room(s, k)]
        )
        if len(roomy) < max(LET_GO_LEAST, len(gone) / 2):
            return np.inf
        low, usual, high = np.quantile(roomy, [0.1, 0.25, 0.9])
        alike = low >= REST_LEAST_S and high - low <= ALIKE_S + ALIKE_RATIO * low
        return float(usual) if alike else np.inf

    def _room(self, stay: Stay, k: int) -> bool:
        """Whether the newcomer had room beside it."""
        coming = self.starts[k].arrival.gpu
        if coming is None or coming.size_bytes is None or self.capacity is None:
            return False
        used = self.capacity.highest(stay.last_s - NARROW_S, stay.last_s)
        total = self.capacity.capacity
        if used is None or total is None:
            return False
        return coming.size_bytes <= FIT_RATIO * (total - used[1])


RECENT = 1000
"""Requests looked at before all others."""


def _held(stays: Sequence[Stay], at_s: float) -> int:
    return sum(s.start_s <= at_s <= s.last_s for s in stays)


def _others(stays: Sequence[Stay], stay: Stay) -> int:
    return sum(s.start_s <= stay.last_s <= s.last_s and s.model != stay.model for s in stays)


def _rest_s(requests: Requests, stay: Stay) -> float | None:
    """How long nobody had asked anything of the model when it left; None: somebody was served."""
    latest = -np.inf
    for (_, model), mine in requests.groups.items():
        if model == stay.model:
            sent = int(np.searchsorted(requests.t_sent[mine], stay.last_s))
            # those sent last first: on a busy model they tell at once
            for rows in (mine[max(0, sent - RECENT) : sent], mine[: max(0, sent - RECENT)]):
                ended = requests.t_end[rows][requests.t_first[rows] < stay.last_s]
                latest = max(latest, float(np.nanmax(ended)) if len(ended) else -np.inf)
                if latest > stay.last_s:
                    return None
    return (stay.last_s + stay.end_s) / 2 - latest if np.isfinite(latest) else None


def _turns(starts: Sequence[Coldstart], lone: set[str]) -> _Turns:
    """An event can evict from t0, or from the end of the load before it in the same target
    (whoever is in the queue has not evicted anybody yet), until its own load begins. Where
    nothing shows that: until half of the shortest time that the model ever took before t4."""
    open_s = np.array([c.t0_s for c in starts], dtype=np.float64)
    born = np.array([c.born_s for c in starts], dtype=np.float64)
    order = sorted(range(len(starts)), key=lambda k: starts[k].t4_s)
    done: dict[str, float] = {}
    for k in order:
        target = starts[k].arrival.target
        target = "" if target in lone else target  # they take turns on one GPU
        open_s[k] = max(open_s[k], done.get(target, -np.inf))
        done[target] = max(done.get(target, -np.inf), _done(starts[k]))
    quickest: dict[tuple[str, str], float] = {}
    for k, c in enumerate(starts):
        took = c.t4_s - np.fmax(open_s[k], born[k])
        quickest[c.key] = min(quickest.get(c.key, np.inf), float(took))
    late = np.array([c.t4_s - quickest[c.key] / 2 for c in starts], dtype=np.float64)
    return _Turns(
        target=np.array([c.arrival.target for c in starts], dtype=object),
        model=np.array([c.arrival.model for c in starts], dtype=object),
        open_s=open_s,
        shut_s=np.where(np.isnan(born), late, born),
        exact=(~np.isnan(born)).astype(np.float64),
    )


def _done(c: Coldstart) -> float:
    """The earliest moment at which the next load can have begun its turn."""
    if c.t5_s is None and c.arrival.gpu and c.arrival.gpu.went and not c.arrival.members:
        return min(c.arrival.gpu.last_s, c.done_s)
    return c.done_s


def _stillborn(
    requests: Requests, starts: Sequence[Coldstart], stays: Sequence[Stay]
) -> list[Stay]:
    """Processes that went before their model ever spoke: of loads that failed or were aborted,
    whether or not the one who asked for them is known."""
    told: dict[str, list[Stay]] = {}
    for s in stays:
        if s.side == "engine":
            told.setdefault(s.model, []).append(s)
    largest: dict[str, int] = {}
    for s in stays:
        if s.side == "gpu":
            largest[s.model] = max(largest.get(s.model, 0), s.size_bytes or 0)
    engine = {id(c.arrival.gpu) for c in starts if c.arrival.engine and c.arrival.gpu}
    failed = {id(c.arrival.gpu) for c in starts if c.t5_s is None and c.arrival.gpu}
    found = []
    for s in stays:
        if s.side != "gpu" or not (s.process and s.came and s.went) or id(s) in engine:
            continue
        part = (s.size_bytes or 0) < WHOLE_RATIO * largest[s.model]
        unlisted = bool(told) and not _listed(told.get(s.model, []), s)
        if (id(s) in failed or part or unlisted) and not _has_spoken(requests, s):
            found.append(s)
    return found


def _listed(told: list[Stay], gpu: Stay) -> bool:
    """Whether the engine told of the model while the process was there. `told`: by start."""
    i = bisect_right(told, gpu.end_s, key=lambda s: s.start_s)
    return any(s.end_s >= gpu.start_s for s in told[max(0, i - 4) : i])


def _has_spoken(requests: Requests, stay: Stay) -> bool:
    mine = [i for (_, model), i in requests.groups.items() if model == stay.model]
    first = requests.t_first[np.concatenate([np.zeros(0, np.int64), *mine])]
    return bool(np.any((first >= stay.start_s) & (first <= stay.end_s)))


def _lone(requests: Requests) -> set[str]:
    """Targets that serve one model each: they make room for each other."""
    targets = [t for t, _ in requests.groups]
    return {t for t in targets if targets.count(t) == 1}


def _departures(stays: Sequence[Stay]) -> list[Stay]:
    """Stays that ended; the engine's only where no GPU saw the same one end: an engine may drop
    a model from its list long before the process is gone."""
    gpu = [s for s in stays if s.side == "gpu" and s.went]
    gone = [s for s in stays if s.side == "engine" and s.went]
    seen = by_model(gpu)
    return gpu + [s for s in gone if not _seen_too(s, seen.get(s.model, NOBODY))]


def _seen_too(engine: Stay, gpu: Crowd) -> bool:
    """Whether the GPU saw the same stay, to its end (the end may lie a little before)."""
    since = engine.after_s if engine.came else engine.start_s - SLACK_S  # its list may be stale
    return bool(np.any((gpu.start_s < engine.end_s) & (since < gpu.end_s)))


def _served(requests: Requests, departures: list[Stay]) -> list[Stay]:
    """`departures` with the last sight moved on to the last token that the model gave before it
    was seen gone: polls are far apart, tokens are not."""
    last = {
        model: np.sort(requests.t_last[mine][~np.isnan(requests.t_last[mine])])
        for (_, model), mine in requests.groups.items()
    }
    moved = []
    for stay in departures:
        if stay.side == "gpu":  # sampled as finely as tokens come
            moved.append(stay)
            continue
        tokens = last.get(stay.model, np.zeros(0))
        i = int(np.searchsorted(tokens, stay.end_s, side="right"))
        moved.append(replace(stay, last_s=max(stay.last_s, float(tokens[i - 1]))) if i else stay)
    return moved


@dataclass(frozen=True, slots=True)
class _Comings:
    """The events that bring one model in: their places, and when each was asked for and begun."""

    place: Ints
    asked_s: Floats
    begun_s: Floats


def _comings(starts: Sequence[Coldstart]) -> dict[str, _Comings]:
    """By model."""
    places: dict[str, list[int]] = {}
    for k, c in enumerate(starts):
        places.setdefault(c.arrival.model, []).append(k)
    found = {}
    for model, mine in places.items():
        asked, born, t4 = np.array(
            [(c.t0_s, c.born_s, c.t4_s) for c in map(starts.__getitem__, mine)]
        ).T
        found[model] = _Comings(np.array(mine), asked, np.where(np.isnan(born), t4, born))
    return found


def _own(starts: Sequence[Coldstart], comings: Mapping[str, _Comings], stay: Stay) -> int | None:
    """The first event of the stay's own model that was asked for while it was still there."""
    mine = comings.get(stay.model)
    if mine is None:
        return None
    asked = (mine.asked_s <= stay.end_s) & (stay.end_s <= mine.begun_s + SLACK_S)
    for k in mine.place[asked & (stay.start_s < mine.begun_s)].tolist():
        came = starts[k].arrival
        if stay.target in (None, came.target) and stay not in (came.engine, came.gpu):
            return int(k)
    return None


def _same(c: Coldstart, stay: Stay) -> bool:
    """Whether nothing says that it came back with another context length."""
    new = c.arrival.engine.context if c.arrival.engine else None
    return new is None or stay.context is None or new == stay.context


def _before(c: Coldstart, went: Crowd) -> Stay | None:
    """The last of the model's stays that had ended by then."""
    came = c.arrival
    for s in went.where(went.end_s <= c.t4_s + SLACK_S):
        if s.target in (None, came.target) and s not in (came.engine, came.gpu):
            return s
    return None


def _slept(c: Coldstart, stays: Sequence[Stay]) -> Stay | None:
    """The stay after which the model slept; the GPU's before the engine's, which is coarser."""
    for come in (c.arrival.gpu, c.arrival.engine):
        mine = [
            s
            for s in stays
            if come
            and (s.side, s.model, s.target) == (come.side, come.model, come.target)
            and s.end_s <= come.start_s
        ]
        if mine:
            return max(mine, key=lambda s: s.end_s)
    return None


def _one(a: Stay, b: Stay) -> bool:
    return (a.side, a.model, a.start_s) == (b.side, b.model, b.start_s)
