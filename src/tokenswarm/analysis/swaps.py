"""Cold starts and swaps: arrivals that demand caused, with their marks, costs and victims."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tokenswarm.analysis.arrivals import SLACK_S, Arrival, arrivals
from tokenswarm.analysis.columns import Bools, Floats
from tokenswarm.analysis.figures import SwapEvent
from tokenswarm.analysis.percentiles import nearest_rank
from tokenswarm.analysis.requests import Requests
from tokenswarm.analysis.residency import Stay
from tokenswarm.analysis.strata import FACTOR, FLOOR_S, Strata, Window, strata
from tokenswarm.analysis.vram import DeviceMemory

REWARMED = 5
"""t6: the first of so many requests in a row with TTFT <= 1.5 x the warm median."""
REWARM_FACTOR = 1.5


@dataclass(frozen=True, slots=True)
class Marks:
    """Marks of one event, run seconds; `side` says which side gave each."""

    at: dict[str, float] = field(default_factory=dict)
    side: dict[str, str] = field(default_factory=dict)

    def put(self, mark: str, at_s: float | None, side: str) -> None:
        if at_s is not None and np.isfinite(at_s):
            self.at[mark], self.side[mark] = float(at_s), side

    def later(self) -> dict[str, Any]:
        """t1 to t6 by the names of the swap measurement."""
        return {f"{mark}_s": at for mark, at in self.at.items() if mark != "t0"}


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

    @property
    def done_s(self) -> float:
        """The earliest moment at which it can have been ready; t4 where the client tells it."""
        return self.t4_s if self.arrival.members else self.arrival.lo_s

    @property
    def window(self) -> Window:
        return Window(self.arrival.target, self.arrival.model, self.t0_s, self.t4_s, self.trigger)


@dataclass(frozen=True, slots=True)
class Found:
    """What `find` returns: events by t0 and the strata they give."""

    events: list[SwapEvent]
    strata: Strata


def find(
    requests: Requests,
    stays: list[Stay],
    memories: Sequence[DeviceMemory],
    t0_unix_ns: int,
    speed: float = 1.0,
) -> Found:
    """Every cold start and swap of a run, and every request's stratum."""
    starts = coldstarts(requests, stays, speed)
    split = strata(requests, [c.window for c in starts])
    warm = np.asarray(split.name == "warm", dtype=np.bool_) & requests.ok
    events = [
        _event(requests, c, _device(c, memories), split, k, warm, t0_unix_ns)
        for k, c in enumerate(starts)
    ]
    return Found(events, split)


def coldstarts(requests: Requests, stays: list[Stay], speed: float = 1.0) -> list[Coldstart]:
    """Arrivals that a request was waiting for, by t0. The others (preloads) are no cold starts."""
    found: list[Coldstart] = []
    taken = np.zeros(len(requests), dtype=np.bool_)
    for a in arrivals(requests, stays, speed):
        trigger = _trigger(requests, a, taken)
        if trigger is None:
            continue
        start = _bounds(requests, a, trigger)
        served = requests.waited_until <= start.t4_s + SLACK_S
        mine = (requests.model == a.model) & (requests.target == a.target)
        taken |= np.asarray(mine & served, dtype=np.bool_)
        taken[[trigger, *a.members]] = True
        found.append(start)
    return _with_victims(requests, sorted(found, key=lambda c: c.t0_s), stays)


def _trigger(requests: Requests, a: Arrival, taken: Bools) -> int | None:
    """The earliest request for the model that was still waiting when it came in."""
    mine = requests.of(a.target, a.model)
    lo = a.ready_s - SLACK_S if a.members else a.lo_s
    waiting = mine[
        (requests.t_sent[mine] <= a.ready_s + (0 if a.ready_known else SLACK_S))
        & (requests.waited_until[mine] >= lo)
        & ~taken[mine]
    ]
    return int(waiting[0]) if len(waiting) else None


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
    turns = _turns(starts)
    for stay in (_served(requests, s) for s in _departures(stays)):
        shares = [(_share(c, stay, turns[k]), k) for k, c in enumerate(starts)]
        share, k = max(shares, default=(-1.0, -1))
        if share >= 0:
            victims.setdefault(k, []).append(stay)
    return [
        replace(c, victims=tuple(victims.get(k, ())), known=_known(c, stays))
        for k, c in enumerate(starts)
    ]


