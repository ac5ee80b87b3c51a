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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tokenswarm.errors import SpoolError
from tokenswarm.store.frame import MAGIC, SEGMENT, Damage, Frame, Pair, Row, frames, pack, unpack
from tokenswarm.store.inventory import Inventory, Ranges
from tokenswarm.store.row import Monotonic, check_row
from tokenswarm.store.rundir import SOURCE

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


def segments(folder: Path) -> dict[str, list[Path]]:
    """The segments of each source in `folder`, both in order; none when there is no folder."""
    found: dict[str, list[tuple[int, Path]]] = {}
    for name in os.listdir(folder) if folder.is_dir() else ():  # noqa: PTH208, polled often
        if match := SEGMENT.fullmatch(name):
            found.setdefault(match["source"], []).append((int(match["number"]), folder / name))
    return {source: [path for _, path in sorted(found[source])] for source in sorted(found)}


class Writer:
    """Appends one source's rows to `folder`. Not for several threads at once.

    Reopening a source goes on after its last good frame, in a new segment. `max_bytes` bounds
    what the source may hold on disk, earlier segments included. `check` holds every row against
    the schema (costs more than writing it). SpoolError when the source has a writer already.
    """

    def __init__(
        self,
        folder: Path,
        source: str,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        max_bytes: int | None = None,
        check: bool = False,
    ):
        if not SOURCE.fullmatch(source):
            raise SpoolError(f"{source!r} is no source: up to 61 of a-z 0-9 _ -, no - or _ first")
        self.folder, self.source = folder, source
        self._segment_bytes, self._max_bytes, self._check = segment_bytes, max_bytes, check
        self._fd: int | None = None
        self._path = folder
        self._size = 0
        self._lock: int | None = _lock(folder, source)
        earlier = segments(folder).get(source, [])
        self._number = _number(earlier[-1]) + 1 if earlier else 0
        self.next_seq = _end_of(earlier)
        self.bytes_written = sum(path.stat().st_size for path in earlier)

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
        try:
            _write_all(self._open_fd(), data)
        except BaseException as e:
            self._take_back()
            if not isinstance(e, OSError):
                raise
            raise SpoolError(
                f"{self._path}: cannot append {len(data)} bytes: {os.strerror(e.errno or 0)}; "
                "what was acknowledged is safe, append again when there is room"
            ) from e
        self._size += len(data)
        self.bytes_written += len(data)
        self.next_seq = frame.end
        return Frame(
            frame.source, frame.first_seq, frame.count, frame.created_unix_ns, frame.data, offset
        )

    def _make_room(self, length: int) -> None:
        """Begin another segment when this one is full; refuse what goes over `max_bytes`."""
        if self._size > len(MAGIC) and self._size + length > self._segment_bytes:
            self._end_segment()
        if self._max_bytes is not None and self.bytes_written + length > self._max_bytes:
            raise SpoolError(
                f"{self.folder}: {self.source} holds {self.bytes_written} bytes and may hold "
                f"{self._max_bytes}; raise the limit or move finished runs away"
            )

    def _open_fd(self) -> int:
        if self._fd is None:
            self._path = self.folder / f"{self.source}-{self._number:06d}.spool"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            self._fd = os.open(self._path, flags, 0o644)
            self._number += 1
        return self._fd

    def _take_back(self) -> None:
        """Cut a half-written frame off, else leave the segment: readers stop at its good end."""
        if self._fd is None:
            return
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            fd, self._fd, self._size = self._fd, None, 0
            os.close(fd)

    def _end_segment(self) -> None:
        if self._fd is None:
            return
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
        raise SpoolError(
            f"{folder}: {source!r} has a writer already; end that process or name another source"
        ) from e
    return fd


def _write_all(fd: int, data: bytes) -> None:
    """One write(2), and more only when the system takes less than it was given."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _number(path: Path) -> int:
    return int(path.stem.rsplit("-", 1)[1])


def _end_of(paths: list[Path]) -> int:
    """The sequence number after the last good frame."""
    for path in reversed(paths):
        end = None
        for frame in frames(path, []):
            end = frame.end
        if end is not None:
            return end
    return 0


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one source, numbered from `first_seq` on, not seen before."""

    source: str
    first_seq: int
    rows: list[Pair]


class Reader:
    """One pass over all sources of a folder; `sources` is the inventory of what was passed."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.sources: dict[str, Inventory] = {}

    def frames(self) -> Iterator[Frame]:
        """Every good frame with something new in it."""
        for _, frame in self._all():
            if self.sources[frame.source].add(frame):
                yield frame

    def batches(self) -> Iterator[Batch]:
        """Every row once, decoded."""
        for path, frame in self._all():
            found = self.sources[frame.source]
            try:
                rows = frame.rows()
            except SpoolError as e:
                found.damages.append(Damage(path, frame.offset, str(e), len(frame.data)))
                continue
            for first, end in found.add(frame):
                at = first - frame.first_seq
                new = rows if end - first == len(rows) else rows[at : at + end - first]
                yield Batch(frame.source, first, new)

    def _all(self) -> Iterator[tuple[Path, Frame]]:
        for source, paths in segments(self.folder).items():
            found = self.sources[source] = Inventory()
            for path in paths:
                found.segments += 1
                found.bytes += path.stat().st_size
                for frame in frames(path, found.damages):
                    yield path, frame


def rows(
    folder: Path, found: dict[str, Inventory] | None = None
) -> Iterator[tuple[str, int, str, Row]]:
    """Every row of every source once: `(source, seq, measurement, row)`.

    `found`, when given, is filled with the inventory of each source (gaps and damages in it).
    """
    reader = Reader(folder)
    if found is not None:
        reader.sources = found
    for batch in reader.batches():
        for seq, (measurement, row) in enumerate(batch.rows, batch.first_seq):
            yield batch.source, seq, measurement, row


def inventory(folder: Path) -> dict[str, Inventory]:
    """What lies in `folder`, by source. Reads and checks every frame, decodes none."""
    reader = Reader(folder)
    for _ in reader.frames():
        pass
    return reader.sources


@dataclass(slots=True)
class Position:
    """How far `follow` has come: bytes read of each segment, numbers seen of each source."""

    offsets: dict[str, int] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    seen: dict[str, Ranges] = field(default_factory=dict)
    damages: list[Damage] = field(default_factory=list)


def follow(folder: Path, position: Position, source: str | None = None) -> Iterator[Frame]:
    """What was appended since the last call with this `position`; of one `source` or of all.

    An unfinished tail of a source's last segment is left for the next call: its writer may be at
    it. Once a later segment exists it never ends, and joins `position.damages`.
    """
    for name, paths in segments(folder).items():
        if source in (None, name):
            seen = position.seen.setdefault(name, Ranges())
            for path in paths:
                if path.name not in position.ended:
                    yield from _follow_segment(path, position, seen, last=path == paths[-1])


def _follow_segment(path: Path, position: Position, seen: Ranges, *, last: bool) -> Iterator[Frame]:
    offset = position.offsets.get(path.name, 0)
    damages: list[Damage] = []
    if path.stat().st_size > offset:
        for frame in frames(path, damages, offset):
            position.offsets[path.name] = frame.offset + len(frame.data)
            if seen.add(frame.first_seq, frame.end):
                yield frame
    if not last:
        position.ended.add(path.name)
        position.damages += damages
