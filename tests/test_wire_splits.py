"""What a stream says does not depend on how its bytes were cut, nor on the shortcut."""

import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire_cases import CASES, recorded
from tests.wire_streams import (
    DONE,
    NATIVE_COUNTS,
    NDJSON,
    SSE,
    Case,
    Outcome,
    chat_line,
    chunk,
    final_line,
    ndjson,
    outcome,
    reader_for,
    sse,
    usage,
)
from tokenswarm.wire import reader as reader_module

CUTS = 100_000
TEXTS = ["a", " the", "", '"', "\\", "\n", "\r\n", "é", "日本", "🙂", "\u2028", "data: ", "[DONE]"]
BODIES = [c for c in [*CASES, *recorded()] if len(c.body) <= 20_000]


def read_in_pieces(case: Case, cuts: Sequence[int]) -> Outcome:
    """Feed the body cut at `cuts` (sorted); a piece arrives at the offset where it ends."""
    reader = reader_for(case)
    start = events = 0
    for stop in (*cuts, len(case.body)):
        events += reader.feed(float(stop), case.body[start:stop])
        start = stop
    in_feeds = len(reader.token_times)
    assert events == in_feeds
    return outcome(reader, case.clean)


def expected(case: Case, byte_by_byte: Outcome, cuts: Sequence[int]) -> Outcome:
    """The outcome for `cuts`: what is complete at byte n arrives with the piece that holds it."""
    ends = [float(c) for c in (*cuts, len(case.body))]

    def seen(stamp: float | None) -> float | None:
        return None if stamp is None else ends[bisect_left(ends, stamp)]

    return Outcome(
        byte_by_byte.ending,
        byte_by_byte.counts,
        byte_by_byte.server,
        [ends[bisect_left(ends, t)] for t in byte_by_byte.token_times],
        seen(byte_by_byte.first_event),
        seen(byte_by_byte.first_visible),
        byte_by_byte.done,
    )


def random_cuts(dice: random.Random, size: int) -> list[int]:
    """Positions of cuts: anywhere, close together, or at the same place twice (an empty piece)."""
    count = dice.randint(1, 24)
    if dice.random() < 0.3:
        middle = dice.randint(0, size)
        low, high = max(0, middle - 12), min(size, middle + 12)
    else:
        low, high = 0, size
    return sorted(dice.randint(low, high) for _ in range(count))


def generated(dice: random.Random) -> Case:
    """A random stream of tokens and other events in a random frame."""
    texts = [dice.choice(TEXTS) for _ in range(dice.randint(1, 12))]
    if dice.random() < 0.5:
        lines = [chat_line(t, n) for n, t in enumerate(texts)]
        body = ndjson(*lines, final_line(**NATIVE_COUNTS))
        return Case("generated", body, api="ollama", content_type=NDJSON)
    key = dice.choice(["content", "content", "reasoning"])
    events: list[Any] = [chunk({key: t}) for t in texts]
    for _ in range(dice.randint(0, 3)):
        other = dice.choice([chunk({}), chunk(None, usage=usage()), {"choices": []}])
        events.insert(dice.randint(0, len(events)), other)
    end = dice.choice(["\n\n", "\n\n", "\r\n\r\n", "\r\r", "\n\r\n", "\n\n: ping\n\n"])
    return Case("generated", sse(*events, chunk({}, "stop"), DONE, end=end))


def damaged(case: Case, dice: random.Random) -> Case:
    """The same with a few bytes changed, put in or taken out."""
    body = bytearray(case.body)
    for _ in range(dice.randint(1, 4)):
        place = dice.randrange(len(body) + 1)
        new = dice.choice([b'"', b"\\", b"\n", b"\r", b"\n\n", b"\x00", b"\xff", b"}", b"x", b""])
        body[place : place + dice.randint(0, 2)] = new
    return Case(case.name, bytes(body), api=case.api, content_type=case.content_type)


