"""Matrices of simulated servers, made of those that are shipped and cut short."""

import sys
from pathlib import Path
from typing import Any

import yaml

from tests.running import ROOT, finished, tokenswarm

PROFILES = ROOT / "src" / "tokenswarm" / "sim" / "profiles"
STAND_IN = ["{python}", "-m", "tokenswarm.sim.stand_in", "http://127.0.0.1:{box_port}"]


def shipped(name: str) -> dict[str, Any]:
    """A matrix of scenarios/ as plain data."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "scenarios" / f"{name}.matrix.yaml").read_text())
    return found


def profile(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((PROFILES / f"{name}.yaml").read_text())
    return found


def quick(data: dict[str, Any]) -> dict[str, Any]:
    """The profile with servers that start in no time and weights that are read in no time."""
    data["host"] = {"disk_bytes_per_s": 1e11, "cache_bytes_per_s": 1e11}
    for server in data["servers"]:
        server |= {"import_s": 0.1, "profile_s": 0.05, "init_s": 0.05}
    return data


def written(path: Path, data: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def twin(folder: Path, requests: int = 8, repeats: int = 1) -> dict[str, Any]:
    """The simulated twin with few requests and one drill of the smallest model."""
    data = shipped("three-models-simulated")
    data["cool_down_s"], data["settle_s"] = 0.1, 0.25
    data["drill"] |= {"repeats": repeats, "restarts": ["tinyllama"], "sleeps": ["tinyllama"]}
    data["drill"]["order"] = ["tinyllama", "qwen"]
    for load in data["loads"]:
        load["requests"] = requests
    return data


def like_h200(folder: Path) -> Path:
    """scenarios/vllm-h200.matrix.yaml, its servers simulated, the greedy one as well."""
    simulated = quick(profile("rtx5090-servers"))
    greedy = dict(simulated["servers"][0], name="vllm-greedy", memory_ratio=0.9)
    simulated["servers"].append(greedy)
    box = written(folder / "box.yaml", simulated)
    data = shipped("vllm-h200")
    data["gpu"] = {"source": "sim", "control_url": "http://127.0.0.1:{box_port}"}
    data["settle_s"] = 0.25
    data["drill"]["sleeps"] = ["tinyllama"]
    solution = data["solutions"][0]
    solution["box"] = {
        "command": [sys.executable, "-m", "tokenswarm.sim", str(box), "--control-port",
                    "{box_port}"]
    }  # fmt: skip
    del solution["environment"]
    solution["command"], solution["arguments"] = STAND_IN, ["--port", "{port}"]
    for server in solution["servers"]:
        server["arguments"], server["port"] = [f"vllm-{server['name']}"], 0
    data["loads"] = [dict(data["loads"][1], duration_s=2)]
    return written(folder / "like-h200.matrix.yaml", data)


def command(name: str, matrix: Path, cwd: Path, *options: str, timeout_s: float = 240.0) -> int:
    """`tokenswarm NAME MATRIX --out out ...` to its end: the exit code."""
    return finished(tokenswarm(name, matrix, "--out", cwd / "out", *options, cwd=cwd), timeout_s)
