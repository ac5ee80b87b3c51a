"""Runs of the real command line against real servers, for the tests of whole runs."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tokenswarm.clock import RUN_ID
from tokenswarm.errors import EXIT_GOOD, EXIT_NOT_VALID
from tokenswarm.store.rundir import RunDir
from tokenswarm.store.schema import MEASUREMENTS
from tokenswarm.store.spool import rows

ROOT = Path(__file__).parent.parent
PYTHON = sys.executable
RUN_S = 120.0
STARTED: list["subprocess.Popen[bytes]"] = []


def scenario(path: Path, url: str, *models: dict[str, Any], **changes: Any) -> Path:
    """Write a scenario for one target `box` to `path`; 32 users, 64 tokens unless changed."""
    data: dict[str, Any] = {
        "name": path.stem,
        "targets": {"box": {"api": "ollama", "url": url}},
        "models": [{"target": "box", "output": {"tokens": 64}, **m} for m in models],
        "load": {"kind": "closed", "users": 32},
        "duration_s": 60,
        "drain_s": 20,
        "seed": 11,
    }
    data.update(changes)
    path.write_text(yaml.safe_dump(data))
    return path


def tokenswarm(*argv: object, cwd: Path) -> "subprocess.Popen[bytes]":
    """Start `python -m tokenswarm ...` in a process group of its own."""
    command = [PYTHON, "-m", "tokenswarm", *map(str, argv)]
    return popen(command, cwd)


def popen(command: list[str], cwd: Path) -> "subprocess.Popen[bytes]":
    """Start `command` with its output in files beside the runs, away from our terminal."""
    with (cwd / "stdout.txt").open("ab") as out, (cwd / "stderr.txt").open("ab") as err:
        process = subprocess.Popen(
            command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            start_new_session=True,
        )  # fmt: skip
    STARTED.append(process)
    return process


def end_started() -> None:
    """End what a failed test left running, with everything it started."""
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def finished(process: "subprocess.Popen[bytes]", timeout_s: float = RUN_S) -> int:
    """Its exit code; a run that hangs is ended, with everything it started."""
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


def run_dirs(parent: Path) -> list[RunDir]:
    """Run directories in `parent`, oldest first."""
    found = sorted(p for p in parent.glob("*") if RUN_ID.fullmatch(p.name))
    return [RunDir(path) for path in found]


def run_once(*argv: object, cwd: Path) -> tuple[int, RunDir]:
    """`tokenswarm run ...` to its end: exit code and the one run directory."""
    code = finished(tokenswarm("run", *argv, cwd=cwd))
    said = (cwd / "stderr.txt").read_text()
    assert "Traceback" not in said, said
    (run,) = run_dirs(cwd / "runs")
    return code, run


def records(run: RunDir, measurement: str = "request") -> list[dict[str, Any]]:
    """Rows of `measurement` in the run's spool, by column name."""
    columns = MEASUREMENTS[measurement].columns
    return [
        dict(zip(columns, row, strict=True))
        for _, _, name, row in rows(run.spool)
        if name == measurement
    ]


def fair(code: int, folder: Path) -> bool:
    """Exit code 0, or 3 for no other reason than that this host was too slow for the load.

    Whether a host keeps up is not what these tests are about; that it is said is tested apart.
    """
    if code != EXIT_NOT_VALID:
        return code == EXIT_GOOD
    summaries = [json.loads(p.read_bytes()) for p in folder.glob("runs/*/summary.json")]
    reasons = [reason for summary in summaries for reason in summary["reasons"]]
    slow = ("could not keep up", "were sent over 10 ms late")
    return bool(reasons) and all(any(word in reason for word in slow) for reason in reasons)


def children(pid: int) -> Iterator[int]:
    """Processes whose parent is `pid`."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    yield from (int(p) for p in path.read_text().split())


def argv_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def worker_pids(master: int) -> list[int]:
    """Locust worker processes of a master started with --processes."""
    return [pid for pid in children(master) if "locust" in argv_of(pid)]


def until(true: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait for something another process does."""
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
