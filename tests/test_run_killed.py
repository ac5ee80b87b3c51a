"""What a kill -9 leaves: a run that can be finished, and a loss that is stated."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.running import (
    fair,
    finished,
    records,
    run_dirs,
    scenario,
    tokenswarm,
    until,
    worker_pids,
)
from tokenswarm.sim import truth
from tokenswarm.sim.process import start

SURE_S = 0.5  # what the simulator had finished this long before the kill must be in
ONE = {"name": "steady", "model": "steady", "prompt": {"kind": "text", "text": "hi"}}


def report(folder: Path, run: Path) -> tuple[int, dict[str, Any]]:
    """`tokenswarm report RUN`: exit code and summary."""
    code = finished(tokenswarm("report", run, cwd=folder))
    return code, json.loads((run / "summary.json").read_bytes())


def served_before(folder: Path, unix_ns: int) -> set[str]:
    """Ids of the requests that the simulator had finished SURE_S before `unix_ns`."""
    told = truth.read(folder / "truth.jsonl")
    limit = unix_ns - int(SURE_S * 1e9)
    return {r.request_id for r in told.requests if r.request_id and r.end_unix_ns < limit}


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_that_was_finished_half_a_second_before(
    tmp_path: Path,
) -> None:
    with start("steady", truth=tmp_path / "truth.jsonl") as box:
        file = scenario(tmp_path / "kill.yaml", box.ollama_url, ONE, duration_s=9)
        process = tokenswarm("run", file, "--workers", 2, cwd=tmp_path)
        until(lambda: bool(run_dirs(tmp_path / "runs")))
        (run,) = run_dirs(tmp_path / "runs")
        until(lambda: len(records(run)) > 200)
        victim = worker_pids(process.pid)[0]
        os.kill(victim, signal.SIGKILL)
        killed_at = time.time_ns()
        code = finished(process)
    got = {r["id"] for r in records(run)}
    assert served_before(tmp_path, killed_at) - got == set()
    summary = json.loads(run.summary.read_bytes())
    assert fair(code, tmp_path)
    assert summary["requests"] == len(got)
    assert summary["generator"]["lost"], "a worker that never said its end is a stated loss"
    dead = {r["worker"] for r in records(run)} - set(run.read_manifest().ended)
    assert len(dead) == 1
    assert dead.pop() in summary["generator"]["lost"]


@pytest.mark.slow
def test_a_run_whose_master_was_killed_is_finished_from_its_spool(tmp_path: Path) -> None:
    with start("steady", truth=tmp_path / "truth.jsonl") as box:
        file = scenario(tmp_path / "kill.yaml", box.ollama_url, ONE, duration_s=60, drain_s=5)
        process = tokenswarm("run", file, "--workers", 2, cwd=tmp_path)
        until(lambda: bool(run_dirs(tmp_path / "runs")))
        (run,) = run_dirs(tmp_path / "runs")
        until(lambda: len(records(run)) > 200)
        workers = worker_pids(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        killed_at = time.time_ns()
        # the workers see that their master is gone, let their requests end and stop
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 40)
    assert run.read_manifest().end_unix_ns is None
    code, summary = report(tmp_path, run.path)
    got = [r["id"] for r in records(run)]
    assert served_before(tmp_path, killed_at) - set(got) == set()
    assert len(got) == len(set(got)) == summary["requests"]
    assert summary["generator"]["lost"]
    assert fair(code, tmp_path)
    assert run.report.is_file()


def test_a_report_made_twice_is_the_same(tmp_path: Path) -> None:
    with start("steady", speed=4) as box:
        file = scenario(tmp_path / "twice.yaml", box.ollama_url, ONE, max_requests=60)
        process = tokenswarm("run", file, cwd=tmp_path)
        assert fair(finished(process), tmp_path)
    (run,) = run_dirs(tmp_path / "runs")
    first = run.summary.read_bytes()
    code, _ = report(tmp_path, run.path)
    assert fair(code, tmp_path)
    assert run.summary.read_bytes() == first
