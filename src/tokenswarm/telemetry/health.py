"""Is the sampling itself in order? Interval, cost and misses of each feed, once a second."""

import threading
import time
from collections.abc import Iterator

import msgspec

from tokenswarm.store.schema import AGENT
from tokenswarm.telemetry.row import Pair, row
from tokenswarm.telemetry.ticks import Ticks


class Looks(msgspec.Struct):
    """What a feed's looks were like since the last report."""

    count: int = 0
    jitter_sum_s: float = 0.0
    jitter_max_s: float = 0.0
    cost_sum_s: float = 0.0
    cost_max_s: float = 0.0
    cpu_s: float = 0.0


class Health:
    """Counts of one feed: its thread adds, another takes. `rows` is the feed's own count."""

    def __init__(self) -> None:
        self.rows = 0
        self.looked = threading.Event()  # once
        self._lock = threading.Lock()
        self._looks = Looks()
        self._interval_s: float | None = None
        self._last_s: float | None = None
        self._missed = self._told_missed = 0

    def watch(self, ticks: Ticks) -> Iterator[None]:
        """Iterate over `ticks`; what is done at each is a look."""
        for _ in ticks:
            began, cpu = time.perf_counter(), time.thread_time()
            yield
            cost_s, cpu_s = time.perf_counter() - began, time.thread_time() - cpu
            self.look(ticks.interval_s, began, cost_s, cpu_s, ticks.missed)

    def look(
        self, interval_s: float, began_s: float, cost_s: float, cpu_s: float, missed: int
    ) -> None:
        """One look: when it began (perf_counter), what it took, CPU of it, misses so far."""
        with self._lock:
            looks = self._looks
            if self._last_s is not None and missed == self._missed:
                jitter_s = abs(began_s - self._last_s - interval_s)
                looks.jitter_sum_s += jitter_s
                looks.jitter_max_s = max(looks.jitter_max_s, jitter_s)
            looks.count += 1
            looks.cost_sum_s += cost_s
            looks.cost_max_s = max(looks.cost_max_s, cost_s)
            looks.cpu_s += cpu_s
            self._interval_s, self._last_s, self._missed = interval_s, began_s, missed
        self.looked.set()

    def row(self, time_ns: int, run_id: str, host: str, source: str) -> Pair:
        """Everything since the last call, as a row of measurement `agent`."""
        with self._lock:
            looks, self._looks = self._looks, Looks()
            missed, self._told_missed = self._missed - self._told_missed, self._missed
            interval_s, rows = self._interval_s, self.rows
        n = looks.count
        return row(
            AGENT, time_ns, run_id=run_id, host=host, source=source,
            interval_s=interval_s, looks=n, missed=missed,
            jitter_mean_s=looks.jitter_sum_s / n if n else None,
            jitter_max_s=looks.jitter_max_s if n else None,
            cost_mean_s=looks.cost_sum_s / n if n else None,
            cost_max_s=looks.cost_max_s if n else None,
            cpu_s=looks.cpu_s if n else None,
            rows=rows,
        )  # fmt: skip
