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
SETTLE_S = 1.0


class Window(msgspec.Struct, frozen=True):
    """One measurement. `us_per_token` is of the busiest process, `tree_us_per_token` of all that
    the command started; `late_ratio` is the share of the server's writes over 1 ms late."""

    us_per_token: float
    tree_us_per_token: float
    tokens: int
    seconds: float
    late_ratio: float


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


def window(cpu: dict[int, tuple[float, float]], before: Stats, after: Stats, s: float) -> Window:
    """Figures from CPU seconds (start, end) by process and the server's counters."""
    tokens = after.tokens - before.tokens
    if tokens <= 0:
        raise BenchError("no token was streamed in the window")
    used_us = [(end - start) * 1e6 / tokens for start, end in cpu.values()]
    late = (after.late_1ms - before.late_1ms) / tokens
    return Window(max(used_us), sum(used_us), tokens, s, late)


def measure(argv: Sequence[str], server: Server, streams: int, window_s: float) -> Window:
    """Start `argv`, wait until it holds its streams, measure it for `window_s`, end it."""
    with tempfile.TemporaryFile() as output, running(argv, output) as process:
        wait_until_steady(process, server, streams, output)
        start = time.monotonic()
        before, cpu = server.stats(), {p: cpu_s(p) for p in process_tree(process.pid)}
        time.sleep(window_s)
        try:
            both = {p: (then, cpu_s(p)) for p, then in cpu.items()}
        except OSError as e:
            raise BenchError(f"a process of the client ended early: {tail(output)}") from e
        return window(both, before, server.stats(), time.monotonic() - start)


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
