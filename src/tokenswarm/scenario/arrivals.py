"""The open loop's schedule: one absolute time line for all workers, by index.

Times are sums of gaps, and gap `index` depends on the seed and the index alone. Every worker
computes the whole schedule (about a microsecond an arrival) and keeps the start of each block
of 1024 arrivals, so the times are the same whoever asks and however many workers share them.
A shape stretches the sums (see level.py), so a change of the rate is the same moment for all.
"""

import math
from collections.abc import Callable
from itertools import accumulate
from statistics import NormalDist

from tokenswarm.scenario.counter import draw, stream, uniform
from tokenswarm.scenario.level import Level, level_of
from tokenswarm.scenario.model import ClosedLoad, OpenLoad, Scenario, TraceLoad

BLOCK = 1024
_NORMAL = NormalDist()

Gap = Callable[[int], float]


class Arrivals:
    """When request `index` of an open loop arrives, in seconds after t0; never decreasing.

    Constant: index / rate, the first at 0. Poisson and gamma: the sum of gaps 0 to index. With a
    level these are seconds at level 1, and inf is an arrival that never comes.
    """

    def __init__(self, load: OpenLoad, seed: int, level: Level | None = None):
        self._level = level
        self.rate = load.rate
        self._gap = _gap(load, stream(seed, "arrivals"))
        self._starts = [0.0]  # time at which each block begins
        self._number = -1
        self._block: list[float] = []

    def time(self, index: int) -> float:
        """Return the arrival of request `index` (from 0), seconds after t0."""
        full_s = self._full(index)
        return full_s if self._level is None else self._level.when(full_s)

    def _full(self, index: int) -> float:
        if self._gap is None:
            return index / self.rate
        number, place = divmod(index, BLOCK)
        if number != self._number:
            self._open(number)
        return self._block[place]

    def _open(self, number: int) -> None:
        """Make block `number` the current one, and on the way those that lead to it."""
        for known in range(len(self._starts) - 1, number):
            self._starts.append(self._times(known)[-1])
        self._block, self._number = self._times(number), number

    def _times(self, number: int) -> list[float]:
        assert self._gap is not None
        gaps = map(self._gap, range(number * BLOCK, (number + 1) * BLOCK))
        return list(accumulate(gaps, initial=self._starts[number]))[1:]


class TraceArrivals:
    """The arrivals of a recorded trace; inf after its last."""

    def __init__(self, load: TraceLoad) -> None:
        self._times_s = load.times_s

    def time(self, index: int) -> float:
        return self._times_s[index] if index < len(self._times_s) else math.inf


Schedule = Arrivals | TraceArrivals


def arrivals(scenario: Scenario) -> Schedule:
    """Return the schedule of an open loop or a trace (resolved); ValueError for a closed loop."""
    load = scenario.load
    if isinstance(load, ClosedLoad):
        raise ValueError("a closed loop has no arrivals; use load: {kind: open, rate: ...}")
    if isinstance(load, TraceLoad):
        return TraceArrivals(load)
    return Arrivals(load, scenario.seed, level_of(load.shape, scenario.duration_s))


def first_from(schedule: Schedule, t_s: float) -> int:
    """Return the index of the first arrival at `t_s` or later."""
    high = 1
    while schedule.time(high) < t_s:
        high *= 2
    low = 0
    while low < high:
        middle = (low + high) // 2
        if schedule.time(middle) < t_s:
            low = middle + 1
        else:
            high = middle
    return low


def _gap(load: OpenLoad, key: int) -> Gap | None:
    if load.arrivals == "constant":
        return None
    if load.arrivals == "poisson":
        return lambda index: -math.log(uniform(key, index)) / load.rate
    scale_s = 1 / (load.rate * load.burstiness)
    return lambda index: scale_s * _gamma(load.burstiness, draw(key, index))


def _gamma(shape: float, key: int) -> float:
    """Return a gamma variate of scale 1, from the numbers of the stream `key`.

    Marsaglia and Tsang: A Simple Method for Generating Gamma Variables, ACM TOMS 26(3), 2000;
    shapes below 1 by their remark: gamma(a) = gamma(a + 1) * u**(1/a).
    """
    if shape < 1:
        return _gamma(shape + 1, key) * float(uniform(key, -1) ** (1 / shape))
    d = shape - 1 / 3
    c = 1 / math.sqrt(9 * d)
    trial = 0
    while True:
        x = _NORMAL.inv_cdf(uniform(key, trial))
        v = (1 + c * x) ** 3
        u = uniform(key, trial + 1)
        if v > 0 and math.log(u) < 0.5 * x * x + d - d * v + d * math.log(v):
            return d * v
        trial += 2
