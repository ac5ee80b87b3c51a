"""Every quirk as one named case, and the recordings of vLLM."""

import json
from typing import Any

from tests.wire_streams import (
    A_CALL,
    DONE,
    JSON,
    NATIVE_COUNTS,
    NDJSON,
    OK_TWO,
    RECORDINGS,
    ROLE,
    SSE,
    STOP,
    TWO,
    USAGE,
    Case,
    chat_line,
    chunk,
    final_line,
    ndjson,
    sse,
    usage,
    words,
)


def _ollama(name: str, body: bytes, **more: Any) -> Case:
    return Case(name, body, **{"api": "ollama", "content_type": NDJSON, **more})


def _document(name: str, body: Any, **more: Any) -> Case:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Case(name, data, **{"stream": False, "content_type": JSON, **more})


def _failed(name: str, status: int, body: bytes, **more: Any) -> Case:
    return Case(name, body, **{"kind": "http", "status": status, "content_type": JSON, **more})


def _tokens() -> list[Case]:
    """What is a token and what is not."""
    return [
        Case("role only chunk is no token", sse(ROLE, *TWO, STOP, USAGE, DONE), None, 2, OK_TWO),
        # llama.cpp: content null beside the role
        Case(
            "role with null content is no token",
            sse(chunk({"role": "assistant", "content": None}), *TWO, STOP, USAGE, DONE),
            None, 2, OK_TWO,
        ),
        # vLLM: a token that decodes to nothing
        Case(
            "empty content without a role is a token",
            sse(ROLE, *words("", "a", ""), chunk({"content": ""}, "length"), DONE),
            None, 4, {"counts.output": None, "finish_reason": "length"},
        ),
        # Ollama's /v1: the role stands in the content chunks
        Case(
            "content with a role is a token",
            sse(*(chunk({"role": "assistant", "content": t}) for t in ("a", "b", "", "c")),
                chunk({"role": "assistant", "content": ""}, "stop"), DONE),
            None, 3, {"finish_reason": "stop"},
        ),
        # SGLang: all fields there, null
        Case(
            "null role and null reasoning are absent",
            sse(*(chunk({"role": None, "content": t, "reasoning_content": None,
                         "tool_calls": None}) for t in ("a", "", "b")),
                chunk({"role": None, "content": None, "reasoning_content": None}, "stop"), DONE),
            None, 3,
        ),
        Case("an empty delta is no token", sse(*TWO, chunk({}), STOP, DONE), None, 2),
        Case(
            "reasoning is a token but not visible",
            sse(ROLE, *(chunk({"reasoning": t}) for t in "abc"), *words("d"), STOP, DONE),
            None, 4,
        ),
        Case(
            "reasoning_content is a token but not visible",
            sse(ROLE, *(chunk({"reasoning_content": t}) for t in "abc"), STOP, DONE),
            None, 3, {"first_visible": None},
        ),
        # Ollama's /v1 while thinking
        Case(
            "reasoning beside an empty content is not visible",
            sse(*(chunk({"role": "assistant", "content": "", "reasoning": t}) for t in "abc"),
                STOP, DONE),
            None, 3, {"first_visible": None},
        ),
        Case(
            "reasoning under both names counts once",
            sse(*(chunk({"reasoning": t, "reasoning_content": t}) for t in "abc"), STOP, DONE),
            None, 3,
        ),
        Case("a tool call is a visible token", sse(ROLE, chunk(A_CALL), STOP, DONE), None, 1,
             {"first_visible": 1.0}),
        Case("an empty list of tool calls is no token",
             sse(chunk({"role": "assistant", "tool_calls": []}), *TWO, STOP, DONE), None, 2),
        Case(
            "two choices in a chunk are one event",
            sse(*({"model": "m", "choices": [
                {"index": i, "delta": {"content": "x"}, "finish_reason": None} for i in (0, 1)
            ]} for _ in range(3)), STOP, DONE),
            None, 3,
        ),
        Case("content of another type is a token",
             sse(chunk({"content": [{"type": "text", "text": "a"}]}), STOP, DONE), None, 1),
        Case(
            "text completions count each text",
            sse(*({"model": "m", "choices": [{"index": 0, "text": t, "finish_reason": f}]}
                  for t, f in (("a", None), ("", None), ("b", "length"))), USAGE, DONE),
            None, 3, {"finish_reason": "length"}, endpoint="completions",
        ),
        Case(
            "escapes, quotes and lines in the text are text",
            sse(ROLE, *words("a", '"', "\\", "\n", "}\n\ndata: [DONE]\n\n", "é", "\u2028", "b"),
                STOP, DONE),
            None, 8,
        ),
        Case(
            "text of another language is bytes",
            sse(*words("x")) + "".join(
                f'data: {{"choices":[{{"delta":{{"content":"{t}"}}}}]}}\n\n'
                for t in ("日本", "🙂", "\u2028", "\u0085", "ß")
            ).encode() + sse(STOP, DONE),
            None, 6,
        ),
    ]  # fmt: skip


