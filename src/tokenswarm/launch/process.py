"""Servers as processes of this host, each in a session of its own."""

import contextlib
import os
import resource
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tokenswarm.launch import ledger
from tokenswarm.launch.reasons import failure, reason
from tokenswarm.launch.start import Failure, Start, Started, StartFailed

GRACE_S = 20.0
TAIL_BYTES = 256 * 1024


@dataclass
class Process:
    """A started process and all that shares its session."""

    name: str
    _child: "subprocess.Popen[bytes]"
    _log: Path
    _entry: Path
    _stopped: bool = field(default=False, repr=False)

    def ended(self) -> Failure | None:
        code = self._child.poll()
        return None if code is None else reason(self.said(), code)

    def pids(self) -> tuple[int, ...]:
        return ledger.members(self._child.pid)

    def said(self) -> str:
        return tail(self._log)

    def stop(self) -> None:
        if self._stopped:
            return
        ledger.end(self._child.pid, GRACE_S)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(ledger.KILL_S)
        self._entry.unlink(missing_ok=True)
        self._stopped = True


class ProcessLauncher:
    """Starts what a Start's `argv` says, with its output in its log."""

    def start(self, what: Start) -> Started:
        what.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with what.log.open("ab") as out:
                child = subprocess.Popen(
                    what.argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                    env={**os.environ, **what.environment}, start_new_session=True,
                )  # fmt: skip
        except OSError as e:
            said = failure("no_program", f"{what.argv[0]}: {e.strerror}")
            raise StartFailed(what.name, said, what.log) from e
        entry = ledger.add(what.name, child.pid)
        if what.memory_limit_bytes is not None:
            # it has hardly begun: nothing has been read yet that a limit could come too late for
            limit = (what.memory_limit_bytes, what.memory_limit_bytes)
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(child.pid, resource.RLIMIT_AS, limit)
        return Process(what.name, child, what.log, entry)

    def sweep(self) -> list[str]:
        return ledger.sweep()

    def close(self) -> None:
        """Nothing is held."""


def tail(log: Path) -> str:
    """The last TAIL_BYTES of a log as text."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
