"""A profile: the GPU, the host, the server and the models of one simulation."""

from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import yaml

from tokenswarm.sim import knobs as knob
from tokenswarm.sim.knobs import ProfileError

GB = 10**9
S = TypeVar("S", bound=msgspec.Struct)


class _Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class GpuSpec(_Spec, frozen=True, kw_only=True):
    """One GPU. `context_bytes`: what each process costs beside its model (CUDA context).
    `free_lag_s`: memory of a dead process comes back over that time."""

    name: str
    vram_total_bytes: int
    vram_reserved_bytes: int = 0
    context_bytes: int = 0
    free_lag_s: float = 0.3
    loading_slowdown: float = 1.0
    other_model_slowdown: float = 0.0
    idle_power_w: float = 30.0
    max_power_w: float = 575.0
    idle_clock_hz: int = 180_000_000
    max_clock_hz: int = 2_407_000_000
    idle_temperature_c: float = 35.0
    max_temperature_c: float = 75.0
    util_window_s: float = 0.17
    heat_up_s: float = 20.0


class CoTenant(_Spec, frozen=True, kw_only=True):
    """A process of somebody else that holds VRAM all the time."""

    name: str
    vram_bytes: int


class HostSpec(_Spec, frozen=True, kw_only=True):
    """How fast weights are read. `cached`: every model is in the page cache at the start."""

    disk_bytes_per_s: float = 6e9
    cache_bytes_per_s: float = 20e9
    cache_bytes: int = 64 * GB
    cached: bool = False


class OllamaSpec(_Spec, frozen=True, kw_only=True):
    """Ollama's settings. `max_loaded_models` 0: three. `context_length`: what a request without
    num_ctx gets. `fit_ratio`: share of free VRAM that a model may be predicted to take.
    `offload`: a model that does not fit alone is loaded in part and the rest left to the CPU,
    which makes its tokens take up to 1 + `offload_slowdown` times as long; else it is refused.
    `lock_s`, `kill_s`: how long starting and killing a runner blocks every request and /api/ps."""

    version: str = "0.33.0"
    num_parallel: int = 1
    max_loaded_models: int = 0
    max_queue: int = 512
    keep_alive_s: float = 300.0
    context_length: int = 4096
    fit_ratio: float = 0.8
    batch_bytes: int = 768 * 1024**2
    poll_s: float = 0.25
    recovery_timeout_s: float = 5.0
    recovery_ratio: float = 0.75
    lock_s: float = 0.0
    kill_s: float = 0.0
    resident: tuple[str, ...] = ()
    offload: bool = False
    offload_slowdown: float = 5.0


class ServerSpec(_Spec, frozen=True, kw_only=True):
    """A server of one model that keeps a fixed share of the GPU from its start, weights and KV
    cache inside, until it sleeps or ends.

    vllm: `memory_ratio` of the whole GPU (gpu_memory_utilization), which must be free when it
    starts. sglang: of what is free when it starts (mem_fraction_static); it starts only if that
    holds the weights. A start takes import_s, then the weights' time, profile_s until the KV cache
    is reserved, and init_s. Level 1 sleep copies the weights to the host's memory at
    sleep_bytes_per_s, waking copies them back at wake_bytes_per_s; level 2 drops them in discard_s,
    and after waking they are garbage until they are loaded again. `weights_backup` (sglang):
    weights outlast a release. `started`: it runs from the beginning; `asleep`: at level 1."""

    name: str
    engine: Literal["vllm", "sglang"]
    model: str
    memory_ratio: float
    port: int = 0
    started: bool = True
    asleep: bool = False
    import_s: float = 20.0
    profile_s: float = 6.0
    init_s: float = 8.0
    sleep_bytes_per_s: float = 1.5e9
    wake_bytes_per_s: float = 30e9
    discard_s: float = 0.03
    weights_backup: bool = False
    max_running: int = 256


class SwitcherSpec(_Spec, frozen=True, kw_only=True):
    """Who wakes sleeping vLLM servers when they are asked, as a proxy before them would: at most
    `awake` of them are awake, the one that was idle longest is put to sleep."""

    awake: int = 1
    level: Literal[1, 2] = 1


class Model(_Spec, frozen=True, kw_only=True):
    """One model. Its process takes context_bytes of the GPU + file_bytes + compute_bytes +
    kv_bytes_per_token x context. First token after prefill_s + prompt / prefill_tokens_per_s,
    then one every token_s x (1 + batch_slowdown x (streams of this model - 1)).
    A prompt counts as its whitespace-separated words + template_tokens (none with `raw`, none for
    embeddings). Without a limit a model says natural_tokens.
    A load takes spawn_s, then file_bytes / bandwidth + init_s rounded up to the server's polls."""

    name: str
    file_bytes: int
    kv_bytes_per_token: int = 0
    compute_bytes: int = 0
    train_context: int = 4096
    spawn_s: float = 0.03
    init_s: float = 0.0
    prefill_s: float = 0.02
    prefill_tokens_per_s: float | None = None
    token_s: float = 0.005
    batch_slowdown: float = 0.0
    natural_tokens: int = 128
    template_tokens: int = 8
    embedding_length: int = 64
    family: str = "llama"
    parameter_size: str = "1B"
    quantization: str = "Q4_0"
    knobs: dict[str, Any] = {}


