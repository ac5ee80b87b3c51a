"""How far a run's stamps are from the server's own: request by request, on one clock."""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import get_args

import duckdb
import msgspec
import numpy as np

from bench import worker
from bench.measure import CLIENT_CORE, OTHERS_RATIO, SERVER_CORE, idle_s, tail
from bench.server import Api, BenchError, LogRow, Server, Timing, pinned
from tokenswarm.analysis.figures import Percentiles
from tokenswarm.analysis.percentiles import percentiles
from tokenswarm.errors import EXIT_GOOD, EXIT_NOT_VALID
from tokenswarm.store.rundir import RunDir

SLACK = 1.1  # over the budget by a tenth is noise
WARMUP_S = 5.0  # until no two streams are in step
LIMIT_S = 120.0  # beyond the load itself: start, drain, report


class Case(msgspec.Struct, frozen=True):
    """`budget_s` bounds the P99 of the TTFT error."""

    streams: int
    itl_ms: float
    budget_s: float


CASES = (Case(32, 5.0, 0.002), Case(512, 20.0, 0.005))


class Stamped(msgspec.Struct, frozen=True):
    """One request as the run recorded it; unix nanoseconds."""

    id: str
    sent_ns: int
    first_ns: int
    last_ns: int
    tokens: int | None


class Result(msgspec.Struct, frozen=True):
    """Errors in seconds over good requests sent after the warm-up.

    `ttft_error_s`: |client's TTFT - server's TTFT|. `first_late_s`, `last_late_s`: client's stamp
    minus the server's write of the first and last token. Over the whole run, `unmatched` counts
    requests that one side alone calls complete, `miscounted` those whose token counts differ.
    """

    case: Case
    ttft_error_s: Percentiles
    first_late_s: Percentiles
    last_late_s: Percentiles
    unmatched: int
    miscounted: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--api", choices=get_args(Api), default="openai", help="wire format")
    parser.add_argument("--seconds", type=float, default=15.0, help="load a case")
    parser.add_argument("--quick", action="store_true", help="five seconds a case")
    parser.add_argument("--json", type=Path, help="write every figure to this file")


def run(arguments: argparse.Namespace) -> int:
    """Measure both cases, print the table, and say whether the budgets hold: 0, or 1."""
    seconds = 5.0 if arguments.quick else arguments.seconds
    results = [measure(arguments.api, case, seconds) for case in CASES]
    print(table(arguments.api, results))
    over = [line for result in results for line in exceeded(result)]
    print("\n".join(over) or "within budget")
    if arguments.json:
        content = {"api": arguments.api, "results": results, "over_budget": over}
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
    return 1 if over else 0


def measure(api: Api, case: Case, seconds: float) -> Result:
    """One run to its end against a server of its own, then both sides' stamps compared."""
    timing = Timing(itl_ms=case.itl_ms)
    with (
        tempfile.TemporaryDirectory(prefix="tokenswarm-bench-") as folder,
        Server(api, timing, SERVER_CORE) as server,
    ):
        content = worker.scenario(
            api, server.url, case.streams, WARMUP_S + seconds, timing.tokens, WARMUP_S
        )
        play(worker.argv(worker.write(Path(folder), content), Path(folder) / "runs"), seconds)
        run = only_run(Path(folder) / "runs")
        steady_ns = run.read_manifest().t0_unix_ns + round(WARMUP_S * 1e9)
        return compare(case, stamped(run), server.log(), steady_ns)


def play(argv: Sequence[str], seconds: float) -> None:
    """Run `argv` to its end on the clients' core. A run that calls itself not valid is compared
    all the same: how true its stamps were is the question."""
    start_s, start_used_s = time.monotonic(), accounted_s()
    with tempfile.TemporaryFile() as output:
        try:
            with pinned(CLIENT_CORE):
                done = subprocess.run(
                    argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    timeout=seconds + LIMIT_S,
                )  # fmt: skip
        except subprocess.TimeoutExpired as e:
            raise BenchError(f"the run did not end: {tail(output)}") from e
        if done.returncode not in (EXIT_GOOD, EXIT_NOT_VALID):
            raise BenchError(f"the run ended with {done.returncode}: {tail(output)}")
        if done.returncode == EXIT_NOT_VALID:
            print(f"the run says of itself: {tail(output, 500)}", file=sys.stderr)
    others = 1 - (accounted_s() - start_used_s) / (time.monotonic() - start_s)
    if others > OTHERS_RATIO:
        print(f"others used {others:.0%} of the core: expect late stamps", file=sys.stderr)