def _departures(stays: list[Stay]) -> list[Stay]:
    """Stays that ended; the engine's only where no GPU saw the same end more precisely."""
    gone = [s for s in stays if s.went]
    gpu = [s for s in gone if s.side == "gpu"]
    return gpu + [s for s in gone if s.side == "engine" and not any(_same_end(s, g) for g in gpu)]


def _same_end(engine: Stay, gpu: Stay) -> bool:
    near = engine.last_s - SLACK_S <= gpu.end_s <= engine.end_s + SLACK_S
    return engine.model == gpu.model and near


def _served(requests: Requests, stay: Stay) -> Stay:
    """`stay` with its last sight moved on to the last token that its model gave before it was
    seen gone: polls are far apart, tokens are not."""
    mine = requests.model == stay.model
    if stay.target is not None:
        mine = mine & (requests.target == stay.target)
    last = requests.t_last[mine]
    last = last[last <= stay.end_s]
    return replace(stay, last_s=max(stay.last_s, float(last.max()))) if len(last) else stay


def _turns(starts: list[Coldstart]) -> list[tuple[float, float]]:
    """When each event can have evicted: from t0, or from when the load before it in the same
    target was done (whoever is in the queue has not evicted anybody yet), until there was no
    time left to load: half of the shortest time that the model ever took before t4."""
    begins = []
    for c in starts:
        earlier = [o for o in starts if o.t4_s < c.t4_s and o.arrival.target == c.arrival.target]
        begins.append(max([c.t0_s, *(o.done_s for o in earlier)]))
    quickest: dict[tuple[str, str], float] = {}
    for c, begin in zip(starts, begins, strict=True):
        key = (c.arrival.target, c.arrival.model)
        born = c.arrival.gpu.birth_s if c.arrival.gpu else None
        quickest[key] = min(quickest.get(key, np.inf), c.t4_s - max(begin, born or begin))
    return [
        (begin - SLACK_S, c.t4_s - quickest[(c.arrival.target, c.arrival.model)] / 2 + SLACK_S)
        for c, begin in zip(starts, begins, strict=True)
    ]


def _share(c: Coldstart, stay: Stay, turn: tuple[float, float]) -> float:
    """Seconds in which `stay` may have ended within `turn`; negative when it did not."""
    if stay.model == c.arrival.model or stay.target not in (None, c.arrival.target):
        return -1.0
    return min(turn[1], stay.end_s) - max(turn[0], stay.last_s)


def _known(c: Coldstart, stays: list[Stay]) -> bool:
    return any(s.side == "gpu" or s.target == c.arrival.target for s in stays)


def _device(c: Coldstart, memories: Sequence[DeviceMemory]) -> DeviceMemory | None:
    """The GPU of the event: where its process lives, else the run's only one."""
    stay = c.arrival.gpu
    for m in memories:
        if stay and stay.device == (m.host, m.gpu):
            return m
    return memories[0] if len(memories) == 1 else None


def _marks(c: Coldstart, memory: DeviceMemory | None) -> Marks:
    marks = Marks()
    marks.put("t0", c.t0_s, "client")
    if c.victims:
        seen = sorted(c.victims, key=lambda s: (s.side != "gpu", s.last_s))
        gone = seen[0].last_s if seen[0].side == "gpu" else min(s.end_s for s in seen)
        marks.put("t1", min(max(gone, c.t0_s), c.t4_s), seen[0].side)
        trough = memory.lowest(marks.at["t1"], c.t4_s) if memory else None
        marks.put("t2", trough[0] if trough else None, "gpu")
    for stay in (c.arrival.gpu, c.arrival.engine):
        born = stay.birth_s if stay else None
        if stay and born is not None and "t3" not in marks.at:
            marks.put("t3", min(max(born, marks.at.get("t2", c.t0_s)), c.t4_s), stay.side)
    if c.arrival.ready_known:
        marks.put("t4", c.t4_s, "client" if c.arrival.members else "engine")
    marks.put("t5", c.t5_s, "client")
    return marks


