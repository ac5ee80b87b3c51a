"""The comparison on simulated twins, by the command line: the study's conclusions come out, other
profiles lead to others, an interrupted one is gone on with, and nothing is left running."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.matrices import command, like_h200, profile, quick, twin, written
from tests.running import ROOT, end_started, tokenswarm, until
from tokenswarm.compare.journal import CapacityDone, Journal, Sample, Start
from tokenswarm.launch import ledger


@pytest.fixture(autouse=True)
def _own_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))


def result(cwd: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((cwd / "out" / "comparison.json").read_text())
    return found


def solution(made: dict[str, Any], name: str) -> dict[str, Any]:
    return next(s for s in made["solutions"] if s["name"] == name)


def advice(made: dict[str, Any]) -> dict[str, list[str]]:
    return {r["use"]: r["solutions"] for r in made["recommendations"]}


def load(s: dict[str, Any], name: str) -> dict[str, Any]:
    return next(x for x in s["loads"] if x["load"] == name)


def left_running() -> list[Path]:
    return list(ledger.folder().glob("*.json"))


TIMES = {"tok_s", "mean_e2e_s", "p95_e2e_s", "first_call_s", "cached_call_s"}
"""Figures that a busy machine moves: the run that docs/compare.md tells of was within 10 %."""


@pytest.mark.slow
def test_the_twin_comes_to_the_conclusions_of_the_study(tmp_path: Path) -> None:
    matrix = written(tmp_path / "twin.matrix.yaml", twin(tmp_path))
    assert command("compare", matrix, tmp_path, "--against", "reference") == 0
    made = result(tmp_path)
    assert made["simulated"]
    assert made["finished"]
    several = {s["name"]: (s["several"], s["served"]) for s in made["solutions"]}
    assert several == {
        "vllm": ("yes", ["tinyllama", "qwen", "yi"]),
        "sglang": ("no", ["tinyllama"]),
        "ollama": ("by demand", ["tinyllama", "qwen", "yi"]),
    }
    (refused,) = solution(made, "sglang")["refused"]
    assert (refused["server"], refused["kind"]) == ("qwen", "out_of_memory")
    assert solution(made, "sglang")["models"][2]["why_not"].startswith("not tried")
    assert advice(made) == {
        "production throughput": ["vllm"], "little memory": ["ollama"], "single model": ["vllm"],
    }  # fmt: skip
    assert all(made["against"]["agrees"].values())
    for b in made["against"]["figures"]:
        limit = 0.3 if b["figure"] in TIMES else 0.1
        assert abs(b["ours"] / b["theirs"] - 1) <= limit, b
    texts = [(tmp_path / "out" / f"comparison.{e}").read_text() for e in ("md", "html")]
    for text in [*texts, (tmp_path / "stdout.txt").read_text()]:
        assert "SIMULATED" in text
        assert "not-tried" not in text
    assert left_running() == []
    ollama = {c["action"]: c for c in solution(made, "ollama")["changes"]}
    assert ollama["reload"]["penalty_s"]["value"] > 0.3  # the load, beyond a cached call
    vllm = [c for c in solution(made, "vllm")["changes"] if c["action"] == "sleep2"]
    assert [c["canary"] for c in vllm] == [[1, 1]]


@pytest.mark.slow
def test_another_gpu_leads_to_another_table_and_another_choice(tmp_path: Path) -> None:
    """SGLang's second and third model fit, vLLM is three times as slow: nothing is hard-coded."""
    changed = quick(profile("rtx5090-servers"))
    for server in changed["servers"]:
        if server["engine"] == "sglang":
            server["memory_ratio"] = {"tinyllama": 0.2, "qwen": 0.35, "yi": 0.9}[
                server["name"].removeprefix("sglang-")
            ]
    for model in changed["models"]:
        if not model["name"].endswith("-sglang"):
            model["token_s"] *= 3
            model["prefill_s"] *= 3
        else:  # as fast as it would be with its optimisations on
            model["token_s"] /= 3
    data = twin(tmp_path, requests=6, repeats=0)
    data["values"]["servers"] = str(written(tmp_path / "changed.yaml", changed))
    data["solutions"] = [s for s in data["solutions"] if s["name"] != "ollama"]
    del data["solutions"][1]["loads"]
    data["loads"] = [load for load in data["loads"] if load["name"] == "together"]
    matrix = written(tmp_path / "changed.matrix.yaml", data)
    assert command("compare", matrix, tmp_path, "--against", "reference") == 0
    made = result(tmp_path)
    assert solution(made, "sglang")["served"] == ["tinyllama", "qwen", "yi"]
    assert advice(made)["production throughput"] == ["sglang"]
    assert not made["against"]["agrees"]["production throughput"]
    speed = {n: load(solution(made, n), "together")["tok_s"]["value"] for n in ("vllm", "sglang")}
    assert speed["sglang"] > speed["vllm"]
    assert advice(made)["single model"] == []  # that load was not run


