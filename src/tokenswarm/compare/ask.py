"""One short request to one server, timed: outside any run, for first and cached calls."""

import http.client
import time
from typing import Any

import msgspec

from tokenswarm.engines.control import Server
from tokenswarm.engines.protocol import EngineInfo
from tokenswarm.errors import TargetError
from tokenswarm.wire.call import Call, request
from tokenswarm.wire.reader import open_reader

CANARY = "Count from one to ten in words."
CANARY_TOKENS = 16


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds from sent. `model_reply`: the name in the answer if it is not the one asked for."""

    e2e_s: float
    ttft_s: float | None
    output_tokens: int | None
    model_reply: str | None = None


def call_of(info: EngineInfo, api: Any, model: str, prompt: str, output_tokens: int) -> Call:
    """A chat of exactly so many tokens where the engine knows how to force that."""
    knobs = info.knobs
    return Call(
        api=api,
        endpoint="chat",
        model=model,
        prompt=prompt,
        output_tokens=output_tokens,
        exact_length=knobs.exact_length if api == "openai" else None,
        min_tokens=knobs.min_tokens and api == "openai",
        stream_usage=knobs.stream_usage,
        options={"temperature": 0},
    )


def ask(url: str, call: Call, timeout_s: float) -> Answer:
    """Send `call`, read its whole answer. TargetError: it failed, with what was said."""
    server = Server(url, timeout_s)
    path, body = request(call)
    reader = open_reader(call.api, call.endpoint, call.stream, asked_model=call.model)
    connection = server.connection()
    headers = {"Content-Type": "application/json", "Connection": "close"}
    try:
        connection.connect()
        sent = time.perf_counter()
        connection.request("POST", server.path(path), body, headers)
        response = connection.getresponse()
        reader.headers(response.status, response.getheader("Content-Type") or "")
        while part := response.read1(65536):
            reader.feed(time.perf_counter(), part)
        end = time.perf_counter()
        ending = reader.ended(True)
    except (OSError, http.client.HTTPException, ValueError) as e:
        raise TargetError(f"{url}: {call.model} did not answer: {e or type(e).__name__}") from None
    finally:
        connection.close()
    if ending.status != "ok":
        said = ending.error_text or ending.error_kind
        raise TargetError(f"{url}: {call.model} failed ({ending.error_kind}): {said}")
    first, last = reader.first_token, reader.last_token
    return Answer(
        e2e_s=(last or end) - sent,
        ttft_s=None if first is None else first - sent,
        output_tokens=reader.counts.output,
        model_reply=ending.model_reply,
    )


def canary(url: str, api: str, model: str, timeout_s: float) -> str | None:
    """What the model says to one fixed prompt without chance; None when it has no text."""
    server = Server(url, timeout_s)
    message = [{"role": "user", "content": CANARY}]
    if api == "ollama":
        options = {"temperature": 0, "seed": 1, "num_predict": CANARY_TOKENS}
        asked = {"model": model, "messages": message, "stream": False, "options": options}
        said = server.post("/api/chat", asked).object().get("message")
        return said.get("content") if isinstance(said, dict) else None
    asked = {"model": model, "messages": message, "temperature": 0, "seed": 1}
    reply = server.post("/v1/chat/completions", {**asked, "max_tokens": CANARY_TOKENS}).object()
    try:
        text = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return None
    return text if isinstance(text, str) else None