def _usages() -> list[Case]:
    """Counts by the server."""
    details = usage(
        9, 2, prompt_tokens_details={"cached_tokens": 8},
        completion_tokens_details={"reasoning_tokens": 1},
    )  # fmt: skip
    return [
        Case("several tokens in a chunk: usage is the truth",
             sse(*TWO, STOP, chunk(None, usage=usage(3, 24)), DONE), None, 2,
             {"counts.output": 24, "counts.token_events": 2}),
        # transformers serve: usage on the finish chunk, and no [DONE]
        Case("usage on the finish chunk", sse(ROLE, *TWO, chunk({}, "stop", usage=usage())),
             None, 2, {**OK_TWO, "done": False}),
        Case(
            "continuous usage: the last wins",
            sse(chunk({"role": "assistant", "content": ""}, usage=usage(3, 0)),
                *(chunk({"content": "x"}, usage=usage(3, n)) for n in (1, 2, 3)),
                chunk({"content": "x"}, "length", usage=usage(3, 4)),
                chunk(None, usage=usage(3, 4)), DONE),
            None, 4, {"counts.output": 4},
        ),
        Case("null usage says nothing", sse(*words("a", "b", usage=None), STOP, DONE), None, 2,
             {"counts.output": None, "counts.source": None}),
        # Ollama's /v1/completions
        Case("an all-zero usage says nothing",
             sse(*words("a", "b", usage=usage(0, 0)), STOP, DONE), None, 2,
             {"counts.output": None, "counts.prompt": None}),
        Case("cached and reasoning tokens",
             sse(*TWO, STOP, chunk(None, usage=details), DONE), None, 2,
             {"counts.cached": 8, "counts.reasoning": 1, "counts.prompt": 9}),
        Case("null details say nothing",
             sse(*TWO, STOP, chunk(None, usage=usage(prompt_tokens_details=None)), DONE), None, 2,
             {"counts.cached": None, "counts.output": 2}),
        Case("odd usage says nothing",
             sse(*TWO, STOP, chunk(None, usage={"completion_tokens": "2"}), DONE), None, 2,
             {"counts.output": None}),
        Case(
            "timings of llama.cpp",
            sse(*TWO, chunk({}, "stop", timings={
                "cache_n": 5, "prompt_n": 6, "prompt_ms": 120.5,
                "predicted_n": 2, "predicted_ms": 40}), DONE),
            None, 2,
            {"counts.output": 2, "counts.prompt": 11, "counts.cached": 5,
             "counts.source": "native", "server.prompt_eval_s": 0.1205, "server.eval_s": 0.04},
        ),
        Case("usage goes before timings",
             sse(*TWO, STOP, chunk(None, usage=usage(3, 2), timings={"predicted_n": 9}), DONE),
             None, 2, {"counts.output": 2, "counts.source": "usage"}),
        Case("another model answers",
             sse(*words("a", model="other"), chunk({}, "stop", model="other"), DONE),
             None, 1, {"model_reply": "other"}),
        Case("the tag latest is no other model",
             sse(*words("a", model="m:latest"), chunk({}, "stop", model="m:latest"), DONE),
             None, 1, {"model_reply": None}),
    ]  # fmt: skip


