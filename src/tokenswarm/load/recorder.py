"""Finished rows go to the spool by an operating-system thread, at least every 200 ms.

Under gevent a `threading.Thread` is a greenlet, so the thread is started by the unpatched
`_thread`. It only encodes and writes: everything slower would take the interpreter's lock from
the hub, and with it the time stamps.
"""

from collections import deque
from pathlib import Path
from typing import Any

import gevent
from gevent.monkey import get_original

from tokenswarm.errors import SpoolError
from tokenswarm.store.spool import Writer

FLUSH_S = 0.1
FRAME_ROWS = 128
MAX_WAITING = 500_000

_start_thread = get_original("_thread", "start_new_thread")
_sleep = get_original("time", "sleep")

Row = tuple[str, list[Any]]


class Recorder:
    """One source's way into the spool. `put` never blocks; rows wait in memory until written."""

    def __init__(self, folder: Path, source: str) -> None:
        self._writer = Writer(folder, source)
        self._rows: deque[Row] = deque()
        self._held: list[Row] = []
        self._stopping = False
        self._stopped = False
        self._last_ns = 0
        self.source = source
        self.dropped = 0
        self.fault: str | None = None
        _start_thread(self._loop, ())

    @property
    def waiting(self) -> int:
        """Rows that are not in the spool yet."""
        return len(self._rows) + len(self._held)

    @property
    def written(self) -> int:
        """Rows of this source in the spool."""
        return self._writer.next_seq

    def moment(self, unix_ns: int) -> int:
        """`unix_ns`, moved on so that the times of this source strictly increase."""
        self._last_ns = max(unix_ns, self._last_ns + 1)
        return self._last_ns

    def put(self, measurement: str, row: list[Any]) -> None:
        if len(self._rows) >= MAX_WAITING:
            self.dropped += 1
            return
        self._rows.append((measurement, row))

    def close(self, timeout_s: float = 30.0) -> None:
        """Write what waits and end the thread; rows that could not be written count as dropped."""
        self._stopping = True
        with gevent.Timeout(timeout_s, False):
            while not self._stopped:
                gevent.sleep(0.01)
        self.dropped += self.waiting
        self._writer.close()

    def _loop(self) -> None:
        while True:
            last_round = self._stopping
            self._write_waiting()
            if last_round and (not self.waiting or self.fault):
                break
            if not last_round:
                _sleep(FLUSH_S)
        self._stopped = True

    def _write_waiting(self) -> None:
        while self._held or self._rows:
            while self._rows and len(self._held) < FRAME_ROWS:
                self._held.append(self._rows.popleft())
            try:
                self._writer.append(self._held)
            except SpoolError as e:
                # the disk may come back: keep the rows, try again at the next round
                self.fault = str(e)
                return
            self.fault = None
            self._held = []
