"""A spool segment's bytes: an 8-byte mark, then frames, each a checksummed batch of rows.

    segment  MAGIC (7 bytes of name, 1 of version), frame, frame, ...
    frame    crc32 u32 over all that follows | payload length u32 | first_seq u64 | count u32
             | created_unix_ns i64 | payload          (little endian, 28 bytes before the payload)
    payload  msgpack [[measurement, row], ...], rows in schema order

A frame is either whole or not there. One that is cut short or fails its checksum is damage, and
reading goes on at the next frame whose checksum holds.
"""

import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from tokenswarm.errors import SpoolError

MAGIC = b"tkspool\x01"
SEGMENT = re.compile(r"(?P<source>[a-z0-9][a-z0-9_-]{0,60})-(?P<number>[0-9]{6,12})\.spool")

_CRC = struct.Struct("<I")
_META = struct.Struct("<IQIq")
HEADER_BYTES = _CRC.size + _META.size

# Where a frame may begin, 13 bytes before the match: first_seq below 2**40, 1 to 2**24 rows,
# written between 2015 and 2151. A segment of zeros has none.
_LIKELY = re.compile(rb"(?s)(?=\0\0\0(?!\0\0\0)...\0.{7}[\x14-\x4f])")
_LIKELY_AT = _CRC.size + 4 + 5

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[str, list[Any]]]).decode
_split = msgspec.msgpack.Decoder(list[tuple[str, msgspec.Raw]]).decode

T = TypeVar("T")
Row = list[Any]
Pair = tuple[str, Row]


@dataclass(frozen=True, slots=True)
class Frame:
    """Rows `first_seq` to `end - 1` of `source`, as they lie in a segment at `offset`.

    `data` is the whole frame, header included: what a link carries and `append_frame` takes.
    """

    source: str
    first_seq: int
    count: int
    created_unix_ns: int
    data: bytes
    offset: int = 0

    @property
    def end(self) -> int:
        """The sequence number after the last row."""
        return self.first_seq + self.count

    @property
    def payload(self) -> memoryview:
        return memoryview(self.data)[HEADER_BYTES:]

    def rows(self) -> list[Pair]:
        """`(measurement, row)` in order of sequence numbers. SpoolError: not rows."""
        return self._with(_decode)

    def packed(self) -> list[tuple[str, msgspec.Raw]]:
        """The same with every row as it lies there, in msgpack; whether it is one is not seen."""
        return self._with(_split)

    def _with(self, decode: Callable[[memoryview], list[tuple[str, T]]]) -> list[tuple[str, T]]:
        try:
            rows = decode(self.payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as e:
            raise SpoolError(f"frame {self.first_seq} of {self.source}: not rows: {e}") from e
        if len(rows) != self.count:
            raise SpoolError(
                f"frame {self.first_seq} of {self.source}: says {self.count} rows, has {len(rows)}"
            )
        return rows


@dataclass(frozen=True, slots=True)
class Damage:
    """Where a segment cannot be read and why: `bytes_lost` to the next good frame or its end."""

    path: Path
    offset: int
    reason: str
    bytes_lost: int


def pack(rows: Sequence[Pair], first_seq: int, created_unix_ns: int) -> bytes:
    """One frame. SpoolError when a value has no place in msgpack (a lone surrogate, 2**64)."""
    try:
        payload = _encode(rows)
        meta = _META.pack(len(payload), first_seq, len(rows), created_unix_ns)
    except (TypeError, ValueError, OverflowError, NotImplementedError, struct.error) as e:
        raise SpoolError(f"{len(rows)} rows from number {first_seq} cannot be encoded: {e}") from e
    return _CRC.pack(zlib.crc32(payload, zlib.crc32(meta))) + meta + payload


def unpack(source: str, data: bytes, offset: int = 0) -> Frame:
    """The frame in `data`, which holds exactly one. SpoolError: damaged."""
    if len(data) < HEADER_BYTES:
        raise SpoolError(f"cut short: {len(data)} bytes of a frame's header of {HEADER_BYTES}")
    length, first_seq, count, created = _META.unpack_from(data, _CRC.size)
    if length != len(data) - HEADER_BYTES:
        raise SpoolError(f"a payload of {length} bytes, {len(data) - HEADER_BYTES} are there")
    if zlib.crc32(memoryview(data)[_CRC.size :]) != _CRC.unpack_from(data)[0]:
        raise SpoolError("checksum differs")
    return Frame(source, first_seq, count, created, data, offset)


def source_of(path: Path) -> str:
    """The source that a segment's name tells. SpoolError: not a segment's name."""
    match = SEGMENT.fullmatch(path.name)
    if match is None:
        raise SpoolError(f"{path}: not a spool segment (SOURCE-000000.spool)")
    return match["source"]


def frames(path: Path, damages: list[Damage], offset: int = 0) -> Iterator[Frame]:
    """The good frames of one segment from `offset` on, in order.

    What lies between them and after them is appended to `damages`. An empty file (its writer was
    killed before the first frame) is no damage.
    """
    source = source_of(path)
    with path.open("rb") as f:
        size = os.fstat(f.fileno()).st_size
        end_seq = 0
        while offset < size:
            try:
                offset = offset or _skip_magic(f, size)
                f.seek(offset)
                frame = unpack(source, _one(f, size - offset), offset) if offset < size else None
            except SpoolError as e:
                frame = _next_good(f, source, offset, end_seq)
                end = frame.offset if frame else size
                damages.append(Damage(path, offset, str(e), end - offset))
            if frame is None:
                return
            offset, end_seq = frame.offset + len(frame.data), frame.end
            yield frame


def _next_good(f: BinaryIO, source: str, offset: int, end_seq: int) -> Frame | None:
    """The first whole frame that begins after `offset`, with rows from `end_seq` on."""
    f.seek(offset)
    data = f.read()
    for match in _LIKELY.finditer(data):
        at = match.start() - _LIKELY_AT
        if at < 1:
            continue
        length, first_seq, _, _ = _META.unpack_from(data, at + _CRC.size)
        if first_seq >= end_seq and at + HEADER_BYTES + length <= len(data):
            try:
                return unpack(source, data[at : at + HEADER_BYTES + length], offset + at)
            except SpoolError:
                continue
    return None


def _skip_magic(f: BinaryIO, size: int) -> int:
    mark = f.read(len(MAGIC))
    if len(mark) < len(MAGIC) and MAGIC.startswith(mark):
        if size:
            raise SpoolError(f"cut short: {len(mark)} bytes of a mark of {len(MAGIC)}")
    elif mark != MAGIC:
        raise SpoolError(f"not a spool segment of version {MAGIC[-1]}: begins with {mark!r}")
    return len(mark)


def _one(f: BinaryIO, left: int) -> bytes:
    """Read one frame's bytes, of which at most `left` can be there."""
    header = f.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        return header
    length = _META.unpack_from(header, _CRC.size)[0]
    if length > left - HEADER_BYTES:
        raise SpoolError(f"cut short: a payload of {length} bytes, {left - HEADER_BYTES} are there")
    return header + f.read(length)
