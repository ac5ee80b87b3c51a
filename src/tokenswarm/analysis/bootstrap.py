"""Bootstrap intervals of differences between two runs: seeded, without a loop over samples.

The k-th smallest of n values drawn anew from n values lies at rank ceil(n u), where u is the k-th
smallest of n uniform numbers, which is Beta(k, n - k + 1). So the bootstrap distribution of a
nearest-rank percentile is drawn directly, whatever n. Shares are drawn as binomials, counts as
Poisson, and sums that belong together (a request's gaps, a second's tokens) as whole blocks.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from tokenswarm.analysis.columns import Floats, Ints
from tokenswarm.analysis.percentiles import rank

DRAWS = 4000
BLOCK_DRAWS = 1000
BLOCKS = 1000
"""Requests are put together into at most so many blocks, each drawn as a whole."""
BINS = 1024
LOWEST_S, HIGHEST_S = 1e-5, 1e3
LEAST_BEYOND = 3
"""A percentile needs so many values beyond it, and `LEAST` in all, to be told from noise."""
LEAST = 10


@dataclass(frozen=True, slots=True)
class Interval:
    """Of b - a."""

    low: float
    high: float


def enough(n: int, p: float) -> bool:
    """Whether the `p` percentile of `n` values can be told from noise at all."""
    return n >= LEAST and n * (1 - p) >= LEAST_BEYOND - 1e-9


def percentile_draws(values: Floats, p: float, rng: Generator) -> Floats:
    """Bootstrap draws of the `p` percentile of sorted `values`, not empty."""
    n = len(values)
    k = rank(n, p) + 1
    u = rng.beta(k, n - k + 1, DRAWS)
    return values[np.minimum((u * n).astype(np.int64), n - 1)]


def share_draws(hits: int, n: int, rng: Generator) -> Floats:
    """Bootstrap draws of hits / n."""
    return rng.binomial(n, hits / n, DRAWS) / n


def count_draws(count: int, per: float, rng: Generator) -> Floats:
    """Draws of a count of independent events over `per`."""
    return rng.poisson(count, DRAWS) / per


def mean_draws(blocks: Floats, rng: Generator) -> Floats:
    """Bootstrap draws of the mean over `blocks`."""
    n = len(blocks)
    weights = rng.multinomial(n, np.full(n, 1 / n), BLOCK_DRAWS)
    return np.asarray(weights @ blocks / n, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Pooled gaps of some requests, counted by block of requests and bin of their length."""

    counts: Floats
    n: int

    def draws(self, p: float, rng: Generator) -> Floats:
        """Bootstrap draws of the pooled `p` percentile; whole blocks of requests are drawn."""
        blocks = len(self.counts)
        weights = rng.multinomial(blocks, np.full(blocks, 1 / blocks), BLOCK_DRAWS)
        upto = np.cumsum(weights.astype(np.float64) @ self.counts, axis=1)
        total = upto[:, -1:]
        at = np.argmax(upto >= p * total, axis=1)
        rows = np.arange(len(at))
        before = np.where(at > 0, upto[rows, np.maximum(at - 1, 0)], 0.0)
        here = np.maximum(upto[rows, at] - before, 1e-300)
        part = np.clip((p * total[:, 0] - before) / here, 0, 1)
        step = np.log(HIGHEST_S / LOWEST_S) / BINS
        return np.asarray(LOWEST_S * np.exp((at + part) * step), dtype=np.float64)


def histogram(gaps_us: Ints, owner: Ints, owners: int) -> Histogram | None:
    """Gaps of requests 0 to `owners` - 1; None without gaps."""
    if not len(gaps_us):
        return None
    size = min(owners, BLOCKS)
    block = owner % size
    seconds = np.clip(gaps_us / 1e6, LOWEST_S, HIGHEST_S * (1 - 1e-9))
    step = np.log(HIGHEST_S / LOWEST_S) / BINS
    bins = (np.log(seconds / LOWEST_S) / step).astype(np.int64)
    flat = np.bincount(block * BINS + bins, minlength=size * BINS).astype(np.float64)
    return Histogram(flat.reshape(size, BINS), len(gaps_us))


def interval(a: Floats, b: Floats, confidence: float) -> Interval:
    """Percentile interval of b - a from independent draws of both."""
    n = min(len(a), len(b))
    low, high = np.quantile(b[:n] - a[:n], [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))
