"""What `tokenswarm capacity` and `tokenswarm compare` do."""

import sys
from collections.abc import Sequence
from pathlib import Path

from tokenswarm.compare.conduct import STAGES, Comparison, Interrupted
from tokenswarm.compare.files import write
from tokenswarm.compare.result import result
from tokenswarm.compare.show import show
from tokenswarm.errors import EXIT_GATE_FAILED, EXIT_GOOD, EXIT_NOT_VALID, UsageError


def changes(pairs: Sequence[str]) -> dict[str, str]:
    """`["site=/x"]` as `{"site": "/x"}`. UsageError for anything else."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise UsageError(f"--set {pair!r} is not NAME=VALUE")
        found[name] = value
    return found


def conduct(
    file: Path, out: Path | None, pairs: Sequence[str], only: Sequence[str],
    limit_s: float | None, other: str | None, stages: Sequence[str] = STAGES,
) -> int:  # fmt: skip
    """Do what is left of a comparison, write and print its result; the exit code.

    0: all done; 1: done, but a solution failed as a whole; 3: not finished, to be gone on with.
    """
    given = changes(pairs)
    comparison = Comparison(file, out or default(file), given, _say)
    if other is not None:
        result(comparison, other)  # a study that is none is said before hours have gone
    stopped = None
    try:
        comparison.run(stages, only, limit_s)
    except Interrupted as e:
        stopped = str(e)
    made = result(comparison, other)
    paths = write(made, comparison.out)
    show(made)
    print(f"comparison: {paths[-1]}")
    if stopped:
        _say(f"{stopped}: what was measured is kept, the same command goes on")
        return EXIT_NOT_VALID
    return EXIT_GATE_FAILED if any(s.failure for s in made.solutions) else EXIT_GOOD


def default(file: Path) -> Path:
    """Where a matrix's comparison lies unless told otherwise."""
    return Path("runs") / f"compare-{file.name.removesuffix('.yaml').removesuffix('.matrix')}"


def _say(text: str) -> None:
    print(f"tokenswarm: {text}", file=sys.stderr, flush=True)
