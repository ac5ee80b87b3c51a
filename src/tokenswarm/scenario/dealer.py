"""The master's side of dealing: who has what, dealt anew when a worker goes or comes."""

from collections.abc import Sequence

from tokenswarm.scenario.arrivals import arrivals, first_from
from tokenswarm.scenario.deal import Deal, deal, held, shares
from tokenswarm.scenario.model import ClosedLoad, Scenario

LEAD_S = 1.5
"""A new deal begins so far ahead that every worker has heard of it by then."""
AHEAD_UNITS = 50
"""The same in a closed loop, for each worker, besides what it takes in LEAD_S."""


class Dealer:
    """Deals of one run. Workers are Locust's client ids; notes say what nobody sent."""

    def __init__(self, scenario: Scenario | None, workers: Sequence[str]) -> None:
        closed = scenario is None or isinstance(scenario.load, ClosedLoad)
        self._schedule = None if scenario is None or closed else arrivals(scenario)
        self._next: dict[str, int] = {}
        self._paces: dict[str, float] = {}  # units a second at the last report
        self._workers = list(workers)
        self.deals = [deal(0, workers)]
        self.notes: list[str] = []

    def report(self, worker: str, next_unit: int, interval_s: float = 1.0) -> None:
        """`worker` has taken everything of its share before `next_unit`."""
        before = self._next.get(worker, 0)
        self._paces[worker] = max((next_unit - before) / interval_s, self._paces.get(worker, 0.0))
        self._next[worker] = next_unit

    def look(self, present: Sequence[str], now_s: float) -> list[Deal] | None:
        """The deals as they are from now on, when other workers are present than were; else None.

        `now_s` is on the run's clock. With nobody left there is nobody to deal to.
        """
        if not present or set(present) == set(self._workers):
            return None
        first = self._first(now_s)
        self.notes += [self._lost(w, first, now_s) for w in self._workers if w not in present]
        self.notes += [
            f"worker {w} joined at {now_s:.1f} s" for w in present if w not in self._workers
        ]
        self._workers = list(present)
        self.deals = [*self.deals, deal(first, present)]
        return self.deals

    def _first(self, now_s: float) -> int:
        last = self.deals[-1].first
        if self._schedule is not None:
            return max(first_from(self._schedule, now_s + LEAD_S), last + 1)
        ahead = AHEAD_UNITS * len(self._workers) + round(2 * LEAD_S * sum(self._paces.values()))
        return max(max(self._next.values(), default=0) + ahead, last + 1)

    def _lost(self, worker: str, first: int, now_s: float) -> str:
        unsent = held(shares(self.deals, worker), self._next.get(worker, 0), first)
        what = "requests due" if self._schedule is not None else "requests of the sequence"
        return (
            f"worker {worker} was lost (noticed at {now_s:.1f} s): up to {unsent} {what} of its "
            f"share were sent by nobody; from request {first} on the others send them"
        )
