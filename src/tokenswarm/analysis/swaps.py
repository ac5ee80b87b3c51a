"""Cold starts and swaps as events: their marks, their costs, and what is known of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from tokenswarm.analysis import causes
from tokenswarm.analysis.changes import changes
from tokenswarm.analysis.coldstarts import Coldstart, coldstarts
from tokenswarm.analysis.costs import (
    NO_LIMITS,
    NO_READS,
    DiskReads,
    Limits,
    filling,
    memory_costs,
    moved_bytes,
    speed_costs,
)
from tokenswarm.analysis.figures import Change, SwapEvent
from tokenswarm.analysis.marks import Marks, marks_of
from tokenswarm.analysis.requests import Requests
from tokenswarm.analysis.residency import Stay
from tokenswarm.analysis.strata import FACTOR, FLOOR_S, Strata, strata
from tokenswarm.analysis.usual import Usual, usual
from tokenswarm.analysis.victims import with_victims
from tokenswarm.analysis.vram import DeviceMemory, Line

LOOK_S = 0.06
"""Memory was full up to a look before it was seen to be."""


@dataclass(frozen=True, slots=True)
class Found:
    """What `find` returns: events by t0, the strata they give, and every change of residency."""

    events: list[SwapEvent]
    strata: Strata
    changes: list[Change]


@dataclass(frozen=True, slots=True)
class _Case:
    """One event on its way: what was concluded before its costs are counted."""

    start: Coldstart
    memory: DeviceMemory | None
    marks: Marks
    kind: str
    outcome: str
    cause: str
    left: str | None


def find(
    requests: Requests,
    stays: list[Stay],
    memories: Sequence[DeviceMemory],
    t0_unix_ns: int,
    speed: float = 1.0,
    lines: Sequence[Line] = (),
    limits: Limits = NO_LIMITS,
    reads: DiskReads = NO_READS,
    sleeps: Mapping[tuple[str, str], int] = MappingProxyType({}),
) -> Found:
    """Every cold start and swap of a run, and every request's stratum.

    `stays` are those of residency.py, of all sides; `lines` the memory that has no model's name;
    `speed` is how much faster than life a simulated server runs; `sleeps` how deep each (target,
    model) sleeps.
    """
    only = memories[0] if len(memories) == 1 else None
    starts = with_victims(requests, coldstarts(requests, stays, speed, lines), stays, only)
    split = strata(requests, [c.window for c in starts])
    warm = np.asarray(split.name == "warm", dtype=np.bool_) & requests.ok
    normal = {key: usual(requests, mine, warm) for key, mine in requests.groups.items()}
    gone = [s for c in starts for s in c.victims]
    told = causes.told_of(stays, sleeps)
    cases = [_case(requests, c, memories, normal[c.key], gone, told) for c in starts]
    costs = _costs(cases, limits, reads)
    paid = [split.counts(s, len(starts)) for s in ("swap_waiter", "swap_collateral")]
    events = [
        _event(requests, case, normal[case.start.key], (int(w), int(x)), cost, t0_unix_ns)
        for case, w, x, cost in zip(cases, *paid, costs, strict=True)
    ]
    return Found(events, split, changes(requests, stays, lines, gone, starts))


def _case(
    requests: Requests,
    c: Coldstart,
    memories: Sequence[DeviceMemory],
    normal: Usual,
    gone: Sequence[Stay],
    told: causes.Told,
) -> _Case:
    memory = _device(c, memories)
    marks = marks_of(c, memory)
    marks.put("t6", normal.rewarmed(c.t0_s), "client")
    left = causes.left_because(requests, c, gone)
    return _Case(
        c,
        memory,
        marks,
        causes.kind_of(requests, c, told),
        causes.outcome_of(requests, c, told),
        causes.cause_of(requests, c, left, gone),
        left,
    )


def _device(c: Coldstart, memories: Sequence[DeviceMemory]) -> DeviceMemory | None:
    """The GPU of the event: where its process lives, else the run's only one."""
    stay = c.arrival.gpu
    for m in memories:
        if stay and stay.device == (m.host, m.gpu):
            return m
    return memories[0] if len(memories) == 1 else None


