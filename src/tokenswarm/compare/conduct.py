"""A whole comparison: order, resumption, cool-down, and an end in which nothing is left running."""

import hashlib
import random
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import msgspec

from tokenswarm import __version__
from tokenswarm.compare.capacity import Say, capacity, start
from tokenswarm.compare.deployment import Deployment, launcher
from tokenswarm.compare.drill import drill
from tokenswarm.compare.journal import (
    Begin,
    CapacityDone,
    Done,
    DrillDone,
    Found,
    Journal,
    Run,
    Seen,
)
from tokenswarm.compare.load import loads
from tokenswarm.compare.matrix import Solution
from tokenswarm.compare.read import read
from tokenswarm.errors import SpoolError, TokenswarmError, UsageError
from tokenswarm.launch.process import ProcessLauncher
from tokenswarm.launch.start import StartFailed

STAGES = ("capacity", "drill", "load")


class Interrupted(Exception):
    """Time is up, or a signal came; what was measured is kept."""


class Comparison:
    """One comparison in one folder. `finished`: every solution has been through every stage."""

    def __init__(self, file: Path, out: Path, changes: Mapping[str, str], say: Say):
        self.matrix = read(file, changes)
        self.out, self._here, self._say = out, file.resolve().parent, say
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise SpoolError(f"{out}: cannot make it: {e.strerror}; give --out DIR") from e
        self.journal = Journal(out)
        self._begin()

    @property
    def order(self) -> list[Solution]:
        """Solutions in this comparison's order."""
        assert self.journal.begin is not None
        places = {name: i for i, name in enumerate(self.journal.begin.order)}
        return sorted(self.matrix.solutions, key=lambda s: places[s.name])

    @property
    def gpus(self) -> list[str]:
        """What the GPUs are called, each once."""
        seen = [s.gpus for x in self.matrix.solutions for s in self.journal.of(Seen, x.name)]
        return list(dict.fromkeys(name for names in seen for name in names))

    @property
    def finished(self) -> bool:
        return all(self.journal.of(Done, s.name) for s in self.matrix.solutions)

    def run(
        self, stages: Sequence[str] = STAGES, only: Sequence[str] = (), limit_s: float | None = None
    ) -> None:
        """Do what is left to do. Interrupted: not everything could be done."""
        self._known(only)
        for name in self._sweep():
            self._say(f"ended {name}, which an earlier tokenswarm had left running")
        with _limit(limit_s):
            cool = False
            for solution in self.order:
                if only and solution.name not in only:
                    continue
                if self._left(solution, stages):
                    if cool:
                        self._say(f"cooling down for {self.matrix.cool_down_s:g} s")
                        time.sleep(self.matrix.cool_down_s)
                    self._solution(solution, stages)
                    cool = True

    def _left(self, solution: Solution, stages: Sequence[str]) -> bool:
        j, name = self.journal, solution.name
        if j.of(Done, name):
            return False
        drilled, runs = bool(j.of(DrillDone, name)), {r.load for r in j.of(Run, name)}
        left = {
            "capacity": not j.of(CapacityDone, name),
            "drill": not drilled,
            "load": any(load.name not in runs for load in self.matrix.loads),
        }
        return any(left[stage] for stage in stages)

    def _solution(self, solution: Solution, stages: Sequence[str]) -> None:
        folder = self.out / solution.name
        folder.mkdir(exist_ok=True)
        failure = None
        try:
            with Deployment(self.matrix, solution, folder, self._here) as d:
                self._stages(d, stages)
        except TokenswarmError as e:
            failure = str(e)
            self._say(f"{solution.name}: {failure}")
        if failure or not self._left(solution, STAGES):
            about: Found = {"at_unix_s": time.time(), "solution": solution.name}
            self.journal.add(Done(**about, failure=failure))

    def _stages(self, d: Deployment, stages: Sequence[str]) -> None:
        known = self.journal.of(CapacityDone, d.solution.name)
        fitted = self._again(d, known[-1].fitted) if known else []
        if not known:
            fitted = capacity(d, self.journal, self._say)
        if "drill" in stages and not self.journal.of(DrillDone, d.solution.name):
            drill(d, fitted, self.journal, self._say)
            # a restart that failed took its model away
            fitted = [m for m in fitted if any(m in up.names for up in d.up.values())]
        if d.look.names:
            seen = Seen(at_unix_s=time.time(), solution=d.solution.name, gpus=d.look.names)
            self.journal.add(seen)
        if "load" in stages:
            loads(d, fitted, self.journal, self._say)

    def _again(self, d: Deployment, fitted: list[str]) -> list[str]:
        """Start the servers of what fitted, for what is left to do."""
        for server in d.solution.servers:
            wanted = not server.beyond and any(m in fitted for m in server.models)
            if wanted and start(d, server, self.journal, "again", self._say) is None:
                fitted = [m for m in fitted if m not in server.models]
        return fitted

    def _begin(self) -> None:
        sha = hashlib.sha256(msgspec.json.encode(self.matrix)).hexdigest()
        begin = self.journal.begin
        if begin is not None:
            if begin.matrix_sha256 != sha:
                raise UsageError(
                    f"{self.out} holds a comparison of another matrix (or other --set values): "
                    "give another --out, or remove it to begin anew"
                )
            return
        order = [s.name for s in self.matrix.solutions]
        random.Random(self.matrix.seed).shuffle(order)
        self.journal.add(
            Begin(
                at_unix_s=time.time(), matrix=self.matrix.name, matrix_sha256=sha, order=order,
                seed=self.matrix.seed, tokenswarm=__version__, host=socket.gethostname(),
            )
        )  # fmt: skip

    def _known(self, only: Sequence[str]) -> None:
        names = [s.name for s in self.matrix.solutions]
        for name in only:
            if name not in names:
                raise UsageError(f"--only {name}: no such solution; there are {', '.join(names)}")

    def _sweep(self) -> list[str]:
        """End what is left of earlier ones; its names. UsageError: no Docker, but wanted."""
        ended = ProcessLauncher().sweep()
        docker = next((s for s in self.matrix.solutions if s.launcher == "docker"), None)
        if docker is None:
            return ended
        try:
            containers = launcher(docker)
        except StartFailed as e:
            raise UsageError(str(e)) from e
        try:
            return ended + containers.sweep()
        finally:
            containers.close()


@contextmanager
def _limit(limit_s: float | None) -> Iterator[None]:
    """Interrupted after `limit_s`, or at SIGTERM or SIGINT; once, so that the end is not."""

    def stop(number: int, _: FrameType | None) -> None:
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise Interrupted("time is up" if number == signal.SIGALRM else "interrupted")

    numbers = (signal.SIGALRM, signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, stop) for number in numbers}
    if limit_s is not None:
        signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
