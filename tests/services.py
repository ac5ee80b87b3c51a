"""Real time-series servers of one's own, on free loopback ports, with data that outlive a kill.

    with influxd(tmp_path) as server:      # InfluxDB 1.6.7, Debian package influxdb
        server.create("tokenswarm")
        server.kill()                      # kill -9
        server.start()                     # the same data, the same port
        server.query("select count(*) from tick", "tokenswarm")
    with victoria(tmp_path) as server:     # Debian package victoria-metrics
        server.samples()

A test that uses them is marked `live`: it skips when the program is missing, with the reason.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

READY_S = 60.0
LIFE_S = 900
"""A server ends by itself after so long, whatever became of the tests."""

ADMIN = ("admin", "correct-horse")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@dataclass
class Service:
    """One server's process; `start` after `kill` goes on with the same port and data."""

    command: list[str]
    folder: Path
    port: int
    ready_path: str
    auth: tuple[str, str] | None = None
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start it and wait until it answers."""
        assert not self.running, "it runs already"
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                ["timeout", "-s", "KILL", str(LIFE_S), *self.command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._await_ready()

    def kill(self) -> None:
        """kill -9: no goodbye, no flush."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in its own way."""
        self._end(signal.SIGTERM)

    def get(self, path: str, **params: str) -> bytes:
        return self._call("GET", path, params, None)

    def post(self, path: str, body: bytes = b"", **params: str) -> bytes:
        return self._call("POST", path, params, body)

    def log(self) -> str:
        return (self.folder / "log.txt").read_text(errors="replace")

    def _call(self, method: str, path: str, params: dict[str, str], body: bytes | None) -> bytes:
        request = urllib.request.Request(f"{self.url}{path}", body, method=method)
        if self.auth:
            params = {"u": self.auth[0], "p": self.auth[1], **params}
        request.full_url += f"?{urllib.parse.urlencode(params)}" if params else ""
        try:
            with urllib.request.urlopen(request, timeout=READY_S) as response:
                return bytes(response.read())
        except urllib.error.HTTPError as e:
            with e:
                raise AssertionError(f"{method} {path}: {e.code} {e.read()[:500]!r}") from e

    def _await_ready(self) -> None:
        end = time.monotonic() + READY_S
        while time.monotonic() < end and self.running:
            try:
                with urllib.request.urlopen(self.url + self.ready_path, timeout=5):
                    return
            except OSError:
                time.sleep(0.05)
        said = self.log()[-2000:]
        self.kill()
        raise AssertionError(f"{self.command[0]} did not start: {said}")

    def _end(self, how: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        if process.poll() is None:
            os.killpg(process.pid, how)
        process.wait(READY_S)


class Influxd(Service):
    """InfluxDB 1.x: what it holds is asked in InfluxQL."""

    def query(self, q: str, db: str = "") -> list[dict[str, Any]]:
        """The series of one statement: {name, tags?, columns, values}, times in ns."""
        answer = msgspec.json.decode(self.post("/query", b"", q=q, db=db, epoch="ns"))
        (result,) = answer["results"]
        assert "error" not in result, f"{q}: {result}"
        return list(result.get("series", []))

    def create(self, db: str) -> None:
        self.query(f'create database "{db}"')

    def write(self, db: str, lines: str) -> None:
        self.post("/write", lines.encode(), db=db)

    def measurements(self, db: str) -> list[str]:
        return [name for s in self.query("show measurements", db) for (name,) in s["values"]]

    def figures(self, db: str, measurement: str, *calls: str) -> list[Any]:
        """The values of aggregates over all that `measurement` holds; empty when it holds none.

        `figures("x", "tick", 'count("token_events")', 'sum("token_events")')`
        """
        found = self.query(f'select {", ".join(calls)} from "{measurement}"', db)
        return list(found[0]["values"][0][1:]) if found else []


class Victoria(Service):
    """VictoriaMetrics: times in ms, numbers only, a series is measurement_field."""

    def samples(self, name: str = ".+") -> list[dict[str, Any]]:
        """Raw series whose names match: {metric: {__name__, tags}, values, timestamps in ms}."""
        self.get("/internal/force_flush")
        match = f'{{__name__=~"{name}"}}'
        text = self.get("/api/v1/export", **{"match[]": match, "start": "0"})
        return [msgspec.json.decode(line) for line in text.splitlines()]


def program(name: str, package: str) -> str:
    """Its path; the test is skipped when there is none."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}: apt-get install {package}")
    return found


_INFLUXD = """\
reporting-enabled = false
bind-address = "127.0.0.1:0"
[meta]
  dir = "{folder}/meta"
  logging-enabled = false
[data]
  dir = "{folder}/data"
  wal-dir = "{folder}/wal"
  query-log-enabled = false
[monitor]
  store-enabled = false
[http]
  bind-address = "127.0.0.1:{port}"
  auth-enabled = {auth}
  log-enabled = false
[continuous_queries]
  enabled = false
"""


@contextmanager
def influxd(folder: Path, *, auth: bool = False) -> Iterator[Influxd]:
    """An InfluxDB that has started; with `auth` it wants the name and password of ADMIN."""
    home, port = _home(folder, "influxd"), free_port()
    config = home / "influxdb.conf"
    config.write_text(_INFLUXD.format(folder=home, port=port, auth=str(auth).lower()))
    command = [program("influxd", "influxdb"), "-config", str(config)]
    server = Influxd(command, home, port, "/ping")
    try:
        server.start()
        if auth:
            name, password = ADMIN
            server.query(f"create user {name} with password '{password}' with all privileges")
            server.auth = ADMIN
        yield server
    finally:
        server.kill()


@contextmanager
def victoria(folder: Path, *options: str) -> Iterator[Victoria]:
    """A VictoriaMetrics that has started and counts a point sent twice once."""
    home, port = _home(folder, "victoria"), free_port()
    command = [
        program("victoria-metrics", "victoria-metrics"),
        f"-httpListenAddr=127.0.0.1:{port}", f"-storageDataPath={home}/data",
        "-retentionPeriod=100y", "-memory.allowedBytes=256MB", "-dedup.minScrapeInterval=1ms",
        *options,
    ]  # fmt: skip
    server = Victoria(command, home, port, "/health")
    try:
        server.start()
        yield server
    finally:
        server.kill()


def _home(folder: Path, name: str) -> Path:
    home = folder / name
    home.mkdir(parents=True, exist_ok=True)
    return home
