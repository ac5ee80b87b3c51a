"""The highest rate that meets the SLOs: double or halve until it is bracketed, then bisect."""

from dataclasses import dataclass, field
from math import sqrt

MOST_STEPS = 20
"""Doublings or halvings before the search says that there is nothing to find."""


@dataclass(slots=True)
class Bracket:
    """What is known: `good` is the highest rate that met the SLOs, `bad` the lowest that did not.

    `highest` bounds the doubling; within `precision` (a share) of `bad` the search is over.
    """

    start: float
    precision: float
    highest: float = float("inf")
    good: float | None = None
    bad: float | None = None
    steps: int = field(default=0)

    def rate(self) -> float | None:
        """The next rate to try; None: the search is over."""
        if self.good is None and self.bad is None:
            return min(self.start, self.highest)
        if self.steps >= MOST_STEPS or self.good == self.highest:
            return None
        if self.good is None:
            return (self.bad or 0.0) / 2
        if self.bad is None:
            return min(self.good * 2, self.highest)
        if self.bad <= self.good * (1 + self.precision):
            return None
        return sqrt(self.good * self.bad)

    def tell(self, rate: float, *, met: bool) -> None:
        """`rate` met the SLOs, or it did not."""
        self.steps += 1
        if met:
            self.good = rate if self.good is None else max(self.good, rate)
        else:
            self.bad = rate if self.bad is None else min(self.bad, rate)


def decided(met: list[bool], repeats: int) -> bool | None:
    """What the majority of `repeats` runs says, as soon as the rest cannot change it; else None."""
    yes, no = met.count(True), met.count(False)
    if 2 * yes > repeats:
        return True
    return False if 2 * no >= repeats else None
