"""Spool to Parquet: records a processor second, telemetry and requests, beside what they must cost.

The same two spools are built in turns, each round in processes of their own. Beside each stands
its floor: decoding the same frames and letting DuckDB write the same rows, which every way through
msgspec and DuckDB pays. Budget: 200,000 records a processor second of each kind; the median of the
rounds may miss it by a tenth.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.million import make, telemetry
from bench.report import MARGIN, ROWS_PER_S, Cost, measured

ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Round:
    """What one round took of one kind: the build and its floor."""

    build: Cost
    floor: Cost

    @property
    def over_budget(self) -> float:
        """Processor seconds as a multiple of what the budget allows."""
        return ROWS_PER_S * self.build.cpu_s / self.build.rows

    @property
    def over_floor(self) -> float:
        return self.build.cpu_s / self.floor.cpu_s


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--tokens", type=int, default=64, help="tokens a request, about")
    parser.add_argument("--telemetry-rows", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--dir", type=Path, help="where to make the spools; default: temporary")


def run(arguments: argparse.Namespace) -> int:
    """Make the spools, measure, print; 0 within budget, 1 over it."""
    with tempfile.TemporaryDirectory(prefix="tokenswarm-bench-", dir=arguments.dir) as name:
        folder = Path(name)
        spools = {
            "telemetry": telemetry(folder / "plain", arguments.telemetry_rows).path,
            "requests": make(folder / "whole", arguments.requests, arguments.tokens).path,
        }
        found: dict[str, list[Round]] = {kind: [] for kind in spools}
        for _ in range(arguments.rounds):
            for kind, path in spools.items():  # the floor writes what the build has left
                found[kind].append(Round(measured("build", path), measured("floor", path)))
    for kind, rounds in found.items():
        print(line(kind, rounds))
    over = overruns(found)
    for text in over:
        print(f"over budget: {text}")
    return 1 if over else 0


def line(kind: str, rounds: list[Round]) -> str:
    """One kind in words: the medians of its rounds."""
    cost = median(r.build.cpu_s / r.build.rows for r in rounds)
    floor = median(r.floor.cpu_s / r.build.rows for r in rounds)
    return (
        f"{kind:<10} {1 / cost:>9,.0f} records/s of a core ({cost * 1e6:.2f} us each; budget "
        f"{ROWS_PER_S:,}), floor {floor * 1e6:.2f} us, "
        f"{median(r.over_floor for r in rounds):.2f} x floor, "
        f"{median(r.build.rows / r.build.seconds for r in rounds):,.0f}/s by the wall"
    )


def overruns(found: dict[str, list[Round]]) -> list[str]:
    """Kinds whose median round misses the budget by more than `MARGIN`."""
    ratios = {kind: median(r.over_budget for r in rounds) for kind, rounds in found.items()}
    return [f"{kind}: {ratio:.2f} x" for kind, ratio in ratios.items() if ratio > MARGIN]
