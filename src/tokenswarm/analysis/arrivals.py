"""Arrivals: each time that a model came into device memory, from what three sides saw of it.

Client: Ollama's load_duration. It spans queue, eviction and load, and is large as well for a
request to a resident model that was held up behind another model's load, so it proves a load
only where nobody saw the model resident all along. Engine and GPU: the start of a stay. Where all
of them are blind (one process that changes its models): memory that rises while a request waits.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tokenswarm.analysis.columns import Floats, Ints
from tokenswarm.analysis.requests import Requests
from tokenswarm.analysis.residency import Stay
from tokenswarm.analysis.slopes import Move
from tokenswarm.analysis.vram import Line

LOADED_S = 0.25
"""Ollama's smallest true load: it sleeps this long between two looks at a starting runner."""
WARM_LOAD_S = 0.05
SLACK_S = 0.1
"""How far two sides' ideas of one moment may lie apart."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One model coming in. `members`: requests whose server_load_s spans it. `ready_s`: when
    it was ready, as the best side says; `lo_s` is the latest moment known to be before that."""

    target: str
    model: str
    lo_s: float
    ready_s: float
    members: tuple[int, ...] = ()
    engine: Stay | None = None
    gpu: Stay | None = None
    move: Move | None = None
    fall: Move | None = None
    displaced: str | None = None
    """`move`: the rise of a line of memory without a name, `fall` the one before it, `displaced`
    the model that had the word before."""

    @property
    def ready_known(self) -> bool:
        """Whether `ready_s` is readiness; the GPU alone shows memory filling, not more."""
        return bool(self.members or self.engine)


def arrivals(
    requests: Requests, stays: list[Stay], speed: float = 1.0, lines: Sequence[Line] = ()
) -> list[Arrival]:
    """Every arrival of every model that was asked for, by ready_s.

    `speed` is how much faster than life a simulated server runs; its loads are as much shorter.
    """
    found = []
    loads = {pair: loaded(requests, mine, speed) for pair, mine in requests.groups.items()}
    for target, model in requests.groups:
        engine = [s for s in stays if s.side == "engine" and s.model == model]
        engine = [s for s in engine if s.target == target]
        gpu = [s for s in stays if s.side == "gpu" and s.model == model]
        seen = _seen(target, model, engine, gpu)
        others = _others(requests, loads, target, model)
        births = np.array([g.start_s for g in gpu if g.came], dtype=np.float64)
        others = np.sort(np.concatenate([others, births]))
        groups = _groups(requests, loads[(target, model)], others)
        held = sorted([*engine, *gpu], key=lambda s: s.start_s)
        first = np.sort(requests.t_first[requests.groups[(target, model)]])
        found += [_spoken(a, first) for a in _join(requests, target, model, seen, groups, held)]
    found = _unblocked(requests, found, speed)
    for target in blind(requests, stays):
        found += _risen(requests, target, lines)
    return sorted(found, key=lambda a: a.ready_s)


def blind(requests: Requests, stays: list[Stay]) -> list[str]:
    """Targets of whose models neither client nor engine nor a named process says anything."""
    targets = {s.target for s in stays if s.side == "engine"}
    models = {s.model for s in stays if s.side == "gpu"}
    seeing = {
        t
        for (t, m), mine in requests.groups.items()
        if t in targets or m in models or not np.isnan(requests.load[mine]).all()
    }
    return sorted({t for t, _ in requests.groups} - seeing)


