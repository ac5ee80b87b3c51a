"""Locust's web mode for the tests: the process, its page's own requests, who listens where."""

import json
import socket
import sys
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

from tests.running import ROOT, popen, run_dirs, until
from tokenswarm.store.rundir import RunDir

LISTEN = "0A"  # in /proc/net/tcp
LOOPBACK = {"0100007F"}  # 127.0.0.1


@dataclass(frozen=True, slots=True)
class Web:
    """A `locust -f locustfiles/mix.py` with its web page, and the ports it opened."""

    process: "Popen[bytes]"
    cwd: Path
    port: int
    master_port: int | None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def runs(self) -> list[RunDir]:
        return run_dirs(self.cwd / "runs")

    def said(self) -> str:
        return (self.cwd / "stderr.txt").read_text() + (self.cwd / "stdout.txt").read_text()

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.load(answer)

    def post(self, path: str, **form: object) -> Any:
        data = urllib.parse.urlencode(form).encode()
        with urllib.request.urlopen(self.url + path, data, timeout=60) as answer:
            return json.load(answer)

    def state(self) -> str:
        """What the page shows as status; Locust keeps it for 2 s."""
        state: str = self.get("stats/requests")["state"]
        return state


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


MIX = ROOT / "locustfiles" / "mix.py"


def web(
    cwd: Path, scenario: Path, *argv: str, processes: int = 0, logged_in: bool = True,
    locustfile: Path = MIX,
) -> Web:  # fmt: skip
    """Start it on a free port; it answers (unless it wants a login), and its workers are there."""
    port, master_port = free_port(), free_port() if processes else None
    command = [sys.executable, "-m", "locust", "-f", str(locustfile)]
    command += ["--scenario", str(scenario), "--web-port", str(port), "--no-live", *argv]
    if master_port is not None:
        command += ["--processes", str(processes), "--master-bind-port", str(master_port)]
        command += ["--master-port", str(master_port)]
    started = Web(popen(command, cwd), cwd, port, master_port)
    until(lambda: started.process.poll() is not None or listening(port) != set())
    assert started.process.poll() is None, started.said()
    if logged_in:
        until(lambda: started.get("worker-count")["worker_count"] == processes)
    return started


def listening(port: int) -> set[str]:
    """Addresses (hexadecimal, as the kernel writes them) on which somebody listens at `port`."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, _, number = local.partition(":")
            if state == LISTEN and int(number, 16) == port:
                found.add(address)
    return found
