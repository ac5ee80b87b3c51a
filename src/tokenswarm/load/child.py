"""A process beside ours, in which nothing of ours runs.

gevent's subprocess forks in Python, and whatever a library has registered to run after a fork runs
in the child, beside copies of all our greenlets. OpenTelemetry starts threads there: now and then
the hub took over, and the child, never to become its program, went on as a second master.
posix_spawn runs the program and nothing else.
"""

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gevent
from gevent.event import AsyncResult
from gevent.fileobject import FileObjectPosix

GRACE_S = 2.0


@dataclass(frozen=True, slots=True)
class Ended:
    """What a child left: the rest of its output, its exit status (negative: the signal that ended
    it), and whether we had to kill it."""

    said: bytes
    trouble: bytes
    status: int
    killed: bool


class Child:
    """A started process. Its stdin is a pipe, and its end asks it to end; stdout and stderr are
    pipes where asked for, else ours. For the main thread alone. OSError: it cannot be started."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        stdout: bool = False,
        stderr: bool = False,
        env: Mapping[str, str] | None = None,
    ):
        loop = gevent.get_hub().loop
        loop.install_sigchld()
        theirs, ours = _pipes({0} | ({1} if stdout else set()) | ({2} if stderr else set()))
        try:
            self.pid = os.posix_spawn(
                argv[0], list(argv), os.environ if env is None else env,
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in theirs.items()],
                setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),  # Python ignores these two
            )  # fmt: skip
        except OSError:
            for fd in ours.values():
                os.close(fd)
            raise
        finally:
            for fd in theirs.values():
                os.close(fd)
        self._status: AsyncResult = AsyncResult()
        self._watcher = loop.child(self.pid)
        self._watcher.start(self._gone)  # before the loop can hear of its end
        self.stdin = FileObjectPosix(ours[0], "wb")
        self.stdout = FileObjectPosix(ours[1], "rb") if stdout else None
        self.stderr = FileObjectPosix(ours[2], "rb") if stderr else None

    def end(self, within_s: float | None) -> Ended:
        """Close its stdin and take its last words; killed when it takes longer than `within_s`."""
        reading = [gevent.spawn(_rest, file) for file in (self.stdout, self.stderr)]
        with gevent.Timeout(within_s, False):
            _close(self.stdin)
            gevent.joinall(reading)
            self._status.wait()
        killed = not self._status.ready()
        if killed:
            os.kill(self.pid, signal.SIGKILL)
        gevent.joinall(reading, GRACE_S)  # whoever it has started may hold them open for ever
        said, trouble = (g.value or b"" for g in reading)
        return Ended(said, trouble, self._status.get(), killed)

    def _gone(self, *_: object) -> None:
        status = os.waitstatus_to_exitcode(self._watcher.rstatus)
        self._watcher.close()
        self._status.set(status)


def _pipes(numbers: set[int]) -> tuple[dict[int, int], dict[int, int]]:
    """The child's and our ends of a pipe for each of its descriptors `numbers`."""
    theirs, ours = {}, {}
    for number in sorted(numbers):
        read, write = os.pipe()
        theirs[number], ours[number] = (read, write) if number == 0 else (write, read)
    return theirs, ours


def _rest(file: Any) -> bytes:
    if file is None:
        return b""
    with file:
        return bytes(file.read())


def _close(file: Any) -> None:
    try:
        file.close()
    except OSError:  # what was still to be written finds nobody to read it
        pass
