"""Reading a spool: all of it in one pass, or what was appended since the last look."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic

import msgspec

from tokenswarm.errors import SpoolError
from tokenswarm.store.frame import SEGMENT, Damage, Frame, Row, T, frames
from tokenswarm.store.inventory import Inventory, Ranges
from tokenswarm.store.room import removed
from tokenswarm.store.segment import number_of, segments


@dataclass(frozen=True, slots=True)
class Batch(Generic[T]):
    """Rows of one source, numbered from `first_seq` on, not seen before, by measurement."""

    source: str
    first_seq: int
    rows: list[tuple[str, T]]


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

    def batches(self) -> Iterator[Batch[Row]]:
        """Every row once, decoded."""
        return self._batches(Frame.rows)

    def packed(self) -> Iterator[Batch[msgspec.Raw]]:
        """Every row once, as it lies there."""
        return self._batches(Frame.packed)

    def _batches(self, read: Callable[[Frame], list[tuple[str, T]]]) -> Iterator[Batch[T]]:
        for path, frame in self._all():
            found = self.sources[frame.source]
            try:
                rows = read(frame)
            except SpoolError as e:
                found.damages.append(Damage(path, frame.offset, str(e), len(frame.data)))
                continue
            for first, end in found.add(frame):
                at = first - frame.first_seq
                new = rows if end - first == len(rows) else rows[at : at + end - first]
                yield Batch(frame.source, first, new)

    def _all(self) -> Iterator[tuple[Path, Frame]]:
        for source, paths in segments(self.folder).items():
            gone = removed(self.folder, source)
            found = self.sources[source] = Inventory(removed=gone, seen=Ranges(gone.end_seq))
            for path in paths:
                try:
                    size = path.stat().st_size
                    for frame in frames(path, found.damages):
                        yield path, frame
                except FileNotFoundError:
                    continue  # its writer, bounded, has let go of it
                found.segments += 1
                found.bytes += size


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
    it. Once a frame or a segment comes after it, it is damage and joins `position.damages`.
    Rows that a bounded spool dropped before they were read are gaps in `position.seen`.
    """
    for name, paths in segments(folder).items():
        if source in (None, name):
            if name not in position.seen:
                position.seen[name] = Ranges(removed(folder, name).end_seq)
            for path in paths:
                if path.name not in position.ended:
                    yield from _follow_segment(path, position, name, last=path == paths[-1])
            _forget_removed(position, name, number_of(paths[0]))


def _follow_segment(path: Path, position: Position, source: str, *, last: bool) -> Iterator[Frame]:
    offset = position.offsets.get(path.name, 0)
    damages: list[Damage] = []
    try:
        if path.stat().st_size > offset:
            for frame in frames(path, damages, offset):
                position.offsets[path.name] = frame.offset + len(frame.data)
                position.damages += damages
                damages.clear()
                if position.seen[source].add(frame.first_seq, frame.end):
                    yield frame
    except FileNotFoundError:
        last = False  # its writer, bounded, has let go of it
    if not last:
        position.ended.add(path.name)
        position.damages += damages


def _forget_removed(position: Position, source: str, oldest: int) -> None:
    """Drop what is kept about segments of `source` that are no more."""
    for name in {*position.ended, *position.offsets}:
        match = SEGMENT.fullmatch(name)
        if match and match["source"] == source and int(match["number"]) < oldest:
            position.ended.discard(name)
            position.offsets.pop(name, None)