class Profile(_Spec, frozen=True, kw_only=True):
    """One simulation: an Ollama-like server of all models (`ollama: null` for none) and any
    number of `servers` with one model each."""

    name: str
    doc: str
    gpu: GpuSpec
    models: tuple[Model, ...]
    co_tenants: tuple[CoTenant, ...] = ()
    host: HostSpec = HostSpec()
    ollama: OllamaSpec | None = OllamaSpec()
    servers: tuple[ServerSpec, ...] = ()
    switcher: SwitcherSpec | None = None
    knobs: dict[str, Any] = {}

    def sped_up(self, speed: float) -> "Profile":
        """The same with every duration divided and every rate multiplied by `speed`."""
        return _scaled(self, speed)


def _scaled(spec: S, speed: float) -> S:
    """Names tell: `..._per_s` is a rate, `..._s` a duration (SI names are the rule here)."""
    changes: dict[str, Any] = {}
    for name in spec.__struct_fields__:
        value = getattr(spec, name)
        if isinstance(value, msgspec.Struct):
            changes[name] = _scaled(value, speed)
        elif isinstance(value, tuple) and value and isinstance(value[0], msgspec.Struct):
            changes[name] = tuple(_scaled(v, speed) for v in value)
        elif isinstance(value, float) and name.endswith("_per_s"):
            changes[name] = value * speed
        elif isinstance(value, float) and name.endswith("_s"):
            changes[name] = value / speed
    return msgspec.structs.replace(spec, **changes)


def list_names() -> tuple[str, ...]:
    """Names of the profiles that come with tokenswarm, sorted."""
    folder = resources.files("tokenswarm.sim") / "profiles"
    return tuple(sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".yaml")))


def load(name_or_path: str | Path) -> Profile:
    """Read a profile by its name or the path of a YAML file; ProfileError says what is wrong.

    Top level keys: name, doc, gpu (GpuSpec), host (HostSpec), ollama (OllamaSpec or null), servers
    (list of ServerSpec), switcher (SwitcherSpec), co_tenants (list of CoTenant), models (list of
    Model), knobs (Knobs, for all models); a model's own
    `knobs` go over them. Each class documents its keys; bytes, seconds, and rates per second.
    """
    text = _text(str(name_or_path))
    try:
        profile = msgspec.convert(yaml.safe_load(text), Profile)
    except (yaml.YAMLError, msgspec.ValidationError) as e:
        raise ProfileError(f"profile {name_or_path}: {e}") from e
    _check(profile)
    return profile


def _text(name: str) -> str:
    if name in list_names():
        return (resources.files("tokenswarm.sim") / "profiles" / f"{name}.yaml").read_text("utf-8")
    try:
        return Path(name).read_text("utf-8")
    except OSError as e:
        raise ProfileError(
            f"no profile {name!r}: give a YAML file or one of {', '.join(list_names())}"
        ) from e


def _check(profile: Profile) -> None:
    names = [m.name for m in profile.models]
    where = f"profile {profile.name}"
    if not names or len(set(names)) != len(names):
        raise ProfileError(f"{where}: models need at least one, and different names: {names}")
    resident = profile.ollama.resident if profile.ollama else ()
    if missing := {*resident, *(s.model for s in profile.servers)} - set(names):
        raise ProfileError(f"{where}: resident or servers name {sorted(missing)}, not in models")
    _check_servers(where, profile)
    taken = profile.gpu.vram_reserved_bytes + sum(t.vram_bytes for t in profile.co_tenants)
    if taken >= profile.gpu.vram_total_bytes:
        raise ProfileError(f"{where}: reserved and co-tenants take {taken} bytes, more than all")
    for model in profile.models:
        knob.parse({**profile.knobs, **model.knobs})


def _check_servers(where: str, profile: Profile) -> None:
    servers = [s.name for s in profile.servers]
    if len({*servers, "ollama"}) != len(servers) + 1:
        raise ProfileError(f"{where}: servers need different names, none of them ollama: {servers}")
    if profile.ollama is None and not servers:
        raise ProfileError(f"{where}: neither ollama nor servers: nothing to serve")
    for server in profile.servers:
        if not 0 < server.memory_ratio <= 1:
            raise ProfileError(
                f"{where}: {server.name}: memory_ratio is {server.memory_ratio}: give (0, 1]"
            )
