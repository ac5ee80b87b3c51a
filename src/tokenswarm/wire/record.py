"""The record of one request: raw stamps and counts; all other figures derive from them."""

from typing import Literal

import msgspec

Status = Literal["ok", "error", "timeout", "cut", "cancelled"]
Phase = Literal["warmup", "steady", "ramp", "drain"]

ERROR_KINDS: dict[str, str] = {
    "dns": "the host name could not be resolved",
    "connect_refused": "nothing listens at the address",
    "unreachable": "no route to the address, or the system refused a socket",
    "connect_timeout": "no connection within the connect time-out",
    "tls": "the TLS handshake or certificate failed",
    "reset": "the connection was reset or closed before the response was complete",
    "idle_timeout": "no byte within the idle time-out",
    "total_timeout": "not finished within the total time-out",
    "http": "an HTTP status of 400 or more",
    "server_error": "an error object or error line under HTTP 200",
    "aborted": "the server gave finish_reason abort or error",
    "truncated": "the stream ended without finish_reason, final line or [DONE]",
    "empty": "HTTP 200 without a single token",
    "protocol": "not HTTP, not JSON, or not an event stream",
    "too_large": "an event or a header larger than the bound",
    "cut": "unfinished when the run's drain time was over",
    "cancelled": "the user of Locust was stopped by force",
}


class Stamps(msgspec.Struct):
    """perf_counter() seconds of one process; None until it happened."""

    intended: float | None = None
    sent: float | None = None
    headers: float | None = None
    first_event: float | None = None
    first_token: float | None = None
    first_visible: float | None = None
    last_token: float | None = None
    end: float | None = None
    connect_s: float | None = None


class Counts(msgspec.Struct):
    """Token counts as the server says them (None when it does not) and what arrived."""

    prompt: int | None = None
    output: int | None = None
    cached: int | None = None
    reasoning: int | None = None
    source: Literal["usage", "native"] | None = None
    token_events: int = 0
    bytes_received: int = 0


class ServerTimes(msgspec.Struct):
    """What the server says of its own time, in seconds (Ollama's *_duration, llama.cpp timings)."""

    total_s: float | None = None
    load_s: float | None = None
    prompt_eval_s: float | None = None
    eval_s: float | None = None


class Ending(msgspec.Struct):
    """How a request ended. `error_kind` is a key of ERROR_KINDS, None when ok."""

    status: Status
    error_kind: str | None = None
    error_text: str | None = None
    http_status: int | None = None
    finish_reason: str | None = None
    model_reply: str | None = None


class RequestRecord(msgspec.Struct):
    """Everything known of one request. `token_times` holds the arrival (perf_counter seconds) of
    each token event in order; several in one recv share a time."""

    id: str
    model: str
    target: str
    engine: str
    endpoint: str
    phase: Phase
    stamps: Stamps
    counts: Counts
    ending: Ending
    server: ServerTimes
    token_times: list[float]
    plan_index: int | None = None
    prompt_tokens_wanted: int | None = None
    output_tokens_wanted: int | None = None
    slo_ok: bool | None = None
