"""What servers of each engine answer on their control surface: recorded, or written by hand."""

import json
from pathlib import Path

from tests.canned_server import Given

VLLM = Path(__file__).parent / "data" / "vllm-0.24.0-h200-control"


def vllm(metrics: str = "metrics.prom", *, dev_mode: bool = True) -> dict[str, Given]:
    """vLLM 0.24.0, recorded. Asleep when `metrics` is metrics_asleep.prom."""
    asleep = metrics == "metrics_asleep.prom"
    answers: dict[str, Given] = {
        "/v1/models": (VLLM / "models.json").read_bytes(),
        "/version": (VLLM / "version.json").read_bytes(),
        "/metrics": (VLLM / metrics).read_bytes(),
        "/tokenize": _tokenize,
    }
    if dev_mode:
        recorded = (VLLM / "is_sleeping.json").read_bytes()
        answers["/is_sleeping"] = recorded if asleep else recorded.replace(b"true", b"false")
    return answers


def _tokenize(body: bytes) -> Given:
    """A token a character; the template adds 7, BOS included."""
    asked = json.loads(body)
    if "messages" in asked:
        return {"count": len(asked["messages"][0]["content"]) + 7}
    return {"count": len(asked["prompt"]) + asked.get("add_special_tokens", True)}


def ollama(*loaded: dict[str, object]) -> dict[str, Given]:
    """Ollama with two models, `loaded` in memory."""
    there = ["tinyllama:1.1b", "qwen:latest"]
    return {
        "/": b"Ollama is running",
        "/api/version": {"version": "0.33.0"},
        "/api/tags": {"models": [{"name": n, "model": n} for n in there]},
        "/api/ps": {"models": list(loaded)},
        "/v1/models": {
            "object": "list",
            "data": [{"id": n, "object": "model", "owned_by": "library"} for n in there],
        },
    }


def held(name: str, size: int = 1000, vram: int | None = None) -> dict[str, object]:
    """A model as /api/ps lists it."""
    return {
        "name": name,
        "model": name,
        "size": size,
        "size_vram": size if vram is None else vram,
        "context_length": 2048,
    }


def sglang() -> dict[str, Given]:
    """SGLang, which imitates some of Ollama's routes."""
    return {
        "/": b"SGLang is running",
        "/api/tags": {"models": [{"name": "qwen", "model": "qwen"}]},
        "/api/show": {"details": {}},
        "/server_info": {"version": "0.5.23", "model_path": "/models/qwen", "tp_size": 1},
        "/ready": b"",
        "/v1/models": {"object": "list", "data": [{"id": "qwen", "owned_by": "sglang"}]},
        "/metrics": b'sglang:num_running_reqs{model_name="qwen",tp_rank="0"} 3.0\n'
        b'sglang:num_queue_reqs{model_name="qwen",tp_rank="0"} 2.0\n'
        b'sglang:token_usage{model_name="qwen",tp_rank="0"} 0.25\n',
    }


def llama_server(
    *, processing: tuple[bool, ...] = (True, False), metrics: bool = False
) -> dict[str, Given]:
    """llama-server with a model of its own; a slot each of `processing`."""
    page = b"llamacpp:requests_processing 1\nllamacpp:requests_deferred 3\n"
    slots = [{"id": i, "is_processing": busy} for i, busy in enumerate(processing)]
    return {
        "/health": {"status": "ok"},
        "/props": {"build_info": "b7000", "is_sleeping": False},
        "/v1/models": {"object": "list", "data": [{"id": "tiny", "owned_by": "llamacpp"}]},
        "/slots": json.dumps(slots).encode(),
        "/metrics": page if metrics else (501, b'{"error":{"message":"no metrics here"}}'),
    }


def llama_router() -> dict[str, Given]:
    """llama-server without a model of its own."""
    states = ["loaded", "loading", "unloaded", "sleeping"]
    return {
        "/props": {"role": "router", "max_instances": 4, "build_info": "b7000"},
        "/v1/models": {
            "object": "list",
            "data": [{"id": s, "owned_by": "llamacpp", "status": {"value": s}} for s in states],
        },
        "/metrics": (400, b'{"error":{"message":"model name is missing"}}'),
        "/metrics?model=loaded&autoload=false": b"llamacpp:requests_processing 2\n"
        b"llamacpp:requests_deferred 5\n",
    }


def llama_cpp_python() -> dict[str, Given]:
    return {
        "/openapi.json": {"info": {"title": "\N{LLAMA} llama.cpp Python API", "version": "0.3.35"}},
        "/v1/models": {"object": "list", "data": [{"id": "one", "owned_by": "me"}]},
    }


def llama_swap() -> dict[str, Given]:
    running = [
        {"model": "a", "state": "ready"},
        {"model": "b", "state": "starting"},
        {"model": "c", "state": "stopping"},
    ]
    return {
        "/running": {"running": running},
        "/api/version": {"version": "v250"},
        "/v1/models": {"object": "list", "data": [{"id": n} for n in "abcd"]},
    }


def openai() -> dict[str, Given]:
    return {"/v1/models": {"object": "list", "data": [{"id": "gpt", "owned_by": "somebody"}]}}
