"""What a request's JSON body asks for, in the words of both of Ollama's APIs."""

import re
from typing import Any

import msgspec

from tokenswarm.sim.http import Request
from tokenswarm.sim.words import count

MOST_TOKENS = 100_000
FOREVER_S = 1e9
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]*\.?[0-9]+)(ns|us|µs|ms|s|m|h)")


class ApiError(Exception):
    """Answer with `status` and `message`."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class Options(msgspec.Struct, frozen=True):
    """Ollama's `options`, as far as they matter here."""

    num_ctx: int | None = None
    num_predict: int | None = None


class Body(msgspec.Struct, frozen=True):
    """Every field that any endpoint knows; others are ignored, as the real server does."""

    model: str = ""
    messages: list[dict[str, Any]] | None = None
    prompt: str | list[str | int] | None = None
    input: str | list[str] | None = None
    stream: bool | None = None
    raw: bool = False
    options: Options | None = None
    keep_alive: float | str | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    ignore_eos: bool = False
    stream_options: StreamOptions | None = None
    encoding_format: str | None = None
    seed: int | None = None

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def prompt_words(self) -> int:
        """Words of the prompt, all messages or all inputs."""
        texts = [m.get("content") for m in self.messages or []]
        texts += [self.prompt, self.input]
        return sum(_words(t) for t in texts)

    def keep_alive_s(self, speed: float) -> float | None:
        """Seconds of the simulation's clock, -1 for ever, None when not said."""
        value = self.keep_alive
        if isinstance(value, str):
            value = duration_s(value)
        if value is None:
            return None
        return -1.0 if value < 0 or value > FOREVER_S else value / speed

    def output_limit(self, native: bool) -> int | None:
        """Most tokens to generate; None: until the model ends by itself."""
        options = self.options or Options()
        limit = options.num_predict if native else self.max_tokens
        return None if limit is None or limit < 0 else min(limit, MOST_TOKENS)


_decode = msgspec.json.Decoder(Body).decode


def parse(request: Request) -> Body:
    """The body; ApiError 400 when it is not JSON of the right types or lacks the model."""
    try:
        body = _decode(request.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise ApiError(400, str(e)) from e
    if not body.model:
        raise ApiError(400, "model is required")
    return body


def duration_s(text: str) -> float:
    """A Go duration such as `5m` or `1h30m` in seconds; ApiError 400."""
    unsigned = text.lstrip("+-")
    parts = _DURATION.findall(unsigned)
    if unsigned != "0" and (not parts or "".join(n + u for n, u in parts) != unsigned):
        raise ApiError(400, f'time: invalid duration "{text}"')
    seconds = sum(float(n) * _UNITS_S[u] for n, u in parts)
    return -seconds if text.startswith("-") else seconds


def _words(content: Any) -> int:
    """Of a text, a list of texts, a list of token ids or OpenAI's list of content parts."""
    if isinstance(content, str):
        return count(content)
    if not isinstance(content, list):
        return 0
    total = 0
    for part in content:
        text = part.get("text") if isinstance(part, dict) else part
        total += 1 if isinstance(text, int) else count(text) if isinstance(text, str) else 0
    return total
