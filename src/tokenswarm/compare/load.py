"""The load of a solution: one scenario and one run directory each, by `tokenswarm run`."""

import subprocess
import sys
import time
from pathlib import Path

import msgspec
import yaml

from tokenswarm.clock import RUN_ID
from tokenswarm.compare.capacity import Say
from tokenswarm.compare.deployment import Deployment, Up
from tokenswarm.compare.journal import Found, Journal, Run
from tokenswarm.compare.matrix import LoadChange, MatrixLoad
from tokenswarm.errors import EXIT_USAGE
from tokenswarm.launch import ledger
from tokenswarm.launch.process import tail
from tokenswarm.launch.reasons import one_line
from tokenswarm.scenario.load import to_dict
from tokenswarm.scenario.model import (
    ClosedLoad,
    GpuSource,
    GpuTelemetry,
    Model,
    Output,
    Scenario,
    Target,
    Telemetry,
)

GRACE_S = 15.0
_SOURCES: dict[str, GpuSource] = {"sim": "auto", "nvml": "nvml", "host": "host", "none": "none"}


def loads(d: Deployment, fitted: list[str], journal: Journal, say: Say) -> None:
    """Run every load that the journal does not have yet."""
    done = {run.load for run in journal.of(Run, d.solution.name)}
    for load in d.matrix.loads:
        if load.name not in done:
            say(f"{d.solution.name}: load {load.name}")
            journal.add(_run(d, changed(load, d.solution.loads), fitted))


def changed(load: MatrixLoad, changes: list[LoadChange]) -> MatrixLoad:
    """The load with what one solution has otherwise."""
    for change in changes:
        if change.name == load.name:
            new = {k: v for k, v in msgspec.structs.asdict(change).items() if v is not None}
            load = msgspec.structs.replace(load, **new)
    return load


def _run(d: Deployment, load: MatrixLoad, fitted: list[str]) -> Run:
    weights = load.weights or {m.name: 1.0 for m in d.matrix.models}
    about: Found = {
        "solution": d.solution.name, "load": load.name, "models": list(weights),
        "users": load.users, "output_tokens": _mean(load.output),
    }  # fmt: skip
    missing = [m for m in weights if m not in fitted]
    if missing:
        why = f"not run: {', '.join(missing)} not served"
        return Run(at_unix_s=time.time(), **about, run_dir="", exit_code=EXIT_USAGE, failure=why)
    file = d.folder / f"{load.name}.yaml"
    ups = {m: d.of_model(m) for m in weights}
    file.write_text(yaml.safe_dump(to_dict(scenario(d, load, ups, weights)), sort_keys=False))
    code, run_dir = _play(file, d.folder / "runs")
    failure = None if run_dir else one_line(tail(d.folder / "logs" / f"{load.name}.log")[-400:])
    where = str(run_dir.relative_to(d.folder.parent)) if run_dir else ""
    return Run(at_unix_s=time.time(), **about, run_dir=where, exit_code=code, failure=failure)


def scenario(
    d: Deployment, load: MatrixLoad, ups: dict[str, Up], weights: dict[str, float]
) -> Scenario:
    """The load as a scenario, with every default written out."""
    slos = {m.name: m.slo for m in d.matrix.models}
    gpu = d.solution.gpu or d.matrix.gpu
    return Scenario(
        name=f"{d.matrix.name}-{d.solution.name}-{load.name}",
        targets={
            up.server.name: Target(api=d.solution.api, url=up.url, engine=d.solution.engine)
            for up in ups.values()
        },
        models=[
            Model(
                name=m, target=up.server.name, model=up.names[m], weight=weights[m],
                prompt=load.prompt, output=load.output, options={"temperature": 0}, slo=slos[m],
            )
            for m, up in ups.items()
        ],
        load=ClosedLoad(users=load.users),
        duration_s=load.duration_s,
        max_requests=load.requests,
        warmup_s=load.warmup_s,
        telemetry=Telemetry(gpu=GpuTelemetry(source=_SOURCES[gpu.source])),
        seed=d.matrix.seed,
    )  # fmt: skip


def _mean(output: Output) -> float:
    return float(output.tokens if isinstance(output.tokens, int) else output.tokens.mean)


def _play(file: Path, out: Path) -> tuple[int, Path | None]:
    """Run a scenario to its end, whatever ends us: exit code and run directory."""
    before = _runs(out)
    command = [sys.executable, "-m", "tokenswarm", "run", str(file), "--out", str(out)]
    log = file.parent / "logs" / f"{file.stem}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as said:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        )
    entry = ledger.add(file.stem, child.pid)
    try:
        code = child.wait()
    finally:
        ledger.end(child.pid, GRACE_S)
        child.wait()
        entry.unlink(missing_ok=True)
    new = sorted(_runs(out) - before)
    finished = [p for p in new if (p / "summary.json").is_file()]
    return code, finished[-1] if finished else None


def _runs(out: Path) -> set[Path]:
    return {p for p in out.glob("*") if RUN_ID.fullmatch(p.name)}
