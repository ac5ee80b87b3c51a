"""How high a load is at each moment: a share of its rate or its users, 0 to 1, linear in pieces.

A level that changes stretches the schedule: the arrival that a steady load would have had after x
seconds comes when the area under the level has reached x. A Poisson process stays one.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise

from tokenswarm.scenario.model import (
    RampShape,
    Shape,
    SoakShape,
    SpikeShape,
    StepsShape,
)

Point = tuple[float, float]


class Level:
    """Linear between `points` (seconds, level), the last level from then on.

    Two points at the same time are a jump.
    """

    def __init__(self, points: Sequence[Point]) -> None:
        self._pieces = [
            (t, level, (after - level) / (until - t))
            for (t, level), (until, after) in pairwise(points)
            if until > t
        ]
        last_s, last = points[-1]
        self._pieces.append((last_s, last, 0.0))
        self._starts = [piece[0] for piece in self._pieces]
        self._areas = [0.0]
        for (t, _, _), (until, _, _) in pairwise(self._pieces):
            self._areas.append(self._areas[-1] + self._area(t, until))

    def at(self, t_s: float) -> float:
        """The level at `t_s`, after a jump that happens there."""
        t, level, slope = self._pieces[self._place(t_s)]
        return level + slope * (t_s - t)

    def ramping(self, t_s: float) -> bool:
        """Whether the level is on its way from one to another."""
        return self._pieces[self._place(t_s)][2] != 0.0

    def area(self, t_s: float) -> float:
        """Seconds at level 1 that would carry as much load as there is until `t_s`."""
        place = self._place(t_s)
        return self._areas[place] + self._area(self._starts[place], t_s)

    def when(self, full_s: float) -> float:
        """The moment until which the load is that of `full_s` seconds at level 1; inf: never."""
        place = bisect_right(self._areas, full_s) - 1
        t, level, slope = self._pieces[place]
        rest = full_s - self._areas[place]
        if rest <= 0:
            return t
        # of the two roots the one that loses no digits where the slope is small
        root = level + math.sqrt(max(level * level + 2 * slope * rest, 0.0))
        return t + 2 * rest / root if root > 0 else math.inf

    def reaches(self, level: float, t_s: float) -> float:
        """The first moment from `t_s` on at which the level is above `level`; inf: never."""
        if self.at(t_s) > level:
            return t_s
        for place in range(self._place(t_s), len(self._pieces)):
            t, begins, slope = self._pieces[place]
            t_from = max(t, t_s)
            end = self._starts[place + 1] if place + 1 < len(self._pieces) else math.inf
            if begins + slope * (t_from - t) > level:
                return t_from
            if slope > 0 and (crossing := t + (level - begins) / slope) < end:
                return math.nextafter(max(crossing, t_from), math.inf)
        return math.inf

    def _place(self, t_s: float) -> int:
        return max(bisect_right(self._starts, t_s) - 1, 0)

    def _area(self, start_s: float, end_s: float) -> float:
        return (self.at(start_s) + self._before(end_s, start_s)) / 2 * (end_s - start_s)

    def _before(self, end_s: float, start_s: float) -> float:
        """The level at `end_s` by the piece that holds at `start_s`: before a jump there."""
        t, level, slope = self._pieces[self._place(start_s)]
        return level + slope * (end_s - t)


def level_of(shape: Shape | None, duration_s: float) -> Level | None:
    """The level that `shape` gives a load of `duration_s`; None: it is steady."""
    return None if shape is None else Level(list(_points(shape, duration_s)))


def _points(shape: Shape, duration_s: float) -> Iterator[Point]:
    if isinstance(shape, RampShape):
        yield from ((0.0, shape.start), (shape.over_s, shape.end))
    elif isinstance(shape, StepsShape):
        for number, level in enumerate(shape.levels):
            yield from ((number * shape.each_s, level), ((number + 1) * shape.each_s, level))
    elif isinstance(shape, SpikeShape):
        yield from _spikes(shape, duration_s)
    else:
        assert isinstance(shape, SoakShape)
        top_s = max(duration_s - shape.ramp_s, shape.ramp_s)
        yield from ((0.0, 0.0), (shape.ramp_s, 1.0), (top_s, 1.0), (top_s + shape.ramp_s, 0.0))


def _spikes(shape: SpikeShape, duration_s: float) -> Iterator[Point]:
    yield 0.0, shape.base
    at_s = shape.at_s
    while at_s < duration_s:
        end_s = at_s + shape.for_s
        yield from ((at_s, shape.base), (at_s, 1.0), (end_s, 1.0), (end_s, shape.base))
        if shape.every_s is None:
            return
        at_s += shape.every_s
