"""Bytes in any split to complete events: SSE and NDJSON, one incremental scanner for both."""

import re
from typing import NamedTuple

MAX_EVENT_BYTES = 4 * 1024 * 1024

_BOM = b"\xef\xbb\xbf"
_EOL = re.compile(rb"\r\n|\n|\r")
# A blank line ends an event: two line ends in a row. CRLF is one line end, never two; the
# alternatives are laid out so that no backtracking can read it as two. A CR that ends the bytes
# is taken at once; should its LF come next, that is one more blank line, which says nothing.
_BLANK_LINE = re.compile(rb"\n(?:\n|\r\n?)|\r(?:\n(?:\n|\r\n?)|\r\n?)")


class Scanner:
    """Cut a byte stream into events. The result does not depend on how the bytes were split.

    `feed` returns the events completed by the new bytes, each with its terminator. `idle` is
    true at an exact event boundary: nothing pending, so the next byte starts an event.
    An event of more than `limit` bytes, terminator included, sets `too_large` and ends the scan.
    """

    __slots__ = (
        "_crs", "_end", "_pending", "_seek", "_start", "_with_cr", "idle", "limit",
        "too_large",
    )  # fmt: skip

    def __init__(self, end: bytes, with_cr: bool, limit: int) -> None:
        self._end = end
        self._with_cr = with_cr
        self._crs = False  # a CR has been seen, and counts: look for every sort of blank line
        self._pending = bytearray()
        self._seek = 0
        self._start = True
        self.idle = True
        self.limit = limit
        self.too_large = False

    def feed(self, data: bytes, start: int = 0) -> list[bytes]:
        """Events completed by `data[start:]`."""
        if self._with_cr and not self._crs:
            self._crs = b"\r" in data
        if self._pending:
            self._pending += data[start:] if start else data
            blocks, end = self._cut(self._pending, 0, self._seek)
            del self._pending[:end]
        else:
            blocks, end = self._cut(data, start, start)
            if end == len(data):
                self.idle = True
                return blocks
            self._pending += data[end:]
        self._settle()
        return blocks

    def rest(self) -> bytes:
        """What is pending at the end of the stream: an event without its terminator, or b""."""
        return self._whole(bytes(self._pending))

    def _cut(self, buffer: bytes | bytearray, start: int, seek: int) -> tuple[list[bytes], int]:
        blocks: list[bytes] = []
        while (seek := self._event_end(buffer, seek)) >= 0:
            if seek - start > self.limit:
                self.too_large = True
                return blocks, start
            blocks.append(self._whole(bytes(buffer[start:seek])))
            start = seek
        return blocks, start

    def _event_end(self, buffer: bytes | bytearray, seek: int) -> int:
        if self._crs:
            found = _BLANK_LINE.search(buffer, seek)
            return -1 if found is None else found.end()
        place = buffer.find(self._end, seek)
        return place if place < 0 else place + len(self._end)

    def _settle(self) -> None:
        """Remember where the search goes on: before a line end that may be half a blank line."""
        pending = self._pending
        seek = len(pending)
        while seek and pending[seek - 1] in b"\r\n":
            seek -= 1
        self._seek = seek
        self.too_large = self.too_large or len(pending) > self.limit
        self.idle = not pending

    def _whole(self, block: bytes) -> bytes:
        if self._start and block:
            self._start = False
            return block.removeprefix(_BOM)
        return block


def sse_scanner(limit: int = MAX_EVENT_BYTES) -> Scanner:
    """A scanner for server-sent events: LF, CRLF and CR line ends, a blank line ends an event."""
    return Scanner(b"\n\n", True, limit)


def ndjson_scanner(limit: int = MAX_EVENT_BYTES) -> Scanner:
    """A scanner for newline-delimited JSON: LF or CRLF ends a line."""
    return Scanner(b"\n", False, limit)


class SseEvent(NamedTuple):
    """One parsed event. `data` is None without a data line; `error` marks an error event or
    line; `stray` is true when there was nothing but text that is no event stream."""

    data: bytes | None
    error: bool = False
    stray: bool = False


def parse_sse(block: bytes) -> SseEvent:
    """Parse one block of lines: `data` with or without a space, several joined by a newline.

    Source: the HTML standard, 9.2.6, with two things that servers do: an `error: {…}` line
    (old llama.cpp) and a bare JSON object where an event should be (proxies).
    """
    if block.startswith(b"data:") and block.find(b"\n") == len(block) - 2 and b"\r" not in block:
        # the common case: one line, its end, a blank line
        return SseEvent(block[5:-2].removeprefix(b" "))
    if block.lstrip()[:1] == b"{":
        return SseEvent(block)
    lines = block.split(b"\n") if b"\r" not in block else _EOL.split(block)
    data: list[bytes] = []
    error = stray = other = False
    for line in lines:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"error":
            data.append(value)
            error = True
        elif field == b"event":
            error = error or value == b"error"
        elif line[:1] == b":" or field in (b"id", b"retry"):
            other = True
        elif line.strip():
            stray = True
    return SseEvent(b"\n".join(data) if data else None, error, stray and not data and not other)
