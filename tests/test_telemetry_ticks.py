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


def test_the_pace_says_how_the_schedule_was_kept_since_it_was_last_asked() -> None:
    stop = threading.Event()
    ticks = Ticks(0.01, stop)
    assert ticks.pace().interval_max_s is None
    for number, _ in enumerate(ticks, 1):
        if number == 2:
            time.sleep(0.05)
        if number == 5:
            stop.set()
    pace = ticks.pace()
    assert (pace.interval_s, pace.samples) == (0.01, 5)
    assert pace.missed == ticks.missed >= 4
    assert pace.interval_max_s is not None
    assert pace.interval_p99_s == pace.interval_max_s >= 0.05
    assert pace.cost_max_s is not None
    assert pace.cost_mean_s is not None
    assert pace.cost_max_s >= 0.05
    assert pace.cost_max_s > pace.cost_mean_s >= pace.cost_max_s / 5
    assert pace.cpu_ratio is not None
    assert pace.cpu_ratio < 1
    after = ticks.pace()
    assert (after.samples, after.missed, after.cost_max_s, after.cpu_ratio) == (0, 0, None, None)


def test_the_cpu_of_the_pace_is_that_of_the_thread_that_ticks() -> None:
    stop = threading.Event()
    ticks = Ticks(0.01, stop)

    def burn() -> None:
        for _ in ticks:
            until = time.thread_time() + 0.05
            while time.thread_time() < until:
                pass
            if ticks.missed > 10:
                stop.set()

    thread = threading.Thread(target=burn)
    thread.start()
    thread.join()
    pace = ticks.pace()  # asked by another thread, which did nothing
    assert pace.cpu_ratio is not None
    assert pace.cost_mean_s is not None
    assert pace.cpu_ratio > 0.4 * 0.05 / pace.cost_mean_s  # however much of a core it was given
