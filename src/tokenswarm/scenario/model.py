"""The shape of a scenario: frozen structs, as a scenario file (docs/scenarios.md) spells them."""

from typing import Literal

import msgspec

Api = Literal["ollama", "openai"]
EndpointName = Literal["chat", "completions", "generate", "embeddings"]
MixOrder = Literal["weighted", "round_robin", "zipf", "markov", "rotate"]
Arrivals = Literal["constant", "poisson", "gamma"]
GpuSource = Literal["auto", "agent", "nvml", "sim", "replay", "host", "none"]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Every key is known or the file is refused."""


class Target(_Strict, frozen=True):
    """A server under test. `engine` is probed when None."""

    api: Api
    url: str
    engine: str | None = None
    headers: dict[str, str] = {}
    api_key_env: str | None = None
    connect_timeout_s: float = 30.0
    idle_timeout_s: float = 600.0
    total_timeout_s: float = 1800.0
    tls_verify: bool = True


class Spread(_Strict, frozen=True):
    """A length in tokens: normal with `mean` and `std`, cut to [min, max]. `std: 0` is exact."""

    mean: float
    std: float = 0.0
    min: int = 1
    max: int = 1_000_000


class SyntheticPrompt(_Strict, frozen=True, tag="synthetic", tag_field="kind"):
    tokens: int | Spread = 128


class TextPrompt(_Strict, frozen=True, tag="text", tag_field="kind"):
    text: str


class FilePrompt(_Strict, frozen=True, tag="file", tag_field="kind"):
    """One prompt a line: `.jsonl` takes `field` of each object, anything else the line itself."""

    path: str
    field: str = "prompt"


class InlinePrompt(_Strict, frozen=True, tag="inline", tag_field="kind"):
    """Prompts in the scenario itself; what a FilePrompt becomes before it goes to workers."""

    texts: list[str]


Prompt = SyntheticPrompt | TextPrompt | FilePrompt | InlinePrompt


class Output(_Strict, frozen=True):
    """Wanted output length. `exact` forces it where the engine knows how (ignore_eos)."""

    tokens: int | Spread = 128
    exact: bool = True


class Slo(_Strict, frozen=True):
    """A request meets its SLO when every figure given here is met."""

    ttft_s: float | None = None
    ttft_user_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None


class Model(_Strict, frozen=True):
    """One model of the mix. `name` is its slug everywhere, `model` what the server calls it."""

    name: str
    target: str
    model: str
    weight: float = 1.0
    endpoint: EndpointName = "chat"
    stream: bool = True
    prompt: Prompt = SyntheticPrompt()
    system: str | None = None
    output: Output = Output()
    options: dict[str, float | int | str | bool | list[str]] = {}
    keep_alive: str | int | float | None = None
    slo: Slo | None = None


class Mix(_Strict, frozen=True):
    """`exponent` is zipf's, `every` rotate's, `stay` and `transitions` are markov's."""

    order: MixOrder = "weighted"
    exponent: float = 1.0
    every: int = 10
    stay: float = 0.8
    transitions: dict[str, dict[str, float]] = {}


class RampShape(_Strict, frozen=True, tag="ramp", tag_field="kind"):
    """From the level `start` to the level `end` in `over_s` seconds, then `end`."""

    over_s: float
    start: float = 0.0
    end: float = 1.0


class StepsShape(_Strict, frozen=True, tag="steps", tag_field="kind"):
    """Each of `levels` for `each_s` seconds; the last one stays."""

    levels: list[float]
    each_s: float


class SpikeShape(_Strict, frozen=True, tag="spike", tag_field="kind"):
    """The level `base`, and from `at_s` on for `for_s` seconds 1; again every `every_s`."""

    at_s: float
    for_s: float
    base: float = 0.1
    every_s: float | None = None


class SoakShape(_Strict, frozen=True, tag="soak", tag_field="kind"):
    """Up to 1 in `ramp_s`, a long time there, and down to 0 in the last `ramp_s`."""

    ramp_s: float


Shape = RampShape | StepsShape | SpikeShape | SoakShape


class ClosedLoad(_Strict, frozen=True, tag="closed", tag_field="kind"):
    """`turns` above 1: a user holds conversations of so many requests with one model each."""

    users: int = 1
    think_s: float = 0.0
    turns: int = 1
    shape: Shape | None = None


class OpenLoad(_Strict, frozen=True, tag="open", tag_field="kind"):
    """`rate` arrivals a second over all workers; `burstiness` is gamma's shape (1 is Poisson)."""

    rate: float
    arrivals: Arrivals = "poisson"
    burstiness: float = 1.0
    max_in_flight: int = 512
    shape: Shape | None = None


class TraceLoad(_Strict, frozen=True, tag="trace", tag_field="kind"):
    """Arrivals as they were recorded: `times_s` after the first, read from `path`."""

    path: str | None = None
    field: str = "timestamp"
    unit_s: float = 1.0
    speed: float = 1.0
    max_in_flight: int = 512
    times_s: list[float] = []


Load = ClosedLoad | OpenLoad | TraceLoad


class GpuTelemetry(_Strict, frozen=True):
    """`trace` is the recorded file that source `replay` plays."""

    source: GpuSource = "auto"
    interval_s: float = 0.05
    trace: str | None = None


class EngineTelemetry(_Strict, frozen=True):
    interval_s: float = 0.5


class Telemetry(_Strict, frozen=True):
    """`agents` are HOST:PORT. Their token lies in a file or an environment variable."""

    agents: list[str] = []
    agent_token_file: str | None = None
    agent_token_env: str = "TOKENSWARM_AGENT_TOKEN"
    gpu: GpuTelemetry = GpuTelemetry()
    engine: EngineTelemetry = EngineTelemetry()


class Scenario(_Strict, frozen=True):
    """A whole scenario. `duration_s` ends new requests, `drain_s` the wait for those in flight."""

    name: str
    targets: dict[str, Target]
    models: list[Model]
    mix: Mix = Mix()
    load: Load = ClosedLoad()
    duration_s: float = 60.0
    max_requests: int | None = None
    warmup_s: float = 0.0
    drain_s: float = 300.0
    telemetry: Telemetry = Telemetry()
    gates: list[str] = []
    seed: int = 1


class PlannedRequest(msgspec.Struct, frozen=True):
    """Request number `index` of a scenario; the same for the same seed, whoever asks.

    `prompt` is text, or token ids where the engine takes them. `prompt_tokens` is the wanted
    length in the server's tokens, None where only the text was given. `intended_s` is the
    arrival after t0 in an open loop, None in a closed one. `history` holds the turns of the
    conversation before this one, as (prompt, reply).
    """

    index: int
    model: str
    prompt: str | list[int]
    prompt_tokens: int | None
    output_tokens: int
    intended_s: float | None
    history: tuple[tuple[str, str], ...] = ()
