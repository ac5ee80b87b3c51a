"""CPU time a streamed token costs a client: taken between two moments of its steady state."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from bench.server import BenchError, Server, Stats, pinned

CLIENT_CORE, SERVER_CORE = 0, 1
START_S = 60.0
SETTLE_S = 1.5
OTHERS_RATIO = 0.05  # with more of the clients' core than this, others spoil the figures


class Window(msgspec.Struct, frozen=True):
    """One measurement. `us_per_token` is of the busiest process, `tree_us_per_token` of all that
    the command started; `late_ratio` is the share of the server's writes over 1 ms late,
    `others_ratio` the share of the clients' core that someone else used."""

    us_per_token: float
    tree_us_per_token: float
    tokens: int
    seconds: float
    late_ratio: float
    others_ratio: float


def cpu_s(pid: int) -> float:
    """CPU seconds (user and system) of a process with all its threads, to the nanosecond.

    The clock id is what clock_getcpuclockid(3) returns on Linux, which Python does not offer.
    """
    return time.clock_gettime(~pid << 3 | 2)


def process_tree(pid: int) -> list[int]:
    """`pid` and its living descendants."""
    pids = [pid]
    for parent in pids:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                pids += map(int, children.read_text().split())
            except OSError:  # the thread ended meanwhile
                continue
    return pids


def idle_s(core: int) -> float:
    """Seconds that `core` has been idle since the machine started."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{core}":
            return (int(ticks[3]) + int(ticks[4])) / os.sysconf("SC_CLK_TCK")
    raise BenchError(f"/proc/stat says nothing of core {core}")


class Moment(msgspec.Struct, frozen=True):
    """What is read at both ends of a window; `cpu_s` by process."""

    at_s: float
    idle_s: float
    cpu_s: dict[int, float]
    stats: Stats


def moment(pids: Sequence[int], server: Server) -> Moment:
    cpu = {pid: cpu_s(pid) for pid in pids}
    return Moment(time.monotonic(), idle_s(CLIENT_CORE), cpu, server.stats())


def window(start: Moment, end: Moment) -> Window:
    """Figures of what happened between two moments."""
    tokens = end.stats.tokens - start.stats.tokens
    if tokens <= 0:
        raise BenchError("no token was streamed in the window")
    used = [end.cpu_s[pid] - before for pid, before in start.cpu_s.items()]
    seconds = end.at_s - start.at_s
    others = seconds - (end.idle_s - start.idle_s) - sum(used)
    return Window(
        max(used) * 1e6 / tokens,
        sum(used) * 1e6 / tokens,
        tokens,
        seconds,
        (end.stats.late_1ms - start.stats.late_1ms) / tokens,
        max(0.0, others / seconds),
    )


def measure(argv: Sequence[str], server: Server, streams: int, window_s: float) -> Window:
    """Start `argv`, wait until it holds its streams, measure it for `window_s`, end it."""
    with tempfile.TemporaryFile() as output, running(argv, output) as process:
        wait_until_steady(process, server, streams, output)
        pids = process_tree(process.pid)
        start = moment(pids, server)
        time.sleep(window_s)
        try:
            return window(start, moment(pids, server))
        except OSError as e:
            raise BenchError(f"a process of the client ended early: {tail(output)}") from e


@contextmanager
def running(argv: Sequence[str], output: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """`argv` in a process group of its own on the clients' core; the group ends with us."""
    with pinned(CLIENT_CORE):
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def wait_until_steady(
    process: subprocess.Popen[bytes], server: Server, streams: int, output: IO[bytes]
) -> None:
    """Return `SETTLE_S` after nine tenths of the streams run at once."""
    deadline = time.monotonic() + START_S
    while server.stats().streams < 0.9 * streams:
        if process.poll() is not None:
            raise BenchError(f"it ended with {process.returncode}: {tail(output)}")
        if time.monotonic() > deadline:
            raise BenchError(f"under {streams} streams after {START_S:g} s: {tail(output)}")
        time.sleep(0.05)
    time.sleep(SETTLE_S)


def tail(output: IO[bytes], n: int = 2000) -> str:
    """The last of what a process said."""
    output.seek(max(0, output.seek(0, os.SEEK_END) - n))
    return output.read().decode(errors="replace").strip() or "(it said nothing)"