def _framing() -> list[Case]:
    """The same two tokens in every frame that SSE allows."""
    whole = [ROLE, *TWO, STOP, USAGE, DONE]
    by_lines = b"".join(
        b"data: " + json.dumps(e, indent=0).encode().replace(b"\n", b"\ndata:") + b"\n\n"
        for e in whole[:-1]
    )
    comments = b": ping\n\n" + b"".join(sse(e) + b": keep-alive\n\n:\n\n" for e in whole)
    named = b"".join(b"event: message\nid: 7\nretry: 9\n" + sse(e) for e in whole)
    frames = {
        "no space after data": sse(*whole, prefix="data:"),
        "CRLF": sse(*whole, end="\r\n\r\n"),
        "CR": sse(*whole, end="\r\r"),
        "mixed line ends": sse(ROLE, end="\r\n\n") + sse(TWO[0], end="\n\r\n")
        + sse(TWO[1], end="\r\n\r") + sse(STOP, USAGE, DONE, end="\n\r"),
        "extra blank lines": b"\n\n" + sse(*whole, end="\n\n\n\n"),
        "a single blank line more": sse(*whole, end="\n\n\n"),
        "data over several lines": by_lines + sse(DONE),
        "comments and pings": comments,
        "event, id and retry lines": named,
        "a byte order mark": b"\xef\xbb\xbf" + sse(*whole),
        "no blank line at the end": sse(*whole)[:-2],
        "no line end at the end, no [DONE]": sse(*whole[:-1])[:-2],
        "spaces after colons in the JSON": b"".join(
            b"data: " + json.dumps(e).encode() + b"\n\n" for e in whole[:-1]
        ) + sse(DONE),
        "white space around": sse(*whole, end="  \n\n", prefix="data:   "),
    }  # fmt: skip
    cases = [Case(name, body, None, 2, OK_TWO) for name, body in frames.items()]
    # a ping is the first event, not the first token
    cases.append(Case("only pings", b": ping\n\n: ping\n\n", "empty", 0, {"first_event": 1.0}))
    return cases


