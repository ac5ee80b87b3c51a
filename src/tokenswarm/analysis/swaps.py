"""Cold starts and swaps as events: their marks, their costs, and what is known of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tokenswarm.analysis.arrivals import Arrival
from tokenswarm.analysis.coldstarts import Coldstart, coldstarts
from tokenswarm.analysis.columns import Bools, Floats, Ints
from tokenswarm.analysis.figures import SwapEvent
from tokenswarm.analysis.percentiles import nearest_rank
from tokenswarm.analysis.requests import Requests
from tokenswarm.analysis.residency import Stay
from tokenswarm.analysis.strata import FACTOR, FLOOR_S, Strata, strata
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
class Found:
    """What `find` returns: events by t0 and the strata they give."""

    events: list[SwapEvent]
    strata: Strata


@dataclass(frozen=True, slots=True)
class Usual:
    """One model when warm: median TTFT, P99 wait for the first token (None without warm ok
    requests), and when it was warm again after any moment: `sent_s` of the first of each five
    quick requests in a row, `first_s` their first tokens."""

    ttft_s: float | None
    wait_p99_s: float | None
    sent_s: Floats
    first_s: Floats

    def rewarmed(self, from_s: float) -> float | None:
        """t6: first token of the first of five requests in a row, sent from `from_s` on, that
        are as quick as warm ones."""
        i = int(np.searchsorted(self.sent_s, from_s))
        return float(self.first_s[i]) if i < len(self.sent_s) else None


def usual(requests: Requests, mine: Ints, warm: Bools) -> Usual:
    """What is usual for the requests `mine` of one model, of which `warm` (all) are warm."""
    calm = mine[warm[mine]]
    ttft = nearest_rank(requests.ttft[calm], 0.5)
    quick = requests.ttft[mine] <= REWARM_FACTOR * (np.nan if ttft is None else ttft)
    row = np.zeros(0, dtype=np.int64)
    if len(quick) >= REWARMED:
        view = np.lib.stride_tricks.sliding_window_view(quick, REWARMED)
        row = mine[np.flatnonzero(view.all(axis=1))]
    p99 = nearest_rank(requests.wait[calm], 0.99)
    return Usual(ttft, p99, requests.t_sent[row], requests.t_first[row])


def find(
    requests: Requests,
    stays: list[Stay],
    memories: Sequence[DeviceMemory],
    t0_unix_ns: int,
    speed: float = 1.0,
) -> Found:
    """Every cold start and swap of a run, and every request's stratum.

    `stays` are those of residency.py, of all sides; `speed` is how much faster than life a
    simulated server runs.
    """
    starts = coldstarts(requests, stays, speed)
    split = strata(requests, [c.window for c in starts])
    warm = np.asarray(split.name == "warm", dtype=np.bool_) & requests.ok
    normal = {key: usual(requests, mine, warm) for key, mine in requests.groups.items()}
    paid = [split.counts(s, len(starts)) for s in ("swap_waiter", "swap_collateral")]
    events = [
        _event(requests, c, _device(c, memories), normal[c.key], (int(w), int(x)), t0_unix_ns)
        for c, w, x in zip(starts, *paid, strict=True)
    ]
    return Found(events, split)


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
    normal: Usual,
    paid: tuple[int, int],
    t0_unix_ns: int,
) -> SwapEvent:
    a, i = c.arrival, c.trigger
    marks = _marks(c, memory)
    marks.put("t6", normal.rewarmed(c.t0_s), "client")
    out = "-and-".join(sorted({s.model for s in c.victims})) or "none"
    ttft = float(requests.ttft[i])
    latency = None if c.t5_s is None else c.t5_s - c.t0_s
    evidence = _evidence(c, normal)
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
        penalty_s=None if normal.ttft_s is None or np.isnan(ttft) else ttft - normal.ttft_s,
        trigger_id=str(requests.id[i]),
        waiters=paid[0],
        collateral=paid[1],
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


def _evidence(c: Coldstart, normal: Usual) -> list[str]:
    """Sides that saw it. A late first token counts for the client only beside another side:
    alone it proves nothing."""
    sides = [s for s, saw in (("engine", c.arrival.engine), ("gpu", c.arrival.gpu)) if saw]
    p99 = normal.wait_p99_s
    waited = (c.t4_s if c.t5_s is None else c.t5_s) - c.t0_s
    late = p99 is not None and waited > max(FLOOR_S, FACTOR * p99)
    return ["client", *sides] if c.arrival.members or (sides and late) else sides


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
