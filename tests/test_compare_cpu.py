"""Comparisons of real engines on this host's CPU, started as processes: llama.cpp's server (from
xllamacpp) and llama-cpp-python's, and a model that is too large for its memory limit."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.matrices import command, written
from tests.running import ROOT
from tokenswarm.launch import ledger
from tokenswarm.launch.ready import free_port

LIMIT_BYTES = 480 << 20  # the smaller one needs 290 MB of addresses, the larger one 660 MB
HI = {"kind": "text", "text": "hi"}


@pytest.fixture(autouse=True)
def _own_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Two models that fit, and one that does not; they say as much as they are asked for."""
    pytest.importorskip("gguf")
    from tests.gguf_model import write_model

    folder = tmp_path_factory.mktemp("models")
    size = {"small": (1, 128), "other": (2, 512), "large": (2, 2048)}
    made = {
        name: write_model(folder / f"{name}.gguf", layers=layers, dim=dim, context=2048)
        for name, (layers, dim) in size.items()
    }
    yield made
    for file in made.values():
        file.unlink()


def llama_cpp(files: dict[str, Path]) -> dict[str, Any]:
    """One llama.cpp server a model, and one whose model does not fit into its limit."""
    servers = [
        {"name": name, "models": {"small" if name == "large" else name: name},
         "arguments": [str(path), name, "2", "{port}"], "memory_limit_bytes": LIMIT_BYTES,
         "beyond": name == "large"}
        for name, path in files.items()
    ]  # fmt: skip
    return {
        "name": "llama-cpp", "engine": "llama-cpp", "ready_timeout_s": 60,
        "command": ["{python}", "-m", "tests.llama_server"], "servers": servers,
        "environment": {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
    }  # fmt: skip


def llama_cpp_python(files: dict[str, Path], folder: Path) -> dict[str, Any]:
    """One server of both models, which holds one of them at a time."""
    port = free_port()
    common = {"n_ctx": 512, "n_threads": 1, "n_threads_batch": 1, "use_mmap": False}
    config = folder / "config.json"
    config.write_text(
        json.dumps(
            {
                "host": "127.0.0.1", "port": port, "interrupt_requests": False,
                "models": [
                    {"model": str(files[n]), "model_alias": n, "verbose": False, **common}
                    for n in ("small", "other")
                ],
            }
        )
    )  # fmt: skip
    server = {"name": "both", "port": port, "models": {"small": "small", "other": "other"}}
    return {
        "name": "llama-cpp-python", "engine": "llama-cpp-python", "ready_timeout_s": 60,
        "command": ["{python}", "-m", "llama_cpp.server", "--config_file", str(config)],
        "servers": [server],
    }  # fmt: skip


def matrix(folder: Path, *solutions: dict[str, Any]) -> Path:
    output = {"tokens": 8}
    data = {
        "name": "cpu", "models": [{"name": "small"}, {"name": "other"}], "gpu": {"source": "host"},
        "cool_down_s": 0, "settle_s": 0.3, "solutions": list(solutions),
        "drill": {"repeats": 1, "restarts": ["small"], "prompt": HI},
        "loads": [
            {"name": "single", "single": True, "weights": {"small": 1}, "requests": 20,
             "prompt": HI, "output": output},
            {"name": "together", "requests": 20, "prompt": HI, "output": output},
        ],
    }  # fmt: skip
    return written(folder / "cpu.matrix.yaml", data)


def result(cwd: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((cwd / "out" / "comparison.json").read_text())
    assert not found["simulated"]
    assert found["finished"]
    return {s["name"]: s for s in found["solutions"]}


def holds(s: dict[str, Any], several: str) -> None:
    """Capacity, drill and load of a solution are complete."""
    assert (s["several"], s["served"], s["failure"]) == (several, ["small", "other"], None)
    assert all(m["first_call_s"] > 0 and m["added_bytes"] >= 0 for m in s["models"])
    assert s["vram_total_bytes"] > 20 << 20
    assert s["changes"]
    assert not any(c["failures"] for c in s["changes"])
    assert [(x["load"], x["requests"], x["success"]["value"]) for x in s["loads"]] == [
        ("single", 20, 1.0), ("together", 20, 1.0),
    ]  # fmt: skip


@pytest.mark.live
def test_llama_cpp_is_compared_and_a_model_too_large_fails_for_memory(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    pytest.importorskip("xllamacpp")
    path = matrix(tmp_path, llama_cpp(files))
    assert command("compare", path, tmp_path) == 0
    found = result(tmp_path)["llama-cpp"]
    holds(found, "yes")
    (refused,) = found["refused"]
    assert (refused["server"], refused["kind"], refused["beyond"]) == (
        "large", "out_of_memory", True,
    )  # fmt: skip
    assert "Cannot allocate memory" in refused["why"]
    (restart,) = found["changes"]
    assert (restart["action"], restart["model"]) == ("restart", "small")
    assert restart["freed_bytes"] > 10 << 20
    assert not list(ledger.folder().glob("*.json"))


@pytest.mark.swapserver
def test_two_real_engines_are_compared_in_one_matrix(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    pytest.importorskip("xllamacpp")
    pytest.importorskip("llama_cpp.server.app", exc_type=ImportError)
    path = matrix(tmp_path, llama_cpp(files), llama_cpp_python(files, tmp_path))
    assert command("compare", path, tmp_path) == 0
    found = result(tmp_path)
    holds(found["llama-cpp"], "yes")
    holds(found["llama-cpp-python"], "by demand")
    visits = [c for c in found["llama-cpp-python"]["changes"] if c["action"] == "visit"]
    assert {c["model"] for c in visits} == {"small", "other"}
    assert not list(ledger.folder().glob("*.json"))
