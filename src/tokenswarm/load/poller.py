"""Reads every streaming socket of the process once a millisecond, with the kernel's own stamps.

One timer looks at all sockets that wait for bytes and reads those that have some, one after the
other: a wake-up serves many tokens. That the look comes a millisecond late, or much later when the
process was held up, costs no accuracy: the kernel notes when each segment arrived (SO_TIMESTAMPNS),
and that is the stamp. Where the kernel has none, the time of the look is taken. The timer runs only
while a response is awaited.
"""

import select
import time
from collections.abc import Callable
from time import perf_counter
from typing import Any

from gevent.hub import get_hub
from gevent.monkey import get_original

from tokenswarm import native

TICK_S = 0.001
MAX_READY = 4096

_epoll = get_original("select", "epoll")

# Called with perf_counter() seconds and the wall clock in ns of one moment of this look.
Readable = Callable[[float, int], None]


class Poller:
    """Sockets of exchanges in flight. Everything runs in the hub."""

    def __init__(self) -> None:
        self._epoll: Any = None
        self._timer: Any = None
        self._readable: dict[int, Any] = {}

    def add(self, fd: int, readable: Any) -> None:
        """Read `fd` whenever it has something, until `remove`. `readable` is a Readable, which
        reads it itself, or a native.Tap."""
        if self._epoll is None:
            # not before the first exchange: an epoll must not be shared over a fork
            self._epoll = _epoll()
            self._timer = get_hub().loop.timer(TICK_S, TICK_S)
        if not self._readable:
            if native.NATIVE:
                self._timer.start(native.look, self._epoll.fileno(), self._readable)
            else:
                self._timer.start(self._look)
        self._readable[fd] = readable
        self._epoll.register(fd, select.EPOLLIN)

    def remove(self, fd: int) -> None:
        """Stop looking at `fd`. Idempotent."""
        if self._readable.pop(fd, None) is not None:
            self._epoll.unregister(fd)
            if not self._readable:
                self._timer.stop()

    def _look(self) -> None:
        ready = self._epoll.poll(0, MAX_READY)
        if not ready:
            return
        now, unix_ns = perf_counter(), time.time_ns()
        readable = self._readable
        for fd, _ in ready:
            call = readable.get(fd)
            if call is not None:  # an exchange that ended in this look
                call(now, unix_ns)


POLLER = Poller()
