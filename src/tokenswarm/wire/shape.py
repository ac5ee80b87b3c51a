"""Recognise a token event by its bytes, without decoding JSON.

A stream repeats one event with another text. From a decoded token event we learn the literal
bytes before the text (head) and after it (tail). Bytes of the form head + slot + tail, where
`"slot"` is one JSON string, are the same JSON with another text, hence a token event:

- the learned block holds no backslash, so each `"key"` in it is a real string token; the key
  occurs once and is followed by `:"`, so it is the value that was decoded;
- a slot holds no bare quote and only whole escapes, so it ends where its string ends;
- a slot holds no line end, so the scanner would cut the same event.

Ollama's `created_at` changes in every line: it is a second slot, in front of the first.

`tokenswarm.native.Shape` is the same compiled; the two functions here stand in for it.
"""

import re
from collections.abc import Callable

from tokenswarm import native

# Counts token events of one shape from the start of the bytes, an event boundary: how many
# there are before something else comes, and how many bytes they take.
Shape = Callable[[bytes], tuple[int, int]]

_SLOT = re.compile(rb'[^"\\\r\n]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\r\n]*+)*+')
_STAMP = b'"created_at"'
_OPEN = re.compile(rb'[ \t]*:[ \t]*"')


def _plain(head: bytes, tail: bytes, least: int) -> Shape:
    """head + slot + tail. A closure: its cells are the cheapest variables on the hot path."""
    slot, n_head, n_tail = _SLOT.match, len(head), len(tail)

    def run(data: bytes) -> tuple[int, int]:
        events = pos = 0
        while data[pos : (start := pos + n_head)] == head:
            stop = slot(data, start).end()  # type: ignore[union-attr]  # matches always
            if data[stop : (end := stop + n_tail)] != tail or stop - start < least:
                break
            events += 1
            pos = end
        return events, pos

    return run


def _stamped(lead: bytes, head: bytes, tail: bytes, least: int) -> Shape:
    """lead + slot of the time stamp + head + slot + tail."""
    slot, n_lead, n_head, n_tail = _SLOT.match, len(lead), len(head), len(tail)

    def run(data: bytes) -> tuple[int, int]:
        events = pos = 0
        while data[pos : (place := pos + n_lead)] == lead:
            place = slot(data, place).end()  # type: ignore[union-attr]  # matches always
            if data[place : (start := place + n_head)] != head:
                break
            stop = slot(data, start).end()  # type: ignore[union-attr]  # matches always
            if data[stop : (end := stop + n_tail)] != tail or stop - start < least:
                break
            events += 1
            pos = end
        return events, pos

    return run


def learn(block: bytes, key: str, text: str, least: int) -> Shape | None:
    """The shape of `block`, a whole token event whose text `text` stands under `key`.

    `least`: bytes a text must have to be a token (1 where an empty text is none).

    None when the block is not of the simple sort: an escape anywhere, several lines, the key
    twice. Then its like is decoded each time.
    """
    if b"\\" in block or not _one_line(block):
        return None
    span = _value(block, f'"{key}"'.encode())
    if span is None or block[span[0] : span[1]] != text.encode("utf-8", "replace"):
        return None
    head, tail = block[: span[0]], block[span[1] :]
    cut = _value(head, _STAMP)
    lead = None if cut is None else head[: cut[0]]
    return _shape(lead, head if cut is None else head[cut[1] :], tail, least)


def _shape(lead: bytes | None, head: bytes, tail: bytes, least: int) -> Shape:
    if native.NATIVE:
        shape: Shape = native.Shape(lead, head, tail, least)
        return shape
    return _plain(head, tail, least) if lead is None else _stamped(lead, head, tail, least)


def _one_line(block: bytes) -> bool:
    line = block.rstrip(b"\r\n")
    if b"\n" in line or b"\r" in line:
        return False
    if line.startswith(b"data:"):
        return block[len(line) :] in (b"\n\n", b"\r\n\r\n")
    return line.startswith(b"{") and block[len(line) :] in (b"\n", b"\r\n")


def _value(block: bytes, key: bytes) -> tuple[int, int] | None:
    """Where the string under `key` starts and stops in a block without backslashes."""
    place = block.find(key)
    if place < 0 or block.find(key, place + 1) >= 0:
        return None
    found = _OPEN.match(block, place + len(key))
    if found is None:
        return None
    stop = block.find(b'"', found.end())
    return None if stop < 0 else (found.end(), stop)