@pytest.mark.slow
def test_the_h200s_matrix_is_gone_on_with_after_time_was_up(tmp_path: Path) -> None:
    """Simulated servers; a fourth asks for too much. What was measured is not measured again."""
    matrix = like_h200(tmp_path)
    process = tokenswarm("compare", matrix, "--out", tmp_path / "out", cwd=tmp_path)
    journal = tmp_path / "out" / "journal.jsonl"
    until(lambda: journal.is_file() and b'"sample"' in journal.read_bytes(), 90)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 3
    assert "UNFINISHED" in (tmp_path / "stdout.txt").read_text()
    assert left_running() == []
    before = len(Journal(tmp_path / "out").of(Sample, "vllm"))
    assert command("compare", matrix, tmp_path) == 0
    whole = Journal(tmp_path / "out")
    samples = whole.of(Sample, "vllm")
    assert len(samples) == len({(s.action, s.model, s.repeat) for s in samples}) == 3
    assert before >= 1
    assert len(whole.of(CapacityDone, "vllm")) == 1
    starts = whole.of(Start, "vllm")
    assert {s.why for s in starts} == {"capacity", "drill", "again"}
    (greedy,) = [s for s in starts if not s.ok]
    assert (greedy.server, greedy.failure_kind) == ("greedy", "out_of_memory")
    made = solution(result(tmp_path), "vllm")
    tiny = next(s for s in made["starts"] if s["server"] == "tinyllama")
    assert tiny["ready_s"]["n"] == 3  # capacity, drill and again: every start counts
    assert load(made, "together")["success"]["value"] > 0.9
    assert command("compare", matrix, tmp_path, "--set", "models=/other") == 2
    assert "another matrix" in (tmp_path / "stderr.txt").read_text()


def test_after_kill_9_the_next_start_ends_what_was_left(tmp_path: Path) -> None:
    matrix = like_h200(tmp_path)
    process = tokenswarm("capacity", matrix, "--out", tmp_path / "out", cwd=tmp_path)
    journal = tmp_path / "out" / "journal.jsonl"
    until(lambda: journal.is_file() and b'"start"' in journal.read_bytes(), 60)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    leaders = [int(p.name.split("-")[0]) for p in left_running()]
    assert len(leaders) >= 2  # the box and a server
    assert command("capacity", matrix, tmp_path) == 0
    assert "which an earlier tokenswarm had left running" in (tmp_path / "stderr.txt").read_text()
    time.sleep(0.1)
    assert not any(ledger.members(pid) for pid in leaders)
    assert left_running() == []
    end_started()


def test_a_wrong_engine_is_found_and_said(tmp_path: Path) -> None:
    """SGLang's place is taken by a vLLM server."""
    data = twin(tmp_path, repeats=0)
    data["solutions"] = [s for s in data["solutions"] if s["name"] == "sglang"]
    data["loads"], data["solutions"][0]["loads"] = [], []
    data["solutions"][0]["servers"] = [
        {"name": "tinyllama", "models": {"tinyllama": "tinyllama-1.1b"},
         "arguments": ["vllm-tinyllama"]}
    ]  # fmt: skip
    data["solutions"][0]["ready_timeout_s"] = 20
    matrix = written(tmp_path / "wrong.matrix.yaml", data)
    command("capacity", matrix, tmp_path)
    (refused,) = solution(result(tmp_path), "sglang")["refused"]
    assert refused["kind"] == "wrong_server"
    assert "is vllm, not sglang" in refused["why"]


def test_every_shipped_study_figure_has_its_own_here() -> None:
    from tokenswarm.compare.against import study

    known = study("reference")
    assert {k for s in known.solutions.values() for k in s} <= TIMES | {
        "models_served", "success_ratio", "added_bytes", "total_bytes",
    }  # fmt: skip
    assert (ROOT / "scenarios" / "three-models.matrix.yaml").is_file()
