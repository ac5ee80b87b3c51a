"""Find out what listens at a URL, and whether it has the models that are wanted."""

import os
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

import msgspec

from tokenswarm.engines.control import Reply, Server, said
from tokenswarm.engines.llama_cpp import LlamaCpp
from tokenswarm.engines.llama_cpp_python import LlamaCppPython
from tokenswarm.engines.llama_swap import LlamaSwap
from tokenswarm.engines.ollama import Ollama, same_model
from tokenswarm.engines.openai import OpenAi
from tokenswarm.engines.protocol import Adapter, EngineInfo
from tokenswarm.engines.sglang import Sglang
from tokenswarm.engines.vllm import Vllm
from tokenswarm.errors import TargetError

# Asked in this order: llama-swap has Ollama's /api/version too, and everyone has OpenAI's API.
REGISTRY: tuple[type[OpenAi], ...] = (
    LlamaSwap, Ollama, Vllm, Sglang, LlamaCpp, LlamaCppPython, OpenAi,
)  # fmt: skip
ENGINES = tuple(kind.engine for kind in REGISTRY)
ALIASES = {"llama.cpp": "llama-cpp", "llamacpp": "llama-cpp", "xllamacpp": "llama-cpp"}
SIM_HEADER = "x-tokenswarm-sim"
WAY_OUT = {
    "ollama": "`ollama pull {name}`",
    "vllm": "start vLLM with `--served-model-name {name}`",
    "sglang": "start SGLang with `--served-model-name {name}`",
    "llama-cpp": "start llama-server with `--alias {name}`",
    "llama-cpp-python": "give the server's model `model_alias={name}`",
    "llama-swap": "add {name} to llama-swap's configuration",
}


def adapter(
    engine: str, headers: Mapping[str, str] | None = None, tls_verify: bool = True
) -> Adapter:
    """The adapter of `engine` (a slug or an alias such as `llama.cpp`), or TargetError."""
    wanted = ALIASES.get(engine.lower(), engine.lower().replace("_", "-"))
    for kind in REGISTRY:
        if kind.engine == wanted:
            return kind(headers or {}, tls_verify)
    raise TargetError(f"unknown engine {engine!r}: use one of {', '.join(ENGINES)}")


def probe(
    url: str, *, named: str | None = None, headers: Mapping[str, str] | None = None,
    timeout_s: float = 5.0, tls_verify: bool = True,
) -> EngineInfo:  # fmt: skip
    """Say what listens at `url`; TargetError when nothing does, or another engine than `named`.

    `named: openai` takes any server with OpenAI's API as just that.
    """
    wanted = adapter(named, headers, tls_verify) if named else None
    server = Server(url, timeout_s, headers or {}, tls_verify)
    first = server.get("/v1/models")
    kinds = (wanted,) if wanted is not None and wanted.engine == "openai" else _all(server)
    for kind in kinds:
        info = kind.fingerprint(url, timeout_s)
        if info is not None:
            if wanted is not None and info.engine != wanted.engine:
                raise TargetError(
                    f"{server.root} is {info.engine}, not {wanted.engine}: correct the target's "
                    "engine or url, or leave engine out to have it probed"
                )
            if first.status in (401, 403) and info.engine != "ollama":
                break  # known by what it tells everybody, but its API is closed to us
            return _simulated(info, first)
    raise TargetError(_unknown(server, first, wanted.engine if wanted else None))


def _all(server: Server) -> tuple[Adapter, ...]:
    return tuple(kind(server.headers, server.tls_verify) for kind in REGISTRY)


def _simulated(info: EngineInfo, first: Reply) -> EngineInfo:
    """`info`, marked if the server says that it is a simulation."""
    control = first.headers.get(SIM_HEADER)
    if control is None:
        return info
    place = urlsplit(control[:200])
    usable = place.scheme == "http" and bool(place.hostname) and "@" not in control
    return msgspec.structs.replace(
        info, simulated=True, control_url=control[:200].rstrip("/") if usable else None
    )


def _unknown(server: Server, first: Reply, wanted: str | None) -> str:
    if first.status in (401, 403):
        key = "refuses the key it was given" if server.headers else "wants a key"
        return (
            f"{server.root} {key} (HTTP {first.status}): put the key into the environment "
            "and name the variable as api_key_env of the target"
        )
    if 300 <= first.status < 400:
        return f"{server.root} redirects (HTTP {first.status}): give the address it leads to"
    if first.status == 503:
        return f"{server.root} is not ready ({said(server, first)}): wait until it has started"
    sort = f"does not answer as {wanted}" if wanted else "is no server that can be tested"
    return (
        f"{server.root} {sort}, /v1/models answers {said(server, first)}: correct the target's "
        f"url (engines known here are {', '.join(ENGINES)})"
    )


def check_models(info: EngineInfo, wanted: Iterable[str]) -> tuple[str, ...]:
    """Notes about `wanted` on this server; TargetError when it lacks one of them."""
    asked = list(dict.fromkeys(wanted))
    if not info.models and info.engine != "ollama":
        return (f"{info.url} lists no models, so {', '.join(asked)} could not be checked",)
    missing = [name for name in asked if not any(_same(info, name, m) for m in info.models)]
    if not missing:
        return ()
    there = ", ".join(info.models[:20]) or "none"
    ways = [WAY_OUT.get(info.engine, "use one of those").format(name=name) for name in missing]
    raise TargetError(
        f"{info.url} ({info.engine}) has no model {', '.join(map(repr, missing))}; "
        f"it has {there}: {', '.join(dict.fromkeys(ways))}"
    )


def _same(info: EngineInfo, wanted: str, there: str) -> bool:
    return same_model(wanted, there) if info.engine == "ollama" else wanted == there


def target_headers(
    headers: Mapping[str, str], api_key_env: str | None, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """A target's headers with `Authorization: Bearer` from the variable it names, if any."""
    if api_key_env is None:
        return dict(headers)
    key = environ.get(api_key_env, "").strip()
    if not key:
        raise TargetError(
            f"the environment variable {api_key_env} (api_key_env of the target) is not set"
        )
    return {**headers, "Authorization": f"Bearer {key}"}
