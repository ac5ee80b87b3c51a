"""Timers for token writes: one heap of tuples and one event loop timer for all streams.

`loop.call_at` costs two objects and Python comparisons for each timer; at thousands of tokens a
second that is as much as everything else.
"""

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush

from tokenswarm.sim.clock import now_s

Entry = list[Callable[[], None]]  # one callback; empty when cancelled


class Ticker:
    """Calls back at perf_counter times, in order; all callbacks on one event loop."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Entry]] = []
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._armed_s = float("inf")
        self._running = False

    def at(self, due_s: float, callback: Callable[[], None]) -> Entry:
        """Call `callback` at `due_s`, or as soon as possible after it. Cancel: `.clear()`."""
        self._count += 1
        entry = [callback]
        heappush(self._heap, (due_s, self._count, entry))
        if due_s < self._armed_s and not self._running:
            self._arm()
        return entry

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_s = self._heap[0][0]
        self._timer = asyncio.get_running_loop().call_at(self._armed_s, self._wake)

    def _wake(self) -> None:
        heap, until, self._running = self._heap, now_s(), True
        self._timer, self._armed_s = None, float("inf")
        try:
            while heap and heap[0][0] <= until:
                entry = heappop(heap)[2]
                if entry:
                    entry[0]()
        finally:
            self._running = False
            if heap:
                self._arm()
