"""One call to a server under test, and its path and JSON body."""

from typing import Any, Literal

import msgspec

from tokenswarm.errors import UsageError

_PATHS = {
    ("openai", "chat"): "/v1/chat/completions",
    ("openai", "completions"): "/v1/completions",
    ("openai", "generate"): "/v1/completions",
    ("openai", "embeddings"): "/v1/embeddings",
    ("ollama", "chat"): "/api/chat",
    ("ollama", "completions"): "/api/generate",
    ("ollama", "generate"): "/api/generate",
    ("ollama", "embeddings"): "/api/embed",
}

# Options that Ollama wants beside `options`, not in it (api/types.go).
_OLLAMA_TOP = frozenset(
    ("dimensions", "format", "logprobs", "raw", "shift", "suffix", "template", "think",
     "top_logprobs", "truncate")
)  # fmt: skip


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a server, before the API's own spelling.

    `model` is the server's name for it. `prompt` is text, or token ids where the engine takes
    them (completions and embeddings of an OpenAI API only). `messages` replace prompt and
    system in a chat. `output_tokens` caps the answer; `exact_length` holds the extra fields that
    make the cap the length (`{"ignore_eos": True}`) and `min_tokens` sends the lower bound, too.
    `stream_usage` asks for the usage chunk. `options` are the API's own sampling options.
    """

    api: Literal["openai", "ollama"]
    endpoint: Literal["chat", "completions", "generate", "embeddings"]
    model: str
    prompt: str | list[int] = ""
    system: str | None = None
    messages: tuple[dict[str, Any], ...] | None = None
    output_tokens: int | None = None
    stream: bool = True
    options: dict[str, Any] = {}
    keep_alive: str | int | float | None = None
    exact_length: dict[str, Any] | None = None
    min_tokens: bool = False
    stream_usage: bool = True


def request(call: Call) -> tuple[str, bytes]:
    """Path and JSON body of `call`. Raises UsageError for what the API cannot say.

    Ollama is asked natively: `completions` is /api/generate with `raw`, the same as
    /v1/completions (no template), `generate` is /api/generate with the model's template.
    An OpenAI API has no `generate`: that is /v1/completions.
    What the call says itself wins over an option of the same name.
    """
    path = _PATHS.get((call.api, call.endpoint))
    if path is None:
        raise UsageError(
            f"no endpoint {call.endpoint!r} in api {call.api!r}: "
            "use chat, completions, generate or embeddings of openai or ollama"
        )
    body = _openai_body(call) if call.api == "openai" else _ollama_body(call)
    return path, msgspec.json.encode(body)


def _openai_body(call: Call) -> dict[str, Any]:
    if call.endpoint == "embeddings":
        return {**call.options, "model": call.model, "input": call.prompt}
    body: dict[str, Any] = {**call.options, "model": call.model, "stream": call.stream}
    if call.endpoint == "chat":
        body["messages"] = _messages(call)
    else:
        body["prompt"] = _bare_prompt(call)
    if call.stream and call.stream_usage:
        body["stream_options"] = {"include_usage": True}
    if call.output_tokens is not None:
        body["max_tokens"] = call.output_tokens
        if call.min_tokens:
            body["min_tokens"] = call.output_tokens
    body.update(call.exact_length or {})
    return body


def _ollama_body(call: Call) -> dict[str, Any]:
    options = {k: v for k, v in call.options.items() if k not in _OLLAMA_TOP}
    body: dict[str, Any] = {k: v for k, v in call.options.items() if k in _OLLAMA_TOP}
    body["model"] = call.model
    if call.endpoint == "embeddings":
        body["input"] = _text(call)
    else:
        body["stream"] = call.stream
        _ask_ollama(call, body)
        if call.output_tokens is not None:
            options["num_predict"] = call.output_tokens
        body.update(call.exact_length or {})
    if options:
        body["options"] = options
    if call.keep_alive is not None:
        body["keep_alive"] = call.keep_alive
    return body


def _ask_ollama(call: Call, body: dict[str, Any]) -> None:
    if call.endpoint == "chat":
        body["messages"] = _messages(call)
        return
    raw = call.endpoint == "completions"
    body["prompt"] = _bare_prompt(call) if raw else _text(call)
    if raw:
        body["raw"] = True
    elif call.system is not None:
        body["system"] = call.system


def _messages(call: Call) -> list[dict[str, Any]]:
    if call.messages is not None:
        return list(call.messages)
    system = [] if call.system is None else [{"role": "system", "content": call.system}]
    return [*system, {"role": "user", "content": _text(call)}]


def _text(call: Call) -> str:
    if isinstance(call.prompt, str):
        return call.prompt
    raise UsageError(
        f"{call.api} {call.endpoint} takes text, not {len(call.prompt)} token ids: "
        "use endpoint completions of an openai api for prompts of exact token ids"
    )


def _bare_prompt(call: Call) -> str | list[int]:
    """The prompt where there is no place for a system text: it goes in front."""
    if call.api == "ollama":
        _text(call)
    if call.system is None:
        return call.prompt
    return f"{call.system}\n\n{_text(call)}"
