"""Sleeps on the real alarm in a process of its own (gevent patches it); JSON to stdout.

Each case gives what the test wants to know: lateness in seconds, numbers of descriptors.
"""

import gc
import json
import os
import sys
from time import perf_counter

import gevent

from tokenswarm.load.alarm import Alarm


def lateness(alarm: Alarm, left_s: float) -> float:
    """Sleep until `left_s` from now: how much later than that we woke, seconds."""
    moment = perf_counter() + left_s
    alarm.sleep_until(moment)
    return perf_counter() - moment


def descriptors() -> int:
    """How many of the first descriptors are open."""
    return sum(map(is_open, range(512)))


def is_open(fd: int) -> bool:
    """Whether this process holds descriptor `fd`."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def others_ran() -> bool:
    """Whether another greenlet had its turn during a sleep."""
    ran: list[float] = []
    gevent.spawn_later(0.005, lambda: ran.append(perf_counter()))
    Alarm().sleep_until(perf_counter() + 0.5)
    return bool(ran)


def after_a_kill() -> float:
    """The lateness of the next sleeper, when the one before was killed in its sleep."""
    alarm = Alarm()
    sleeper = gevent.spawn(alarm.sleep_until, perf_counter() + 0.05)
    gevent.sleep(0.01)
    sleeper.kill()
    return lateness(alarm, 0.2)


def left_behind() -> tuple[int, int]:
    """Descriptors that 20 alarms hold, and what is left of them once they are gone."""
    gc.collect()
    gevent.sleep(0.05)
    before = descriptors()
    alarms = [Alarm() for _ in range(20)]
    for alarm in alarms:
        lateness(alarm, 0.001)
    held = descriptors() - before
    alarms.clear()
    del alarm
    gc.collect()
    gevent.sleep(0.05)  # gevent closes with its loop's next turn
    return held, descriptors() - before


def main() -> None:
    """Every case once."""
    alarm = Alarm()
    ahead = [lateness(alarm, s) for s in (0.0004, 0.0011, 0.0025, 0.02) * 10]
    began = perf_counter()
    alarm.sleep_until(began - 100.0)
    found = {
        "ahead": ahead,
        "passed": perf_counter() - began,
        "others": others_ran(),
        "killed": after_a_kill(),
        "left": left_behind(),
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
