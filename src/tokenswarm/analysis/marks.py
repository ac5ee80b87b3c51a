"""Marks of one event: when each thing happened, and which side said so."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tokenswarm.analysis.coldstarts import Coldstart
from tokenswarm.analysis.vram import DeviceMemory

PHASES = {
    "queue_s": ("t0", "t1"),
    "evict_s": ("t1", "t2"),
    "gap_s": ("t2", "t3"),
    "load_s": ("t3", "t4"),
    "first_token_s": ("t4", "t5"),
    "rewarm_s": ("t5", "t6"),
}


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

    def phases(self) -> dict[str, Any]:
        """Seconds between marks that are both known."""
        return {
            name: max(0.0, self.at[b] - self.at[a])
            for name, (a, b) in PHASES.items()
            if a in self.at and b in self.at
        }


def marks_of(c: Coldstart, memory: DeviceMemory | None) -> Marks:
    """t0 to t5 of `c`; what nobody saw is not there."""
    marks = Marks()
    marks.put("t0", c.t0_s, "client")
    _leaving(marks, c, memory)
    _loading(marks, c)
    if c.arrival.ready_known:
        marks.put("t4", c.t4_s, "client" if c.arrival.members else "engine")
    elif c.arrival.move:
        marks.put("t4", min(max(c.arrival.move.end_s, c.t0_s), c.t4_s), "gpu")
    marks.put("t5", c.t5_s, "client")
    return marks


def _leaving(marks: Marks, c: Coldstart, memory: DeviceMemory | None) -> None:
    """t1 and t2: the first victim goes, memory is at its lowest."""
    gone = [*c.victims, *([c.own] if c.own else [])]
    if not gone and c.slept and c.slept.end_s > c.t0_s:  # it fell asleep while it was asked for
        gone.append(c.slept)
    if gone:
        seen = sorted(gone, key=lambda s: (s.side != "gpu", s.last_s))
        at = seen[0].last_s if seen[0].side == "gpu" else min(s.end_s for s in seen)
        marks.put("t1", min(max(at, c.t0_s), c.t4_s), seen[0].side)
        trough = memory.lowest(marks.at["t1"], c.t4_s) if memory else None
        marks.put("t2", trough[0] if trough else None, "gpu")
    elif c.fall:
        marks.put("t1", min(max(c.fall.start_s, c.t0_s), c.t4_s), "gpu")
        marks.put("t2", min(max(c.fall.end_s, c.t0_s), c.t4_s), "gpu")


def _loading(marks: Marks, c: Coldstart) -> None:
    """t3: the first sign of the model coming."""
    born = [
        (s.birth_s, s.side)
        for s in (c.arrival.gpu, c.arrival.engine)
        if s and s.came and s.birth_s is not None
    ]
    if c.arrival.move:
        born.insert(0, (c.arrival.move.start_s, "gpu"))
    for at, side in born[:1]:
        marks.put("t3", min(max(at, marks.at.get("t2", c.t0_s)), c.t4_s), side)
