"""Time of the simulation: perf_counter seconds inside, wall-clock nanoseconds outside.

On Linux `perf_counter()` and the asyncio loop's `time()` read the same CLOCK_MONOTONIC, so
stamps and `loop.call_at` agree.
"""

import time
from dataclasses import dataclass

NS = 1_000_000_000
now_s = time.perf_counter


@dataclass(frozen=True, slots=True)
class WallClock:
    """One anchor a process: the wall clock was `unix_ns` when perf_counter() was `perf_s`."""

    unix_ns: int
    perf_s: float

    @classmethod
    def anchored(cls) -> "WallClock":
        before = now_s()
        unix_ns = time.time_ns()
        return cls(unix_ns, (before + now_s()) / 2)

    def unix(self, perf_s: float) -> int:
        """Wall clock in ns at `perf_s`."""
        return self.unix_ns + round((perf_s - self.perf_s) * NS)

    def maybe(self, perf_s: float | None) -> int | None:
        """`unix`, None for what did not happen."""
        return None if perf_s is None else self.unix(perf_s)


class Rfc3339:
    """Writes wall-clock ns as Go does (`2026-11-22T17:11:17.120034Z`), a cached second a time."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def __call__(self, unix_ns: int) -> str:
        second, ns = divmod(unix_ns, NS)
        if second != self._second:
            self._second = second
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        fraction = f".{ns:09d}".rstrip("0") if ns else ""
        return f"{self._text}{fraction}Z"
