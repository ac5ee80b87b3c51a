"""How a simulated server misbehaves: every wire quirk and failure, one knob each."""

from typing import Any, Literal

import msgspec


class ProfileError(ValueError):
    """A profile or a knob is wrong; the text names the place, the value and the way out."""


class Reasoning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first `tokens` tokens are reasoning, in `field` of /v1 (native: always `thinking`)."""

    tokens: int
    field: str = "reasoning"


class HttpError(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answer with `status` instead of serving, for a share `rate` of requests (0..1)."""

    status: int
    body: Literal["json", "html", "empty"] = "json"
    rate: float = 1.0


class Crash(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The model's process dies after token `token` of an answer, for a share `rate` of answers;
    whatever else it was saying fails, too."""

    token: int
    rate: float = 1.0


class Stall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing for `for_s` seconds after token `token`."""

    token: int
    for_s: float


class Knobs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """All knobs; the defaults are Ollama as it is. A `..._at: k` acts after k tokens.

    role_only_first     a chunk with the role and `content:""` before any token
    empty_chunks        every n-th token arrives as `content:""` (it is a token and is counted)
    tokens_per_chunk    tokens that share a chunk
    reasoning           see Reasoning
    tool_call           the output is a tool call (/v1: one argument piece a token)
    eos                 the model ends by itself after n tokens, or a number drawn from [low, high]
    no_done             no `data: [DONE]`
    done_after_cut      stops after k tokens without finish_reason, then `[DONE]`
    comments            an SSE comment before every n-th event
    no_space_after_data `data:{...}`
    crlf                lines end in CR LF
    split_utf8          multibyte text, cut inside a character, in two writes
    coalesce            n events in one write
    fragment            each event in n writes, cut at random places
    error_object_at     an error object under HTTP 200, then the end
    error_line_at       an `error: ...` line (native: the same as error_object_at), then the end
    swallowed_error_at  as Ollama's /v1 does: an empty chunk, then the end without `[DONE]`
    abort_at            finish_reason `abort`
    cut_at, reset_at    the connection is closed (FIN), or reset (RST)
    crash               see Crash
    load_crash_rate     share of loads whose process dies before it is ready
    empty_200           HTTP 200 with no event at all
    http_error          see HttpError
    stall_at            see Stall
    giant_event         the second token is one text of that many bytes
    no_usage            no usage chunk, no counts
    wrong_usage         output count is off by n
    continuous_usage    usage so far on every chunk
    usage_on_finish     usage on the finish chunk instead of a chunk of its own
    wrong_model_name    the name in the answer
    slow_headers_s      headers wait that long (and all after them)
    early_headers       headers at once, before load and prefill
    refuse              nothing listens (server-wide only)
    token_repeat_guard  one token repeated; after n the stream ends without a final line
    loading_text        text in `reasoning_content` while the model is being loaded
    """

    role_only_first: bool = False
    empty_chunks: int = 0
    tokens_per_chunk: int = 1
    reasoning: Reasoning | None = None
    tool_call: bool = False
    eos: int | tuple[int, int] | None = None
    no_done: bool = False
    done_after_cut: int | None = None
    comments: int = 0
    no_space_after_data: bool = False
    crlf: bool = False
    split_utf8: bool = False
    coalesce: int = 1
    fragment: int = 1
    error_object_at: int | None = None
    error_line_at: int | None = None
    swallowed_error_at: int | None = None
    abort_at: int | None = None
    cut_at: int | None = None
    reset_at: int | None = None
    crash: Crash | None = None
    load_crash_rate: float = 0.0
    empty_200: bool = False
    http_error: HttpError | None = None
    stall_at: Stall | None = None
    giant_event: int = 0
    no_usage: bool = False
    wrong_usage: int = 0
    continuous_usage: bool = False
    usage_on_finish: bool = False
    wrong_model_name: str | None = None
    slow_headers_s: float = 0.0
    early_headers: bool = False
    refuse: bool = False
    token_repeat_guard: int | None = None
    loading_text: bool = False

    def __post_init__(self) -> None:
        for name in ("tokens_per_chunk", "coalesce", "fragment"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")

    @property
    def mangles(self) -> bool:
        """Whether bytes or writes differ from one plain write an event."""
        return bool(
            self.comments
            or self.no_space_after_data
            or self.crlf
            or self.split_utf8
            or self.coalesce > 1
            or self.fragment > 1
        )


PLAIN = Knobs()


def parse(values: dict[str, Any]) -> Knobs:
    """Knobs from a YAML or JSON object; ProfileError names an unknown or ill-typed one."""
    try:
        return msgspec.convert(values, Knobs)
    except msgspec.ValidationError as e:
        raise ProfileError(f"knobs: {e}; known are {', '.join(Knobs.__struct_fields__)}") from e
