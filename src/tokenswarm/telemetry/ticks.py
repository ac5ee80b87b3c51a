"""An absolute schedule: late work delays no later tick, and what was missed is counted."""

import math
import threading
import time
from collections.abc import Iterator


class Ticks:
    """Iterate once every `interval_s` until `stop` is set, always at least once.

    Ticks fall on start + n * interval. One that is still worked on when others fall due swallows
    them: they are counted in `missed`, never made up for.
    """

    def __init__(self, interval_s: float, stop: threading.Event):
        self.interval_s, self._stop = interval_s, stop
        self.missed = 0

    def __iter__(self) -> Iterator[None]:
        due = time.perf_counter()
        while True:
            yield
            behind = math.floor((time.perf_counter() - due) / self.interval_s)
            self.missed += behind
            due += (behind + 1) * self.interval_s
            if self._stop.wait(max(0.0, due - time.perf_counter())):
                return
