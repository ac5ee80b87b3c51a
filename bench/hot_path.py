"""CPU microseconds per streamed token of a whole worker beside wrk and two bare loops."""

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import get_args

import msgspec

from bench import worker
from bench.measure import OTHERS_RATIO, SERVER_CORE, Window, measure
from bench.server import Api, BenchError, Server, Timing

BUDGET_US = 12.0
BUDGET_RATIO = 1.8
WRK_US = 6.7  # what wrk took on the machine that BUDGET_US was set on; slower ones get more
SLACK = 1.1  # over the budget by a tenth is noise
LATE_RATIO = 0.01  # with more late writes than this the server was the bottleneck
RUN_S = 600.0  # longer than any window; clients are ended by us

Round = Mapping[str, Window]


class Case(msgspec.Struct, frozen=True):
    """What all clients are measured with."""

    api: Api = "openai"
    streams: int = 32
    timing: Timing = Timing()
    window_s: float = 6.0


class Row(msgspec.Struct, frozen=True):
    """One client over all rounds; `ratio` is the median over rounds of its cost over wrk's."""

    client: str
    us_min: float
    us_median: float
    us_max: float
    tree_us_median: float
    ratio: float | None


def wrk_argv(case: Case, server: Server, folder: Path) -> list[str]:
    program = shutil.which("wrk")
    if program is None:
        raise BenchError("no wrk found; install the package wrk, or name other clients by --only")
    return [program, "-t1", f"-c{case.streams}", f"-d{RUN_S:g}s", server.stream_url]


def floor_argv(kind: str) -> Callable[[Case, Server, Path], list[str]]:
    def argv(case: Case, server: Server, folder: Path) -> list[str]:
        return [sys.executable, "-m", "bench.floor", kind, server.stream_url, str(case.streams)]

    return argv


def worker_argv(case: Case, server: Server, folder: Path) -> list[str]:
    content = worker.scenario(case.api, server.url, case.streams, RUN_S, case.timing.tokens)
    return worker.argv(worker.write(folder, content), folder)


def python_argv(case: Case, server: Server, folder: Path) -> list[str]:
    return ["env", "TOKENSWARM_NATIVE=0", *worker_argv(case, server, folder)]


CLIENTS: dict[str, Callable[[Case, Server, Path], list[str]]] = {
    "wrk": wrk_argv,
    "gevent-blocking": floor_argv("blocking"),
    "gevent-watcher": floor_argv("watcher"),
    "tokenswarm": worker_argv,
    "tokenswarm-py": python_argv,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--api", choices=get_args(Api), default="openai", help="wire format")
    parser.add_argument("--streams", type=int, default=32, help="streams at once")
    parser.add_argument("--itl-ms", type=float, default=5.0, help="time between tokens, in ms")
    parser.add_argument("--in-step", action="store_true", help="first tokens exactly on time")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, the order rotated")
    parser.add_argument("--seconds", type=float, default=6.0, help="window a client and round")
    parser.add_argument("--quick", action="store_true", help="one round of two seconds")
    parser.add_argument("--only", nargs="+", choices=CLIENTS, default=list(CLIENTS), help="clients")
    parser.add_argument("--json", type=Path, help="write every figure to this file")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the table, and say whether the budget holds: 0, or 1 when it does not."""
    timing = Timing(itl_ms=arguments.itl_ms, spread=not arguments.in_step)
    window_s = 2.0 if arguments.quick else arguments.seconds
    case = Case(arguments.api, arguments.streams, timing, window_s)
    count = 1 if arguments.quick else arguments.rounds
    rounds = [measure_round(case, rotated(arguments.only, i)) for i in range(count)]
    rows = [row(client, rounds) for client in arguments.only]
    print(table(case, rows, count))
    over = exceeded(rows)
    print("\n".join(over) or "within budget" if "tokenswarm" in arguments.only else "no budget")
    if arguments.json:
        write_json(arguments.json, case, rounds, rows, over)
    return 1 if over else 0


def rotated(clients: Sequence[str], by: int) -> list[str]:
    """The clients in another order each round, so that none always goes first."""
    by %= len(clients)
    return [*clients[by:], *clients[:by]]


def measure_round(case: Case, clients: Sequence[str]) -> Round:
    """Every client once, each against a server of its own."""
    windows = {}
    for client in clients:
        with (
            tempfile.TemporaryDirectory(prefix="tokenswarm-bench-") as folder,
            Server(case.api, case.timing, SERVER_CORE) as server,
        ):
            argv = CLIENTS[client](case, server, Path(folder))
            windows[client] = measure(argv, server, case.streams, case.window_s)
        print(remark(client, windows[client]), file=sys.stderr)
    return windows


def remark(client: str, w: Window) -> str:
    """One measurement in a line, with what makes it doubtful."""
    text = f"{client:<16} {w.us_per_token:7.2f} us/token"
    if w.late_ratio > LATE_RATIO:
        text += f"; the server wrote {w.late_ratio:.1%} late"
    if w.others_ratio > OTHERS_RATIO:
        text += f"; others used {w.others_ratio:.0%} of the core"
    return text


def row(client: str, rounds: Sequence[Round]) -> Row:
    """A client's line of the table."""
    us = [r[client].us_per_token for r in rounds]
    ratios = [r[client].us_per_token / r["wrk"].us_per_token for r in rounds if "wrk" in r]
    return Row(
        client,
        min(us),
        statistics.median(us),
        max(us),
        statistics.median(r[client].tree_us_per_token for r in rounds),
        statistics.median(ratios) if ratios else None,
    )


def table(case: Case, rows: Sequence[Row], rounds: int) -> str:
    """The result for a person."""
    t = case.timing
    lines = [
        f"CPU us per streamed token; {case.api}, {case.streams} streams, {t.tokens} tokens,"
        f" {t.ttft_ms:g} ms to the first, {t.itl_ms:g} ms apart{'' if t.spread else ', in step'};"
        f" {rounds} x {case.window_s:g} s",
        f"{'client':<16} {'min':>7} {'median':>7} {'max':>7} {'tree':>7} {'x wrk':>7}",
    ]
    for r in rows:
        ratio = "-" if r.ratio is None else f"{r.ratio:.2f}"
        lines.append(
            f"{r.client:<16} {r.us_min:7.2f} {r.us_median:7.2f} {r.us_max:7.2f}"
            f" {r.tree_us_median:7.2f} {ratio:>7}"
        )
    return "\n".join(lines)


def exceeded(rows: Sequence[Row]) -> list[str]:
    """One sentence for each budget that tokenswarm exceeds by more than the slack."""
    found = []
    budget = budget_us(rows)
    for r in rows:
        if r.client != "tokenswarm":
            continue
        if r.us_median > SLACK * budget:
            found.append(f"over budget: {r.us_median:.2f} us/token, budget {budget:.1f}")
        if r.ratio is not None and r.ratio > SLACK * BUDGET_RATIO:
            found.append(f"over budget: {r.ratio:.2f} x wrk, budget {BUDGET_RATIO:g}")
    return found


def budget_us(rows: Sequence[Row]) -> float:
    """The budget on this machine: BUDGET_US, and more in proportion where wrk is slower."""
    wrk = [r.us_median for r in rows if r.client == "wrk"]
    return BUDGET_US * max(1.0, *(us / WRK_US for us in wrk)) if wrk else BUDGET_US


def write_json(
    path: Path, case: Case, rounds: Sequence[Round], rows: Sequence[Row], over: Sequence[str]
) -> None:
    content = {"case": case, "rounds": rounds, "rows": rows, "over_budget": over}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
