"""The swap drill: each engine changes its models in its own way, and every change is timed."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from tokenswarm.compare.ask import canary
from tokenswarm.compare.capacity import Say, resident, short_call
from tokenswarm.compare.capacity import start as start_server
from tokenswarm.compare.deployment import CALL_S, Deployment, Up
from tokenswarm.compare.journal import DrillDone, Found, Journal, Sample
from tokenswarm.compare.read import filled
from tokenswarm.errors import TargetError

CONTROL_S = 180.0


class Step(msgspec.Struct, frozen=True):
    """One thing to be done, as often as `repeat` says it was done before."""

    action: str
    model: str
    repeat: int


def steps(d: Deployment, fitted: list[str]) -> Iterator[Step]:
    """What the drill of a solution consists of: by demand where one server has several models,
    by restart and sleep where each has its own."""
    drill = d.matrix.drill
    for repeat in range(drill.repeats):
        for model in fitted:
            up = d.of_model(model)
            if len(up.names) > 1:
                yield from _by_demand(d, up, model, repeat)
                continue
            if drill.restarts is None or model in drill.restarts:
                yield Step("restart", model, repeat)
            if drill.sleeps is None or model in drill.sleeps:
                for level in up.adapter.sleep_levels(up.url, CONTROL_S):
                    yield Step(f"sleep{level}", model, repeat)
        yield from _visits(d, fitted, repeat)


def drill(d: Deployment, fitted: list[str], journal: Journal, say: Say) -> None:
    """Do every step that the journal does not have yet."""
    done = {(s.action, s.model, s.repeat) for s in journal.of(Sample, d.solution.name)}
    skipped: list[str] = []
    for step in list(steps(d, fitted)):
        key = (step.action, step.model, step.repeat)
        if key in done:
            continue
        if _lost(d, step.model):
            skipped.append(" ".join(map(str, key)))
            continue
        say(f"{d.solution.name}: {step.action} {step.model} ({step.repeat + 1})")
        journal.add(_do(d, step, journal, say))
    journal.add(DrillDone(at_unix_s=time.time(), solution=d.solution.name, skipped=skipped))


def _by_demand(d: Deployment, up: Up, model: str, repeat: int) -> Iterator[Step]:
    if up.adapter.unloads:
        if up.server.weights:
            yield Step("disk", model, repeat)
        yield Step("reload", model, repeat)


def _visits(d: Deployment, fitted: list[str], repeat: int) -> Iterator[Step]:
    """A-B-A-C where the matrix gives no other order."""
    demanded = [m for m in fitted if len(d.of_model(m).names) > 1]
    if not demanded:
        return
    a, *others = demanded
    order = d.matrix.drill.order or [m for other in others for m in (a, other)]
    for i, model in enumerate(m for m in order if m in demanded):
        yield Step("visit", model, repeat * len(order) + i)


def _lost(d: Deployment, model: str) -> bool:
    """Whether its server is gone, as after a restart that failed."""
    try:
        d.of_model(model)
    except KeyError:
        return True
    return False


def _do(d: Deployment, step: Step, journal: Journal, say: Say) -> Sample:
    began: Found = {"before_bytes": d.look.now()}
    act = _ACTIONS[step.action]
    try:
        found = act(d, step, journal, say)
    except TargetError as e:
        found = {"failure": str(e)}
    return Sample(
        at_unix_s=time.time(), solution=d.solution.name, action=step.action, model=step.model,
        repeat=step.repeat, **(began | found),
    )  # fmt: skip


def _calls(d: Deployment, up: Up, model: str) -> Found:
    """The first call, and the same again."""
    first, cached = short_call(d, up, model), short_call(d, up, model)
    return {
        "first_call_s": first.e2e_s, "first_ttft_s": first.ttft_s,
        "cached_call_s": cached.e2e_s, "cached_ttft_s": cached.ttft_s,
        "after_bytes": d.look.still(d.matrix.settle_s),
    }  # fmt: skip


def _restart(d: Deployment, step: Step, journal: Journal, say: Say) -> Found:
    server = d.of_model(step.model).server
    at = time.perf_counter()
    leave_s = d.stop(server.name)
    low = d.look.still(d.matrix.settle_s)
    up = start_server(d, server, journal, "drill", say)
    if up is None:
        return {"leave_s": leave_s, "failure": "it does not start again", "low_bytes": low}
    low = d.look.lowest(at)
    found: Found = {"leave_s": leave_s, "return_s": up.ready_s, "low_bytes": low}
    return found | _calls(d, up, step.model)


def _sleep(d: Deployment, step: Step, journal: Journal, say: Say) -> Found:
    """Put to sleep, look at the memory, wake up: weights good again by the canary's word."""
    up, level = d.of_model(step.model), int(step.action[-1])
    name = up.names[step.model]
    before = canary(up.url, d.solution.api, name, CALL_S)
    at = time.perf_counter()
    up.adapter.sleep(up.url, level, CONTROL_S)
    asleep = time.perf_counter()
    low = d.look.still(d.matrix.settle_s)
    awaking = time.perf_counter()
    up.adapter.wake(up.url, level, CONTROL_S)
    awake = time.perf_counter()
    found: Found = {"leave_s": asleep - at, "return_s": awake - awaking, "low_bytes": low}
    found |= _calls(d, up, step.model)
    after = canary(up.url, d.solution.api, name, CALL_S)
    return found | {"canary": None if before is None else before == after}


def _reload(d: Deployment, step: Step, journal: Journal, say: Say) -> Found:
    up = d.of_model(step.model)
    at = time.perf_counter()
    up.adapter.unload(up.url, up.names[step.model], CONTROL_S)
    gone = time.perf_counter()
    low = d.look.still(d.matrix.settle_s)
    return {"leave_s": gone - at, "low_bytes": low} | _calls(d, up, step.model)


def _disk(d: Deployment, step: Step, journal: Journal, say: Say) -> Found:
    up = d.of_model(step.model)
    up.adapter.unload(up.url, up.names[step.model], CONTROL_S)
    for name in up.server.weights:
        _forget(Path(filled(name, d.matrix.values)))
    return _calls(d, up, step.model)


def _visit(d: Deployment, step: Step, journal: Journal, say: Say) -> Found:
    up = d.of_model(step.model)
    held = resident(up)
    found: Found = {"was_resident": None if held is None else step.model in held}
    return found | _calls(d, up, step.model)


def _forget(path: Path) -> None:
    """Take a file, or every file of a folder, out of the page cache."""
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    for file in files:
        try:
            descriptor = os.open(file, os.O_RDONLY)
        except OSError as e:
            raise TargetError(f"weights {file}: {e.strerror}") from None
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


_ACTIONS: dict[str, Callable[[Deployment, Step, Journal, Say], Found]] = {
    "restart": _restart, "sleep1": _sleep, "sleep2": _sleep, "reload": _reload, "disk": _disk,
    "visit": _visit,
}  # fmt: skip
