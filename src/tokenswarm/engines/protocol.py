"""What the rest of tokenswarm knows of a server under test."""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import msgspec

from tokenswarm.engines.news import News
from tokenswarm.engines.sheet import Sheet

ResidencyState = Literal["absent", "loading", "resident", "asleep", "partial"]


ANY = "*"
"""A model whose server does not tell its name: whichever it serves."""


class Residency(msgspec.Struct, frozen=True):
    """Where one model's weights are, as the engine says. Sizes in bytes; None when not said.

    `partial`: a part of them, or of the server's engines. `sleep_level` of one that is asleep: 1
    its weights are in the host's memory, 2 they are thrown away. `expires_s`: from now until it
    goes by itself if nobody asks for it, by its server's clock."""

    model: str
    state: ResidencyState
    vram_bytes: int | None = None
    size_bytes: int | None = None
    context_length: int | None = None
    sleep_level: int | None = None
    expires_s: float | None = None


class Knobs(msgspec.Struct, frozen=True):
    """What requests to this engine can ask for.

    `exact_length`: extra body fields that force the wanted output length, by the API's own names
    (`{"ignore_eos": True}`); the name of the length field is wire's business. None: it cannot.
    `min_tokens`: a `min_tokens` of the wanted length belongs beside them (with an empty
    `exact_length` it is all that is needed). `token_id_prompts`: completions take a list of
    token ids. `tokenize`: it may have an endpoint that counts tokens. `keep_alive`: requests may
    carry it. `stream_usage`: it knows stream_options.include_usage. `request_ids`: it takes an
    X-Request-Id of any form. `keeps_connections`: a connection is good for another request.
    """

    exact_length: dict[str, Any] | None = None
    min_tokens: bool = False
    token_id_prompts: bool = False
    tokenize: bool = False
    keep_alive: bool = False
    stream_usage: bool = True
    request_ids: bool = True
    keeps_connections: bool = True


class EngineInfo(msgspec.Struct, frozen=True):
    """A probed server. `engine` is a slug (ollama, vllm, llama-cpp, sglang, llama-cpp-python,
    llama-swap, openai). `url` is its root, without `/v1`. `control_url` is set when the server
    says that it is a simulation."""

    engine: str
    version: str | None
    url: str
    models: tuple[str, ...]
    knobs: Knobs
    simulated: bool = False
    control_url: str | None = None
    notes: tuple[str, ...] = ()


class LoadFigures(msgspec.Struct, frozen=True):
    """How busy a server is, by its own word. `model` is None where it does not tell models apart,
    a figure None where it has none. `kv_cache_ratio` is 0..1."""

    model: str | None
    running: int | None = None
    waiting: int | None = None
    kv_cache_ratio: float | None = None


class Adapter(Protocol):
    """One module an engine. Calls are blocking, bounded by `timeout_s` an exchange, and raise
    TargetError. An instance holds the headers that every request to its server carries."""

    @property
    def engine(self) -> str:
        """The engine's slug."""

    @property
    def sheet(self) -> Sheet:
        """What a person wants to know of it."""

    @property
    def knobs(self) -> Knobs:
        """What requests to this engine can ask for."""

    @property
    def news(self) -> News | None:
        """Where it tells changes of residency; None when it has no such stream."""

    @property
    def unloads(self) -> bool:
        """Whether it can throw one of several models out when told to."""

    def fingerprint(self, url: str, timeout_s: float) -> EngineInfo | None:
        """Say what listens at `url` if it is this engine, else None."""

    def residency(self, url: str, timeout_s: float) -> tuple[Residency, ...] | None:
        """Every model the engine holds; None when it has no way to say."""

    def figures(self, url: str, timeout_s: float) -> tuple[LoadFigures, ...]:
        """How busy it is; empty when it does not say."""

    def prompt_tokens(self, url: str, body: Mapping[str, Any], timeout_s: float) -> int | None:
        """Tokens that a request with this body is billed for its prompt: template, system text
        and BOS included. `body` is a chat's (`messages`) or a completion's (`prompt`, a text).
        None when the server has no way to say."""

    def ready(self, url: str, timeout_s: float) -> bool:
        """Whether it serves, asked in the way that costs it least."""

    def load(self, url: str, model: str, timeout_s: float) -> None:
        """Bring `model` in; returns when it is there. TargetError: no way to, or it failed."""

    def unload(self, url: str, model: str, timeout_s: float) -> None:
        """Throw `model` out; returns when the server says that it has gone. TargetError."""

    def sleep_levels(self, url: str, timeout_s: float) -> tuple[int, ...]:
        """Levels at which it can sleep: 1 keeps weights in host memory, 2 drops them."""

    def sleep(self, url: str, level: int, timeout_s: float) -> None:
        """Give the GPU's memory back; returns when the server says that it has."""

    def wake(self, url: str, level: int, timeout_s: float) -> None:
        """Take it again after a sleep of `level`, with good weights: those that level 2 dropped
        are loaded anew."""
