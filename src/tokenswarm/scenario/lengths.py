"""Lengths in tokens: exact, or spread around a mean."""

from statistics import NormalDist

from tokenswarm.scenario.counter import uniform
from tokenswarm.scenario.model import Spread


class Length:
    """The length of request `index`: a pure function of the stream's key and the index."""

    def __init__(self, tokens: int | Spread, key: int):
        self._key = key
        self._normal: NormalDist | None = None
        if isinstance(tokens, int):
            self._low = self._high = self._fixed = tokens
            return
        self._low, self._high = tokens.min, tokens.max
        self._fixed = self._cut(tokens.mean)
        if tokens.std > 0:
            self._normal = NormalDist(tokens.mean, tokens.std)

    def of(self, index: int) -> int:
        """Return the length of request `index`, tokens."""
        if self._normal is None:
            return self._fixed
        return self._cut(self._normal.inv_cdf(uniform(self._key, index)))

    def _cut(self, tokens: float) -> int:
        return min(max(round(tokens), self._low), self._high)
