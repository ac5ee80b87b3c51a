"""What is started, what has been started, and why something was not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from tokenswarm.errors import EXIT_USAGE, TokenswarmError

FailureKind = Literal[
    "out_of_memory", "port_taken", "image_missing", "no_gpu_runtime", "no_gpu", "no_program",
    "no_model", "no_engine", "wrong_server", "timeout", "killed", "unhealthy", "ended",
]  # fmt: skip
"""Why a start failed; `ended` where the log gives no reason that is known here."""


class Container(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a container is run. `port`: where the server listens inside. `gpus`: all, none or a list
    of indices with commas. `volumes`: HOST:CONTAINER[:ro]. `network`: bridge publishes `port` on
    loopback alone, host shares the host's. `runtime` None: Docker's own."""

    image: str
    port: int = 8000
    gpus: str = "all"
    volumes: list[str] = []
    network: Literal["bridge", "host"] = "bridge"
    shm_bytes: int | None = None
    runtime: str | None = None
    pull: bool = True


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """One server to be started. `argv` is its command line, in a container what follows the
    image's entry point. `port`: where it will listen on this host. `log`: file that its output
    goes to. `memory_limit_bytes` bounds what it may have in memory."""

    name: str
    argv: tuple[str, ...]
    log: Path
    environment: Mapping[str, str] = {}
    port: int | None = None
    memory_limit_bytes: int | None = None
    container: Container | None = None
    labels: Mapping[str, str] = {}


class Failure(msgspec.Struct, frozen=True):
    """Why a start failed, in one line that a person understands."""

    kind: FailureKind
    text: str


class StartFailed(TokenswarmError):
    """A server did not start. `failure` says why; its output is in `log`."""

    exit_code = EXIT_USAGE

    def __init__(self, name: str, failure: Failure, log: Path | None = None):
        self.name, self.failure, self.log = name, failure, log
        where = f" (log: {log})" if log else ""
        super().__init__(f"{name} does not start: {failure.text}{where}")


class Started(Protocol):
    """A server that was started. One thread uses it."""

    @property
    def name(self) -> str:
        """As in its Start."""

    def ended(self) -> Failure | None:
        """Why it has ended; None while it runs."""

    def pids(self) -> tuple[int, ...]:
        """Its processes on this host, as far as they can be known."""

    def said(self) -> str:
        """The end of its log."""

    def stop(self) -> None:
        """End it with everything it started, and keep its log. Twice does no harm."""


class Launcher(Protocol):
    def start(self, what: Start) -> Started:
        """Start `what`; returns before it is ready. StartFailed when it can't even be tried."""

    def sweep(self) -> list[str]:
        """End what a tokenswarm that is no more has left running; the names of what was ended."""

    def close(self) -> None:
        """Let go of what it is connected to, once everything it started has been stopped."""