def _endings() -> list[Case]:
    """How streams end, well and badly."""
    error = {"error": {"message": "out of memory", "type": "server_error", "code": 500}}
    return [
        Case("no [DONE] but a finish reason", sse(*TWO, STOP), None, 2, {"done": False}),
        Case("the end without finish reason", sse(ROLE, *TWO), "truncated", 2),
        # llama-cpp-python when another request interrupts
        Case("[DONE] after a cut", sse(ROLE, *TWO, DONE), "truncated", 2, {"done": True}),
        # Ollama's /v1 hides an error in an empty chunk
        Case("an empty chunk, then the end",
             sse(*TWO, chunk({"role": "assistant", "content": ""})), "truncated", 2),
        Case("an empty chunk and nothing else",
             sse(chunk({"role": "assistant", "content": ""})), "truncated", 0),
        Case("an event cut in the middle", sse(*TWO)[:-30], "truncated", 1),
        Case("a closed connection", sse(*TWO), "reset", 2, clean=False),
        Case("a closed connection in an event", sse(*TWO)[:-9], "reset", 1, clean=False),
        Case("a closed connection before any event", b"", "reset", 0, clean=False),
        Case("a closed connection after [DONE]", sse(*TWO, STOP, DONE), None, 2, clean=False),
        Case("a closed connection after the finish reason", sse(*TWO, STOP), "reset", 2,
             clean=False),
        Case("an error object in the stream", sse(*TWO, error, DONE), "server_error", 2,
             text="out of memory"),
        Case("an error object at once", sse(error), "server_error", 0, text="out of memory"),
        Case("an error as text", sse(*TWO, {"error": "CUDA error"}), "server_error", 2,
             text="CUDA error"),
        Case("SGLang's error object", sse({"object": "error", "message": "aborted by user"}, DONE),
             "server_error", 0, text="aborted by user"),
        Case("an error line of old llama.cpp",
             sse(*TWO) + b'error: {"code":500,"message":"slot lost"}\n\n', "server_error", 2,
             text="slot lost"),
        Case("an error event", sse(*TWO) + b'event: error\ndata: {"message":"gone"}\n\n',
             "server_error", 2, text="gone"),
        Case("a bare JSON error where an event should be", b'{"error":"not loaded"}',
             "server_error", 0, text="not loaded"),
        Case("a JSON error document for a stream", b'{"error":{"message":"no slot"}}',
             "server_error", 0, content_type=JSON, text="no slot"),
        Case("error null is no error", sse(*words("a", error=None), STOP, DONE), None, 1),
        # vLLM put to sleep
        Case("finish reason abort", sse(*TWO, chunk({}, "abort"), DONE), "aborted", 2,
             {"finish_reason": "abort"}),
        Case("finish reason error", sse(*TWO, chunk({}, "error"), DONE), "aborted", 2),
        Case("finish reason repetition is an end", sse(*TWO, chunk({}, "repetition"), DONE), None,
             2, {"finish_reason": "repetition"}),
        Case("an empty body", b"", "empty", 0),
        Case("[DONE] alone", sse(DONE), "empty", 0),
        Case("a finish reason without a token", sse(ROLE, STOP, DONE), "empty", 0),
        Case("nothing after [DONE] counts", sse(*TWO, STOP, DONE, *TWO, error), None, 2),
        Case("not JSON", sse(*TWO) + b"data: {oops\n\n" + sse(*TWO), "protocol", 2,
             {"fault": True}, text="oops"),
        Case("JSON, but no object", sse("[1,2]"), "protocol", 0, {"fault": True}),
        Case("choices of another type", sse({"choices": {"a": 1}}), "protocol", 0),
        Case("nested beyond reason", b"data: " + b"[" * 200_000 + b"\n\n", "protocol", 0),
        Case("plain text as an event stream", b"upstream timed out\n\n", "protocol", 0,
             text="upstream timed out"),
        Case("a page under 200", b"<html><head><style>p{}</style></head><p>Sign in</p></html>",
             "protocol", 0, content_type="text/html", text="Sign in"),
        Case("an event beyond the bound", sse(*TWO, *words("x" * 2000), *TWO), "too_large", 2,
             {"fault": True}, limit=1000),
        Case("an endless event", sse(*TWO) + b"data: " + b"x" * 5000, "too_large", 2,
             {"fault": True}, limit=1000),
        Case("broken UTF-8 in a text is still a token",
             sse(*TWO) + sse(*TWO).replace(b"Hel", b"H\xff\xfe") + sse(STOP, DONE), None, 4),
        Case("a lone surrogate and a raw control character are still tokens",
             sse(*TWO) + sse(*words("@@", "##")).replace(b"@@", b"\\ud800").replace(b"##", b"\x01")
             + sse(STOP, DONE), None, 4),
        Case("NaN beside a text is still a token",
             sse(*words("a", p="@")).replace(b'"@"', b"NaN") + sse(STOP, DONE), None, 1),
    ]  # fmt: skip


