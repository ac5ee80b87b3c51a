"""The spool: append-only, checksummed segments, one writer a source, any number of readers.

Is: what a source has measured, in order, numbered from 0 without gaps. A frame is acknowledged
when `append` returns, which is after `write(2)`: it outlives the process (kill -9). Readers get
every acknowledged row once, and are told of everything they could not read.
Is not: a guarantee against power loss (fsync comes with the end of a segment and with `close`),
nor a database.
"""

import errno
import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tokenswarm.errors import SourceBusyError, SpoolError
from tokenswarm.store.frame import MAGIC, Damage, Frame, Pair, frames, pack, unpack
from tokenswarm.store.inventory import Inventory
from tokenswarm.store.reading import Batch, Position, Reader, follow, inventory, rows
from tokenswarm.store.room import Full, Removed, Room, Shipped
from tokenswarm.store.row import Monotonic, check_row
from tokenswarm.store.rundir import SOURCE
from tokenswarm.store.segment import number_of, segments

__all__ = [
    "Batch",
    "Damage",
    "Frame",
    "Inventory",
    "Monotonic",
    "Position",
    "Reader",
    "Writer",
    "check_row",
    "follow",
    "frames",
    "inventory",
    "rows",
    "segments",
]

SEGMENT_BYTES = 64 * 2**20


