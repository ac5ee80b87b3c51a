"""Ollama's native events: /api/chat and /api/generate, streamed or whole, and /api/embed.

Servers that pose as Ollama (SGLang) leave out counts and durations: those stay None.
"""

from typing import Any

import msgspec

from tokenswarm.wire.errortext import error_text
from tokenswarm.wire.note import Note, as_count, as_name, as_seconds, decoder
from tokenswarm.wire.record import ServerTimes

_NS = 1e-9


class _Message(msgspec.Struct, gc=False):
    content: Any = None
    thinking: Any = None
    tool_calls: Any = None


class _Line(msgspec.Struct, gc=False):
    model: Any = None
    message: _Message | None = None
    response: Any = None
    thinking: Any = None
    tool_calls: Any = None
    done: Any = None
    done_reason: Any = None
    error: Any = None
    total_duration: Any = None
    load_duration: Any = None
    prompt_eval_count: Any = None
    prompt_eval_duration: Any = None
    eval_count: Any = None
    eval_duration: Any = None


class _Embed(msgspec.Struct, gc=False):
    model: Any = None
    embeddings: list[msgspec.Raw] | None = None
    embedding: msgspec.Raw = msgspec.Raw(b"null")
    error: Any = None
    total_duration: Any = None
    load_duration: Any = None
    prompt_eval_count: Any = None


_line = decoder(_Line)
_embed = decoder(_Embed)


def read(payload: bytes) -> Note:
    """Read a line of a stream or a whole answer. Raises ValueError when it is neither."""
    line = _line(payload)
    note = Note(model=as_name(line.model))
    if line.error is not None:
        note.error = error_text(line.error)
    message = line.message
    if message is not None:
        _read_text(note, "content", message.content, message.thinking, message.tool_calls)
    else:
        _read_text(note, "response", line.response, line.thinking, line.tool_calls)
    if line.done is True:
        _read_end(note, line)
    return note


def read_embeddings(payload: bytes) -> Note:
    """Read an answer of /api/embed. Raises ValueError when it is none."""
    answer = _embed(payload)
    note = Note(model=as_name(answer.model), complete=True)
    if answer.error is not None:
        note.error = error_text(answer.error)
    vectors = [*(answer.embeddings or ()), answer.embedding]
    note.answered = any(bytes(v) not in (b"null", b"[]") for v in vectors)
    note.prompt = as_count(answer.prompt_eval_count)
    note.source = None if note.prompt is None else "native"
    note.times = ServerTimes(
        total_s=as_seconds(answer.total_duration, _NS),
        load_s=as_seconds(answer.load_duration, _NS),
    )
    return note


def _read_text(note: Note, key: str, text: Any, thinking: Any, tool_calls: Any) -> None:
    note.visible = bool(text) or bool(tool_calls)
    note.token = note.answered = note.visible or bool(thinking)
    if tool_calls or (text and thinking):
        return
    if text and isinstance(text, str):
        note.slot, note.text = key, text
    elif thinking and isinstance(thinking, str):
        note.slot, note.text = "thinking", thinking


def _read_end(note: Note, line: _Line) -> None:
    note.complete = True
    note.finish = as_name(line.done_reason)
    note.prompt = as_count(line.prompt_eval_count)
    note.output = as_count(line.eval_count)
    if note.prompt is not None or note.output is not None:
        note.source = "native"
    note.answered = note.answered or bool(note.output)
    note.times = ServerTimes(
        total_s=as_seconds(line.total_duration, _NS),
        load_s=as_seconds(line.load_duration, _NS),
        prompt_eval_s=as_seconds(line.prompt_eval_duration, _NS),
        eval_s=as_seconds(line.eval_duration, _NS),
    )
