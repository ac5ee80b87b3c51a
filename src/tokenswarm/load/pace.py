"""When the next request of this process is due, and which one it is."""

from time import perf_counter

import gevent

from tokenswarm.clock import Clock
from tokenswarm.scenario.model import OpenLoad, PlannedRequest, Scenario
from tokenswarm.scenario.plan import Plan, arrivals


class Pace:
    """Deals out this process's share of the scenario's requests: rank, rank + of, ...

    The sequence and, in an open loop, the schedule are global and the same whatever the number
    of workers; each takes its own by index.
    """

    def __init__(self, scenario: Scenario, plan: Plan, clock: Clock, rank: int, of: int) -> None:
        self._scenario, self._plan, self._clock = scenario, plan, clock
        self._next, self._step = rank, of
        self._arrivals = arrivals(scenario) if isinstance(scenario.load, OpenLoad) else None
        self.stopped = False
        self.exhausted = False

    def take(self) -> PlannedRequest | None:
        """The next request of this process, waited for until it is due; None: no more."""
        if self.stopped or self._at_limit():
            return None
        index = self._next
        self._next += self._step
        if self._arrivals is None:
            return self._plan.request(index)
        return self._due(index, self._arrivals.time(index))

    def intended(self, request: PlannedRequest) -> float | None:
        """perf_counter() seconds at which the schedule wants `request` sent; None: closed loop."""
        return None if request.intended_s is None else self._clock.perf(request.intended_s)

    def _at_limit(self) -> bool:
        limit = self._scenario.max_requests
        self.exhausted = self.exhausted or (limit is not None and self._next >= limit)
        return self.exhausted

    def _due(self, index: int, intended_s: float) -> PlannedRequest | None:
        if intended_s >= self._scenario.duration_s:
            return None
        request = self._plan.request(index)
        wait_s = self._clock.perf(intended_s) - perf_counter()
        if wait_s > 0:
            gevent.sleep(wait_s)
        return None if self.stopped else request