def _native() -> list[Case]:
    """Ollama's own API."""
    two = [chat_line("Hel", 1), chat_line("lo", 20)]
    counted = final_line(**NATIVE_COUNTS)
    native = {
        "counts.output": 2, "counts.prompt": 11, "counts.source": "native", "done": True,
        "server.total_s": 4.0, "server.load_s": 1.0, "server.prompt_eval_s": 0.5,
        "server.eval_s": 0.25, "finish_reason": "stop",
    }  # fmt: skip
    think = [chat_line("", 1, message={"thinking": t}) for t in "abc"]
    generate = [
        {"model": "m", "created_at": f"2026-11-22T15:39:31.{n}Z", "response": t, "done": False}
        for n, t in enumerate(["a", "b", '"q"', "", "c"])
    ]
    last = {"model": "m", "response": "", "done": True, "done_reason": "length", **NATIVE_COUNTS}
    return [
        _ollama("chat lines", ndjson(*two, counted), tokens=2, expect=native),
        _ollama("many chat lines",
                ndjson(*(chat_line(f"w{n}", n) for n in range(40)), final_line(eval_count=40)),
                tokens=40, expect={"counts.output": 40, "counts.prompt": None}),
        _ollama("generate lines", ndjson(*generate, last), tokens=4, endpoint="generate",
                expect={"finish_reason": "length", "counts.output": 2}),
        _ollama("lines that end with CRLF", ndjson(*two, counted).replace(b"\n", b"\r\n"),
                tokens=2, expect=native),
        _ollama("no newline at the end", ndjson(*two, counted)[:-1], tokens=2, expect=native),
        _ollama("empty lines", b"\n\n" + ndjson(*two) + b"\n \n" + ndjson(counted), tokens=2,
                expect=native),
        _ollama("thinking is not visible", ndjson(*think, counted), tokens=3,
                expect={"first_visible": None}),
        _ollama("thinking, then content", ndjson(*think, *two, counted), tokens=5,
                expect={"first_visible": 1.0}),
        _ollama("a native tool call", ndjson(
            chat_line("", message={"tool_calls": [{"function": {"name": "f"}}]}), counted),
            tokens=1),
        _ollama("an empty content is no native token", ndjson(*two, chat_line("", 3), counted),
                tokens=2, expect=native),
        # SGLang posing as Ollama
        _ollama("a final line without counts", ndjson(*two, final_line()), tokens=2,
                expect={"counts.output": None, "counts.prompt": None, "counts.source": None,
                        "server.total_s": None}),
        _ollama("an error line", ndjson(*two, {"error": "llama runner died"}), tokens=2,
                kind="server_error", text="llama runner died"),
        _ollama("an error line alone", b'{"error":"model runner stopped"}', kind="server_error",
                content_type=JSON, text="model runner stopped"),
        # the guard against repeated tokens
        _ollama("the end without done", ndjson(*two), kind="truncated", tokens=2),
        _ollama("a closed connection, native", ndjson(*two)[:-20], kind="reset", tokens=1,
                clean=False),
        _ollama("a model was loaded", ndjson({"model": "m", "done": True, "done_reason": "load"}),
                expect={"finish_reason": "load", "counts.output": None}),
        _ollama("a model was unloaded",
                ndjson({"model": "m", "done": True, "done_reason": "unload"}),
                expect={"finish_reason": "unload"}),
        _ollama("done without a token", ndjson(counted), kind="empty"),
        _ollama("an empty native body", b"", kind="empty"),
        _ollama("no JSON line", ndjson(*two) + b"oops\n" + ndjson(*two), kind="protocol", tokens=2),
        _ollama("native: another model answers",
                ndjson(*({**x, "model": "n:7b"} for x in (*two, counted))), tokens=2,
                expect={"model_reply": "n:7b"}),
        _ollama("native: a line beyond the bound", ndjson(chat_line("x" * 2000), counted),
                kind="too_large", limit=1000),
        _ollama("native: quotes and escapes",
                ndjson(*(chat_line(t, n) for n, t in enumerate(["a", "\n", '"', "\\", "b"])),
                       counted), tokens=5),
    ]  # fmt: skip


