"""Is this generator process itself in order? Loop lag, lateness, CPU, memory, once a second."""

import time
from time import perf_counter
from typing import Any

import gevent
import psutil

LAG_PERIOD_S = 0.05
LATE_S = 0.010


class Health:
    """Figures of one second, handed out and reset by `second`."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._cpu_s = time.process_time()
        self._at = perf_counter()
        self._lag_max_s = 0.0
        self._late = 0
        self._late_max_s = 0.0
        self._greenlet: Any = gevent.spawn(self._watch_loop)

    def started(self, lateness_s: float) -> None:
        """A scheduled request went out `lateness_s` after its intended time."""
        self._late_max_s = max(self._late_max_s, lateness_s)
        if lateness_s > LATE_S:
            self._late += 1

    def second(self) -> dict[str, float | int]:
        """loop_lag_s, late_starts, late_max_s, cpu_ratio and rss_bytes since the last call."""
        now, cpu_s = perf_counter(), time.process_time()
        figures = {
            "loop_lag_s": self._lag_max_s,
            "late_starts": self._late,
            "late_max_s": self._late_max_s,
            "cpu_ratio": (cpu_s - self._cpu_s) / max(now - self._at, 1e-9),
            "rss_bytes": self._process.memory_info().rss,
        }
        self._at, self._cpu_s = now, cpu_s
        self._lag_max_s, self._late, self._late_max_s = 0.0, 0, 0.0
        return figures

    def close(self) -> None:
        self._greenlet.kill(block=False)

    def _watch_loop(self) -> None:
        while True:
            before = perf_counter()
            gevent.sleep(LAG_PERIOD_S)
            self._lag_max_s = max(self._lag_max_s, perf_counter() - before - LAG_PERIOD_S)