def _risen(requests: Requests, target: str, lines: Sequence[Line]) -> list[Arrival]:
    """Arrivals of a blind target: each rise that somebody waited through, of the model that was
    first to speak after it and had not spoken last before it."""
    mine = np.flatnonzero(np.asarray(requests.target == target, dtype=np.bool_))
    first, last = requests.t_first[mine], requests.t_last[mine]
    found = []
    for line in lines:
        for k, rise in enumerate(line.moves):
            fall = line.moves[k - 1] if k and line.moves[k - 1].bytes < 0 else None
            begin = min(rise.start_s, fall.start_s if fall else rise.start_s)
            waiting = (requests.t_sent[mine] <= rise.start_s) & (first >= rise.half_s)
            if rise.bytes <= 0 or not waiting.any():
                continue
            speaks = mine[waiting][np.argmin(first[waiting])]
            spoke = np.where(last <= begin + SLACK_S, last, -np.inf)
            before = mine[int(np.argmax(spoke))] if np.isfinite(spoke.max()) else None
            model = str(requests.model[speaks])
            if before is None or requests.model[before] != model:
                out = str(requests.model[before]) if before is not None and fall else None
                found.append(
                    Arrival(
                        target, model, rise.start_s, rise.end_s, (), None, None, rise, fall, out
                    )
                )
    return found


def _unblocked(requests: Requests, found: list[Arrival], speed: float) -> list[Arrival]:
    """`found` without requests that only stood behind another model's load.

    Ollama loads one model after another and lets go of everybody who waited at once: of loads of
    one target that the client alone saw and that end together, only the one asked for first
    can be true, and none when another side saw one end there.
    """

    def rank(a: Arrival) -> tuple[bool, float]:
        return not (a.engine or a.gpu), min(requests.t_sent[list(a.members)], default=0.0)

    kept: list[Arrival] = []
    ends: dict[str, list[float]] = {}  # of what is kept, by target, sorted
    for a in sorted(found, key=rank):
        mine = ends.setdefault(a.target, [])
        if a.engine or a.gpu or not _near(mine, a.ready_s, WARM_LOAD_S / speed):
            kept.append(a)
            if a.members:
                insort(mine, a.ready_s)
    return kept


def _near(values: list[float], value: float, within: float) -> bool:
    i = bisect_left(values, value - within)
    return i < len(values) and values[i] <= value + within


def loaded(requests: Requests, mine: Ints, speed: float = 1.0) -> Ints:
    """Those of `mine` (one model's requests) whose server says that they waited for a load.

    The bound is 5 x the median of the model's short loads, at least 50 ms and at most the
    0.25 s below which Ollama cannot load, all divided by `speed`.
    """
    load = requests.load[mine]
    short = load[load <= WARM_LOAD_S / speed]
    usual = float(np.median(short)) if len(short) else 0.0
    bound = max(WARM_LOAD_S / speed, 5 * usual)
    return mine[load > bound]


def _ready(requests: Requests, i: Ints) -> Floats:
    """When the server had the model for request i."""
    return requests.came_in[i] + requests.load[i]


def _others(
    requests: Requests, loads: dict[tuple[str, str], Ints], target: str, model: str
) -> Floats:
    """Moments at which the same target had loaded another model, sorted."""
    ends = [_ready(requests, i) for (t, m), i in loads.items() if t == target and m != model]
    return np.sort(np.concatenate([np.zeros(0), *ends]))


def _groups(requests: Requests, mine: Ints, others: Floats) -> list[tuple[int, ...]]:
    """Requests that waited for the same load: their loads end together.

    Two loads that end apart are still one when the second was asked for before the first ended
    and nothing was loaded between them (a slow scheduler); else they are two. `others`: when
    another model was ready, or a process of this one came.
    """
    order = mine[np.argsort(_ready(requests, mine), kind="stable")]
    groups: list[list[int]] = []
    for i in order:
        if groups and _same_load(requests, groups[-1], int(i), others):
            groups[-1].append(int(i))
        else:
            groups.append([int(i)])
    return [tuple(g) for g in groups]


def _same_load(requests: Requests, group: list[int], i: int, others: Floats) -> bool:
    ends = _ready(requests, np.array([group[0], group[-1], i]))
    if ends[2] - ends[1] <= SLACK_S:
        return True
    between = np.searchsorted(others, ends[2]) - np.searchsorted(others, ends[1])
    return bool(requests.t_sent[i] < ends[0] and not between)