def _documents() -> list[Case]:
    """Answers in one piece: counts, no times."""
    message = {"role": "assistant", "content": "Hello"}
    answer = {"model": "m", "choices": [{"message": message, "finish_reason": "stop"}]}
    vector = {"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}
    native = {**final_line(**NATIVE_COUNTS), "message": message}
    return [
        _document("a whole answer", {**answer, "usage": usage()}, expect=OK_TWO),
        _document("a whole answer without usage", answer, expect={"counts.output": None}),
        _document("a whole answer without content",
                  {"choices": [{"message": {"role": "assistant", "content": ""}}]}, kind="empty"),
        _document("a whole text completion",
                  {"model": "m", "choices": [{"text": "Hi", "finish_reason": "length"}],
                   "usage": usage()}, endpoint="completions",
                  expect={**OK_TWO, "finish_reason": "length"}),
        _document("a whole answer of tool calls",
                  {"choices": [{"message": {"role": "assistant", "content": None, **A_CALL}}]}),
        _document("a whole answer where a stream was asked for", {**answer, "usage": usage()},
                  stream=True, expect=OK_TWO),
        _document("no choices", {"choices": []}, kind="empty"),
        _document("an empty document", b"", kind="empty"),
        _document("half a document", b'{"choices":[{"mess', kind="protocol"),
        _document("half a document, closed", b'{"choices":[{"mess', kind="reset", clean=False),
        _document("an error under 200", {"error": "busy"}, kind="server_error", text="busy"),
        _document("an aborted whole answer",
                  {"choices": [{"message": message, "finish_reason": "abort"}]}, kind="aborted"),
        _document("a whole native answer", native, api="ollama",
                  expect={"counts.output": 2, "counts.prompt": 11, "server.total_s": 4.0}),
        _document("an event stream where a document was asked for",
                  sse(ROLE, *TWO, STOP, USAGE, DONE), content_type=SSE, tokens=2, expect=OK_TWO),
        _document("embeddings", {"object": "list", "data": [vector], "model": "m",
                                 "usage": {"prompt_tokens": 7, "total_tokens": 7}},
                  endpoint="embeddings", stream=True,
                  expect={"counts.prompt": 7, "counts.output": None, "counts.source": "usage"}),
        _document("embeddings as base64", {"data": [{"embedding": "AAAA"}]}, endpoint="embeddings"),
        _document("no embedding", {"data": [{"embedding": []}]}, endpoint="embeddings",
                  kind="empty"),
        _document("an error instead of embeddings", {"error": {"message": "no such model"}},
                  endpoint="embeddings", kind="server_error", text="no such model"),
        _document("native embeddings",
                  {"model": "m", "embeddings": [[0.1]], "total_duration": 2_000_000_000,
                   "prompt_eval_count": 5}, api="ollama", endpoint="embeddings",
                  expect={"counts.prompt": 5, "server.total_s": 2.0, "counts.source": "native"}),
        _document("no native embedding", {"model": "m", "embeddings": []}, api="ollama",
                  endpoint="embeddings", kind="empty"),
    ]  # fmt: skip


def _http_errors() -> list[Case]:
    """HTTP errors; the text is what the server said."""
    return [
        _failed("not found, OpenAI's way", 404, b'{"error":{"message":"no model x","code":404}}',
                text="no model x"),
        _failed("not found, Ollama's way", 404, b'{"error":"model x not found"}', api="ollama",
                text="model x not found"),
        _failed("unprocessable, FastAPI's way", 422,
                b'{"detail":[{"loc":["body"],"msg":"field required"}]}', text="field required"),
        _failed("busy", 503, b'{"error":"server busy, please try again."}', text="server busy"),
        _failed("loading", 503, b'{"error":{"code":503,"message":"Loading model"}}',
                text="Loading model"),
        _failed("a proxy's page", 502, b"<html><title>502</title><h1>Bad Gateway</h1></html>",
                content_type="text/html", text="502 Bad Gateway"),
        _failed("plain text", 429, b"too many requests\n", content_type="text/plain",
                text="too many requests"),
        _failed("no body", 500, b"", text="HTTP 500, empty body"),
        _failed("a redirect", 307, b"", text="HTTP 307, empty body"),
        _failed("half a JSON body", 500, b'{"error":{"mess', clean=False, text='{"error":{"mess'),
        _failed("an event stream of an error", 400, b'data: {"error":"x"}\n\n', content_type=SSE,
                text='data: {"error":"x"}'),
        _failed("a long text is cut", 500, b"x" * 100_000, expect={"http_status": 500},
                text="x" * 300),
    ]  # fmt: skip


CASES = [
    *_tokens(), *_usages(), *_framing(), *_endings(), *_native(), *_documents(), *_http_errors(),
]  # fmt: skip


def recorded() -> list[Case]:
    """The recorded streams of vLLM with the counts that the server itself gave."""
    counts = {
        # file: (token events, usage)
        "chat_stream": (16, 16),
        "chat_stream_continuous_usage": (16, 16),
        "chat_stream_no_usage": (16, None),
        "chat_words": (24, 24),
        "chat_words_two_tokens_in_one_chunk": (23, 24),  # two tokens in the last chunk
        "completions_stream": (15, 16),  # 15 chunks for 16 tokens
    }
    return [
        Case(f"recorded {name}", (RECORDINGS / f"{name}.sse").read_bytes(), None, events,
             {"counts.output": output, "finish_reason": "length", "done": True},
             endpoint="completions" if name.startswith("completions") else "chat")
        for name, (events, output) in counts.items()
    ]  # fmt: skip
