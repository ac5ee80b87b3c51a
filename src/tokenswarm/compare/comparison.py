"""Everything that a comparison has found out, from its journal and its run directories."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from tokenswarm.compare.figures import figures_of, median
from tokenswarm.compare.journal import (
    CapacityDone,
    Done,
    Fit,
    Journal,
    Run,
    Sample,
    Start,
)
from tokenswarm.compare.matrix import Matrix
from tokenswarm.compare.matrix import Solution as Wanted
from tokenswarm.compare.value import LoadFigures, Value
from tokenswarm.errors import TokenswarmError
from tokenswarm.store.rundir import RunDir

SCHEMA = 1
Several = Literal["yes", "by demand", "no", "unknown"]


class ModelFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One model of one solution, as the capacity test found it. `first_call_s`: the first since
    its server was started (and its weights were read from disk), `cached_call_s`: the next one."""

    model: str
    serves: bool
    why_not: str | None = None
    added_bytes: int | None = None
    total_bytes: int | None = None
    weights_bytes: int | None = None
    kv_bytes: int | None = None
    ready_s: float | None = None
    first_call_s: float | None = None
    cached_call_s: float | None = None
    first_ttft_s: float | None = None
    cached_ttft_s: float | None = None
    model_reply: str | None = None


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """All samples of one action of the drill on one model: medians, with least and largest.
    `penalty_s`: first call beyond a cached one. `freed_bytes`: largest seen. `canary`: how often
    the text was the same afterwards, of how many times asked."""

    action: str
    model: str
    leave_s: Value
    return_s: Value
    first_call_s: Value
    cached_call_s: Value
    penalty_s: Value
    freed_bytes: int | None
    canary: tuple[int, int] | None
    failures: list[str] = []
    absent_before: int = 0


class Starts(msgspec.Struct, frozen=True, kw_only=True):
    """All starts of one server that succeeded, whatever for."""

    server: str
    ready_s: Value
    weights_s: Value
    init_s: Value


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A server that did not start, and why. `beyond`: it was expected to show the limit."""

    server: str
    why: str
    kind: str
    beyond: bool = False
    command: list[str] = []
    log: str = ""


class Solution(msgspec.Struct, frozen=True, kw_only=True):
    """One engine as it was deployed. `memory_ratio`: total memory over the least of all solutions
    that serve every model; `speed_ratio`: single-model tok/s over the slowest's."""

    name: str
    engine: str
    doc: str
    version: str | None
    simulated: bool
    several: Several
    served: list[str]
    wanted: list[str]
    models: list[ModelFigures]
    refused: list[Refused]
    starts: list[Starts]
    changes: list[Change]
    loads: list[LoadFigures]
    vram_total_bytes: int | None = None
    memory_ratio: float | None = None
    speed_ratio: float | None = None
    traits: list[str] = []
    failure: str | None = None
    done: bool = False

    @property
    def serves_all(self) -> bool:
        return self.served == self.wanted

    @property
    def single(self) -> LoadFigures | None:
        """The load that shows one model's speed; None: not run."""
        return next((x for x in self.loads if x.single and not x.failure), None)

    @property
    def together(self) -> LoadFigures | None:
        """The first load with several models; None: not run."""
        return next((x for x in self.loads if len(x.models) > 1 and not x.failure), None)


def solutions(matrix: Matrix, journal: Journal, folder: Path) -> list[Solution]:
    """Every solution of the matrix in its own order, with ratios between them."""
    found = [_solution(matrix, wanted, journal, folder) for wanted in matrix.solutions]
    least = min((s.vram_total_bytes for s in found if s.serves_all and s.vram_total_bytes),
                default=None)  # fmt: skip
    speeds = {s.name: s.single.tok_s.value for s in found if s.single and s.single.tok_s.value}
    slowest = min((v for v in speeds.values() if v), default=None)
    return [
        msgspec.structs.replace(
            s,
            memory_ratio=_ratio(s.vram_total_bytes, least) if s.serves_all else None,
            speed_ratio=_ratio(speeds.get(s.name), slowest),
        )
        for s in found
    ]


def _ratio(value: float | None, base: float | None) -> float | None:
    return None if value is None or not base else value / base


