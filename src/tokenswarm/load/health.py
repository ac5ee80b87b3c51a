"""Is this generator process itself in order? Loop lag, lateness, CPU, memory, once a second."""

import os
import time
from pathlib import Path
from time import perf_counter
from typing import Any

import gevent
import psutil

LAG_PERIOD_S = 0.05
LATE_S = 0.010
SCHEDULE, FILES = Path("/proc/self/task"), Path("/proc/self/fd")
NS = 1e9


class Health:
    """Figures of one second, handed out and reset by `second`."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._cpu_s = time.process_time()
        self._at = perf_counter()
        self._lag_max_s = 0.0
        self._late = 0
        self._late_max_s = 0.0
        self._lags_s: list[float] = []
        self._waited_s = _waited_s()
        self._greenlet: Any = gevent.spawn(self._watch_loop)

    def started(self, lateness_s: float) -> None:
        """A scheduled request went out `lateness_s` after its intended time."""
        self._late_max_s = max(self._late_max_s, lateness_s)
        if lateness_s > LATE_S:
            self._late += 1

    def sent(self, lag_s: float) -> None:
        """A request's first byte went out `lag_s` after it could have: what we added ourselves."""
        self._lags_s.append(lag_s)

    def second(self) -> dict[str, float | int | None]:
        """The figures of the generator measurement since the last call, by name."""
        now, cpu_s, waited_s = perf_counter(), time.process_time(), _waited_s()
        length_s = max(now - self._at, 1e-9)
        figures = {
            "loop_lag_s": self._lag_max_s,
            "late_starts": self._late,
            "late_max_s": self._late_max_s,
            "cpu_ratio": (cpu_s - self._cpu_s) / length_s,
            "rss_bytes": self._process.memory_info().rss,
            "cpu_wait_ratio": None if waited_s is None else self._ratio(waited_s, length_s),
            "send_lag_p99_s": _p99(self._lags_s),
            "open_files": sum(1 for _ in FILES.iterdir()),
        }
        self._waited_s, self._lags_s = waited_s, []
        self._at, self._cpu_s = now, cpu_s
        self._lag_max_s, self._late, self._late_max_s = 0.0, 0, 0.0
        return figures

    def _ratio(self, waited_s: float, length_s: float) -> float:
        return (waited_s - (self._waited_s or 0.0)) / length_s

    def close(self) -> None:
        self._greenlet.kill(block=False)

    def _watch_loop(self) -> None:
        while True:
            before = perf_counter()
            gevent.sleep(LAG_PERIOD_S)
            self._lag_max_s = max(self._lag_max_s, perf_counter() - before - LAG_PERIOD_S)


def _waited_s() -> float | None:
    """Seconds that the main thread stood in line for a processor; None: the kernel does not say."""
    try:
        text = (SCHEDULE / str(os.getpid()) / "schedstat").read_text()
        return int(text.split()[1]) / NS
    except (OSError, ValueError, IndexError):
        return None


def _p99(values: list[float]) -> float | None:
    """Nearest rank; None when there are none."""
    return sorted(values)[-(-99 * len(values) // 100) - 1] if values else None
