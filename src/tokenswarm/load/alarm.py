"""Wakes a greenlet at a moment, more precisely than the loop's own timers, which count in ms."""

import ctypes
import os
import weakref
from time import perf_counter

import gevent
from gevent import get_hub

_MONOTONIC, _ABSOLUTE = 1, 1
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_READ = 1


class _Spec(ctypes.Structure):
    """struct itimerspec: the interval (none here) and the moment, seconds and nanoseconds."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("every_s", "every_ns", "at_s", "at_ns"))


class Alarm:
    """One timer of the kernel (timerfd on Linux); elsewhere the loop's own, late by up to 1 ms.

    One greenlet at a time sleeps on it. Raises: OSError, when the process is out of descriptors.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._open()
        if self._fd is not None:
            weakref.finalize(self, os.close, self._fd)

    def sleep_until(self, perf_s: float) -> None:
        """Return at `perf_counter()` time `perf_s`; at once, where that has passed."""
        left_s = perf_s - perf_counter()
        if left_s <= 0:
            return
        if self._fd is None:
            gevent.sleep(left_s)
            return
        self._arm(self._fd, perf_s)
        get_hub().wait(get_hub().loop.io(self._fd, _READ))

    def _open(self) -> int | None:
        if not hasattr(self._libc, "timerfd_create"):
            return None
        fd: int = self._libc.timerfd_create(_MONOTONIC, _FLAGS)
        if fd < 0:
            raise OSError(ctypes.get_errno(), "no timer of the kernel to be had (timerfd_create)")
        return fd

    def _arm(self, fd: int, perf_s: float) -> None:
        # perf_counter() reads CLOCK_MONOTONIC wherever there is a timerfd
        at_s, at_ns = divmod(int(perf_s * 1e9), 1_000_000_000)
        self._libc.timerfd_settime(fd, _ABSOLUTE, ctypes.byref(_Spec(0, 0, at_s, at_ns)), None)
