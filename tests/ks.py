"""Is a sample from a distribution? The Kolmogorov-Smirnov test, for tests."""

import math
from collections.abc import Sequence

KS_ALPHA_001 = 1.628
"""Critical value of sqrt(n) D at alpha 0.01 (Smirnov 1948), for n above about 50."""


def ks_distance(gaps: Sequence[float], mean: float) -> float:
    """The largest distance between the sample's and the exponential distribution function."""
    n = len(gaps)
    distance = 0.0
    for rank, gap in enumerate(sorted(gaps)):
        expected = 1 - math.exp(-gap / mean)
        distance = max(distance, (rank + 1) / n - expected, expected - rank / n)
    return distance


def ks_exponential(gaps: Sequence[float], mean: float) -> bool:
    """Whether `gaps` may be exponential with `mean`, alpha 0.01."""
    return ks_distance(gaps, mean) < KS_ALPHA_001 / math.sqrt(len(gaps))
