"""An absolute schedule: late work delays no later tick, and what was missed is counted."""

import math
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import msgspec


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How a schedule was kept, and at what cost, since the last look at it.

    Intervals are from one tick's begin to the next one's; None where there was no second tick.
    A tick costs the time from its begin until the next one is waited for. `cpu_ratio` is the CPU
    time of the thread per second, 1 is a whole core.
    """

    interval_s: float
    interval_p99_s: float | None
    interval_max_s: float | None
    samples: int
    missed: int
    cost_mean_s: float | None
    cost_max_s: float | None
    cpu_ratio: float | None


class Mark(NamedTuple):
    """The end of a tick: time, the thread's CPU time until then, ticks missed until then."""

    at_s: float
    cpu_s: float
    missed: int


class Ticks:
    """Iterate once every `interval_s` until `stop` is set, always at least once.

    Ticks fall on start + n * interval. One that is still worked on when others fall due swallows
    them: they are counted in `missed`, never made up for. One thread iterates.
    """

    def __init__(self, interval_s: float, stop: threading.Event):
        self.interval_s, self._stop = interval_s, stop
        self.missed = 0
        self._intervals: list[float] = []
        self._costs: list[float] = []
        self._now = self._then = Mark(time.perf_counter(), 0.0, 0)

    def __iter__(self) -> Iterator[None]:
        due = time.perf_counter()
        last_s: float | None = None
        self._now = self._then = Mark(due, time.thread_time(), 0)
        while True:
            began = time.perf_counter()
            if last_s is not None:
                self._intervals.append(began - last_s)
            last_s = began
            yield
            ended = time.perf_counter()
            self._costs.append(ended - began)
            behind = math.floor((ended - due) / self.interval_s)
            self.missed += behind
            self._now = Mark(ended, time.thread_time(), self.missed)
            due += (behind + 1) * self.interval_s
            if self._stop.wait(max(0.0, due - time.perf_counter())):
                return

    def pace(self) -> Pace:
        """What happened since the last call, up to the last tick that ended. From any thread."""
        now, then, self._then = self._now, self._then, self._now
        intervals, self._intervals = sorted(self._intervals), []
        costs, self._costs = self._costs, []
        span_s = now.at_s - then.at_s
        return Pace(
            interval_s=self.interval_s,
            interval_p99_s=_p99(intervals),
            interval_max_s=intervals[-1] if intervals else None,
            samples=len(costs),
            missed=now.missed - then.missed,
            cost_mean_s=sum(costs) / len(costs) if costs else None,
            cost_max_s=max(costs, default=None),
            cpu_ratio=(now.cpu_s - then.cpu_s) / span_s if span_s > 0 else None,
        )


def _p99(ascending: list[float]) -> float | None:
    """Nearest rank."""
    return ascending[math.ceil(0.99 * len(ascending)) - 1] if ascending else None