def _solution(matrix: Matrix, wanted: Wanted, journal: Journal, folder: Path) -> Solution:
    name = wanted.name
    started = journal.of(Start, name)
    ok = [s for s in started if s.ok]
    overs, ends = journal.of(CapacityDone, name), journal.of(Done, name)
    over = overs[-1] if overs else None
    asked = [m for s in wanted.servers if not s.beyond for m in s.models]
    served = list(over.fitted) if over else []
    return Solution(
        name=name, engine=wanted.engine, doc=wanted.doc,
        version=ok[-1].version if ok else None,
        simulated=any(s.simulated for s in ok),
        several=_several(wanted, served) if over else "unknown",
        served=served, wanted=asked,
        models=[_model(m, wanted, journal, over) for m in asked],
        refused=_refused(started),
        starts=_starts(ok),
        changes=_changes(journal.of(Sample, name)),
        loads=[_load(matrix, run, folder) for run in _last_each(journal.of(Run, name))],
        vram_total_bytes=over.vram_total_bytes if over else None,
        failure=ends[-1].failure if ends else None,
        done=bool(ends),
    )  # fmt: skip


def _several(wanted: Wanted, served: list[str]) -> Several:
    if len(served) < 2:
        return "no"
    shared = any(len(s.models) > 1 for s in wanted.servers)
    return "by demand" if shared else "yes"


def _model(model: str, wanted: Wanted, journal: Journal, over: CapacityDone | None) -> ModelFigures:
    fits = [f for f in journal.of(Fit, wanted.name) if f.model == model]
    server = next(s for s in wanted.servers if model in s.models)
    starts = [s for s in journal.of(Start, wanted.name) if s.server == server.name]
    alone = len(server.models) == 1
    good = next((s for s in starts if s.ok and alone), None)
    if not fits:
        failed = next((s.failure for s in starts if not s.ok), None)
        not_tried = over is not None and model in over.not_tried
        why = failed or ("not tried: the one before did not fit" if not_tried else None)
        return ModelFigures(model=model, serves=False, why_not=why)
    f = fits[-1]
    return ModelFigures(
        model=model, serves=f.fits, why_not=f.failure, added_bytes=f.added_bytes,
        total_bytes=f.total_bytes, ready_s=good.ready_s if good else None,
        weights_bytes=good.phases.weights_bytes if good else None,
        kv_bytes=good.phases.kv_bytes if good else None,
        first_call_s=f.first_call_s, cached_call_s=f.cached_call_s,
        first_ttft_s=f.first_ttft_s, cached_ttft_s=f.cached_ttft_s, model_reply=f.model_reply,
    )  # fmt: skip


def _refused(started: list[Start]) -> list[Refused]:
    return [
        Refused(server=s.server, why=s.failure, kind=s.failure_kind or "ended", beyond=s.beyond,
                command=s.command, log=s.log)
        for s in started
        if s.failure is not None
    ]  # fmt: skip


def _starts(ok: list[Start]) -> list[Starts]:
    names = dict.fromkeys(s.server for s in ok)
    return [
        Starts(
            server=name,
            ready_s=median([s.ready_s for s in ok if s.server == name]),
            weights_s=median([s.phases.weights_s for s in ok if s.server == name]),
            init_s=median([s.phases.init_s for s in ok if s.server == name]),
        )
        for name in names
    ]


def _changes(samples: list[Sample]) -> list[Change]:
    keys = sorted({(s.action, s.model) for s in samples})
    return [_change([s for s in samples if (s.action, s.model) == key]) for key in keys]


def _change(samples: list[Sample]) -> Change:
    good = [s for s in samples if s.failure is None]
    asked = [s.canary for s in good if s.canary is not None]
    calls = [(s.first_call_s, s.cached_call_s) for s in good]
    freed = [s.before_bytes - s.low_bytes for s in good
             if s.before_bytes is not None and s.low_bytes is not None]  # fmt: skip
    return Change(
        action=samples[0].action, model=samples[0].model,
        leave_s=median([s.leave_s for s in good]), return_s=median([s.return_s for s in good]),
        first_call_s=median([first for first, _ in calls]),
        cached_call_s=median([cached for _, cached in calls]),
        penalty_s=median([f - c for f, c in calls if f is not None and c is not None]),
        freed_bytes=max(freed, default=None),
        canary=(sum(asked), len(asked)) if asked else None,
        failures=[s.failure for s in samples if s.failure is not None],
        absent_before=sum(s.was_resident is False for s in good),
    )  # fmt: skip


def _last_each(runs: Iterable[Run]) -> list[Run]:
    """The last run of each load."""
    return list({run.load: run for run in runs}.values())


def _load(matrix: Matrix, run: Run, folder: Path) -> LoadFigures:
    single = next((x.single for x in matrix.loads if x.name == run.load), False)
    about = LoadFigures(
        load=run.load, models=run.models, users=run.users, output_tokens=run.output_tokens,
        single=single, failure=run.failure, run_dir=run.run_dir,
    )  # fmt: skip
    if run.failure is not None:
        return about
    try:
        return figures_of(RunDir.open(folder / run.run_dir), about)
    except TokenswarmError as e:
        return msgspec.structs.replace(about, failure=str(e))
