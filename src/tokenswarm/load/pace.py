"""When the next request of this process is due, and which one it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from gevent.event import Event
from gevent.lock import BoundedSemaphore

from tokenswarm.clock import Clock
from tokenswarm.load.alarm import Alarm
from tokenswarm.scenario.arrivals import first_from
from tokenswarm.scenario.deal import Share, following
from tokenswarm.scenario.level import level_of
from tokenswarm.scenario.model import ClosedLoad, PlannedRequest, Scenario, TraceLoad
from tokenswarm.scenario.plan import Plan, arrivals

_LAST_S = 0.002
"""The loop's timers are late by up to 1 ms, so the last of a wait for an arrival is the alarm's."""


@dataclass(slots=True)
class Seat:
    """A user's place: its number in this process and what is left of its conversation."""

    number: int
    next_index: int = 0
    left: int = 0


class Pace:
    """Deals out this process's share of the scenario's requests.

    Sequence, schedule and level are global and the same whatever the number of workers. In an
    open loop one user at a time waits for the next arrival, the others behind it: so nothing is
    taken long before it is due, and a new deal finds it where it was.
    """

    def __init__(self, scenario: Scenario, plan: Plan, clock: Clock, own: Sequence[Share]) -> None:
        load = scenario.load
        self._scenario, self._plan, self._clock = scenario, plan, clock
        self._own = tuple(own)
        self._taken = -1  # the last unit (request or conversation) of this process
        self._turns = load.turns if isinstance(load, ClosedLoad) else 1
        self._users = load.users if isinstance(load, ClosedLoad) else load.max_in_flight
        shape = None if isinstance(load, TraceLoad) else load.shape
        self.level = level_of(shape, scenario.duration_s)
        self._schedule = None if isinstance(load, ClosedLoad) else arrivals(scenario)
        self._alarm = None if self._schedule is None else Alarm()
        self._turn = BoundedSemaphore()
        self._news = Event()
        self._resumed = Event()
        self._resumed.set()
        self.stopped = False
        self.exhausted = False
        self.skipped = 0

    @property
    def next_unit(self) -> int:
        """The next request (conversation, where a user holds them) that is not taken yet."""
        return self._taken + 1

    def take(self, seat: Seat) -> PlannedRequest | None:
        """The next request for `seat`, waited for until it is due; None: no more."""
        return self._conversation(seat) if self._schedule is None else self._arrival()

    def intended(self, request: PlannedRequest) -> float | None:
        """perf_counter() seconds at which the schedule wants `request` sent; None: closed loop."""
        return None if request.intended_s is None else self._clock.perf(request.intended_s)

    def redeal(self, own: Sequence[Share]) -> None:
        """From now on these are this process's shares."""
        self._own, self.exhausted = tuple(own), False
        self._news.set()

    def stop(self) -> None:
        """No more requests."""
        self.stopped = True
        self._resumed.set()
        self._news.set()

    def pause(self) -> None:
        """Send nothing new: nobody knows who sends what, the master is lost."""
        self._resumed.clear()

    def resume(self) -> None:
        """Go on. What was due meanwhile belonged to others by then: it is counted and left out."""
        if self._resumed.is_set():
            return
        if self._schedule is not None:
            due = first_from(self._schedule, self._now_s())
            while (unit := following(self._own, self._taken)) is not None and unit < due:
                self._taken, self.skipped = unit, self.skipped + 1
        self._resumed.set()
        self._news.set()

    def drained(self, sent_s: float) -> bool:
        """Sent after the schedule's end: it had to wait for a place."""
        return self._schedule is not None and sent_s >= self._scenario.duration_s

    # -- an open loop
    def _arrival(self) -> PlannedRequest | None:
        assert self._schedule is not None
        with self._turn:
            while not self.stopped:
                self._news.clear()
                unit = self._next()
                if unit is None and self._none_dealt:
                    self._news.wait()
                    continue
                if unit is None:
                    return None
                intended_s = self._schedule.time(unit)
                if intended_s >= self._scenario.duration_s:
                    self.exhausted |= intended_s == float("inf")
                    return None
                planned = self._plan.request(unit)  # before it is due: a prompt takes its time
                if self._wait_until(intended_s):
                    self._taken = unit
                    return planned
        return None

    def _wait_until(self, run_s: float) -> bool:
        """Whether it is `run_s` and we may send; False: something has changed on the way."""
        if run_s > self._now_s():
            self._sleep_until(run_s)
            if self._news.is_set() or self._now_s() < run_s:
                return False
        if self._resumed.is_set():
            return not self.stopped
        self._resumed.wait()
        return False

    def _sleep_until(self, run_s: float) -> None:
        """Return at `run_s`, or earlier with news."""
        wait_s = run_s - self._now_s() - (_LAST_S if self._alarm else 0.0)
        if wait_s > 0:
            self._news.wait(wait_s)
        if self._alarm and not self._news.is_set():
            self._alarm.sleep_until(self._clock.perf(run_s))

    # -- a closed loop
    def _conversation(self, seat: Seat) -> PlannedRequest | None:
        self._resumed.wait()
        if self.stopped or (not seat.left and not self._begin(seat)):
            return None
        if self._limit_reached(seat.next_index):
            return None
        index = seat.next_index
        seat.next_index, seat.left = index + 1, seat.left - 1
        return self._plan.request(index)

    def _begin(self, seat: Seat) -> bool:
        """Give `seat` its next conversation once the level reaches it; False: there is none."""
        while not self.stopped:
            self._news.clear()
            due_s = self._seated_s(seat)
            if due_s >= self._scenario.duration_s and due_s > self._now_s():
                return False
            if not self._wait_until(due_s):
                continue
            unit = self._next()
            if unit is None and self._none_dealt:
                self._news.wait()
                continue
            if unit is None:
                return False
            self._taken = unit
            seat.next_index, seat.left = unit * self._turns, self._turns
            return True
        return False

    def _seated_s(self, seat: Seat) -> float:
        """When the level is high enough for this user, seconds on the run's clock."""
        now_s = self._now_s()
        if self.level is None or not self._own:
            return now_s
        share = self._own[-1]
        number = seat.number * max(share.of, 1) + share.rank
        return self.level.reaches(number / self._users, now_s)

    @property
    def _none_dealt(self) -> bool:
        """This worker has come late: its share is still to come."""
        return not self._own or not self._own[-1].of

    def _next(self) -> int | None:
        unit = following(self._own, self._taken)
        if unit is None or self._limit_reached(unit * self._turns):
            return None
        return unit

    def _limit_reached(self, index: int) -> bool:
        limit = self._scenario.max_requests
        self.exhausted |= limit is not None and index >= limit
        return limit is not None and index >= limit

    def _now_s(self) -> float:
        return self._clock.run_s(perf_counter())
