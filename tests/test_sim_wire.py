"""Bytes on the wire of the simulated server: both APIs as Ollama writes them, and every knob."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sim_client import Streamed, call, opened, stream
from tokenswarm.sim import truth
from tokenswarm.sim.process import start
from tokenswarm.sim.serve import Endpoints

TIME = re.compile(r"2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,9}Z")


@pytest.fixture(scope="module")
def sim() -> Iterator[Endpoints]:
    """Profile chaos, ten times faster than life."""
    with start("chaos", speed=10) as endpoints:
        yield endpoints


def chat(sim: Endpoints, model: str = "plain", tokens: int = 8, **more: Any) -> Streamed:
    """A streamed /v1 chat with usage."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "say some words"}],
        "stream": True,
        "max_tokens": tokens,
        "stream_options": {"include_usage": True},
    }
    return stream(sim.ollama_url, "/v1/chat/completions", body | more)


def native(sim: Endpoints, model: str = "plain", tokens: int = 8, **more: Any) -> Streamed:
    """A streamed /api/chat."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "say some words"}],
        "options": {"num_predict": tokens},
    }
    return stream(sim.ollama_url, "/api/chat", body | more)


def contents(events: list[Any]) -> list[str]:
    """`delta.content` of every chunk that has one."""
    deltas = [c["delta"] for e in events if e != "[DONE]" for c in e.get("choices", [])]
    return [d["content"] for d in deltas if "content" in d]


# both APIs as they are


def test_v1_chat_streams_content_finish_usage_and_done(sim: Endpoints) -> None:
    got = chat(sim, tokens=3)
    assert b"Content-Type: text/event-stream\r\n" in got.head
    assert len(got.chunks) == 6  # three tokens, finish, usage, [DONE], each its own write
    assert all(c.startswith(b"data: ") and c.endswith(b"\n\n") for c in got.chunks)
    *tokens, finish, usage, done = got.events
    assert [list(t["choices"][0]["delta"]) for t in tokens] == [
        ["role", "content"],  # the role comes with the first content
        ["content"],
        ["content"],
    ]
    first = tokens[0]
    assert re.fullmatch(r"chatcmpl-\d{1,3}", first["id"])
    assert first["object"] == "chat.completion.chunk"
    assert (first["model"], first["system_fingerprint"]) == ("plain", "fp_ollama")
    assert [t["choices"][0]["finish_reason"] for t in tokens] == [None] * 3
    assert finish["choices"] == [{"index": 0, "delta": {}, "finish_reason": "length"}]
    assert usage["choices"] == []
    # 3 words and 8 of the template
    assert usage["usage"] == {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
    assert done == "[DONE]"


def test_v1_says_usage_only_when_asked(sim: Endpoints) -> None:
    assert b'"usage"' not in chat(sim, stream_options=None).body


def test_v1_completions_carry_a_zero_usage_on_every_chunk_when_asked(sim: Endpoints) -> None:
    body: dict[str, Any] = {"model": "plain", "prompt": "hi", "max_tokens": 2, "stream": True}
    body["stream_options"] = {"include_usage": True}
    *chunks, last, done = stream(sim.ollama_url, "/v1/completions", body).events
    assert [c["usage"]["total_tokens"] for c in chunks] == [0, 0, 0]
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None, None, "length"]
    assert all(c["choices"][0]["text"] for c in chunks[:2])
    assert (last["choices"], last["usage"]["completion_tokens"], done) == ([], 2, "[DONE]")


def test_native_chat_streams_lines_and_a_last_one_with_durations(sim: Endpoints) -> None:
    got = native(sim, tokens=3)
    assert b"Content-Type: application/x-ndjson\r\n" in got.head
    assert all(c.endswith(b"}\n") for c in got.chunks)
    *tokens, last = got.lines
    assert len(tokens) == 3
    assert all(list(t) == ["model", "created_at", "message", "done"] for t in tokens)
    assert all(TIME.fullmatch(t["created_at"]) for t in tokens)
    assert len({t["created_at"] for t in tokens}) == 3
    assert (last["done"], last["done_reason"]) == (True, "length")
    assert (last["prompt_eval_count"], last["eval_count"]) == (11, 3)
    parts = [last[f"{p}_duration"] for p in ("load", "prompt_eval", "eval")]
    assert all(isinstance(p, int) and p > 0 for p in parts)
    assert sum(parts) <= last["total_duration"] <= got.seconds * 1e9


def test_native_generate_has_response_and_context(sim: Endpoints) -> None:
    body = {"model": "plain", "prompt": "hi", "options": {"num_predict": 2}}
    *tokens, last = stream(sim.ollama_url, "/api/generate", body).lines
    assert all(t["response"] and not t["done"] for t in tokens)
    assert (last["response"], last["done"], last["eval_count"]) == ("", True, 2)
    assert len(last["context"]) == 10  # 9 prompt tokens and all but the last output token
    raw = stream(sim.ollama_url, "/api/generate", body | {"raw": True}).lines[-1]
    assert "context" not in raw
    assert raw["prompt_eval_count"] == 1  # no template


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_an_answer_that_is_not_streamed_has_the_same_words_and_counts(
    sim: Endpoints, path: str
) -> None:
    body = {"model": "plain", "messages": [{"role": "user", "content": "hi"}], "stream": False}
    limit = {"options": {"num_predict": 4}, "max_tokens": 4}
    got = call(sim.ollama_url, "POST", path, body | limit)
    assert got.headers["content-type"] == "application/json; charset=utf-8"
    if path == "/api/chat":
        text, tokens = got.json["message"]["content"], got.json["eval_count"]
        assert got.json["eval_duration"] > 0
    else:
        assert got.json["object"] == "chat.completion"
        text = got.json["choices"][0]["message"]["content"]
        tokens = got.json["usage"]["completion_tokens"]
    assert (len(text.split()), tokens) == (4, 4)


def test_a_model_that_is_not_limited_ends_by_itself(sim: Endpoints) -> None:
    last = native(sim, options={}).lines[-1]
    assert (last["eval_count"], last["done_reason"]) == (128, "stop")


def test_v1_ignores_max_completion_tokens_as_ollama_does(sim: Endpoints) -> None:
    got = chat(sim, max_tokens=None, max_completion_tokens=2)
    assert got.events[-2]["usage"]["completion_tokens"] == 128


def test_preload_and_unload_answer_without_durations(sim: Endpoints) -> None:
    extras: dict[str, Any] = {"/api/generate": {}, "/api/chat": {"messages": []}}
    for path, extra in extras.items():
        for keep_alive, reason in (("5m", "load"), (0, "unload")):
            body = {"model": "role-only", "keep_alive": keep_alive} | extra
            got = call(sim.ollama_url, "POST", path, body)
            assert (got.json["done"], got.json["done_reason"]) == (True, reason)
            assert b"duration" not in got.body
    call(sim.ollama_url, "POST", "/api/generate", {"model": "role-only", "keep_alive": -1})


def test_embeddings_come_in_both_forms(sim: Endpoints) -> None:
    body = {"model": "plain", "input": ["one two", "three"]}
    old = call(sim.ollama_url, "POST", "/api/embed", body).json
    new = call(sim.ollama_url, "POST", "/v1/embeddings", body).json
    assert [len(v) for v in old["embeddings"]] == [64, 64]
    assert old["prompt_eval_count"] == 3
    assert [d["embedding"] for d in new["data"]] == old["embeddings"]
    assert new["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    packed = body | {"encoding_format": "base64"}
    b64 = call(sim.ollama_url, "POST", "/v1/embeddings", packed).json
    assert len(b64["data"][0]["embedding"]) == 344  # 64 floats of 4 bytes


def test_the_server_tells_about_itself(sim: Endpoints) -> None:
    def get(path: str) -> Any:
        return call(sim.ollama_url, "GET", path)

    assert get("/").body == b"Ollama is running"
    assert call(sim.ollama_url, "HEAD", "/").body == b""
    assert re.fullmatch(r"\d+\.\d+\.\d+", get("/api/version").json["version"])
    names = {m["name"] for m in get("/api/tags").json["models"]}
    assert {"plain:latest", "crlf:latest"} <= names
    assert {m["id"] for m in get("/v1/models").json["data"]} == names
    assert get("/v1/models/plain").json["id"] == "plain:latest"
    shown = call(sim.ollama_url, "POST", "/api/show", {"model": "plain"}).json
    assert shown["model_info"]["llama.context_length"] == 2048
    loaded = {m["name"]: m for m in get("/api/ps").json["models"]}["plain:latest"]
    assert (loaded["size"], loaded["size_vram"]) == (500_000_000, 500_000_000)
    assert loaded["context_length"] == 2048
    assert TIME.fullmatch(loaded["expires_at"])


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/api/chat", {"model": "none", "messages": [{}]}, 404, "model 'none' not found"),
        ("/api/generate", b"{not json", 400, "JSON"),
        ("/api/chat", {"messages": []}, 400, "model is required"),
        ("/api/chat", {"model": "plain", "keep_alive": "soon"}, 400, "invalid duration"),
        ("/api/chat", {"model": "plain", "options": {"num_ctx": "x"}}, 400, "num_ctx"),
        ("/api/embed", {"model": "plain"}, 400, "invalid input"),
        ("/v1/chat/completions", {"model": "none"}, 404, "model 'none' not found"),
        ("/v1/chat/completions", {"model": "plain", "messages": []}, 400, "too short"),
    ],
)
def test_errors_before_the_first_byte_have_the_apis_own_form(
    sim: Endpoints, path: str, body: Any, status: int, says: str
) -> None:
    got = call(sim.ollama_url, "POST", path, body)
    assert got.status == status
    if path.startswith("/v1/"):
        kind = {404: "not_found_error", 400: "invalid_request_error"}[status]
        assert got.json["error"]["type"] == kind
        assert (got.json["error"]["param"], got.json["error"]["code"]) == (None, None)
        assert says in got.json["error"]["message"]
    else:
        assert says in got.json["error"]


def test_what_is_not_http_is_refused_and_an_unknown_path_is_404(sim: Endpoints) -> None:
    assert call(sim.ollama_url, "GET", "/api/nothing").status == 404
    assert call(sim.ollama_url, "DELETE", "/api/chat").status == 404
    with opened(sim.ollama_url, "/api/chat", {}) as sock:
        assert sock.recv(4096).startswith(b"HTTP/1.1 400 ")
        sock.sendall(b"\x00\x01 nonsense\r\n\r\n")
        assert sock.recv(4096).startswith(b"HTTP/1.1 400 ")
        assert sock.recv(4096) == b""


def test_a_connection_is_kept_and_pipelined_requests_are_answered_in_order(
    sim: Endpoints,
) -> None:
    with opened(sim.ollama_url, "/api/generate", {"model": "plain"}) as sock:
        more = b"GET /api/version HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n"
        sock.sendall(more + b"Connection: close\r\n\r\n")
        got = b""
        while data := sock.recv(4096):
            got += data
    places = [got.index(x) for x in (b'"done_reason":"load"', b'"version"', b"Ollama is running")]
    assert places == sorted(places)


def test_a_client_of_http_1_0_gets_its_stream_without_chunks(sim: Endpoints) -> None:
    body = json.dumps({"model": "plain", "prompt": "hi", "options": {"num_predict": 2}}).encode()
    with opened(sim.ollama_url, "/", {}) as sock:
        sock.recv(4096)
        head = b"POST /api/generate HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body)
        sock.sendall(head + body)
        got = b""
        while data := sock.recv(4096):
            got += data
    assert b"chunked" not in got
    assert len(got.partition(b"\r\n\r\n")[2].splitlines()) == 3


# what the knobs do; profile chaos has a model for each


def test_a_role_only_chunk_comes_first(sim: Endpoints) -> None:
    events = chat(sim, "role-only", 2).events
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert list(events[1]["choices"][0]["delta"]) == ["content"]
    assert events[-2]["usage"]["completion_tokens"] == 2


def test_every_nth_token_is_empty_and_counts(sim: Endpoints) -> None:
    events = chat(sim, "empty-chunks", 7).events
    assert [not c for c in contents(events)] == [False, False, True, False, False, True, False]
    assert events[-2]["usage"]["completion_tokens"] == 7


def test_tokens_share_chunks(sim: Endpoints) -> None:
    events = chat(sim, "three-a-chunk", 8).events
    assert [len(c.split()) for c in contents(events)] == [3, 3, 2]
    assert events[-2]["usage"]["completion_tokens"] == 8


def test_reasoning_comes_before_content_in_its_own_field(sim: Endpoints) -> None:
    deltas = [e["choices"][0]["delta"] for e in chat(sim, "reasoning", 6).events[:6]]
    assert [bool(d.get("reasoning_content")) for d in deltas] == [True] * 4 + [False] * 2
    assert [bool(d["content"]) for d in deltas] == [False] * 4 + [True] * 2
    messages = [x["message"] for x in native(sim, "reasoning", 6).lines[:6]]
    assert [bool(m.get("thinking")) for m in messages] == [True] * 4 + [False] * 2


def test_a_tool_call_comes_in_pieces_on_v1_and_whole_on_native(sim: Endpoints) -> None:
    events = chat(sim, "tool-call", 5).events
    calls = [e["choices"][0]["delta"]["tool_calls"][0] for e in events[:5]]
    assert calls[0]["function"]["name"] == "look_up"
    arguments = "".join(c["function"]["arguments"] for c in calls)
    assert len(json.loads(arguments)["text"].split()) == 5
    assert events[5]["choices"][0]["finish_reason"] == "tool_calls"
    only, last = native(sim, "tool-call", 5).lines
    call_ = only["message"]["tool_calls"][0]["function"]
    assert len(call_["arguments"]["text"].split()) == 5
    assert last["eval_count"] == 5


def test_the_model_ends_early_by_itself_and_by_the_seed(sim: Endpoints) -> None:
    ends = [chat(sim, "early-eos", 50).events for _ in range(6)]
    counts = [e[-2]["usage"]["completion_tokens"] for e in ends]
    assert all(3 <= n <= 9 for n in counts)
    assert len(set(counts)) > 1
    assert ends[0][-3]["choices"][0]["finish_reason"] == "stop"


def test_the_done_marker_is_missing(sim: Endpoints) -> None:
    got = chat(sim, "no-done", 3)
    assert b"[DONE]" not in got.body
    assert got.events[-1]["usage"]["completion_tokens"] == 3


# a model, tokens that arrive, how the connection ends, whether [DONE] comes
ENDINGS = [
    ("done-after-cut", 5, "done", True),  # llama-cpp-python when interrupted
    ("error-object", 5, "done", True),  # vLLM
    ("error-line", 5, "done", False),  # llama.cpp of old
    ("swallowed-error", 6, "done", False),  # Ollama's /v1: one more, empty chunk
    ("cut", 5, "eof", False),
    ("reset", 5, "reset", False),
    ("empty", 0, "done", False),
]


@pytest.mark.parametrize(("model", "tokens", "end", "done"), ENDINGS)
def test_a_stream_that_ends_badly_has_no_finish_reason(
    sim: Endpoints, model: str, tokens: int, end: str, done: bool
) -> None:
    got = chat(sim, model, 9)
    assert got.head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (len(contents(got.events)), got.end) == (tokens, end)
    assert (b"[DONE]" in got.body) is done
    assert b'"finish_reason":"' not in got.body
    assert b'"usage"' not in got.body


def test_errors_in_a_stream_have_each_their_form(sim: Endpoints) -> None:
    assert b'data: {"error":{"message":' in chat(sim, "error-object").body
    assert b'\nerror: {"error":{"message":' in chat(sim, "error-line").body
    assert b'"error"' not in chat(sim, "swallowed-error").body
    assert list(native(sim, "error-object").lines[-1]) == ["error"]


def test_an_abort_is_a_finish_reason(sim: Endpoints) -> None:
    events = chat(sim, "abort", 9).events
    assert events[-3]["choices"][0]["finish_reason"] == "abort"
    assert len(contents(events)) == 5


def test_a_repeated_token_ends_the_stream_without_a_last_line(sim: Endpoints) -> None:
    got = native(sim, "repeat-guard", 20)
    assert (len(got.lines), got.end) == (12, "done")
    assert {x["message"]["content"] for x in got.lines} == {" again"}
    assert not any(x["done"] for x in got.lines)


def test_comments_stand_between_events_of_sse_only(sim: Endpoints) -> None:
    body = chat(sim, "comments", 4).body
    assert body.count(b": ping\n\n") == 3  # 7 events, before every second
    assert b"ping" not in native(sim, "comments", 4).body


def test_data_comes_without_a_space(sim: Endpoints) -> None:
    body = chat(sim, "no-space", 3).body
    assert b"data: " not in body
    assert body.count(b"data:{") == 5
    assert body.endswith(b"data:[DONE]\n\n")


def test_lines_end_in_cr_lf(sim: Endpoints) -> None:
    for got in (chat(sim, "crlf", 3), native(sim, "crlf", 3)):
        assert got.body.count(b"\n") == got.body.count(b"\r\n") > 3


def test_a_character_is_split_between_two_writes(sim: Endpoints) -> None:
    got = chat(sim, "split-utf8", 4)
    halves = [c for c in got.chunks if _cut_in_a_character(c)]
    assert len(halves) == 4
    assert len(contents(got.events)) == 4
    assert any(ord(x) > 127 for x in "".join(contents(got.events)))


def _cut_in_a_character(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError as e:
        return e.end == len(data)
    return False


def test_events_share_a_write(sim: Endpoints) -> None:
    got = chat(sim, "coalesce", 8)
    assert [c.count(b"data: ") for c in got.chunks] == [4, 4, 3]


def test_each_event_comes_in_pieces(sim: Endpoints) -> None:
    got = chat(sim, "fragment", 3)
    assert len(got.chunks) == 6 * 3
    assert got.events == [*got.events[:-1], "[DONE]"]
    assert len(contents(got.events)) == 3


def test_a_share_of_requests_gets_an_http_error(sim: Endpoints) -> None:
    answers = [chat(sim, "http-json", 1) for _ in range(12)]
    failed = [a for a in answers if a.head.startswith(b"HTTP/1.1 500 ")]
    assert 0 < len(failed) < 12


@pytest.mark.parametrize(
    ("model", "status", "body"), [("http-html", 502, b"<html>"), ("http-empty", 429, b"")]
)
def test_http_errors_come_with_any_body(
    sim: Endpoints, model: str, status: int, body: bytes
) -> None:
    got = call(sim.ollama_url, "POST", "/api/generate", {"model": model, "prompt": "x"})
    assert got.status == status
    assert got.body.startswith(body)
    assert bool(got.body) == bool(body)


def test_a_giant_event_is_one_event(sim: Endpoints) -> None:
    assert [len(c) > 299_999 for c in contents(chat(sim, "giant", 3).events)] == [
        False,
        True,
        False,
    ]


def test_usage_is_missing_wrong_continuous_or_on_the_finish_chunk(sim: Endpoints) -> None:
    assert b'"usage"' not in chat(sim, "no-usage").body
    assert "eval_count" not in native(sim, "no-usage").lines[-1]
    assert chat(sim, "wrong-usage", 4).events[-2]["usage"]["completion_tokens"] == 7
    running = chat(sim, "continuous-usage", 3).events[:3]
    assert [e["usage"]["completion_tokens"] for e in running] == [1, 2, 3]
    finish = chat(sim, "usage-on-finish", 3).events[-2]
    assert finish["choices"][0]["finish_reason"] == "length"
    assert finish["usage"]["completion_tokens"] == 3


def test_the_answer_names_another_model(sim: Endpoints) -> None:
    assert {e["model"] for e in chat(sim, "wrong-model", 2).events[:-1]} == {"another-model"}


def test_headers_come_late(sim: Endpoints) -> None:
    assert chat(sim, "slow-headers", 2).head_s > 0.02  # 0.2 s, ten times faster


def test_a_stream_stalls_after_a_token(sim: Endpoints) -> None:
    assert chat(sim, "stall", 5).seconds > 0.1  # 1 s, ten times faster
    assert chat(sim, "stall", 2).seconds < 0.1


# knobs while it runs


def test_knobs_change_while_the_server_runs(sim: Endpoints) -> None:
    def post(body: Any) -> Any:
        return call(sim.control_url, "POST", "/knobs", body)

    assert post({"model": "plain", "knobs": {"no_done": True}}).status == 200
    assert b"[DONE]" not in chat(sim).body
    assert call(sim.control_url, "GET", "/knobs").json["models"]["plain"] == {"no_done": True}
    wrong = post({"model": "plain", "knobs": {"no_dune": True}})
    assert (wrong.status, "no_dune" in wrong.json["error"]) == (400, True)
    assert post({"model": "nobody", "knobs": {}}).status == 400
    assert post({"model": "plain", "knobs": {}}).status == 200
    assert b"[DONE]" in chat(sim).body


def test_the_server_refuses_connections_and_comes_back(sim: Endpoints) -> None:
    call(sim.control_url, "POST", "/knobs", {"knobs": {"refuse": True}})
    with pytest.raises(ConnectionRefusedError):
        call(sim.ollama_url, "GET", "/")
    call(sim.control_url, "POST", "/knobs", {"knobs": {}})
    assert call(sim.ollama_url, "GET", "/").status == 200


# the truth of what was sent


def test_the_truth_tells_how_each_request_ended(tmp_path: Path) -> None:
    outcomes = {
        "plain": ("ok", "length", 8),
        "crlf": ("ok", "length", 8),
        "fragment": ("ok", "length", 8),
        "coalesce": ("ok", "length", 8),
        "three-a-chunk": ("ok", "length", 8),
        "no-done": ("ok", "length", 8),
        "error-object": ("error", None, 5),
        "swallowed-error": ("error", None, 5),
        "abort": ("error", "abort", 5),
        "done-after-cut": ("cut", None, 5),
        "cut": ("cut", None, 5),
        "reset": ("reset", None, 5),
        "empty": ("error", None, 0),
        "http-html": ("error", None, 0),
        "none": ("error", None, 0),
    }
    with start("chaos", speed=10, truth=tmp_path / "t.jsonl") as sim:
        for model in outcomes:
            chat(sim, model)
    read = truth.read(tmp_path / "t.jsonl")
    said = {r.model: (r.outcome, r.finish_reason, r.output_tokens) for r in read.requests}
    assert said == outcomes
    events = {r.model: len(r.token_unix_ns) for r in read.requests}
    assert [events[m] for m in ("plain", "three-a-chunk", "coalesce", "fragment", "cut")] == [
        8,
        3,
        8,
        8,
        5,
    ]
    assert [a.n for a in read.arrivals] == [r.n for r in read.requests]
