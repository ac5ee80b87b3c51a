"""Exact bytes of Ollama's two APIs: native NDJSON and OpenAI-compatible SSE.

Texts come in as JSON string content (escaped, without quotes) so that a token costs two joins.
"""

import time
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec

from tokenswarm.sim.clock import NS, Rfc3339
from tokenswarm.sim.http import NDJSON, SSE

encode = msgspec.json.encode
Kind = str  # "content", "tool" or the name of a reasoning field
ErrorForm = Literal["object", "line", "swallowed"]

ERROR_TEXT = "an error was encountered while running the model: simulated"
_TYPES = {400: "invalid_request_error", 404: "not_found_error"}


@dataclass(frozen=True, slots=True)
class Summary:
    """An answer's end: counts (None: not said) and durations in seconds."""

    finish_reason: str
    prompt_tokens: int
    output_tokens: int | None
    total_s: float
    load_s: float
    prompt_s: float
    eval_s: float


@dataclass(frozen=True, slots=True)
class Said:
    """The whole text of an answer that is not streamed; `thought_field`: /v1's name for it."""

    content: str = ""
    thought: str = ""
    thought_field: str = ""
    tool: str = ""


class Dialect(Protocol):
    """One API's streaming form. Each method gives the bytes of one event (b"": it has none)."""

    content_type: str

    def token(self, text: bytes, kind: Kind, first: bool, tokens: int, unix_ns: int) -> bytes:
        """A chunk with text; `tokens`: output tokens so far, this chunk's included."""

    def role(self, unix_ns: int) -> bytes: ...
    def tool(self, text: bytes, place: Literal["first", "middle", "last"]) -> bytes: ...
    def whole_tool(self, text: bytes, unix_ns: int) -> bytes: ...
    def finish(self, summary: Summary, unix_ns: int) -> list[bytes]: ...
    def done(self) -> bytes: ...
    def error(self, form: ErrorForm) -> list[bytes]: ...
    def whole(self, said: Said, summary: Summary) -> bytes: ...


@dataclass(frozen=True, slots=True)
class UsageForm:
    """How /v1 says token counts."""

    asked: bool = False
    prompt_tokens: int = 0
    continuous: bool = False
    on_finish: bool = False


