"""A token event recognised by its bytes is one that decoding would call so."""

import pytest

from tests.wire_streams import (
    DONE,
    STOP,
    TWO,
    Case,
    chat_line,
    chunk,
    ndjson,
    reader_for,
    sse,
    words,
)
from tokenswarm.wire import ollama, openai
from tokenswarm.wire.shape import learn

TOKEN = sse(*words("a"))
LINE = ndjson(chat_line("a", 3))

NOT_LEARNED = {
    # an escape: a quote might be no quote
    "an escape in the text": (sse(*words("\n")), "content", "\n"),
    "an escape beside the text": (sse(chunk({"content": "a"}, p="\\")), "content", "a"),
    "the key twice": (sse(chunk({"content": "a", "x": {"content": "a"}})), "content", "a"),
    "the key as a value, too": (sse(chunk({"content": "a", "x": "content"})), "content", "a"),
    "a number under the key": (sse(chunk({"content": 1})), "content", "1"),
    "no such key": (TOKEN, "text", "a"),
    "another text": (TOKEN, "content", "b"),
    "two lines": (b"id: 1\n" + TOKEN, "content", "a"),
    "two data lines": (TOKEN.replace(b',"created', b',\ndata: "created'), "content", "a"),
    "lone CR as line ends": (sse(*words("a"), end="\r\r"), "content", "a"),
    "no end": (TOKEN[:-2], "content", "a"),
    "a line without its end": (LINE[:-1], "content", "a"),
}


@pytest.mark.parametrize("name", NOT_LEARNED)
def test_what_is_not_simple_is_not_learned(name: str) -> None:
    assert learn(*NOT_LEARNED[name], 0) is None


@pytest.mark.parametrize(
    ("events", "count"),
    [
        # texts of any length, an escape, other languages
        (sse(*words("b", " longer", "", "é🙂")), 4),
        (sse(*words('"', "\n", "\\", "\u0001")), 4),
        # a lone CR or LF would end a line
        (sse(*words("b")) + TOKEN.replace(b'"a"', b'"\n"'), 1),
        (sse(*words("b")) + TOKEN.replace(b'"a"', b'"\r"'), 1),
        # a quote ends the text: what follows is another key
        (TOKEN.replace(b'"a"', b'"a","role":"assistant"'), 0),
        # escapes that JSON does not know
        (TOKEN.replace(b'"a"', b'"\\x"'), 0),
        (TOKEN.replace(b'"a"', b'"\\u12"'), 0),
        (TOKEN.replace(b'"a"', b'"\\"'), 0),
        # another event, or half of one
        (sse(*words("b"), STOP, *words("c")), 1),
        (sse(*words("b", "c"))[:-1], 1),
        (b"", 0),
    ],
)
def test_a_shape_counts_events_up_to_the_first_other(events: bytes, count: int) -> None:
    shape = learn(TOKEN, "content", "a", 0)
    assert shape is not None
    found, size = shape(events)
    assert found == count
    assert events[:size].count(b"\n\n") == count


def test_a_shape_may_want_a_text() -> None:
    shape = learn(TOKEN, "content", "a", 1)
    assert shape is not None
    assert shape(sse(*words("b", "", "c"))) == (1, len(TOKEN))


def test_the_time_stamp_of_a_line_varies() -> None:
    shape = learn(LINE, "content", "a", 1)
    assert shape is not None
    lines = ndjson(*(chat_line("w", n) for n in (0, 7, 12345)))
    assert shape(lines) == (3, len(lines))
    assert shape(LINE.replace(b"39:31", b"39\n31")) == (0, 0)
    assert shape(LINE.replace(b'Z"', b'Z","done":true,"x":"')) == (0, 0)
    assert shape(ndjson(chat_line("", 4))) == (0, 0)


def test_a_stamp_behind_the_text_is_no_slot() -> None:
    line = b'{"message":{"content":"a"},"created_at":"1"}\n'
    shape = learn(line, "content", "a", 1)
    assert shape is not None
    assert shape(line) == (1, len(line))
    assert shape(line.replace(b'"1"', b'"2"')) == (0, 0)


@pytest.mark.parametrize(
    "event",
    [
        # what carries the token is not one text
        chunk({"content": "a", "reasoning": "b"}),
        chunk({"reasoning": "a", "reasoning_content": "a"}),
        chunk({"content": "a", "tool_calls": [{"index": 0}]}),
        chunk({"content": [{"text": "a"}]}),
        {"choices": [{"delta": {"content": "a"}}, {"delta": {"content": "b"}}]},
    ],
)
def test_a_token_of_several_parts_has_no_slot(event: dict[str, object]) -> None:
    note = openai.read(sse(event)[6:])
    assert note.token
    assert note.slot is None


def test_a_native_token_of_two_texts_has_no_slot() -> None:
    note = ollama.read(ndjson(chat_line("a", message={"thinking": "b"})))
    assert note.token
    assert note.slot is None


def test_a_line_of_its_own_before_a_token_event_counts() -> None:
    """An event whose first line came alone: the rest looks like a token, the whole is none."""
    reader = reader_for(Case("", b""))
    assert reader.feed(1.0, sse(*TWO)) == 2
    assert reader.feed(2.0, b"event: error\n") == 0
    assert reader.feed(3.0, TOKEN) == 0
    assert reader.ended(True).error_kind == "server_error"


def test_a_gigantic_event_is_no_token_even_when_it_has_the_shape() -> None:
    reader = reader_for(Case("", b"", limit=1000))
    assert reader.feed(1.0, sse(*TWO)) == 2
    assert reader.feed(2.0, sse(*words("x" * 2000))) == 0
    assert reader.fault
    assert reader.feed(3.0, sse(*words("b"), STOP, DONE)) == 0
    assert reader.ended(True).error_kind == "too_large"


def test_events_that_all_differ_are_all_counted() -> None:
    reader = reader_for(Case("", b""))
    for number in range(200):
        assert reader.feed(float(number), sse(*words("a", created=number))) == 1
    assert len(reader.token_times) == 200
