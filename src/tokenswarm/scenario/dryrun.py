"""What a run would do, without a server: the plan in words, and a scenario's digest."""

import hashlib
import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from tokenswarm.scenario.level import level_of
from tokenswarm.scenario.load import published
from tokenswarm.scenario.model import (
    ClosedLoad,
    OpenLoad,
    PlannedRequest,
    Scenario,
    Shape,
    TraceLoad,
)
from tokenswarm.scenario.plan import Plan

SAMPLE = 1000
"""Requests from which shares and mean lengths are taken."""
_PROMPT_SHOWN = 40


def digest(scenario: Scenario) -> str:
    """Return sha256 (hex) of the scenario as canonical JSON; header values do not enter."""
    text = json.dumps(published(scenario), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def plan_text(scenario: Scenario, count: int = 10) -> str:
    """Return what `run --dry-run` prints. File prompts must be resolved (see resolve())."""
    plan = Plan(scenario)
    sample = [plan.request(index) for index in range(SAMPLE)]
    lines = [f"scenario  {scenario.name}  sha256 {digest(scenario)[:16]}  seed {scenario.seed}"]
    lines += ["", "targets", *_targets(scenario)]
    lines += ["", f"models (share of the first {SAMPLE} requests)", *_models(scenario, sample)]
    lines += ["", *_load(scenario, sample)]
    lines += ["", f"first {count} requests", *_requests(plan, count)]
    return "\n".join(lines) + "\n"


def _targets(scenario: Scenario) -> list[str]:
    rows = [("name", "api", "engine", "url")]
    for name, target in scenario.targets.items():
        rows.append((name, target.api, target.engine or "probed", target.url))
    return _table(rows)


def _models(scenario: Scenario, sample: list[PlannedRequest]) -> list[str]:
    share = Counter(request.model for request in sample)
    rows = [("name", "target", "model", "endpoint", "weight", "share", "prompt", "output")]
    for model in scenario.models:
        mine = [request for request in sample if request.model == model.name]
        lengths = _mean([r.prompt_tokens for r in mine]), _mean([r.output_tokens for r in mine])
        part = f"{share[model.name] / len(sample):.1%}"
        server = _plain(model.model)
        row = (model.name, model.target, server, model.endpoint, f"{model.weight:g}", part)
        rows.append((*row, *lengths))
    return _table(rows)


def _load(scenario: Scenario, sample: list[PlannedRequest]) -> list[str]:
    load = scenario.load
    most = scenario.max_requests
    if isinstance(load, ClosedLoad):
        talk = f", conversations of {load.turns} turns" if load.turns > 1 else ""
        what = f"closed, {load.users} users, think time {load.think_s:g} s{talk}"
        what += _shape(load.shape)
        expected = "as many as the servers finish" + (f", at most {most}" if most else "")
    else:
        what = f"{_open(load)}, at most {load.max_in_flight} in flight"
        expected = _expected(_arriving(scenario), most, sample)
    times = f"{scenario.duration_s:g} s, then up to {scenario.drain_s:g} s to drain"
    warmup = f", the first {scenario.warmup_s:g} s are warm-up" if scenario.warmup_s else ""
    gates = [f"gate      {_plain(gate)}" for gate in scenario.gates]
    return [
        f"order     {scenario.mix.order}",
        f"load      {what}",
        f"duration  {times}{warmup}",
        f"requests  {expected}",
        *gates,
    ]


def _open(load: OpenLoad | TraceLoad) -> str:
    if isinstance(load, TraceLoad):
        return f"trace, {len(load.times_s)} arrivals in {load.times_s[-1]:g} s"
    gamma = f" (burstiness {load.burstiness:g})" if load.arrivals == "gamma" else ""
    rate = f"open, {load.rate:g} requests/s, {load.arrivals}{gamma} arrivals"
    return rate + _shape(load.shape)


def _shape(shape: Shape | None) -> str:
    return "" if shape is None else f", shape {shape.__struct_config__.tag}"


def _arriving(scenario: Scenario) -> int:
    """How many requests will be due, on average where the arrivals are random."""
    load, duration_s = scenario.load, scenario.duration_s
    if isinstance(load, TraceLoad):
        return bisect_left(load.times_s, duration_s)
    assert isinstance(load, OpenLoad)
    level = level_of(load.shape, duration_s)
    return round(load.rate * (duration_s if level is None else level.area(duration_s)))


def _expected(number: int, most: int | None, sample: list[PlannedRequest]) -> str:
    number = number if most is None else min(number, most)
    output = number * fmean(request.output_tokens for request in sample)
    known = [r.prompt_tokens for r in sample if r.prompt_tokens is not None]
    prompt = number * sum(known) / len(sample)
    more = "" if len(known) == len(sample) else " and those of given texts"
    return f"about {number}: {prompt:.0f} prompt tokens{more}, up to {output:.0f} output tokens"


def _requests(plan: Plan, count: int) -> list[str]:
    rows = [("index", "at", "model", "prompt", "output", "begins")]
    for request in map(plan.request, range(count)):
        at = "-" if request.intended_s is None else f"{request.intended_s:.3f} s"
        prompt = "-" if request.prompt_tokens is None else str(request.prompt_tokens)
        row = (str(request.index), at, request.model, prompt, str(request.output_tokens))
        rows.append((*row, _begin(request.prompt)))
    return _table(rows)


def _begin(prompt: str | list[int]) -> str:
    text = prompt if isinstance(prompt, str) else " ".join(map(str, prompt[:_PROMPT_SHOWN]))
    return _plain(text[:_PROMPT_SHOWN]) + ("..." if len(text) > _PROMPT_SHOWN else "")


def _plain(text: str) -> str:
    """Return text for a terminal: control and other unprintable characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _mean(tokens: list[int | None]) -> str:
    known = [number for number in tokens if number is not None]
    return f"{fmean(known):.0f}" if known else "-"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
