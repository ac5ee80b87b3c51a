"""Percentiles by nearest rank: an observed value, never an interpolated one."""

import math

import numpy as np
from numpy.typing import NDArray

from tokenswarm.analysis.columns import Floats
from tokenswarm.analysis.figures import Percentiles

NONE = Percentiles(0)


def rank(n: int, p: float) -> int:
    """Index of the `p` (0..1) percentile among `n` sorted values: ceil(p*n) - 1.

    p*n is rounded to 9 digits first: 0.95*20 is 19.000000000000004 in floating point, and its
    ceiling would be one rank too high.
    """
    return max(1, math.ceil(round(p * n, 9))) - 1


def nearest_rank(values: Floats, p: float) -> float | None:
    """The `p` percentile of `values` without NaN; None when nothing is left."""
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    at = rank(len(known), p)
    return float(np.partition(known, at)[at])


def percentiles(values: Floats) -> Percentiles:
    """P50, P90, P95, P99 and max of `values` without NaN, with their number."""
    known = np.sort(values[~np.isnan(values)])
    n = len(known)
    if not n:
        return NONE
    p50, p90, p95, p99 = (float(known[rank(n, p)]) for p in (0.5, 0.9, 0.95, 0.99))
    return Percentiles(n, p50, p90, p95, p99, float(known[-1]))


class GapPool:
    """Pooled token gaps in whole microseconds, counted so that percentiles stay exact.

    Gaps of a million requests would not fit in memory one by one; their counts do. Gaps above
    `LIMIT_US` are few and kept as they are.
    """

    LIMIT_US = 1 << 20

    def __init__(self) -> None:
        self._counts = np.zeros(self.LIMIT_US, dtype=np.int64)
        self._long: list[NDArray[np.int64]] = []
        self._found: Percentiles | None = None

    def add(self, gaps_us: NDArray[np.integer]) -> None:
        """Count `gaps_us` (negative ones, of a clock that was moved, count as 0)."""
        self._found = None
        gaps = np.maximum(gaps_us, 0)
        short = gaps < self.LIMIT_US
        if not short.all():
            self._long.append(gaps[~short].astype(np.int64))
            gaps = gaps[short]
        counts = np.bincount(gaps)
        self._counts[: len(counts)] += counts

    def percentiles(self) -> Percentiles:
        """The same figures as `percentiles`, in seconds."""
        if self._found is None:
            self._found = self._percentiles()
        return self._found

    def _percentiles(self) -> Percentiles:
        long = np.sort(np.concatenate([np.zeros(0, np.int64), *self._long]))
        upto = np.cumsum(self._counts)
        n = int(upto[-1]) + len(long)
        if not n:
            return NONE

        def at(index: int) -> float:
            if index < upto[-1]:
                return float(np.searchsorted(upto, index, side="right")) / 1e6
            return float(long[index - upto[-1]]) / 1e6

        p50, p90, p95, p99 = (at(rank(n, p)) for p in (0.5, 0.9, 0.95, 0.99))
        return Percentiles(n, p50, p90, p95, p99, at(n - 1))
