"""bench/vllm_pairs.py against a simulated vLLM server, a small load tester in vLLM's place."""

import json
import subprocess
import sys
from pathlib import Path

from tests.running import ROOT
from tokenswarm.scenario.load import load, resolve
from tokenswarm.scenario.plan import Plan
from tokenswarm.sim.process import start


def test_both_send_the_same_prompts_to_the_same_server_and_stand_side_by_side(
    tmp_path: Path,
) -> None:
    out = tmp_path / "pairs"
    with start("three-vllm") as box:
        command = [
            sys.executable, "-m", "bench.vllm_pairs", "--url", box.urls["tinyllama"],
            "--model", "tinyllama-1.1b", "--tokenizer", "none", "--requests", "12",
            "--concurrency", "2", "--output", "16", "--pairs", "1", "--out", str(out),
            "--vllm", f"{sys.executable} -m tests.peer_bench",
        ]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr  # a busy machine may set them apart
    small, pair = json.loads((out / "pairs.json").read_text())
    assert set(pair) == {"vllm", "tokenswarm"}
    for figure in ("tok_s", "tpot_ms", "ttft_ms"):
        ours, theirs = pair["tokenswarm"][figure], pair["vllm"][figure]
        assert 0.3 < ours / theirs < 3, figure
        assert 0.3 < small["tokenswarm"][figure] / small["vllm"][figure] < 3, figure
    assert "vllm bench" in done.stdout
    assert all(side["cpu_s"] > 0 for side in pair.values())
    assert "CPU a token" in done.stdout
    scenario = out / "scenario.yaml"
    plan = Plan(resolve(load(scenario), scenario.parent))
    sent = [json.loads(line)["prompt"] for line in (out / "prompts.jsonl").read_text().splitlines()]
    assert sent == [plan.request(i).prompt for i in range(12)]


def test_models_that_have_no_shape_are_named_with_those_that_have(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.random_models", str(tmp_path), "gpt-5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "gpt-5: no such shape; there are tinyllama-1.1b, qwen2.5-3b, yi-6b" in done.stderr
