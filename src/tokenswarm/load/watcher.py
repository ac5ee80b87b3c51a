"""The watch beside the master: swaps and strata of a run that goes on, into the run's spool."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenswarm.load.child import Child

END_S = 30.0
"""A look at half an hour of a busy run takes seconds; one that is on is let end."""


@dataclass(frozen=True, slots=True)
class WatcherEnd:
    """What became of it: what it said that it had done, and remarks for the manifest."""

    said: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class WatcherProcess:
    """`tokenswarm watch RUN_DIR`; ends when its stdin ends, so also with its parent.

    A run needs nothing of it: one that cannot start, dies or hangs is a remark, and the report
    has every swap and every stratum all the same.
    """

    def __init__(self, run_dir: Path, delay_s: float) -> None:
        self._process: Child | None = None
        self._refused = ""
        try:
            self._process = Child(
                [sys.executable, "-m", "tokenswarm", "watch", str(run_dir), "--until-eof",
                 "--quiet", "--delay", str(delay_s)],
                stdout=True,
                stderr=True,
            )  # fmt: skip
        except OSError as e:
            self._refused = f"it cannot be started: {e.strerror}"

    def end(self) -> WatcherEnd:
        """Close its stdin and take its last word; one that hangs is killed."""
        if self._process is None:
            return _failed(self._refused)
        ended = self._process.end(END_S)
        if ended.killed:
            return _failed(f"it did not end in {END_S:.0f} s and was killed")
        try:
            return WatcherEnd(dict(json.loads(ended.said.splitlines()[-1])))
        except (IndexError, ValueError):
            last = ended.trouble.decode(errors="replace").strip().splitlines()[-1:]
            why = last[0].removeprefix("tokenswarm: ")[:400] if last else "it was killed"
            return _failed(f"it ended early (exit status {ended.status}): {why}")


def _failed(why: str) -> WatcherEnd:
    return WatcherEnd(notes=[f"swaps were not watched to the end of the run: {why}"])
