"""Tokens a second and CPU per token with 1 to N worker processes; memory over time (--soak)."""

import argparse
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import IO

import msgspec

from bench import worker
from bench.measure import SERVER_CORE, Moment, moment, process_tree, tail, wait_until_steady
from bench.server import BenchError, Server, Timing

RUN_S = 7200.0
FILES = 16384
SOAK_STEP_S = 10.0
GROWTH = 1.05
"""What memory may grow by in the last third of a soak, when everything that is kept is full:
KEPT_REQUESTS of analysis/watch.py are reached after 17 minutes of 100 requests a second."""


class Case(msgspec.Struct, frozen=True):
    """So many streams, tokens so far apart: the same 25,600 tokens a second in both."""

    streams: int
    itl_ms: float
    tokens: int

    @property
    def request_s(self) -> float:
        """What a request takes, about."""
        return self.tokens * self.itl_ms / 1000 + 1.0


CASES = (Case(512, 20.0, 256), Case(4096, 160.0, 64))


class Row(msgspec.Struct, frozen=True):
    """One number of processes (0: master and generator in one). `late_ratio` is the server's."""

    streams: int
    itl_ms: float
    processes: int
    tokens_s: float
    us_per_token: float
    rss_bytes: int
    late_ratio: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    most = os.cpu_count() or 1
    parser.add_argument("--processes", type=int, default=most, help="workers at most")
    parser.add_argument("--seconds", type=float, default=10.0, help="window of each figure")
    parser.add_argument("--quick", action="store_true", help="two seconds, 64 streams, 1 process")
    parser.add_argument("--soak", type=float, metavar="S", help="only watch memory, so long")
    parser.add_argument("--json", type=Path, help="write every figure to this file")


def run(arguments: argparse.Namespace) -> int:
    """Print the table, or the soak's memory; 1 when memory grows without bound, else 0."""
    _raise_limit()
    if arguments.soak:
        return soak(CASES[0], arguments.soak)
    cases = (Case(64, 20.0, 64),) if arguments.quick else CASES
    window_s = 2.0 if arguments.quick else arguments.seconds
    most = 1 if arguments.quick else arguments.processes
    rows = [one(case, n, window_s) for case in cases for n in (0, *range(1, most + 1))]
    print(table(rows))
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(rows)))
    return 0


def one(case: Case, processes: int, window_s: float) -> Row:
    """Measure one run in its steady state."""
    with loaded(case, processes) as (process, server):
        pids = process_tree(process.pid)
        start = moment(pids, server)
        time.sleep(window_s)
        end, rss = moment(pids, server), rss_bytes(pids)
    return row(case, processes, start, end, rss)


def row(case: Case, processes: int, start: Moment, end: Moment, rss: int) -> Row:
    """Figures of what happened between two moments, over all processes of the run."""
    tokens = end.stats.tokens - start.stats.tokens
    if tokens <= 0:
        raise BenchError("no token was streamed in the window")
    if end.stats.refused:
        raise BenchError(f"the server refused {end.stats.refused} requests: it had no place")
    used_s = sum(end.cpu_s[pid] - before for pid, before in start.cpu_s.items())
    late = (end.stats.late_1ms - start.stats.late_1ms) / tokens
    rate = tokens / (end.at_s - start.at_s)
    return Row(case.streams, case.itl_ms, processes, rate, used_s * 1e6 / tokens, rss, late)


@contextmanager
def loaded(case: Case, processes: int) -> Iterator[tuple["subprocess.Popen[bytes]", Server]]:
    """A run with all its streams up, on whatever cores it likes, and its server on one."""
    timing = Timing(tokens=case.tokens, itl_ms=case.itl_ms)
    with (
        tempfile.TemporaryDirectory(prefix="tokenswarm-bench-") as folder,
        tempfile.TemporaryFile() as output,
        Server("openai", timing, SERVER_CORE) as server,
    ):
        content = worker.scenario("openai", server.url, case.streams, RUN_S, case.tokens)
        argv = worker.argv(worker.write(Path(folder), content), Path(folder))
        argv += ["--workers", str(processes)] if processes else []
        with started(argv, output) as process:
            wait_until_steady(process, server, case.streams, output)
            time.sleep(case.request_s)  # a first request of every user has had its turn by then
            yield process, server
            if process.poll() is not None:
                raise BenchError(f"the run ended early: {tail(output)}")


@contextmanager
def started(argv: Sequence[str], output: IO[bytes]) -> Iterator["subprocess.Popen[bytes]"]:
    """`argv` in a process group of its own, which ends with us."""
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def rss_bytes(pids: Sequence[int]) -> int:
    """Resident memory of all of them together; those that have ended hold none."""
    total = 0
    for pid in pids:
        try:
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except OSError:
            continue
        total += pages * resource.getpagesize()
    return total


def soak(case: Case, seconds: float) -> int:
    """Watch the memory of a run of one process; 1 when it still grows in the end, else 0."""
    seen: list[int] = []
    with loaded(case, 0) as (process, _):
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            time.sleep(min(SOAK_STEP_S, seconds / 30))
            seen.append(rss_bytes(process_tree(process.pid)))
            print(f"{len(seen):4d}  {seen[-1] / 2**20:8.1f} MiB", file=sys.stderr)
    before, after, grown = growth(seen)
    print(f"{case.streams} streams, {seconds:g} s: {seen[0] / 2**20:.1f} MiB at first, in the last")
    print(f"third {before / 2**20:.1f} to {after / 2**20:.1f}: x {grown:.3f} (bound {GROWTH:g})")
    return 1 if grown > GROWTH else 0


def growth(seen: Sequence[int]) -> tuple[int, int, float]:
    """Medians of a tenth two thirds through and of the last tenth, and their ratio: a moment in
    which the watch works on a copy of what it holds is 10 MiB above, and no growth."""
    tenth, late = max(1, len(seen) // 10), 2 * len(seen) // 3
    before, after = (int(median(part)) for part in (seen[late : late + tenth], seen[-tenth:]))
    return before, after, after / before


def table(rows: Sequence[Row]) -> str:
    """The result for a person; x is the rate over that of the single process."""
    lines = [
        f"{'streams':>7} {'apart':>7} {'workers':>7} {'tokens/s':>9} {'x':>5} "
        f"{'us/token':>8} {'MiB':>6} {'late':>6}"
    ]
    for r in rows:
        single = next(s for s in rows if (s.streams, s.processes) == (r.streams, 0))
        lines.append(
            f"{r.streams:7d} {r.itl_ms:4.0f} ms {r.processes or 'none':>7} {r.tokens_s:9.0f} "
            f"{r.tokens_s / single.tokens_s:5.2f} {r.us_per_token:8.2f} "
            f"{r.rss_bytes / 2**20:6.0f} {r.late_ratio:6.1%}"
        )
    return "\n".join(lines)


def _raise_limit() -> None:
    """A stream is a file; processes that we start inherit the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
