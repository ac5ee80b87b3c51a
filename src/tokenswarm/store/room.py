"""Room for a bounded spool: which segments go first, and what is remembered of them.

Only what an agent samples between runs is bounded this way. A run's spool is never dropped.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from tokenswarm.store.frame import frames
from tokenswarm.store.segment import number_of

Full = Literal["refuse", "drop"]
Shipped = Callable[[], int]

_RECORD_BYTES = 256


class Removed(msgspec.Struct, frozen=True):
    """What a source's bounded spool has let go of since it began.

    Rows before `end_seq` and segments up to number `segment` are gone. `unshipped_rows` of them
    had reached nothing else: that is a loss, and shown as one.
    """

    end_seq: int = 0
    segment: int = -1
    shipped_rows: int = 0
    unshipped_rows: int = 0


def removed(folder: Path, source: str) -> Removed:
    """What `source` has let go of; nothing when its spool is not bounded."""
    try:
        return msgspec.json.decode(_record(folder, source).read_bytes(), type=Removed)
    except (OSError, msgspec.DecodeError):
        return Removed()


class Room:
    """The ended segments of one source, oldest first. `held_bytes` counts the open one, too.

    `shipped` tells the number of the first row that is not safe elsewhere; None: nothing ships.
    OSError when a segment cannot be removed.
    """

    def __init__(self, folder: Path, source: str, ended: list[Path], shipped: Shipped | None):
        self._folder, self._source, self._shipped = folder, source, shipped
        self.removed = removed(folder, source)
        self._ended: list[tuple[Path, int]] = []
        self.held_bytes = 0
        for path in ended:
            # its removal was written down before the process was killed
            if number_of(path) <= self.removed.segment:
                path.unlink()
            else:
                self.held_bytes += path.stat().st_size
                self.end(path, path.stat().st_size)

    def remember(self) -> None:
        """Write `removed` down, in place: once the file is there, a full disk takes it, too."""
        text = msgspec.json.encode(self.removed).ljust(_RECORD_BYTES - 1) + b"\n"
        path = _record(self._folder, self._source)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.pwrite(fd, text, 0)
        finally:
            os.close(fd)

    def end(self, path: Path, size: int) -> None:
        """A segment has ended: from now on it may go."""
        self._ended.append((path, size))

    def drop_shipped(self, next_seq: int) -> int:
        """Remove what is safe elsewhere, oldest first; how many segments went."""
        shipped = self._shipped() if self._shipped else 0
        count = 0
        while self._ended and self._end_seq(next_seq) <= shipped:
            self._drop(next_seq, shipped)
            count += 1
        return count

    def drop_oldest(self, limit_bytes: int, next_seq: int) -> None:
        """Remove the oldest segments, shipped or not, until at most `limit_bytes` are held."""
        shipped = self._shipped() if self._shipped else 0
        while self._ended and self.held_bytes > limit_bytes:
            self._drop(next_seq, shipped)

    def _end_seq(self, next_seq: int) -> int:
        """The number after the oldest segment's last row: the first of the next segment."""
        for path, _ in self._ended[1:]:
            for frame in frames(path, []):
                return frame.first_seq
        return next_seq

    def _drop(self, next_seq: int, shipped: int) -> None:
        path, size = self._ended[0]
        was, end = self.removed, self._end_seq(next_seq)
        safe = max(0, min(end, shipped) - was.end_seq)
        self.removed = Removed(
            end_seq=end,
            segment=number_of(path),
            shipped_rows=was.shipped_rows + safe,
            unshipped_rows=was.unshipped_rows + end - was.end_seq - safe,
        )
        self.remember()
        path.unlink(missing_ok=True)
        self.held_bytes -= size
        del self._ended[0]


def _record(folder: Path, source: str) -> Path:
    return folder / f".{source}.removed"
