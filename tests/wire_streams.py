"""Streams of real and imagined servers, with what a reader must make of each."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tokenswarm.wire.reader import Reader, open_reader

RECORDINGS = Path(__file__).parent / "data" / "vllm-0.24.0-h200"
SSE = "text/event-stream; charset=utf-8"
NDJSON = "application/x-ndjson"
JSON = "application/json"


@dataclass(frozen=True)
class Case:
    """A response and the expected outcome. `expect` names attributes, `counts.x` or `server.x`."""

    name: str
    body: bytes
    kind: str | None = None
    tokens: int = 0
    expect: dict[str, Any] = field(default_factory=dict)
    api: str = "openai"
    endpoint: str = "chat"
    stream: bool = True
    status: int = 200
    content_type: str = SSE
    clean: bool = True
    text: str = ""
    limit: int = 4 * 1024 * 1024


class Outcome(msgspec.Struct, frozen=True):
    """Everything a reader says at the end; equal for every split of the same bytes."""

    ending: Any
    counts: Any
    server: Any
    token_times: list[float]
    first_event: float | None
    first_visible: float | None
    done: bool


def reader_for(case: Case) -> Reader:
    reader = open_reader(
        case.api, case.endpoint, case.stream, asked_model="m", max_event_bytes=case.limit
    )
    reader.headers(case.status, case.content_type)
    return reader


def outcome(reader: Reader, clean: bool) -> Outcome:
    ending = reader.ended(clean)
    return Outcome(
        ending,
        reader.counts,
        reader.server,
        reader.token_times,
        reader.first_event,
        reader.first_visible,
        reader.done,
    )


def read_whole(case: Case) -> Reader:
    reader = reader_for(case)
    reader.feed(1.0, case.body)
    reader.ended(case.clean)
    return reader


def sse(*events: Any, end: str = "\n\n", prefix: str = "data: ") -> bytes:
    """Events as SSE; dicts become JSON, text goes as it is."""
    texts = [e if isinstance(e, str) else json.dumps(e, separators=(",", ":")) for e in events]
    return "".join(f"{prefix}{t}{end}" for t in texts).encode()


def ndjson(*lines: Any) -> bytes:
    return b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)


def chunk(delta: dict[str, Any] | None, finish: str | None = None, **extra: Any) -> dict[str, Any]:
    """A chat chunk; no delta: `choices` is empty."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    choices = [] if delta is None else [choice]
    return {"id": "c-1", "created": 1, "model": "m", "choices": choices, **extra}


def words(*texts: str, **extra: Any) -> list[dict[str, Any]]:
    return [chunk({"content": t}, **extra) for t in texts]


def usage(prompt: int = 3, output: int = 2, **extra: Any) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        **extra,
    }


def chat_line(content: str, n: int = 0, **extra: Any) -> dict[str, Any]:
    """A line of /api/chat; `n` moves the time stamp, whose length varies as Go's does."""
    stamp = f"2026-11-22T15:39:31.{n * 37 + 1}Z"
    message = {"role": "assistant", "content": content, **extra.pop("message", {})}
    return {"model": "m", "created_at": stamp, "message": message, "done": False, **extra}


def final_line(**extra: Any) -> dict[str, Any]:
    return {**chat_line(""), "done": True, "done_reason": "stop", **extra}


NATIVE_COUNTS = {
    "total_duration": 4_000_000_000,
    "load_duration": 1_000_000_000,
    "prompt_eval_count": 11,
    "prompt_eval_duration": 500_000_000,
    "eval_count": 2,
    "eval_duration": 250_000_000,
}

ROLE = chunk({"role": "assistant", "content": ""})
STOP = chunk({}, "stop")
DONE = "[DONE]"
TWO = [*words("Hel", "lo")]
OK_TWO = {"counts.output": 2, "counts.prompt": 3, "counts.source": "usage", "finish_reason": "stop"}
USAGE = chunk(None, usage=usage())
A_CALL = {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]}