class V1Chat:
    """`/v1/chat/completions`: the role merged into the first content chunk."""

    content_type = SSE

    def __init__(self, model: str, number: int, unix_ns: int, usage: UsageForm):
        self._usage = usage
        self._head = (
            b'data: {"id":"chatcmpl-%d","object":"chat.completion.chunk","created":%d,"model":%b,'
            b'"system_fingerprint":"fp_ollama","choices":['
            % (number % 999, unix_ns // NS, encode(model))
        )
        self._delta = self._head + b'{"index":0,"delta":{'
        self._content = self._delta + b'"content":"'
        self._end = b'"},"finish_reason":null}]}\n\n'

    def token(self, text: bytes, kind: Kind, first: bool, tokens: int, unix_ns: int) -> bytes:
        if kind == "content" and not first and not self._usage.continuous:
            return self._content + text + self._end
        role = b'"role":"assistant",' if first else b""
        empty = b"" if kind == "content" else b'"content":"",'
        delta = b'%b%b"%b":"%b"' % (role, empty, kind.encode(), text)
        return self._chunk(delta, tokens)

    def role(self, unix_ns: int) -> bytes:
        return self._chunk(b'"role":"assistant","content":""', 0)

    def tool(self, text: bytes, place: Literal["first", "middle", "last"]) -> bytes:
        if place == "first":
            call = b'"id":"call_sim00001","index":0,"type":"function","function":{"name":"look_up",'
            return self._chunk(
                b'"role":"assistant","content":"","tool_calls":[{%b"arguments":"{\\"text\\":\\"%b"}}]'
                % (call, text),
                1,
            )
        end = b'\\"}' if place == "last" else b""
        return self._chunk(
            b'"tool_calls":[{"index":0,"function":{"arguments":"%b%b"}}]' % (text, end), 1
        )

    def whole_tool(self, text: bytes, unix_ns: int) -> bytes:
        call = b'"id":"call_sim00001","index":0,"type":"function","function":{"name":"look_up",'
        return self._chunk(
            b'"role":"assistant","content":"","tool_calls":[{%b"arguments":"{\\"text\\":\\"%b\\"}"}}]'
            % (call, text),
            1,
        )

    def finish(self, summary: Summary, unix_ns: int) -> list[bytes]:
        reason = encode(summary.finish_reason)
        usage = self._usage_of(summary)
        on_finish = b"," + usage if usage and self._usage.on_finish else b""
        chunk = self._delta + b'},"finish_reason":%b}]%b}\n\n' % (reason, on_finish)
        if usage and not self._usage.on_finish:
            return [chunk, self._head + b"]," + usage + b"}\n\n"]
        return [chunk]

    def done(self) -> bytes:
        return b"data: [DONE]\n\n"

    def error(self, form: ErrorForm) -> list[bytes]:
        return _v1_error(form, self._chunk(b'"content":""', 0))

    def whole(self, said: Said, summary: Summary) -> bytes:
        """The body of an answer that is not streamed."""
        message: dict[str, Any] = {"role": "assistant", "content": said.content}
        if said.thought_field:
            message[said.thought_field] = said.thought
        if said.tool:
            arguments = encode({"text": said.tool}).decode()
            function = {"name": "look_up", "arguments": arguments}
            call = {"id": "call_sim00001", "index": 0, "type": "function", "function": function}
            message["tool_calls"] = [call]
        return _v1_whole(self._head, b"chat.completion", {"message": message}, summary)

    def _usage_of(self, summary: Summary) -> bytes:
        if not self._usage.asked or summary.output_tokens is None:
            return b""
        return _usage(summary.prompt_tokens, summary.output_tokens)

    def _chunk(self, delta: bytes, tokens: int) -> bytes:
        usage = b""
        if self._usage.continuous:
            usage = b"," + _usage(self._usage.prompt_tokens, tokens)
        return self._delta + delta + b'},"finish_reason":null}]%b}\n\n' % usage


class V1Completions:
    """`/v1/completions`: text chunks; with include_usage a zero usage on every one of them."""

    content_type = SSE

    def __init__(self, model: str, number: int, unix_ns: int, usage: UsageForm):
        self._usage = usage
        self._head = (
            b'data: {"id":"cmpl-%d","object":"text_completion","created":%d,"model":%b,'
            b'"system_fingerprint":"fp_ollama","choices":['
            % (number % 999, unix_ns // NS, encode(model))
        )
        self._text = self._head + b'{"text":"'
        zero = b"," + _usage(0, 0) if usage.asked else b""
        self._end = b'","index":0,"finish_reason":null}]%b}\n\n' % zero

    def token(self, text: bytes, kind: Kind, first: bool, tokens: int, unix_ns: int) -> bytes:
        if self._usage.continuous:
            usage = _usage(self._usage.prompt_tokens, tokens)
            return self._text + text + b'","index":0,"finish_reason":null}],%b}\n\n' % usage
        return self._text + text + self._end

    def role(self, unix_ns: int) -> bytes:
        return self._text + self._end

    def tool(self, text: bytes, place: Literal["first", "middle", "last"]) -> bytes:
        return self._text + text + self._end

    def whole_tool(self, text: bytes, unix_ns: int) -> bytes:
        return self._text + text + self._end

    def finish(self, summary: Summary, unix_ns: int) -> list[bytes]:
        usage = b""
        if self._usage.asked and summary.output_tokens is not None:
            usage = _usage(summary.prompt_tokens, summary.output_tokens)
        on_finish = b"," + (usage if self._usage.on_finish else _usage(0, 0)) if usage else b""
        reason = encode(summary.finish_reason)
        chunk = self._text + b'","index":0,"finish_reason":%b}]%b}\n\n' % (reason, on_finish)
        if usage and not self._usage.on_finish:
            return [chunk, self._head + b"]," + usage + b"}\n\n"]
        return [chunk]

    def whole(self, said: Said, summary: Summary) -> bytes:
        """The body of an answer that is not streamed."""
        choice = {"text": said.thought + said.content + said.tool}
        return _v1_whole(self._head, b"text_completion", choice, summary)

    def done(self) -> bytes:
        return b"data: [DONE]\n\n"

    def error(self, form: ErrorForm) -> list[bytes]:
        return _v1_error(form, self._text + self._end)


class Native:
    """`/api/chat` and `/api/generate`: one JSON object a line, `created_at` of its own."""

    content_type = NDJSON

    def __init__(self, model: str, chat: bool, context: bool):
        self._time = Rfc3339()
        self._chat, self._context = chat, context
        self._head = b'{"model":%b,"created_at":"' % encode(model)
        self._open = b'","message":{"role":"assistant","content":"' if chat else b'","response":"'
        self._close = b'"},"done":false}\n' if chat else b'","done":false}\n'

    def token(self, text: bytes, kind: Kind, first: bool, tokens: int, unix_ns: int) -> bytes:
        stamp = self._time(unix_ns).encode()
        if kind == "content":
            return self._head + stamp + self._open + text + self._close
        if self._chat:
            return self._head + stamp + self._open + b'","thinking":"' + text + self._close
        return self._head + stamp + self._open + b'","thinking":"' + text + b'","done":false}\n'

    def role(self, unix_ns: int) -> bytes:
        return self.token(b"", "content", True, 0, unix_ns)

    def tool(self, text: bytes, place: Literal["first", "middle", "last"]) -> bytes:
        raise NotImplementedError("native tool calls come whole")

    def whole_tool(self, text: bytes, unix_ns: int) -> bytes:
        call = b'"tool_calls":[{"function":{"name":"look_up","arguments":{"text":"%b"}}}]' % text
        stamp = self._time(unix_ns).encode()
        body = (
            b'","message":{"role":"assistant","content":"",' if self._chat else b'","response":"",'
        )
        return (
            self._head + stamp + body + call + (b"}" if self._chat else b"") + b',"done":false}\n'
        )

    def finish(self, summary: Summary, unix_ns: int) -> list[bytes]:
        text = b'"message":{"role":"assistant","content":""}' if self._chat else b'"response":""'
        return [self._final(text, summary, unix_ns) + b"\n"]

    def whole(self, said: Said, summary: Summary) -> bytes:
        """The body of an answer that is not streamed: the `done` line with all the text."""
        thought = {"thinking": said.thought} if said.thought else {}
        if not self._chat:
            return self._final(encode({"response": said.content, **thought})[1:-1], summary)
        message: dict[str, Any] = {"role": "assistant", "content": said.content, **thought}
        if said.tool:
            function = {"name": "look_up", "arguments": {"text": said.tool}}
            message["tool_calls"] = [{"function": function}]
        return self._final(b'"message":' + encode(message), summary)

    def _final(self, text: bytes, summary: Summary, unix_ns: int | None = None) -> bytes:
        rest: dict[str, Any] = {"done": True, "done_reason": summary.finish_reason}
        if self._context:
            rest["context"] = list(range(1, summary.prompt_tokens + (summary.output_tokens or 0)))
        rest |= durations(
            total_duration=summary.total_s,
            load_duration=summary.load_s,
            prompt_eval_count=summary.prompt_tokens,
            prompt_eval_duration=summary.prompt_s,
            eval_count=summary.output_tokens,
            eval_duration=summary.eval_s,
        )
        stamp = self._time(time.time_ns() if unix_ns is None else unix_ns).encode()
        return self._head + stamp + b'",' + text + b"," + encode(rest)[1:]

    def short(self, reason: str, unix_ns: int) -> bytes:
        """The answer to a preload or unload: no durations at all."""
        close = b'"},' if self._chat else b'",'
        head = self._head + self._time(unix_ns).encode() + self._open + close
        return head + b'"done":true,"done_reason":%b}' % encode(reason)

    def done(self) -> bytes:
        return b""

    def error(self, form: ErrorForm) -> list[bytes]:
        return [encode({"error": ERROR_TEXT}) + b"\n"]


def durations(**values: float | int | None) -> dict[str, int]:
    """Names ending in `_duration` from seconds to ns; zero and None are left out (omitempty)."""
    said = {}
    for name, value in values.items():
        number = round((value or 0) * NS) if name.endswith("_duration") else int(value or 0)
        if number:
            said[name] = number
    return said


def usage_object(prompt: int, output: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}


def _usage(prompt: int, output: int) -> bytes:
    return b'"usage":' + encode(usage_object(prompt, output))


def _v1_whole(head: bytes, kind: bytes, choice: dict[str, Any], summary: Summary) -> bytes:
    """A body from a chunk's head: another object name, one choice, usage always."""
    head = head.removeprefix(b"data: ").replace(b"chat.completion.chunk", kind, 1)
    full = encode({"index": 0, **choice, "finish_reason": summary.finish_reason})
    usage = b""
    if summary.output_tokens is not None:
        usage = b"," + _usage(summary.prompt_tokens, summary.output_tokens)
    return head + full + b"]" + usage + b"}"


def v1_error_body(status: int, message: str) -> bytes:
    """OpenAI's error object as Ollama writes it."""
    kind = _TYPES.get(status, "api_error")
    error = {"message": message, "type": kind, "param": None, "code": None}
    return encode({"error": error})


def _v1_error(form: ErrorForm, empty_chunk: bytes) -> list[bytes]:
    if form == "swallowed":
        return [empty_chunk]
    body = v1_error_body(500, ERROR_TEXT)
    return [b"error: " + body + b"\n\n"] if form == "line" else [b"data: " + body + b"\n\n"]
