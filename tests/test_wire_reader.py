"""Every quirk of every server, as one named case; and the recordings of a real one."""

from operator import attrgetter
from pathlib import Path

import pytest

from tests.wire_cases import CASES, recorded
from tests.wire_streams import (
    DONE,
    RECORDINGS,
    ROLE,
    STOP,
    TWO,
    Case,
    chat_line,
    chunk,
    final_line,
    ndjson,
    read_whole,
    reader_for,
    sse,
    words,
)
from tokenswarm.errors import UsageError
from tokenswarm.wire.reader import open_reader
from tokenswarm.wire.record import ERROR_KINDS

ALL = [*CASES, *recorded()]


def name(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", ALL, ids=name)
def test_a_response_is_classified(case: Case) -> None:
    reader = read_whole(case)
    ending = reader.ended(case.clean)
    assert ending.error_kind == case.kind, ending.error_text
    assert ending.status == ("ok" if case.kind is None else "error")
    assert ending.http_status == case.status
    assert len(reader.token_times) == reader.counts.token_events == case.tokens
    assert reader.counts.bytes_received == len(case.body)
    for path, wanted in case.expect.items():
        assert attrgetter(path)(reader) == pytest.approx(wanted), path


@pytest.mark.parametrize("case", ALL, ids=name)
def test_an_error_has_a_known_kind_and_a_short_text(case: Case) -> None:
    ending = read_whole(case).ended(case.clean)
    if case.kind is None:
        assert ending.error_text is None
    else:
        assert case.kind in ERROR_KINDS
        assert ending.error_text is not None
        assert case.text in ending.error_text
        assert 0 < len(ending.error_text) <= 300


def test_case_names_are_unique() -> None:
    assert len({c.name for c in ALL}) == len(ALL)


@pytest.mark.parametrize("shape", ["openai", "ollama"])
def test_stamps_are_those_of_their_events(shape: str) -> None:
    if shape == "openai":
        think = [chunk({"reasoning": t}) for t in "ab"]
        events = [sse(e) for e in (ROLE, *think, *TWO, STOP, DONE)]
        case = Case("", b"")
        seen = {"first_event": 0, "first_token": 1, "first_visible": 3, "last_token": 4}
    else:
        lines = [chat_line("", n, message={"thinking": "t"}) for n in range(2)]
        events = [ndjson(e) for e in (*lines, chat_line("a", 3), chat_line("b", 4), final_line())]
        case = Case("", b"", api="ollama", content_type="application/x-ndjson")
        seen = {"first_event": 0, "first_token": 0, "first_visible": 2, "last_token": 3}
    reader = reader_for(case)
    counts = [reader.feed(float(n), event) for n, event in enumerate(events)]
    assert {key: getattr(reader, key) for key in seen} == seen
    assert sum(counts) == len(reader.token_times)
    assert reader.token_times == [n for n, count in enumerate(counts) if count]


def test_events_of_one_feed_share_its_time_and_are_counted() -> None:
    reader = reader_for(Case("", b""))
    assert reader.feed(1.0, sse(ROLE, *words("a"))) == 1
    assert reader.feed(2.0, sse(*words(*"bcde"))) == 4
    assert reader.feed(3.0, sse(STOP, DONE)) == 0
    assert reader.token_times == [1.0, 2.0, 2.0, 2.0, 2.0]


def test_without_headers_there_was_no_response() -> None:
    ending = open_reader("openai", "chat", True, asked_model="m").ended(False)
    assert (ending.status, ending.error_kind, ending.http_status) == ("error", "reset", None)


def test_the_ending_is_said_once() -> None:
    reader = reader_for(Case("", b""))
    assert reader.ended(False) is reader.ended(True)


def test_a_recorded_error_keeps_the_server_s_words() -> None:
    for path in sorted(Path(RECORDINGS).glob("error_*.txt")):
        body, status = path.read_bytes().rsplit(b"\n", 2)[:2]
        reader = reader_for(Case("", b"", status=int(status), content_type="application/json"))
        reader.feed(1.0, body)
        ending = reader.ended(True)
        assert (ending.error_kind, ending.http_status) == ("http", int(status))
        assert ending.error_text is not None
        assert ending.error_text.startswith(("The model `nope` does", "max_tokens=99999 cannot"))


def test_the_recorded_whole_answer_counts_sixteen_tokens_that_decode_to_nothing() -> None:
    case = Case(
        "", (RECORDINGS / "chat.json").read_bytes(), stream=False, content_type="application/json"
    )
    reader = read_whole(case)
    assert reader.ended(True).status == "ok"
    assert (reader.counts.prompt, reader.counts.output, reader.token_times) == (13, 16, [])


def test_the_recorded_request_to_a_sleeping_server_completes() -> None:
    body = (RECORDINGS / "request_while_asleep.txt").read_bytes().rpartition(b"\n\n\n")[0]
    reader = read_whole(Case("", body + b"\n\n"))
    assert reader.ended(True).status == "ok"
    assert len(reader.token_times) == 4


def test_an_unknown_api_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown api 'grpc'"):
        open_reader("grpc", "chat", True, asked_model="m")
