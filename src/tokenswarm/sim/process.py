"""A simulation as a child process that surely ends: for tests and for the demo."""

import contextlib
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tokenswarm.sim.serve import Endpoints

START_S = 20.0
STOP_S = 5.0


class SimError(RuntimeError):
    """The simulation did not start; the text holds what it said."""


@contextlib.contextmanager
def start(
    profile: str | Path,
    *,
    truth: Path | None = None,
    speed: float = 1.0,
    seed: int = 1,
    host: str = "127.0.0.1",
    port: int = 0,
    control_port: int = 0,
) -> Iterator[Endpoints]:
    """Run `profile` (name or YAML file) in a process of its own; yields its endpoints.

    The child ends with the block, and also when this process dies: it watches its standard input
    and its parent. The truth file is complete when the block has been left. SimError.
    """
    command = [sys.executable, "-m", "tokenswarm.sim", str(profile), "--end-with-parent"]
    command += ["--host", host, "--port", str(port), "--control-port", str(control_port)]
    command += ["--speed", str(speed), "--seed", str(seed)]
    command += ["--truth", str(truth)] if truth else []
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield _endpoints(child)
    finally:
        _end(child)


def _endpoints(child: "subprocess.Popen[bytes]") -> Endpoints:
    assert child.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        deadline = time.monotonic() + START_S
        ready = selector.select(deadline - time.monotonic())
    line = child.stdout.readline() if ready else b""
    if not line:
        raise SimError(f"the simulation did not start (exit status {child.poll()}); see above")
    return msgspec.json.decode(line, type=Endpoints)


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Ask by SIGTERM, then insist."""
    child.terminate()
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()
