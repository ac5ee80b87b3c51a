"""bench/rivals.py: tokenswarm and a small load tester in vLLM's place on the benchmarks' server."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.rivals import CLIENTS, Seen, cost, table
from tests.running import ROOT


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler for the server")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two cores are needed")
def test_each_client_is_held_against_the_servers_own_times(tmp_path: Path) -> None:
    file, stand_in = tmp_path / "rivals.json", ROOT / "tests" / "peer_bench.py"
    command = [
        sys.executable, "-m", "bench", "rivals", "--vllm", f"{sys.executable} {stand_in}",
        "--tokenizer", "none", "--requests", "16", "--streams", "4", "--rounds", "1",
        "--itl-ms", "2", "--json", str(file),
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    for size, requests in (("small", 4), ("large", 16)):
        for name in ("tokenswarm", "vllm"):
            (seen,) = found[size][name]
            assert (seen["requests"], seen["tokens"]) == (requests, requests * 64)
            assert abs(seen["ttft_off_ms"]) < 100  # a busy machine is late, not elsewhere
            assert seen["cpu_s"] > 0
    assert "left out, for want of a command: guidellm, aiperf" in done.stdout


def test_what_a_client_takes_to_start_is_in_no_token() -> None:
    def seen(client: str, cpu_s: float, tokens: int) -> Seen:
        return Seen(client, tokens // 64, 20.0, 0.1, 0.0, cpu_s, tokens, 2**20, 0.0)

    small = {"tokenswarm": [seen("tokenswarm", 2.1, 10_000)], "vllm": [seen("vllm", 11.0, 10_000)]}
    large = {"tokenswarm": [seen("tokenswarm", 2.4, 40_000)], "vllm": [seen("vllm", 12.5, 40_000)]}
    assert cost(small["vllm"], large["vllm"]) == pytest.approx((50.0, 10.5))
    (row,) = (line for line in table(small, large).splitlines() if line.startswith("vllm"))
    assert row.split()[1:4] == ["50.0", "5.0", "10.5"]


def test_a_client_that_fails_is_told_with_its_last_words() -> None:
    command = [sys.executable, "-m", "bench", "rivals", "--tokenswarm",
               f"{sys.executable} -c \"import sys; sys.exit('not today')\"",
               "--rounds", "1", "--requests", "4"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert "cannot measure: tokenswarm ended with 1: not today" in done.stderr


def test_every_client_can_be_named() -> None:
    command = [sys.executable, "-m", "bench", "rivals", "--help"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(f"--{name}" in said for name in CLIENTS)
