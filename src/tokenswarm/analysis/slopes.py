"""Device memory as a line that falls and rises: what it says where no process can be named.

One process may hold several models, change them, or lay one to sleep. Its line of memory then
turns round, and between two turns lies one move.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenswarm.analysis.columns import Floats, Ints

MIB = 2**20
LEAST_BYTES = 64 * MIB
LEAST_RATIO = 0.05
"""A move is at least so large, and at least this share of all that the line ever covered."""
EDGE = 0.02
"""The first and last so much of a move belongs to its ends: caches and contexts, not weights."""
PAUSE_S = 5.0
"""Memory that stands still for so long in the middle of a move parts it into two."""
PCIE_BYTES_PER_S = 64e9
"""No weights come over a bus faster (PCIe 5 x16); memory that is only mapped does."""
COPY_STEPS = 3
"""A side of a dip that takes so many samples was copied, whatever the other looks like."""
RETURNED = 0.25
"""What woke up again holds the same as before, give or take this share."""


@dataclass(frozen=True, slots=True)
class Move:
    """Memory going one way from `start_s` to `end_s` (samples): `bytes` > 0 came, < 0 went.
    `steps`: sample intervals that it took. `held`: samples at its end before it turned."""

    start_s: float
    end_s: float
    bytes: int
    steps: int
    held: int
    half_s: float = 0.0
    """When half of it was done."""

    @property
    def bytes_per_s(self) -> float | None:
        took = self.end_s - self.start_s
        return abs(self.bytes) / took if took > 0 else None


@dataclass(frozen=True, slots=True)
class Dip:
    """Memory that went and came back: asleep between `fall` and `rise`. `level` 1: weights were
    copied away or back; 2: both sides are too fast for that. `lower_bound`: it was over before
    two samples had shown the trough."""

    fall: Move
    rise: Move
    level: int

    @property
    def bytes(self) -> int:
        return -self.fall.bytes

    @property
    def lower_bound(self) -> bool:
        return self.fall.held < 2


def moves(at_s: Floats, used: Floats) -> list[Move]:
    """Every move of a line of memory, by time; samples without a figure are left out."""
    known = ~np.isnan(used)
    at, level = at_s[known], used[known]
    if len(level) < 2:
        return []
    least = max(LEAST_BYTES, LEAST_RATIO * float(level.max() - level.min()))
    turns = _turns(level, least)
    found = []
    for a, b in itertools.pairwise(turns):
        found += _parts(at, level, int(a), int(b), least)
    return found


def _turns(level: Floats, least: float) -> Ints:
    """Indices at which the line turns round by at least `least`, its ends included."""
    turns, low, high, way = [0], 0, 0, 0
    for i in _candidates(level):
        if level[i] > level[high]:
            high = i
        if level[i] < level[low]:
            low = i
        if way <= 0 and level[i] - level[low] >= least:
            turns += [low] if way else []
            way, high = 1, i
            low = i
        elif way >= 0 and level[high] - level[i] >= least:
            turns += [high] if way else []
            way, low = -1, i
            high = i
    return np.unique(np.array([*turns, len(level) - 1], dtype=np.int64))


def _candidates(level: Floats) -> list[int]:
    """Where the line can turn: it differs from a neighbour."""
    differs = np.flatnonzero(np.diff(level) != 0)
    return [int(i) for i in np.unique(np.concatenate([[0], differs, differs + 1]))]


def _parts(at: Floats, level: Floats, a: int, b: int, least: float) -> list[Move]:
    """The moves between two turns: one, or several with pauses between them."""
    lo = a
    found = []
    changed = a + 1 + np.flatnonzero(np.diff(level[a : b + 1]) != 0)
    starts = [*changed[np.diff(at[changed], prepend=-np.inf) > PAUSE_S], b + 1]
    for first, past in itertools.pairwise(starts):
        mine = changed[(changed >= first) & (changed < past)]
        lo, hi = int(first) - 1, int(mine[-1])
        if abs(level[hi] - level[lo]) >= least:
            found.append(_move(at, level, lo, hi))
    return found


def _move(at: Floats, level: Floats, a: int, b: int) -> Move:
    size = level[b] - level[a]
    done = (level[a : b + 1] - level[a]) / size
    first = a + int(np.flatnonzero(done <= EDGE)[-1])
    last = a + int(np.flatnonzero(done >= 1 - EDGE)[0])
    still = np.flatnonzero(np.abs(level[last:] - level[b]) > EDGE * abs(size))
    held = int(still[0]) if len(still) else len(level) - last
    half = float(at[a + int(np.flatnonzero(done >= 0.5)[0])])
    return Move(float(at[first]), float(at[last]), int(size), max(1, last - first), held, half)


def dips(found: Sequence[Move]) -> list[Dip]:
    """Falls that were followed by a return of about the same bytes: sleeps and wakes.

    More than went coming back is another model, or a load that let go of something meanwhile.
    """
    pairs = itertools.pairwise(found)
    return [
        Dip(fall, rise, _level(fall, rise))
        for fall, rise in pairs
        if fall.bytes < 0 < rise.bytes and abs(1 + rise.bytes / fall.bytes) <= RETURNED
    ]


def _level(fall: Move, rise: Move) -> int:
    if max(fall.steps, rise.steps) >= COPY_STEPS:
        return 1
    fastest = max(m.bytes_per_s or np.inf for m in (fall, rise))
    return 2 if fastest > PCIE_BYTES_PER_S else 1