def _costs(cases: Sequence[_Case], limits: Limits, reads: DiskReads) -> list[dict[str, Any]]:
    """Bytes, speed and coldness of each event; times of one model's loads are compared."""
    when = [filling(case.start, case.marks) for case in cases]
    moved = [moved_bytes(case.start) for case in cases]
    read = [reads.ratio(*w, m) if w is not None else None for w, m in zip(when, moved, strict=True)]
    cold = causes.coldnesses(
        [case.start for case in cases],
        [None if w is None else w[1] - w[0] for w in when],
        [case.kind for case in cases],
        read,
    )
    return [
        {"coldness": c, **speed_costs(m, w, c, limits)}
        for m, w, c in zip(moved, when, cold, strict=True)
    ]


def _event(
    requests: Requests,
    case: _Case,
    normal: Usual,
    paid: tuple[int, int],
    costs: dict[str, Any],
    t0_unix_ns: int,
) -> SwapEvent:
    c, marks, i = case.start, case.marks, case.start.trigger
    ttft = float(requests.ttft[i])
    warm_s = normal.ttft_of(float(requests.prompt_tokens[i]))
    latency = None if c.t5_s is None else c.t5_s - c.t0_s
    out = _out(c)
    evidence = _evidence(requests, c, normal)
    return SwapEvent(
        target=c.arrival.target,
        engine=str(requests.engine[i]),
        gpu=case.memory.gpu if case.memory else "none",
        model_in=c.arrival.model,
        model_out=out,
        kind=case.kind,
        outcome=case.outcome,
        start_ms=round(t0_unix_ns / 1e6 + c.t0_s * 1e3),
        end_ms=round(t0_unix_ns / 1e6 + max(marks.at.values()) * 1e3),
        text=_text(c.arrival.model, out, latency),
        displaced=out != "none" if c.known or out != "none" else None,
        cause=case.cause,
        confidence=_confidence(evidence),
        evidence="+".join(evidence),
        t0_s=c.t0_s,
        **marks.later(),
        **marks.phases(),
        latency_s=latency,
        penalty_s=None if warm_s is None or np.isnan(ttft) else ttft - warm_s,
        trigger_id=str(requests.id[i]),
        waiters=paid[0],
        collateral=paid[1],
        left_because=case.left,
        **memory_costs(c, case.memory),
        **costs,
        marks_from=marks.side,
    )


def _out(c: Coldstart) -> str:
    """Who had to go, as one slug."""
    gone = {s.model for s in c.victims} | ({c.arrival.displaced} if c.arrival.displaced else set())
    return "-and-".join(sorted(gone)) or "none"


def _evidence(requests: Requests, c: Coldstart, normal: Usual) -> list[str]:
    """Sides that saw it. A late first token counts for the client only beside another side:
    alone it proves nothing."""
    gpu = c.arrival.gpu or c.arrival.move
    sides = [s for s, saw in (("engine", c.arrival.engine), ("gpu", gpu)) if saw]
    late = bool(sides) and _late(requests, c, normal)
    return ["client", *sides] if c.arrival.members or late else sides


def _late(requests: Requests, c: Coldstart, normal: Usual) -> bool:
    """Whether the trigger waited longer than warm requests ever do; or longer than they usually
    do, from before its model's memory came until after it was there. Where no request was warm,
    the latter is all there is."""
    waited = float(requests.wait[c.trigger])
    if normal.wait_p99_s is not None and waited > max(FLOOR_S, FACTOR * normal.wait_p99_s):
        return True
    gpu, move = c.arrival.gpu, c.arrival.move
    full_s = gpu.full_s if gpu else move.end_s if move else None
    begun = gpu.birth_s if gpu else move.start_s if move else None
    long = waited > max(FLOOR_S, FACTOR * (normal.wait_s or 0.0))
    if full_s is None or begun is None or c.t5_s is None:
        return c.t5_s is None and long and normal.wait_p99_s is None
    return c.t0_s < begun and c.t5_s >= full_s - LOOK_S and long


def _confidence(evidence: list[str]) -> str:
    if len(evidence) > 1:
        return "confirmed"
    return "probable" if evidence == ["engine"] else "hint"


def _text(model_in: str, model_out: str, latency_s: float | None) -> str:
    took = "no token came" if latency_s is None else f"{latency_s:.2f} s to the first token"
    displaced = "" if model_out == "none" else f" displaced {model_out}"
    return f"{model_in}{displaced}: {took}"