def _event(
    requests: Requests,
    c: Coldstart,
    memory: DeviceMemory | None,
    split: Strata,
    k: int,
    warm: Bools,
    t0_unix_ns: int,
) -> SwapEvent:
    a, i = c.arrival, c.trigger
    mine = np.asarray((requests.model == a.model) & (requests.target == a.target), dtype=np.bool_)
    usual = nearest_rank(requests.ttft[mine & warm], 0.5)
    marks = _marks(c, memory)
    marks.put("t6", _rewarmed(requests, mine, c, usual), "client")
    out = "-and-".join(sorted({s.model for s in c.victims})) or "none"
    ttft = float(requests.ttft[i])
    latency = None if c.t5_s is None else c.t5_s - c.t0_s
    evidence = _evidence(requests, c, mine & warm)
    end = max(marks.at.values())
    return SwapEvent(
        target=a.target,
        engine=str(requests.engine[i]),
        gpu=memory.gpu if memory else "none",
        model_in=a.model,
        model_out=out,
        kind=_kind(a),
        outcome=_outcome(requests, c),
        start_ms=round(t0_unix_ns / 1e6 + c.t0_s * 1e3),
        end_ms=round(t0_unix_ns / 1e6 + end * 1e3),
        text=_text(a.model, out, latency),
        displaced=bool(c.victims) if c.known or c.victims else None,
        cause="demand",
        confidence=_confidence(evidence),
        evidence="+".join(evidence),
        t0_s=c.t0_s,
        **marks.later(),
        latency_s=latency,
        penalty_s=None if usual is None or np.isnan(ttft) else ttft - usual,
        trigger_id=str(requests.id[i]),
        waiters=split.count(k, "swap_waiter"),
        collateral=split.count(k, "swap_collateral"),
        **_memory(c, memory),
        marks_from=marks.side,
    )


def _memory(c: Coldstart, memory: DeviceMemory | None) -> dict[str, Any]:
    """VRAM before t0, lowest and highest in [t0, t5], after t5."""
    if memory is None:
        return {}
    end = c.t4_s if c.t5_s is None else c.t5_s
    low, high = memory.lowest(c.t0_s, end), memory.highest(c.t0_s, end)
    return {
        "vram_before_bytes": memory.at(c.t0_s),
        "vram_trough_bytes": low[1] if low else None,
        "vram_peak_bytes": high[1] if high else None,
        "vram_after_bytes": memory.from_(end),
    }


def _evidence(requests: Requests, c: Coldstart, warm: Bools) -> list[str]:
    """Sides that saw it. A late first token counts for the client only beside another side:
    alone it proves nothing."""
    sides = [s for s, saw in (("engine", c.arrival.engine), ("gpu", c.arrival.gpu)) if saw]
    late = _late(requests.wait[c.trigger], requests.wait[warm])
    return ["client", *sides] if c.arrival.members or (sides and late) else sides


def _late(wait: float, warm: Floats) -> bool:
    usual = nearest_rank(warm, 0.99)
    return usual is not None and wait > max(FLOOR_S, FACTOR * usual)


def _confidence(evidence: list[str]) -> str:
    if len(evidence) > 1:
        return "confirmed"
    return "probable" if evidence == ["engine"] else "hint"


def _kind(a: Arrival) -> str:
    if any(s and s.woke for s in (a.engine, a.gpu)):
        return "wake_l1"
    return "process_cold" if a.gpu and a.gpu.process else "weights_cold"


def _outcome(requests: Requests, c: Coldstart) -> str:
    if c.t5_s is None:
        status = str(requests.status[c.trigger])
        return "aborted" if status in ("cut", "cancelled", "timeout") else "error"
    return "partial_offload" if c.arrival.engine and c.arrival.engine.partial else "ok"


def _text(model_in: str, model_out: str, latency_s: float | None) -> str:
    took = "no token came" if latency_s is None else f"{latency_s:.2f} s to the first token"
    displaced = "" if model_out == "none" else f" displaced {model_out}"
    return f"{model_in}{displaced}: {took}"


def _rewarmed(requests: Requests, mine: Bools, c: Coldstart, usual: float | None) -> float | None:
    """t6: first token of the first of five requests in a row that are as quick as warm ones."""
    if usual is None:
        return None
    i = np.flatnonzero(mine & (requests.t_sent >= c.t0_s))
    quick = requests.ttft[i] <= REWARM_FACTOR * usual
    if len(quick) < REWARMED:
        return None
    row = np.lib.stride_tricks.sliding_window_view(quick, REWARMED).all(axis=1)
    return float(requests.t_first[i[int(np.argmax(row))]]) if row.any() else None
