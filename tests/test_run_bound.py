"""A generator without enough processor says so; one with enough does not."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.running import PYTHON, finished, popen, records, run_dirs, scenario, until
from tokenswarm.sim.process import start
from tokenswarm.store.rundir import RunDir

ONE = {"name": "steady", "model": "steady", "prompt": {"kind": "text", "text": "hi"}}
SPIN_S = 12
SPIN = f"import time\nend = time.monotonic() + {SPIN_S}\nwhile time.monotonic() < end: pass"


@contextmanager
def crowd(core: int, members: int) -> Iterator[None]:
    """Processes that take turns with whatever else is pinned to `core`."""
    command = ["taskset", "-c", str(core), sys.executable, "-c", SPIN]
    # a session each: the scheduler shares a core among sessions
    started = [subprocess.Popen(command, start_new_session=True) for _ in range(members)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def summary(folder: Path) -> dict[str, Any]:
    (run,) = run_dirs(folder / "runs")
    found: dict[str, Any] = json.loads(run.summary.read_bytes())
    return found


def busy(run: RunDir) -> list[float]:
    """Of each second, the share in which it ran or waited to run."""
    rows = records(run, "generator")
    return [round(r["cpu_ratio"] + (r["cpu_wait_ratio"] or 0), 2) for r in rows]


def test_a_generator_pinned_to_too_little_processor_says_client_bound(tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("one core only: the servers would be short of it, too")
    with start("steady") as box:
        file = scenario(tmp_path / "bound.yaml", box.ollama_url,
                        {**ONE, "output": {"tokens": 1}}, duration_s=6,
                        load={"kind": "open", "rate": 600, "max_in_flight": 400})  # fmt: skip
        pinned = [
            "taskset",
            "-c",
            str(cores[0]),
            "nice",
            "-n",
            "7",
            PYTHON,
            "-m",
            "tokenswarm",
            "run",
            str(file),
        ]
        process = popen(pinned, tmp_path)
        until(lambda: bool(run_dirs(tmp_path / "runs")))
        (run,) = run_dirs(tmp_path / "runs")
        with crowd(cores[0], 6):
            until(lambda: len(records(run, "generator")) >= 6)
        code = finished(process)
    found = summary(tmp_path)
    assert (code, found["verdict"]) == (3, "client_bound"), (found["reasons"], busy(run))
    reasons = " ".join(found["reasons"])
    assert "could not keep up" in reasons
    assert "use more workers" in reasons
    said = (tmp_path / "stdout.txt").read_text()
    assert "verdict: client bound: the load generator shaped these figures" in said
    assert "Delay before sending, caused by the generator: P99" in said


def test_a_generator_with_enough_processor_does_not(tmp_path: Path) -> None:
    with start("steady") as box:
        file = scenario(tmp_path / "free.yaml", box.ollama_url, ONE, duration_s=5,
                        load={"kind": "closed", "users": 2, "think_s": 0.2})  # fmt: skip
        code = finished(popen([PYTHON, "-m", "tokenswarm", "run", str(file)], tmp_path))
    found = summary(tmp_path)
    assert (code, found["verdict"]) == (0, "good"), found["reasons"]
    assert found["generator"]["full_s"] < 3
    (run,) = run_dirs(tmp_path / "runs")
    rows = records(run, "generator")
    assert all(0 <= r["cpu_wait_ratio"] < 1 for r in rows if r["cpu_wait_ratio"] is not None)
    assert any(r["send_lag_p99_s"] is not None for r in rows)
    assert all(r["open_files"] > 3 for r in rows)
