"""The schedule of samples: absolute, bounded, and honest about what it missed."""

import threading
import time

from tokenswarm.telemetry.ticks import Ticks


def test_ticks_fall_on_multiples_of_the_interval_however_long_the_work_takes() -> None:
    stop, ticks, at = threading.Event(), None, []
    ticks = Ticks(0.02, stop)
    for _ in ticks:
        at.append(time.perf_counter())
        if len(at) == 3:
            time.sleep(0.05)  # swallows two ticks
        if len(at) == 6:
            stop.set()
    whole = [(t - at[0]) / 0.02 for t in at]
    assert all(late > -0.05 for late in (w - round(w) for w in whole) if late < 0)
    assert ticks.missed >= 2
    assert round(whole[3]) - round(whole[2]) >= 3


def test_stop_ends_the_wait_at_once_and_there_is_always_one_tick() -> None:
    stop = threading.Event()
    stop.set()
    began = time.perf_counter()
    assert len(list(Ticks(60.0, stop))) == 1
    assert time.perf_counter() - began < 30