class Writer:
    """Appends one source's rows to `folder`. Not for several threads at once.

    Reopening a source goes on after its last good frame, in a new segment. `check` holds every
    row against the schema (costs more than writing it). SourceBusyError when the source has a
    writer already.

    `max_bytes` bounds what the source may hold on disk, earlier segments included. When it is
    reached, `full="refuse"` refuses rows and drops none: a run's spool. `full="drop"` removes
    the oldest segments and counts them in `removed`: what an agent samples between runs. It also
    removes what has been `shipped`, the number of the first row that has not been, as soon as a
    segment ends.
    """

    def __init__(
        self,
        folder: Path,
        source: str,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        max_bytes: int | None = None,
        full: Full = "refuse",
        shipped: Shipped | None = None,
        check: bool = False,
    ):
        if not SOURCE.fullmatch(source):
            raise SpoolError(f"{source!r} is no source: up to 61 of a-z 0-9 _ -, no - or _ first")
        self.folder, self.source = folder, source
        self._segment_bytes, self._max_bytes, self._check = segment_bytes, max_bytes, check
        self._dropping = full == "drop"
        if self._dropping and max_bytes is not None:
            # what goes is a whole segment: an eighth at a time
            self._segment_bytes = min(segment_bytes, max_bytes // 8)
        self._fd: int | None = None
        self._path = folder
        self._size = 0
        self._lock: int | None = _lock(folder, source)
        try:
            earlier = segments(folder).get(source, [])
            self._room = Room(folder, source, earlier, shipped if self._dropping else None)
            if self._dropping:
                self._room.remember()
            gone = self._room.removed
            self._number = max([gone.segment, *map(number_of, earlier)]) + 1
            self.next_seq = max(gone.end_seq, _end_of(earlier))
            self._drop_shipped()
        except BaseException as e:
            self.close()
            if isinstance(e, OSError):
                raise SpoolError(f"{folder}: cannot open the spool of {source}: {e}") from e
            raise

    @property
    def held_bytes(self) -> int:
        """What the source holds on disk."""
        return self._room.held_bytes

    @property
    def removed(self) -> Removed:
        """What a bounded spool has let go of, this writer's predecessors included."""
        return self._room.removed

    def append(self, rows: Sequence[Pair]) -> Frame:
        """Write `rows` as one frame and return it: acknowledged.

        SpoolError: nothing of it was written, what was acknowledged before is untouched, and the
        same rows can be appended again when there is room.
        """
        if not rows:
            raise SpoolError(f"{self.source}: a frame of no rows")
        if self._check:
            for measurement, row in rows:
                check_row(measurement, row)
        created = time.time_ns()
        data = pack(rows, self.next_seq, created)
        frame = Frame(self.source, self.next_seq, len(rows), created, data)
        return self._write(frame)

    def append_frame(self, data: bytes) -> int:
        """Write a frame that came over a link and return the sequence number expected next.

        A number at or past the frame's end acknowledges it, whether it was new or known. A lower
        one refuses it, because rows are missing before it: send from that number on.
        """
        frame = unpack(self.source, data)
        if frame.first_seq <= self.next_seq < frame.end:
            self._write(frame)
        return self.next_seq

    def close(self) -> None:
        """End the segment (fsync) and let go of the source. A second call does nothing."""
        try:
            self._end_segment()
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _write(self, frame: Frame) -> Frame:
        if self._lock is None:
            raise SpoolError(f"{self.source}: the spool is closed")
        self._make_room(len(frame.data))
        offset = self._size or len(MAGIC)
        data = frame.data if self._size else MAGIC + frame.data
        while not self._written(data):
            pass
        self._size += len(data)
        self._room.held_bytes += len(data)
        self.next_seq = frame.end
        return Frame(
            frame.source, frame.first_seq, frame.count, frame.created_unix_ns, frame.data, offset
        )

    def _written(self, data: bytes) -> bool:
        """Write `data` or nothing; False when the disk was full and has been given some room."""
        try:
            _write_all(self._open_fd(), data)
        except BaseException as e:
            self._take_back()
            if not isinstance(e, OSError):
                raise
            if e.errno == errno.ENOSPC and self._fd is not None and self._drop_shipped():
                return False
            raise SpoolError(
                f"{self._path}: cannot append {len(data)} bytes: {os.strerror(e.errno or 0)}; "
                "what was acknowledged is safe, append again when there is room"
            ) from e
        return True

    def _make_room(self, length: int) -> None:
        """Begin another segment when this one is full; keep to `max_bytes`."""
        if self._size > len(MAGIC) and self._size + length > self._segment_bytes:
            self._end_segment()
            self._drop_shipped()
        if self._max_bytes is None or self.held_bytes + length <= self._max_bytes:
            return
        if self._dropping and length + len(MAGIC) <= self._max_bytes:
            self._drop_oldest(self._max_bytes - length - len(MAGIC))
            return
        raise SpoolError(
            f"{self.folder}: {self.source} holds {self.held_bytes} bytes and may hold "
            f"{self._max_bytes}; raise the limit or move finished runs away"
        )

    def _drop_oldest(self, limit_bytes: int) -> None:
        try:
            self._room.drop_oldest(limit_bytes, self.next_seq)
            if self.held_bytes > limit_bytes:
                self._end_segment()
                self._room.drop_oldest(limit_bytes, self.next_seq)
        except OSError as e:
            raise SpoolError(f"{self.folder}: cannot drop old segments: {e}") from e

    def _drop_shipped(self) -> bool:
        """Remove what is safe elsewhere; whether there was any."""
        try:
            return self._dropping and self._room.drop_shipped(self.next_seq) > 0
        except OSError as e:
            raise SpoolError(f"{self.folder}: cannot drop what was shipped: {e}") from e

    def _open_fd(self) -> int:
        if self._fd is None:
            self._path = self.folder / f"{self.source}-{self._number:06d}.spool"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            self._fd = os.open(self._path, flags, 0o644)
            self._number += 1
        return self._fd

    def _take_back(self) -> None:
        """Cut a half-written frame off, else leave the segment: readers skip what is not whole."""
        if self._fd is None:
            return
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            self._room.end(self._path, self._size)
            fd, self._fd, self._size = self._fd, None, 0
            os.close(fd)

    def _end_segment(self) -> None:
        if self._fd is None:
            return
        self._room.end(self._path, self._size)
        fd, self._fd, self._size = self._fd, None, 0
        try:
            os.fsync(fd)
        except OSError as e:
            raise SpoolError(f"{self._path}: fsync failed: {e.strerror}") from e
        finally:
            os.close(fd)


def _lock(folder: Path, source: str) -> int:
    """A descriptor whose lock the system drops with the process, however that ends."""
    path = folder / f".{source}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as e:
        raise SpoolError(f"{path}: cannot write here: {e.strerror}") from e
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        os.close(fd)
        if e.errno not in (errno.EAGAIN, errno.EACCES):
            raise SpoolError(f"{path}: cannot lock: {e.strerror}") from e
        raise SourceBusyError(
            f"{folder}: {source!r} has a writer already; end that process or name another source"
        ) from e
    return fd


def _write_all(fd: int, data: bytes) -> None:
    """One write(2), and more only when the system takes less than it was given."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _end_of(paths: list[Path]) -> int:
    """The sequence number after the last good frame."""
    for path in reversed(paths):
        end = None
        for frame in frames(path, []):
            end = frame.end
        if end is not None:
            return end
    return 0
