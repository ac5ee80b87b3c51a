"""Bytes to events."""

import pytest

from tokenswarm.wire.scanner import Scanner, SseEvent, ndjson_scanner, parse_sse, sse_scanner


def scan(scanner: Scanner, *pieces: bytes) -> list[bytes]:
    return [block for piece in pieces for block in scanner.feed(piece)]


@pytest.mark.parametrize(
    ("block", "event"),
    [
        # the common case, and without the space
        (b"data: {}\n\n", SseEvent(b"{}")),
        (b"data:{}\n\n", SseEvent(b"{}")),
        # one space is dropped, not two
        (b"id: 1\ndata:  a\n\n", SseEvent(b" a")),
        # lines are joined
        (b"data: a\ndata: b\n\n", SseEvent(b"a\nb")),
        (b"data: a\r\ndata\r\n\r\n", SseEvent(b"a\n")),
        (b"data: a\rdata: b\r\r", SseEvent(b"a\nb")),
        # comments, other fields, nothing
        (b": ping\n\n", SseEvent(None)),
        (b"event: x\nid: 4\nretry: 3\n\n", SseEvent(None)),
        (b"\n\n", SseEvent(None)),
        # errors by name
        (b"error: {}\n\n", SseEvent(b"{}", error=True)),
        (b"event: error\ndata: {}\n\n", SseEvent(b"{}", error=True)),
        # not an event stream
        (b'{\n"error": 1}\n\n', SseEvent(b'{\n"error": 1}\n\n')),
        (b"Bad Gateway\n\n", SseEvent(None, stray=True)),
        # stray text beside data is nobody's business
        (b"data: a\nwhat\n\n", SseEvent(b"a")),
        # line separators of Unicode are text
        ("data: a\u2028b\u0085c\n\n".encode(), SseEvent("a\u2028b\u0085c".encode())),
    ],
)
def test_a_block_is_parsed(block: bytes, event: SseEvent) -> None:
    assert parse_sse(block) == event


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n", b"\r\n\n", b"\n\r"])
def test_an_event_ends_with_a_blank_line_and_not_before(end: bytes) -> None:
    scanner = sse_scanner()
    stream = b"data: 1" + end + b"data: 2" + end
    found = [(n, block) for n in range(len(stream)) for block in scanner.feed(stream[n : n + 1])]
    assert [parse_sse(block).data for _, block in found] == [b"1", b"2"]
    # complete with the byte that ends the blank line; a CR need not wait for an LF
    complete = len(b"data: 1" + end) - 1 - end.endswith(b"\r\n")
    assert found[0][0] == complete


def test_a_single_line_end_of_two_bytes_is_no_blank_line() -> None:
    scanner = sse_scanner()
    assert scan(scanner, b"data: a\r", b"\n", b"data: b\r\n") == []
    assert scan(scanner, b"\r\n") == [b"data: a\r\ndata: b\r\n\r\n"]


def test_a_scanner_is_idle_between_events_only() -> None:
    scanner = sse_scanner()
    idle = [scanner.idle]
    for piece in (b"data: 1\n\n", b"d", b"\n", b"\n", b"data: 2\n\nda"):
        scanner.feed(piece)
        idle.append(scanner.idle)
    assert idle == [True, True, False, False, True, False]


def test_a_byte_order_mark_is_dropped_once() -> None:
    assert scan(sse_scanner(), b"\xef", b"\xbb\xbf: a", b"\n\n") == [b": a\n\n"]
    lines = scan(ndjson_scanner(), b"\xef\xbb\xbf1\n\xef\xbb\xbf2\n")
    assert lines == [b"1\n", b"\xef\xbb\xbf2\n"]


def test_the_rest_is_what_has_no_end_yet() -> None:
    scanner = ndjson_scanner()
    assert scan(scanner, b'{"a":1}\n{"b"', b":2}") == [b'{"a":1}\n']
    assert scanner.rest() == b'{"b":2}'


@pytest.mark.parametrize("pieces", [(b"x" * 11,), (b"x" * 6, b"x" * 5), (b"xxxxxxxxx\n\n",)])
def test_an_event_is_bounded(pieces: tuple[bytes, ...]) -> None:
    scanner = sse_scanner(10)
    assert scan(scanner, b"a\n\n", *pieces) == [b"a\n\n"]
    assert scanner.too_large


def test_an_event_of_the_bound_fits() -> None:
    scanner = sse_scanner(10)
    assert scan(scanner, b"xxxxxxxx", b"\n\n") == [b"xxxxxxxx\n\n"]
    assert not scanner.too_large


def test_a_large_event_in_many_pieces_is_scanned_once() -> None:
    """Would take minutes if each piece were searched from the start."""
    scanner = sse_scanner()
    for _ in range(200_000):
        scanner.feed(b"x" * 20)
    assert scan(scanner, b"\n\n")[0] == b"x" * 4_000_000 + b"\n\n"
