"""An absolute schedule: late work delays no later tick, and what was missed is counted."""

import math
import threading
import time
from collections.abc import Iterator

import msgspec


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How a schedule was kept, and at what cost, since the last look at it.

    Intervals are from one tick's begin to the next one's; None where there was no second tick.
    A tick costs the time from its begin until the next one is waited for.
    """

    interval_s: float
    interval_p99_s: float | None
    interval_max_s: float | None
    samples: int
    missed: int
    cost_mean_s: float | None
    cost_max_s: float | None
    cpu_ratio: float | None


class Ticks:
    """Iterate once every `interval_s` until `stop` is set, always at least once.

    Ticks fall on start + n * interval. One that is still worked on when others fall due swallows
    them: they are counted in `missed`, never made up for. One thread iterates and takes the pace.
    """

    def __init__(self, interval_s: float, stop: threading.Event):
        self.interval_s, self._stop = interval_s, stop
        self.missed = 0
        self._begun_s: float | None = None
        self._taken: tuple[float, float, int] | None = None
        self._intervals: list[float] = []
        self._costs: list[float] = []

    def __iter__(self) -> Iterator[None]:
        due = time.perf_counter()
        self._taken = due, time.thread_time(), 0
        while True:
            began = time.perf_counter()
            if self._begun_s is not None:
                self._intervals.append(began - self._begun_s)
            self._begun_s = began
            yield
            ended = time.perf_counter()
            self._costs.append(ended - began)
            behind = math.floor((ended - due) / self.interval_s)
            self.missed += behind
            due += (behind + 1) * self.interval_s
            if self._stop.wait(max(0.0, due - time.perf_counter())):
                return

    def pace(self) -> Pace:
        """What happened since the last call, which this one ends. From the iterating thread."""
        now, cpu_s = time.perf_counter(), time.thread_time()
        then, cpu_then_s, missed = self._taken or (now, cpu_s, 0)
        intervals, costs = sorted(self._intervals), self._costs
        self._taken, self._intervals, self._costs = (now, cpu_s, self.missed), [], []
        return Pace(
            interval_s=self.interval_s,
            interval_p99_s=_p99(intervals),
            interval_max_s=intervals[-1] if intervals else None,
            samples=len(costs),
            missed=self.missed - missed,
            cost_mean_s=sum(costs) / len(costs) if costs else None,
            cost_max_s=max(costs, default=None),
            cpu_ratio=(cpu_s - cpu_then_s) / (now - then) if now > then else None,
        )


def _p99(ascending: list[float]) -> float | None:
    """Nearest rank."""
    return ascending[math.ceil(0.99 * len(ascending)) - 1] if ascending else None