def accounted_s() -> float:
    """Seconds that the clients' core was idle or worked for what we have started and ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return idle_s(CLIENT_CORE) + used.ru_utime + used.ru_stime


def only_run(runs: Path) -> RunDir:
    """The one run directory inside `runs`."""
    found = [path for path in runs.glob("*") if (path / "manifest.json").exists()]
    if len(found) != 1:
        raise BenchError(f"{runs}: {len(found)} run directories, one was expected")
    return RunDir.open(found[0])


def stamped(run: RunDir) -> list[Stamped]:
    """The run's good requests."""
    t0 = run.read_manifest().t0_unix_ns
    with duckdb.connect() as db:
        rows = db.execute(
            "SELECT id, t_sent_s, t_first_token_s, t_last_token_s, output_tokens"
            " FROM read_parquet(?) WHERE status = 'ok'",
            [str(run.parquet("request"))],
        ).fetchall()
    return [
        Stamped(name, t0 + round(sent * 1e9), t0 + round(first * 1e9), t0 + round(last * 1e9), n)
        for name, sent, first, last, n in rows
    ]


def compare(case: Case, ours: Sequence[Stamped], log: Sequence[LogRow], steady_ns: int) -> Result:
    """Match by request id; figures are of requests sent at `steady_ns` (unix) or later."""
    theirs = {row.id: row for row in log}
    both = [(request, theirs[request.id]) for request in ours if request.id in theirs]
    pairs = [(o, t) for o, t in both if o.sent_ns >= steady_ns]
    if not pairs:
        raise BenchError("no request of the run after its warm-up is in the server's log")
    ttft = [(o.first_ns - o.sent_ns) - (t.first_ns - t.received_ns) for o, t in pairs]
    return Result(
        case,
        seconds(abs(ns) for ns in ttft),
        seconds(o.first_ns - t.first_ns for o, t in pairs),
        seconds(o.last_ns - t.last_ns for o, t in pairs),
        len({o.id for o in ours} ^ theirs.keys()),
        sum(o.tokens != t.tokens for o, t in both),
    )


def seconds(ns: Iterable[int]) -> Percentiles:
    """Percentiles of nanoseconds, in seconds."""
    return percentiles(np.fromiter(ns, np.float64) / 1e9)


def exceeded(result: Result) -> list[str]:
    """One sentence for each way in which the run was not true enough."""
    case, found = result.case, []
    p99 = result.ttft_error_s.p99
    if p99 is None or p99 > SLACK * case.budget_s:
        found.append(
            f"over budget: TTFT error P99 {_ms(p99)} ms at {case.streams} streams,"
            f" budget {_ms(case.budget_s)}"
        )
    if result.unmatched or result.miscounted:
        found.append(f"wrong: {result.unmatched} unmatched, {result.miscounted} miscounted")
    return found


def _ms(value_s: float | None) -> str:
    return "-" if value_s is None else f"{value_s * 1000:.3f}"


def table(api: Api, results: Sequence[Result]) -> str:
    """The result for a person, in milliseconds."""
    lines = [
        f"Stamps of a run beside the server's own, ms; {api}",
        f"{'streams':>7} {'apart':>6} {'n':>6}  {'TTFT error P50':>15} {'P99':>8} {'max':>8}"
        f" {'budget':>7}  {'first late P99':>15} {'last late P99':>14}",
    ]
    for r in results:
        e = r.ttft_error_s
        lines.append(
            f"{r.case.streams:>7} {r.case.itl_ms:>6g} {e.n:>6}  {_ms(e.p50):>15} {_ms(e.p99):>8}"
            f" {_ms(e.max):>8} {_ms(r.case.budget_s):>7}  {_ms(r.first_late_s.p99):>15}"
            f" {_ms(r.last_late_s.p99):>14}"
        )
    return "\n".join(lines)
