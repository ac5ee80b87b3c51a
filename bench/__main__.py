"""`python -m bench NAME`: run one benchmark; exit 0 within budget, 1 over it, 3 not measurable."""

import argparse
import signal
import sys

from bench import accuracy, hot_path, parquet, report, rivals, scale, ship
from bench.server import BenchError

BENCHMARKS = {
    "accuracy": accuracy,
    "hot_path": hot_path,
    "parquet": parquet,
    "report": report,
    "rivals": rivals,
    "scale": scale,
    "ship": ship,
}


def parser() -> argparse.ArgumentParser:
    """The command line: one sub-command a benchmark."""
    top = argparse.ArgumentParser("python -m bench", description=__doc__)
    commands = top.add_subparsers(dest="benchmark", required=True)
    for name, module in BENCHMARKS.items():
        module.add_arguments(commands.add_parser(name, description=module.__doc__))
    return top


def main() -> int:
    arguments = parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started ends with us
    try:
        return int(BENCHMARKS[arguments.benchmark].run(arguments))
    except BenchError as e:
        print(f"cannot measure: {e}", file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main())
