"""OpenAI-compatible events: chat and text completions, streamed or whole, and embeddings.

How servers differ is in docs/metrics.md; the rules: a chunk with a role and no content is no
token; content without a role is one even when empty (a token may decode to nothing); reasoning
and tool calls are tokens; a usage chunk is not.
"""

from typing import Any

import msgspec

from tokenswarm.wire.errortext import error_text
from tokenswarm.wire.note import Note, as_count, as_name, as_seconds, decoder
from tokenswarm.wire.record import ServerTimes

_MS = 1e-3


class _Delta(msgspec.Struct, gc=False):
    role: Any = None
    content: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    tool_calls: Any = None
    function_call: Any = None
    refusal: Any = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    message: _Delta | None = None
    text: Any = None
    finish_reason: Any = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None
    model: Any = None
    timings: Any = None
    object: Any = None
    message: Any = None


class _Vector(msgspec.Struct, gc=False):
    embedding: msgspec.Raw = msgspec.Raw(b"null")


class _Embeddings(msgspec.Struct, gc=False):
    data: list[_Vector] | None = None
    usage: Any = None
    error: Any = None
    model: Any = None
    object: Any = None
    message: Any = None


_chunk = decoder(_Chunk)
_embeddings = decoder(_Embeddings)


def read(payload: bytes) -> Note:
    """Read a chunk of a stream or a whole answer. Raises ValueError when it is neither."""
    chunk = _chunk(payload)
    choices = chunk.choices or ()
    note = Note(model=as_name(chunk.model), error=_error(chunk.error, chunk.object, chunk.message))
    for choice in choices:
        _read_choice(note, choice)
    if chunk.usage is not None or chunk.timings is not None:
        _read_usage(note, chunk.usage, chunk.timings)
        note.answered = note.answered or (bool(choices) and bool(note.output))
    if len(choices) > 1:
        note.slot = None
    return note


def read_embeddings(payload: bytes) -> Note:
    """Read an answer of /v1/embeddings. Raises ValueError when it is none."""
    answer = _embeddings(payload)
    error = _error(answer.error, answer.object, answer.message)
    note = Note(model=as_name(answer.model), error=error, complete=True)
    note.answered = any(
        bytes(v.embedding) not in (b"null", b"[]", b'""') for v in answer.data or ()
    )
    _read_usage(note, answer.usage, None)
    note.output = None
    return note


def _error(error: Any, kind: Any, message: Any) -> str | None:
    if error is not None and error is not False:
        return error_text(error)
    return error_text(message) if kind == "error" else None


def _read_choice(note: Note, choice: _Choice) -> None:
    finish = as_name(choice.finish_reason)
    if finish is not None:
        note.finish, note.complete = finish, True
    delta = choice.delta or choice.message
    if delta is not None:
        _read_delta(note, delta)
    elif choice.text is not None:
        note.token = note.visible = note.empty_is_token = True
        note.answered = bool(choice.text)
        if isinstance(choice.text, str):
            note.slot, note.text = "text", choice.text


def _read_delta(note: Note, delta: _Delta) -> None:
    content = delta.content
    reasoning = delta.reasoning or delta.reasoning_content
    other = delta.tool_calls or delta.function_call or delta.refusal
    if not (content or reasoning or other) and (content != "" or delta.role is not None):
        return
    note.token = True
    note.answered = note.answered or bool(content or reasoning or other)
    note.visible = note.visible or bool(content or other) or not reasoning
    if not other:
        _find_slot(note, delta)


def _find_slot(note: Note, delta: _Delta) -> None:
    """Name the one text of a token event; two texts at once are left to decoding."""
    content, reasoning, twin = delta.content, delta.reasoning, delta.reasoning_content
    if not reasoning and not twin:
        key, text = "content", content
        note.empty_is_token = delta.role is None
    elif content or (reasoning and twin):
        return
    else:
        key, text = ("reasoning", reasoning) if reasoning else ("reasoning_content", twin)
    if isinstance(text, str):
        note.slot, note.text = key, text


def _read_usage(note: Note, usage: Any, timings: Any) -> None:
    if isinstance(timings, dict):
        note.times = ServerTimes(
            prompt_eval_s=as_seconds(timings.get("prompt_ms"), _MS),
            eval_s=as_seconds(timings.get("predicted_ms"), _MS),
        )
        note.cached = as_count(timings.get("cache_n"))
        fresh = as_count(timings.get("prompt_n"))
        note.output, note.source = as_count(timings.get("predicted_n")), "native"
        note.prompt = None if fresh is None else fresh + (note.cached or 0)
    if isinstance(usage, dict) and _says_something(usage):
        note.source = "usage"
        note.prompt = as_count(usage.get("prompt_tokens"))
        note.output = as_count(usage.get("completion_tokens"))
        cached = _detail(usage, "prompt_tokens_details", "cached_tokens")
        note.cached = note.cached if cached is None else cached
        note.reasoning = _detail(usage, "completion_tokens_details", "reasoning_tokens")
        if note.reasoning is None:  # SGLang's place for it
            note.reasoning = as_count(usage.get("reasoning_tokens"))


def _says_something(usage: dict[str, Any]) -> bool:
    """False for the all-zero usage that Ollama puts on every chunk of /v1/completions."""
    return bool(as_count(usage.get("prompt_tokens")) or as_count(usage.get("completion_tokens")))


def _detail(usage: dict[str, Any], group: str, key: str) -> int | None:
    details = usage.get(group)
    return as_count(details.get(key)) if isinstance(details, dict) else None
