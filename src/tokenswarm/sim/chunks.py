"""Exact bytes of vLLM's and SGLang's OpenAI API, after recordings of vLLM 0.24 and SGLang's source.

Texts come in as JSON string content (escaped, without quotes).
"""

from typing import Any, Protocol

from tokenswarm.sim.clock import NS
from tokenswarm.sim.formats import encode, usage_object

FINGERPRINT = "vllm-0.24.0-5157a4d0"


class Chunks(Protocol):
    """One answer's events. `tokens`: output tokens so far, this chunk's included."""

    def role(self) -> bytes:
        """What comes before the first token; b"" when there is no such thing."""

    def token(self, text: bytes, tokens: int, finish: str | None) -> bytes:
        """One token, with the finish reason where the server says it there."""

    def finish(self, reason: str, tokens: int) -> list[bytes]:
        """What comes after the last token; DONE included."""

    def cut(self, reason: str, tokens: int) -> list[bytes]:
        """The same when the answer was ended early."""

    def whole(self, text: str, reason: str, tokens: int) -> bytes:
        """The body of an answer that is not streamed."""


class Head:
    """What the events of one answer have in common."""

    def __init__(self, kind: bytes, number: int, unix_ns: int, model: str, prompt_tokens: int):
        self.id = b"%016x" % ((number * 0x9E3779B97F4A7C15) & (2**64 - 1))
        self.prefix = b'data: {"id":"%b-%b","object":"%b","created":%d,"model":%b,"choices":[' % (
            b"chatcmpl" if kind.startswith(b"chat") else b"cmpl",
            self.id, kind, unix_ns // NS, encode(model),
        )  # fmt: skip
        self.prompt_tokens = prompt_tokens

    def usage(self, tokens: int) -> bytes:
        return encode(usage_object(self.prompt_tokens, tokens))

    def whole(self, kind: bytes, choice: dict[str, Any], tokens: int, more: bytes) -> bytes:
        start = self.prefix.removeprefix(b"data: ")
        return start.replace(b"chat.completion.chunk", kind) + (
            b'%b],"usage":%b%b}' % (encode(choice), self.usage(tokens), more)
        )


class _Vllm:
    """What both of vLLM's streams share: how they count on the way, and how they end."""

    def __init__(self, head: Head, *, usage: bool, continuous: bool):
        self._head, self._usage, self._continuous = head, usage, continuous

    def token(self, text: bytes, tokens: int, finish: str | None) -> bytes:
        raise NotImplementedError

    def finish(self, reason: str, tokens: int) -> list[bytes]:
        done = [b"data: [DONE]\n\n"]
        if not self._usage:
            return done
        end = b'],"usage":%b,"system_fingerprint":"%b"}\n\n'
        usage = self._head.usage(tokens), FINGERPRINT.encode()
        return [self._head.prefix + end % usage, *done]

    def cut(self, reason: str, tokens: int) -> list[bytes]:
        return [self.token(b"", tokens, reason), *self.finish(reason, tokens)]

    def _so_far(self, tokens: int) -> bytes:
        return b',"usage":' + self._head.usage(tokens) if self._continuous else b""


class VllmChat(_Vllm):
    """A role-only chunk with the first output; the last token's chunk has the finish reason."""

    def __init__(self, head: Head, *, usage: bool, continuous: bool):
        super().__init__(head, usage=usage, continuous=continuous)
        self._open = head.prefix + b'{"index":0,"delta":{"content":"'
        self._close = b'"},"logprobs":null,"finish_reason":null,"token_ids":null}]'

    def role(self) -> bytes:
        choice = b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,'
        end = b'"finish_reason":null}]%b,"prompt_token_ids":null,"prompt_text":null}\n\n'
        return self._head.prefix + choice + end % self._so_far(0)

    def token(self, text: bytes, tokens: int, finish: str | None) -> bytes:
        if finish is None:
            return b"%b%b%b%b}\n\n" % (self._open, text, self._close, self._so_far(tokens))
        end = (
            b'"},"logprobs":null,"finish_reason":%b,"stop_reason":null,"token_ids":null}]%b%b}\n\n'
        )
        mark = b"" if self._usage else b',"system_fingerprint":"%b"' % FINGERPRINT.encode()
        return self._open + text + end % (encode(finish), self._so_far(tokens), mark)

    def whole(self, text: str, reason: str, tokens: int) -> bytes:
        message = {"role": "assistant", "content": text, "refusal": None, "reasoning": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        more = b',"service_tier":null,"system_fingerprint":"%b"' % FINGERPRINT.encode()
        return self._head.whole(b"chat.completion", choice, tokens, more)


class VllmText(_Vllm):
    """`/v1/completions`: no role, text chunks."""

    def __init__(self, head: Head, *, usage: bool, continuous: bool):
        super().__init__(head, usage=usage, continuous=continuous)
        self._open = head.prefix + b'{"index":0,"text":"'

    def role(self) -> bytes:
        return b""

    def token(self, text: bytes, tokens: int, finish: str | None) -> bytes:
        end = (
            b'","logprobs":null,"finish_reason":%b,"stop_reason":null,"prompt_token_ids":null,'
            b'"token_ids":null}]%b}\n\n'
        )
        return self._open + text + end % (encode(finish), self._so_far(tokens))

    def whole(self, text: str, reason: str, tokens: int) -> bytes:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
        return self._head.whole(b"text_completion", choice, tokens, b"")


class SglangChat:
    """`reasoning_content` on every delta, the finish reason on a chunk of its own."""

    def __init__(self, head: Head, *, usage: bool, continuous: bool):
        self._head, self._usage, self._continuous = head, usage, continuous
        self._open = head.prefix + b'{"index":0,"delta":{"role":null,"content":"'
        self._close = b'","reasoning_content":null,"tool_calls":null},"logprobs":null,'

    def role(self) -> bytes:
        delta = b'{"index":0,"delta":{"role":"assistant","content":""'
        rest = b',"reasoning_content":null,"tool_calls":null},"logprobs":null,'
        return self._head.prefix + delta + rest + self._end(None, 0)

    def token(self, text: bytes, tokens: int, finish: str | None) -> bytes:
        return self._open + text + self._close + self._end(None, tokens)

    def finish(self, reason: str, tokens: int) -> list[bytes]:
        delta = b'{"index":0,"delta":{"role":null,"content":null,"reasoning_content":null,'
        rest = b'"tool_calls":null},"logprobs":null,'
        events = [self._head.prefix + delta + rest + self._end(reason, tokens)]
        if self._usage:
            events.append(self._head.prefix + b'],"usage":%b}\n\n' % self._head.usage(tokens))
        return [*events, b"data: [DONE]\n\n"]

    def cut(self, reason: str, tokens: int) -> list[bytes]:
        return self.finish(reason, tokens)

    def whole(self, text: str, reason: str, tokens: int) -> bytes:
        message = {"role": "assistant", "content": text, "reasoning_content": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return self._head.whole(b"chat.completion", choice, tokens, b"")

    def _end(self, reason: str | None, tokens: int) -> bytes:
        usage = self._head.usage(tokens) if self._continuous else b"null"
        return b'"finish_reason":%b,"matched_stop":null}],"usage":%b}\n\n' % (encode(reason), usage)


def error_body(status: int, message: str, kind: str, param: str | None = None) -> bytes:
    """vLLM's error object."""
    return encode({"error": {"message": message, "type": kind, "param": param, "code": status}})
