"""What the command line changes in a scenario."""

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from tokenswarm.errors import ScenarioError, UsageError
from tokenswarm.scenario.check import problems
from tokenswarm.scenario.model import (
    ClosedLoad,
    Load,
    Mix,
    MixOrder,
    Model,
    OpenLoad,
    Scenario,
    Target,
    TraceLoad,
)
from tokenswarm.scenario.place import Place, written
from tokenswarm.scenario.shape import nearest

_OPTIONS: dict[Place, str] = {
    ("load", "users"): "--users",
    ("load", "rate"): "--rate",
    ("duration_s",): "--duration",
    ("max_requests",): "--max-requests",
    ("seed",): "--seed",
}


def override(
    scenario: Scenario,
    *,
    urls: Mapping[str, str] | None = None,
    users: int | None = None,
    rate: float | None = None,
    duration_s: float | None = None,
    max_requests: int | None = None,
    seed: int | None = None,
    gates: Sequence[str] = (),
    agents: Sequence[str] = (),
    order: MixOrder | None = None,
    keep_alive: str | float | None = None,
) -> Scenario:
    """Return the scenario with what is given changed, and checked again.

    `urls` by target name; `users` makes the load closed, `rate` open; `gates` are added to the
    file's, `agents` replace them; `order` is the mix's and `keep_alive` that of every model on
    Ollama. UsageError where both loads, an unknown target or a bad value
    is given.
    """
    telemetry = scenario.telemetry
    changed = replace(
        scenario,
        targets=_targets(scenario.targets, urls or {}),
        models=[_kept(m, scenario, keep_alive) for m in scenario.models],
        mix=scenario.mix if order in (None, scenario.mix.order) else Mix(order=order),
        load=_load(scenario.load, users, rate),
        duration_s=scenario.duration_s if duration_s is None else duration_s,
        max_requests=scenario.max_requests if max_requests is None else max_requests,
        seed=scenario.seed if seed is None else seed,
        gates=[*scenario.gates, *gates],
        telemetry=replace(telemetry, agents=list(agents)) if agents else telemetry,
    )
    for problem in problems(changed):
        raise ScenarioError(problem.message, path=_option(problem.place))
    return changed


def _kept(model: Model, scenario: Scenario, keep_alive: str | float | None) -> Model:
    if keep_alive is None or scenario.targets[model.target].api != "ollama":
        return model
    return replace(model, keep_alive=keep_alive)


def _targets(targets: Mapping[str, Target], urls: Mapping[str, str]) -> dict[str, Target]:
    for name in urls:
        if name not in targets:
            message = f"--url {name[:60]}=...: no such target; {nearest(name, list(targets))}"
            raise UsageError(message)
    return {name: replace(t, url=urls.get(name, t.url)) for name, t in targets.items()}


def _load(load: Load, users: int | None, rate: float | None) -> Load:
    if users is not None and rate is not None:
        message = f"--users {users} and --rate {rate:g} together: a load is closed (users)"
        raise UsageError(f"{message} or open (rate); give one of them")
    shape = None if isinstance(load, TraceLoad) else load.shape
    if users is not None:
        closed = load if isinstance(load, ClosedLoad) else ClosedLoad(shape=shape)
        return replace(closed, users=users)
    if rate is not None:
        opened = load if isinstance(load, OpenLoad) else OpenLoad(rate=rate, shape=shape)
        return replace(opened, rate=rate)
    return load


def _option(place: Place) -> str:
    """Return the option that set the value at `place`, or the place itself."""
    if place[0] == "targets" and place[-1] == "url":
        return f"--url {place[1]}=..."
    if place[0] == "gates":
        return "--gate"
    if place[:2] == ("telemetry", "agents"):
        return "--agent"
    return _OPTIONS.get(place, written(place))