def every_stream() -> Iterator[Case]:
    """All cases and recordings, then generated ones, sound and damaged, without end."""
    dice = random.Random(7)
    yield from BODIES
    while True:
        case = generated(dice)
        yield case
        yield damaged(case, dice)
        yield damaged(dice.choice(BODIES), dice)


def test_a_hundred_thousand_cuts_change_nothing() -> None:
    dice = random.Random(11)
    cuts_made = 0
    for number, case in enumerate(every_stream()):
        whole = read_in_pieces(case, range(1, len(case.body)))
        for _ in range(8):
            cuts = random_cuts(dice, len(case.body))
            found = read_in_pieces(case, cuts)
            assert found == expected(case, whole, cuts), (case.name, case.body, cuts)
            cuts_made += len(cuts)
        if cuts_made >= CUTS and number > 3 * len(BODIES):
            break


def test_every_single_cut_of_every_recording_changes_nothing() -> None:
    for case in recorded():
        whole = read_in_pieces(case, range(1, len(case.body)))
        for cut in range(0, len(case.body), 3):
            assert read_in_pieces(case, [cut]) == expected(case, whole, [cut]), (case.name, cut)


def test_the_shortcut_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(3)
    cases = [*BODIES, *(damaged(dice.choice(BODIES), dice) for _ in range(1500))]
    cases += [damaged(generated(dice), dice) for _ in range(1500)]
    with_shortcut = [read_in_pieces(c, [len(c.body) // 2]) for c in cases]
    # nothing is learned: every event is decoded
    monkeypatch.setattr(reader_module, "learn", lambda *_: None)
    for case, found in zip(cases, with_shortcut, strict=True):
        assert read_in_pieces(case, [len(case.body) // 2]) == found, case.body


@cache
def token_event(api: str, text: str, number: int) -> bytes:
    if api == "openai":
        return sse(chunk({"content": text}))
    return ndjson(chat_line(text, number))


@settings(max_examples=300, deadline=None)
@given(
    api=st.sampled_from(["openai", "ollama"]),
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=12),
    data=st.data(),
)
def test_any_text_in_any_split_is_counted(api: str, texts: list[str], data: st.DataObject) -> None:
    events = [token_event(api, text, n) for n, text in enumerate(texts)]
    if api == "openai":
        case = Case("", b"".join([*events, sse(chunk({}, "stop"), DONE)]))
        tokens = len(texts)  # without a role, an empty text is a token
    else:
        body = b"".join([*events, ndjson(final_line())])
        case = Case("", body, api=api, content_type=NDJSON)
        tokens = sum(text != "" for text in texts)
    place = st.integers(0, len(case.body))
    found = read_in_pieces(case, sorted(data.draw(st.lists(place, max_size=10))))
    assert len(found.token_times) == tokens
    assert found.ending.error_kind == (None if tokens else "empty")


@settings(max_examples=400, deadline=None)
@given(
    api=st.sampled_from(["openai", "ollama"]),
    endpoint=st.sampled_from(["chat", "completions", "embeddings"]),
    stream=st.booleans(),
    status=st.sampled_from([200, 204, 404]),
    content_type=st.sampled_from([SSE, NDJSON, "application/json", "text/html", "", ";"]),
    pieces=st.lists(
        st.binary(max_size=40)
        | st.sampled_from([b"data: ", b"{", b'"choices":', b"[", b"}", b"]", b"\n\n", b"null"]),
        max_size=12,
    ),
    clean=st.booleans(),
)
def test_random_bytes_never_raise(
    api: str,
    endpoint: str,
    stream: bool,
    status: int,
    content_type: str,
    pieces: list[bytes],
    clean: bool,
) -> None:
    case = Case(
        "",
        b"",
        api=api,
        endpoint=endpoint,
        stream=stream,
        status=status,
        content_type=content_type,
    )
    reader = reader_for(case)
    for number, piece in enumerate(pieces):
        reader.feed(float(number), piece)
    ending = reader.ended(clean)
    assert (ending.status == "ok") == (ending.error_kind is None)
