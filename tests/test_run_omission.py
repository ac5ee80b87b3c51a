"""Coordinated omission: a server that stands still for 10 s costs every request that was due."""

import json
import math
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.running import end_started, finished, popen, records, run_dirs, scenario, tokenswarm
from tests.running import until as wait_until
from tests.web import free_port, listening

STALL_S = 10.0
RATE = 20.0
ONE = {"name": "steady", "model": "steady", "prompt": {"kind": "text", "text": "hi"},
       "output": {"tokens": 2}}  # fmt: skip
WARM_TTFT_S = 0.020


def expected_p99(due_s: list[float], from_s: float, to_s: float) -> float:
    """By arithmetic: whoever was due while the server stood still waited until it went on."""
    waits = sorted(WARM_TTFT_S + (to_s - t if from_s <= t < to_s else 0.0) for t in due_s)
    return waits[math.ceil(0.99 * len(waits)) - 1]


def test_the_p99_that_users_see_is_the_arithmetic_truth_of_a_stall(tmp_path: Path) -> None:
    port = free_port()
    box = popen([sys.executable, "-m", "tokenswarm.sim", "steady", "--port", str(port)], tmp_path)
    wait_until(lambda: listening(port) != set())
    file = scenario(
        tmp_path / "stall.yaml", f"http://127.0.0.1:{port}", ONE, duration_s=STALL_S + 4,
        telemetry={"gpu": {"source": "none"}},
        load={"kind": "open", "rate": RATE, "arrivals": "constant", "max_in_flight": 400},
    )  # fmt: skip
    process = tokenswarm("run", file, cwd=tmp_path)
    wait_until(lambda: any(len(records(r)) > 20 for r in run_dirs(tmp_path / "runs")))
    os.kill(box.pid, signal.SIGSTOP)
    stopped_ns = time.time_ns()
    time.sleep(STALL_S)
    os.kill(box.pid, signal.SIGCONT)
    went_on_ns = time.time_ns()
    code = finished(process)
    end_started()
    (run,) = run_dirs(tmp_path / "runs")
    t0_ns = run.read_manifest().t0_unix_ns
    got = records(run)
    assert [r["status"] for r in got] == ["ok"] * len(got)
    due = [r["t_intended_s"] for r in got]
    assert len(due) == round((STALL_S + 4) * RATE)
    truth = expected_p99(due, (stopped_ns - t0_ns) / 1e9, (went_on_ns - t0_ns) / 1e9)
    summary = json.loads(run.summary.read_bytes())
    measured = summary["models"]["steady"]["ttft_user_s"]["p99"]
    assert truth > 0.9 * STALL_S
    assert measured == pytest.approx(truth, rel=0.01)
    assert code in (0, 3)
