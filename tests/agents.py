"""Agents as processes, for tests."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WAIT_S = 20.0


class AgentProcess:
    """`tokenswarm agent gpu` with `argv`; `port` once it listens. `again` starts another one in
    the same place."""

    def __init__(
        self, folder: Path, *argv: str, listen: str = "127.0.0.1:0", prefix: tuple[str, ...] = ()
    ):
        self._spool, self._argv, self._listen, self._prefix = folder / "agent", argv, listen, prefix
        self.errors = folder / "agent-stderr.txt"
        self.start()

    def start(self) -> None:
        argv = [*self._prefix, sys.executable, "-m", "tokenswarm", "agent", "gpu"]
        argv += ["--listen", self._listen, "--spool", str(self._spool), *self._argv]
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=errors)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.errors.read_text()
        self.about: dict[str, Any] = json.loads(line)["about"]
        self.port: int = json.loads(line)["listening"]

    def kill(self) -> None:
        """As kill -9."""
        self.process.kill()
        self.process.communicate()

    def again(self) -> None:
        """Start it anew on the port that it had."""
        self._listen = f"127.0.0.1:{self.port}"
        self.start()

    def end(self) -> None:
        """As `systemctl stop`."""
        if self.process.poll() is None:
            self.process.terminate()
        self.process.communicate(timeout=WAIT_S)


@contextlib.contextmanager
def agent_process(folder: Path, *argv: str, **more: Any) -> Iterator[AgentProcess]:
    """An agent that ends with the block."""
    agent = AgentProcess(folder, *argv, **more)
    try:
        yield agent
    finally:
        agent.end()