def _seen(target: str, model: str, engine: list[Stay], gpu: list[Stay]) -> list[Arrival]:
    """Arrivals that engine or GPU saw. The first GPU stay that overlaps an engine's is the same
    one; a further one is a reload too quick for the engine's polls."""
    found = []
    left = list(gpu)
    for stay in engine:
        there = [g for g in left if g.start_s <= stay.start_s <= g.end_s]
        match = next((g for g in there or left if _overlap(g, stay)), None)
        if match:
            left.remove(match)
        if stay.came:
            lo = max(stay.after_s, match.birth_s or stay.after_s) if match else stay.after_s
            found.append(
                Arrival(target, model, min(lo, stay.start_s), stay.start_s, (), stay, match)
            )
    found += [Arrival(target, model, g.after_s, g.start_s, gpu=g) for g in left if g.came]
    return sorted(found, key=lambda a: a.ready_s)


def _overlap(gpu: Stay, engine: Stay) -> bool:
    return gpu.start_s <= engine.end_s and gpu.end_s > engine.after_s


def _join(
    requests: Requests,
    target: str,
    model: str,
    seen: list[Arrival],
    groups: list[tuple[int, ...]],
    stays: list[Stay],
) -> list[Arrival]:
    """Give each group of loads to the arrival it fits; a group that fits none is an arrival of
    its own, unless the model was seen in memory when the load ended: then it was collateral."""
    joined, alone = list(seen), []
    starts = [a.ready_s for a in seen]  # sorted; `joined` keeps this order
    for group in groups:
        ready = float(_ready(requests, np.array(group)).min())
        sent = float(requests.t_sent[list(group)].min())
        lo, hi = bisect_left(starts, sent - SLACK_S), bisect_right(starts, ready + SLACK_S) + 1
        fit = [k for k in range(lo, min(hi, len(joined))) if _fits(joined[k], sent, ready)]
        if fit:
            k = min(fit, key=lambda k: abs(joined[k].ready_s - ready))
            joined[k] = _with(joined[k], group, ready)
        elif not _held(stays, sent, ready):
            there = [s for s in stays if not s.came and sent < s.start_s <= s.end_s]
            engine = next((s for s in there if s.side == "engine"), None)
            gpu = next((s for s in there if s.side == "gpu"), None)
            alone.append(Arrival(target, model, sent, ready, group, engine, gpu))
    return joined + alone


def _spoken(a: Arrival, first: Floats) -> Arrival:
    """`a`, ready no later than the first token after it began: a server may let go of some who
    waited later than of others, and tells nothing to one who then hung up. `first`: sorted."""
    gpu = a.gpu
    since = gpu.birth_s if gpu and gpu.came else a.engine.after_s if a.engine else None
    if since is None:
        return a
    i = int(np.searchsorted(first, since, side="right"))
    if i == len(first) or not first[i] < a.ready_s:
        return a
    return replace(a, ready_s=float(first[i]), lo_s=min(a.lo_s, float(first[i])))


def _held(stays: list[Stay], sent_s: float, at_s: float) -> bool:
    """Whether one of `stays` (by start) shows the model in memory at `at_s`. One that was there
    at the first look says so only for those sent later."""
    i = bisect_right(stays, at_s, key=lambda s: s.start_s)
    # those of one side do not overlap, so one of the last few covers it or none does
    near = stays[max(0, i - 4) : i]
    return any(at_s <= s.last_s + SLACK_S and (s.came or s.start_s <= sent_s) for s in near)


def _fits(a: Arrival, sent: float, ready: float) -> bool:
    if a.engine:
        return a.lo_s - SLACK_S <= ready <= a.engine.start_s + SLACK_S
    # the GPU shows memory that fills, not readiness; whoever waits for it was there before it
    alive = a.gpu is not None and a.lo_s <= ready <= a.gpu.end_s + SLACK_S
    return bool(alive and a.gpu and sent <= a.gpu.start_s + SLACK_S and not a.members)


def _with(a: Arrival, group: tuple[int, ...], ready: float) -> Arrival:
    first = min(ready, a.ready_s) if a.members else ready
    return replace(a, members=(*a.members, *group), ready_s=first)
