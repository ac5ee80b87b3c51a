"""What a run of a million requests costs once it is over: spool to Parquet, analysis and report.

Makes such a run in a temporary directory (RATE requests a second, three models, a swap every 12 s,
`--tokens` gaps a request, GPU samples at 20 Hz) and prints, each in a process of its own: rows a
second from spool to Parquet (rows without lists, and requests), then time and peak memory of
analysis and report from Parquet. Seconds are the wall's; those of the processor beside them tell
a busy machine.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from bench.million import RATE, make, telemetry
from bench.server import BenchError

ROWS_PER_S = 200_000
SECONDS = 15.0
PEAK_BYTES = 2**30
MARGIN = 1.1
ROOT = Path(__file__).parents[1]
ROUNDS = 3


class Cost(msgspec.Struct, frozen=True):
    """What one step took: `rows` handled, wall and processor seconds, peak resident bytes."""

    rows: int
    seconds: float
    cpu_s: float
    peak_bytes: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--tokens", type=int, default=64, help="tokens a request, about")
    parser.add_argument("--telemetry-rows", type=int, default=400_000)
    parser.add_argument("--dir", type=Path, help="where to make the run; default: temporary")


def run(arguments: argparse.Namespace) -> int:
    """Make the run, measure, print; 0 within budget, 1 over it."""
    with tempfile.TemporaryDirectory(prefix="tokenswarm-bench-", dir=arguments.dir) as name:
        folder = Path(name)
        plain = telemetry(folder / "plain", arguments.telemetry_rows)
        whole = make(folder / "whole", arguments.requests, arguments.tokens)
        costs = [measured("build", plain.path) for _ in range(ROUNDS)]
        rows = min(costs, key=lambda c: c.seconds)
        requests = measured("build", whole.path)
        report = min((measured("report", whole.path) for _ in range(2)), key=lambda c: c.seconds)
    duration = arguments.requests / RATE
    print(f"{arguments.requests:,} requests of {arguments.tokens} tokens in {duration:,.0f} s")
    print(f"spool to Parquet, telemetry: {speed(rows)}; budget {ROWS_PER_S:,} rows/s")
    print(f"spool to Parquet, requests:  {speed(requests)}")
    print(
        f"analysis and report:         {report.seconds:.1f} s ({report.cpu_s:.1f} s processor), "
        f"peak {report.peak_bytes / 2**20:.0f} MiB; budget {SECONDS:g} s, "
        f"{PEAK_BYTES / 2**20:.0f} MiB"
    )
    over = overruns(rows, report)
    for line in over:
        print(f"over budget: {line}")
    return 1 if over else 0


def speed(cost: Cost) -> str:
    """A build in words."""
    return (
        f"{cost.rows / cost.seconds:,.0f} rows/s ({cost.rows:,} in {cost.seconds:.1f} s, "
        f"{cost.cpu_s:.1f} s processor), peak {cost.peak_bytes / 2**20:.0f} MiB"
    )


def overruns(rows: Cost, report: Cost) -> list[str]:
    """What is over its budget by more than `MARGIN`."""
    ratios = {
        "spool to Parquet": ROWS_PER_S * rows.seconds / rows.rows,
        "seconds of analysis and report": report.seconds / SECONDS,
        "memory of analysis and report": report.peak_bytes / PEAK_BYTES,
    }
    return [f"{name}: {r:.2f} x" for name, r in ratios.items() if r > MARGIN]


def measured(step: str, run_dir: Path) -> Cost:
    """One step in a process of its own. BenchError: it failed."""
    argv = [sys.executable, "-m", "bench.report", step, str(run_dir)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{step} ended with {done.returncode}: {done.stderr[-2000:]}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Cost)


def peak_bytes() -> int:
    """Largest resident memory of this process (its parent's is no part of it)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise BenchError("/proc/self/status has no VmHWM")


def build(path: Path) -> int:
    from tokenswarm.store import parquet
    from tokenswarm.store.rundir import RunDir

    return sum(parquet.build(RunDir.open(path)).rows.values())


def report(path: Path) -> int:
    """Analysis and page of a run whose Parquet files are there."""
    from tokenswarm.analysis.run import examine
    from tokenswarm.report.page import render
    from tokenswarm.store.parquet import BuildReport
    from tokenswarm.store.rundir import RunDir
    from tokenswarm.store.spool import inventory

    run = RunDir.open(path)
    done = examine(run, run.read_manifest(), BuildReport({}, inventory(run.spool), {}, {}, 0.0))
    run.report.write_text(render(done.summary, done.timeline, done.distributions), "utf-8")
    return done.summary.requests


def floor(path: Path) -> int:
    """Decode the spool's frames and have DuckDB write its Parquet files again."""
    from tokenswarm.store import parquet
    from tokenswarm.store.rundir import RunDir
    from tokenswarm.store.spool import Reader

    run = RunDir.open(path)
    rows = sum(len(batch.rows) for batch in Reader(run.spool).batches())
    with parquet.connect(path / ".duckdb") as con:
        for file in sorted(path.glob("*.parquet")):
            copy = file.with_suffix(".again")
            con.execute(
                f"COPY (SELECT * FROM read_parquet({parquet.quoted(file)})) "
                f"TO {parquet.quoted(copy)} (FORMAT parquet, PARQUET_VERSION v2)"
            )
            copy.unlink()
    return rows


STEPS = {"build": build, "report": report, "floor": floor}


def main(step: str, run_dir: str) -> None:
    began, cpu = time.perf_counter(), os.times()
    rows = STEPS[step](Path(run_dir))
    used = os.times()
    spent = used.user + used.system - cpu.user - cpu.system
    cost = Cost(rows, time.perf_counter() - began, spent, peak_bytes())
    print(msgspec.json.encode(cost).decode())


if __name__ == "__main__":
    main(*sys.argv[1:])
