"""What the server tells about its models: tags, show, ps, /v1/models."""

import base64
import hashlib
import random
import struct
from typing import Any

from tokenswarm.sim.clock import Rfc3339, WallClock, now_s
from tokenswarm.sim.profile import Model
from tokenswarm.sim.runner import Runner

FOREVER_S = 100 * 365 * 86400.0
_MODIFIED = "2026-01-01T00:00:00Z"
_CREATED = 1767225600  # the same instant


def full_name(name: str) -> str:
    """As Ollama lists it: with a tag."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def find(models: tuple[Model, ...], name: str) -> Model | None:
    """The model a request names, with or without `:latest`."""
    wanted = full_name(name)
    return next((m for m in models if full_name(m.name) == wanted), None)


def tags(models: tuple[Model, ...]) -> dict[str, Any]:
    """`/api/tags`."""
    rows = [
        {
            "name": full_name(m.name),
            "model": full_name(m.name),
            "modified_at": _MODIFIED,
            "size": m.file_bytes,
            "digest": _digest(m),
            "details": _details(m),
        }
        for m in models
    ]
    return {"models": rows}


def ps(runners: list[Runner], context_bytes: int, clock: WallClock) -> dict[str, Any]:
    """`/api/ps`: what is loaded. Sizes are without the CUDA context, as the real server's."""
    time, now = Rfc3339(), now_s()
    rows = []
    for runner in runners:
        keep_s = FOREVER_S if runner.keep_alive_s < 0 else runner.keep_alive_s
        expires_s = now + keep_s if runner.expires_s is None else runner.expires_s
        row = {
            "name": full_name(runner.model.name),
            "model": full_name(runner.model.name),
            "size": runner.size_bytes - context_bytes,
            "digest": _digest(runner.model),
            "details": _details(runner.model),
            "expires_at": time(clock.unix(expires_s)),
            "size_vram": runner.vram_bytes - context_bytes,
            "context_length": runner.context,
        }
        rows.append(row)
    return {"models": rows}


def show(model: Model) -> dict[str, Any]:
    """`/api/show`."""
    family = model.family
    return {
        "modelfile": f"FROM {full_name(model.name)}",
        "parameters": "",
        "template": "{{ .Prompt }}",
        "details": _details(model),
        "model_info": {
            "general.architecture": family,
            f"{family}.context_length": model.train_context,
            f"{family}.embedding_length": model.embedding_length,
        },
        "capabilities": ["completion", "tools"],
        "modified_at": _MODIFIED,
    }


def v1_models(models: tuple[Model, ...]) -> dict[str, Any]:
    """`/v1/models`."""
    return {"object": "list", "data": [v1_model(m) for m in models]}


def v1_model(model: Model) -> dict[str, Any]:
    """`/v1/models/NAME`."""
    name = full_name(model.name)
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "library"}


def embedding(model: Model, text: str) -> list[float]:
    """A unit vector that depends on nothing but model and text."""
    dice = random.Random(f"{model.name}\0{text}")
    raw = [dice.gauss(0, 1) for _ in range(model.embedding_length)]
    norm = sum(x * x for x in raw) ** 0.5 or 1.0
    return [round(x / norm, 8) for x in raw]


def base64_floats(vector: list[float]) -> str:
    """`encoding_format: base64`: little-endian float32."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _digest(model: Model) -> str:
    return hashlib.sha256(full_name(model.name).encode()).hexdigest()


def _details(model: Model) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": model.family,
        "families": [model.family],
        "parameter_size": model.parameter_size,
        "quantization_level": model.quantization,
    }
