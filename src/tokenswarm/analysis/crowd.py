"""Stays by model, to ask of each event which of many it is about without looking at all of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tokenswarm.analysis.columns import Bools, Floats
from tokenswarm.analysis.residency import Stay


@dataclass(frozen=True, slots=True)
class Crowd:
    """Stays of one model, in their own order, and their times as arrays."""

    stays: tuple[Stay, ...]
    start_s: Floats
    last_s: Floats
    end_s: Floats

    @classmethod
    def of(cls, stays: Sequence[Stay]) -> "Crowd":
        times = [np.array([getattr(s, at) for s in stays], dtype=np.float64) for at in _TIMES]
        return cls(tuple(stays), *times)

    def where(self, rows: Bools) -> Iterator[Stay]:
        """Those of `rows`, the one that ended last first; of several, the first."""
        found = np.flatnonzero(rows)
        for i in found[np.argsort(-self.end_s[found], kind="stable")]:
            yield self.stays[i]


_TIMES = ("start_s", "last_s", "end_s")
NOBODY = Crowd.of(())


def by_model(stays: Sequence[Stay]) -> dict[str, Crowd]:
    """A crowd for each model."""
    found: dict[str, list[Stay]] = {}
    for s in stays:
        found.setdefault(s.model, []).append(s)
    return {model: Crowd.of(mine) for model, mine in found.items()}
