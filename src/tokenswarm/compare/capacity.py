"""The capacity test: models are brought in one after another until one no longer fits."""

import time
from collections.abc import Callable

from tokenswarm.compare.ask import Answer, ask, call_of
from tokenswarm.compare.deployment import CALL_S, Deployment, Up
from tokenswarm.compare.journal import CapacityDone, Fit, Found, Journal
from tokenswarm.compare.journal import Start as Started
from tokenswarm.compare.matrix import Server
from tokenswarm.engines.ollama import same_model
from tokenswarm.errors import TargetError
from tokenswarm.launch.phases import phases
from tokenswarm.launch.start import StartFailed
from tokenswarm.scenario.model import TextPrompt

HELD = ("resident", "partial")
ASK_S = 5.0
Say = Callable[[str], None]


def capacity(d: Deployment, journal: Journal, say: Say) -> list[str]:
    """Start every server of a solution and bring every model in; the models that fitted.

    It ends with the first that does not; `beyond` servers come last and are ended again. What was
    measured is in the journal.
    """
    name = d.solution.name
    base = d.look.still(d.matrix.settle_s)
    fitted: list[str] = []
    failed = False
    for server in _in_order(d.solution.servers):
        if failed and not server.beyond:
            break
        up = start(d, server, journal, "capacity", say)
        if up is None:
            failed = failed or not server.beyond
            continue
        if server.beyond:
            d.stop(server.name)
            continue
        base = d.look.now() if base is None else base
        failed = not _bring_in(d, up, journal, say, base, fitted)
    wanted = [m for s in d.solution.servers if not s.beyond for m in s.models]
    tried = {f.model for f in journal.of(Fit, name)}
    tried |= {m for s in journal.of(Started, name) if not s.ok for m in s.models}
    journal.add(
        CapacityDone(
            at_unix_s=time.time(), solution=name, fitted=fitted,
            not_tried=[m for m in wanted if m not in tried], vram_base_bytes=base,
            vram_total_bytes=_over(d.look.still(d.matrix.settle_s), base),
        )
    )  # fmt: skip
    return fitted


def start(d: Deployment, server: Server, journal: Journal, why: str, say: Say) -> Up | None:
    """Start one server and note how that went; None: it does not start."""
    before = d.look.still(d.matrix.settle_s)
    asked = d.start_of(server)
    about: Found = {
        "solution": d.solution.name, "server": server.name, "why": why, "beyond": server.beyond,
        "command": list(asked.argv), "models": list(server.models), "vram_before_bytes": before,
        "log": str(asked.log.relative_to(d.folder.parent)),
    }  # fmt: skip
    say(f"{d.solution.name}: starting {server.name}")
    try:
        up = d.start(server)
    except StartFailed as e:
        why_not: Found = {"failure": e.failure.text, "failure_kind": e.failure.kind}
        journal.add(Started(at_unix_s=time.time(), **about, **why_not))
        say(f"{d.solution.name}: {server.name} does not start: {e.failure.text}")
        return None
    after = d.look.still(d.matrix.settle_s)
    entry = Started(
        at_unix_s=time.time(),
        **about,
        ready_s=up.ready_s,
        phases=phases(up.started.said()),
        vram_after_bytes=after,
        engine=up.info.engine,
        version=up.info.version,
        simulated=up.info.simulated,
    )
    journal.add(entry)
    say(f"{d.solution.name}: {server.name} is ready after {up.ready_s:.1f} s")
    return up


def short_call(d: Deployment, up: Up, model: str, timeout_s: float = CALL_S) -> Answer:
    """The drill's call to our `model`. TargetError: it failed."""
    prompt = d.matrix.drill.prompt
    text = prompt.text if isinstance(prompt, TextPrompt) else "hi"
    call = call_of(up.info, d.solution.api, up.names[model], text, d.matrix.drill.output_tokens)
    return ask(up.url, call, timeout_s)


def resident(up: Up) -> list[str] | None:
    """Our names of the models that the server holds whole or in part; None: it does not say."""
    try:
        said = up.adapter.residency(up.url, ASK_S)
    except TargetError:
        return None
    if said is None:
        return None
    held = [r.model for r in said if r.state in HELD]
    return [ours for ours, its in up.names.items() if any(same_model(its, h) for h in held)]


def _in_order(servers: list[Server]) -> list[Server]:
    return sorted(servers, key=lambda s: s.beyond)


def _bring_in(
    d: Deployment, up: Up, journal: Journal, say: Say, base: int | None, fitted: list[str]
) -> bool:
    """Call every model of a server; False as soon as one does not fit."""
    alone = len(up.names) == 1
    for model in up.names:
        started = journal.of(Started, d.solution.name)[-1]
        before = started.vram_before_bytes if alone else d.look.still(d.matrix.settle_s)
        before = base if before is None else before
        fit = _fit(d, up, model, before, base, fitted)
        journal.add(fit)
        if not fit.fits:
            say(f"{d.solution.name}: {model} does not fit: {fit.failure}")
            return False
        fitted.append(model)
        say(f"{d.solution.name}: {model} serves")
    return True


def _fit(
    d: Deployment, up: Up, model: str, before: int | None, base: int | None, fitted: list[str]
) -> Fit:
    about: Found = {"solution": d.solution.name, "server": up.server.name, "model": model}
    try:
        first, cached = short_call(d, up, model), short_call(d, up, model)
    except TargetError as e:
        ended = up.started.ended()
        said = ended.text if ended else str(e)
        return Fit(at_unix_s=time.time(), **about, fits=False, failure=said)
    used = d.look.still(d.matrix.settle_s)
    held = resident(up)
    gone = [m for m in fitted if held is not None and m in up.names and m not in held]
    return Fit(
        at_unix_s=time.time(), **about, fits=not gone, first_call_s=first.e2e_s,
        first_ttft_s=first.ttft_s, cached_call_s=cached.e2e_s, cached_ttft_s=cached.ttft_s,
        added_bytes=_over(used, before), total_bytes=_over(used, base), resident=held,
        failure=f"{', '.join(gone)} had to go for it" if gone else None,
        model_reply=first.model_reply,
    )  # fmt: skip


def _over(used: int | None, base: int | None) -> int | None:
    return None if used is None or base is None else max(0, used - base)
