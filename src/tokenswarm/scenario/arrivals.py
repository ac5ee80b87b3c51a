"""The open loop's schedule: one absolute time line for all workers, by index.

Times are sums of gaps, and gap `index` depends on the seed and the index alone. Every worker
computes the whole schedule (about a microsecond an arrival) and keeps the start of each block
of 1024 arrivals, so the times are the same whoever asks and however many workers share them.
"""

import math
from collections.abc import Callable
from itertools import accumulate
from statistics import NormalDist

from tokenswarm.scenario.counter import draw, stream, uniform
from tokenswarm.scenario.model import OpenLoad, Scenario

BLOCK = 1024
_NORMAL = NormalDist()

Gap = Callable[[int], float]


class Arrivals:
    """When request `index` of an open loop arrives, in seconds after t0; never decreasing.

    Constant: index / rate, the first at 0. Poisson and gamma: the sum of gaps 0 to index.
    """

    def __init__(self, load: OpenLoad, seed: int):
        self.rate = load.rate
        self._gap = _gap(load, stream(seed, "arrivals"))
        self._starts = [0.0]  # time at which each block begins
        self._number = -1
        self._block: list[float] = []

    def time(self, index: int) -> float:
        """Return the arrival of request `index` (from 0), seconds after t0."""
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


def arrivals(scenario: Scenario) -> Arrivals:
    """Return the schedule of an open-loop scenario; ValueError for a closed loop."""
    if not isinstance(scenario.load, OpenLoad):
        raise ValueError("a closed loop has no arrivals; use load: {kind: open, rate: ...}")
    return Arrivals(scenario.load, scenario.seed)


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
