"""What a well-shaped scenario may still have wrong: each problem with its place and way out."""

import re
from collections import Counter
from collections.abc import Iterator
from math import inf
from pathlib import Path
from urllib.parse import urlsplit

from tokenswarm.errors import ScenarioError, UsageError
from tokenswarm.scenario import promptfile, tracefile
from tokenswarm.scenario.model import (
    ClosedLoad,
    FilePrompt,
    InlinePrompt,
    Mix,
    Model,
    OpenLoad,
    Prompt,
    RampShape,
    Scenario,
    Shape,
    Slo,
    SoakShape,
    SpikeShape,
    Spread,
    StepsShape,
    Target,
    TextPrompt,
    TraceLoad,
)
from tokenswarm.scenario.place import Place, shown
from tokenswarm.scenario.shape import Problem, nearest
from tokenswarm.scenario.urls import agent_address

ENDPOINTS = {
    "ollama": ("chat", "generate", "completions", "embeddings"),
    "openai": ("chat", "completions", "embeddings"),
}
MAX_TOKENS = 1_000_000
MAX_RATE = 1_000_000.0
OURS = {
    "num_predict": "output.tokens",
    "max_tokens": "output.tokens",
    "max_completion_tokens": "output.tokens",
    "n_predict": "output.tokens",
    "min_tokens": "output.exact",
    "ignore_eos": "output.exact",
    "stream": "stream",
    "stream_options": "stream",
    "keep_alive": "keep_alive",
    "model": "model",
    "prompt": "prompt",
    "messages": "prompt and system",
    "input": "prompt",
    "system": "system",
}
"""Options of a request that a key of the scenario sets."""
_FRAMING = {"host", "content-length", "transfer-encoding", "connection"}
_SLUG = re.compile(r"[a-z0-9_-]{1,64}")
_DURATION = re.compile(r"[+-]?((\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h))+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def problems(scenario: Scenario, base: Path | None = None) -> Iterator[Problem]:
    """Yield what is wrong. `base`, the scenario's folder, also checks its prompt files."""
    yield from _name(("name",), scenario.name)
    yield from _targets(scenario)
    yield from _models(scenario, base)
    yield from _mix(scenario.mix, scenario)
    yield from _load(scenario, base)
    yield from _times(scenario)
    yield from _telemetry(scenario)
    for number, gate in enumerate(scenario.gates):
        if not gate.strip() or _CONTROL.search(gate):
            message = f"{gate!r} is no gate; write one such as 'swaps.latency_s.p95 < 5'"
            yield Problem(("gates", number), message)
    yield from _at_least(("seed",), scenario.seed, 0)


def _name(place: Place, name: str) -> Iterator[Problem]:
    if not _SLUG.fullmatch(name):
        message = f"{name[:70]!r} is no name; use 1 to 64 of a-z, 0-9, _ and -"
        yield Problem(place, message, at_key=place[-1] == name)
    elif name == "none":
        yield Problem(place, "'none' stands for a missing name; use another", place[-1] == name)


def _targets(scenario: Scenario) -> Iterator[Problem]:
    if not scenario.targets:
        message = "no target; add one such as `box: {api: ollama, url: http://127.0.0.1:11434}`"
        yield Problem(("targets",), message)
    for name, target in scenario.targets.items():
        yield from _name(("targets", name), name)
        yield from _target(("targets", name), target)


def _target(at: Place, target: Target) -> Iterator[Problem]:
    yield from _url((*at, "url"), target.url)
    if target.engine is not None:
        yield from _name((*at, "engine"), target.engine)
    for name, value in target.headers.items():
        yield from _header((*at, "headers", name), name, value)
    key = target.api_key_env
    if key is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
        message = "not the name of an environment variable; put the key into one and name it here"
        yield Problem((*at, "api_key_env"), message)
    for wait in ("connect_timeout_s", "idle_timeout_s", "total_timeout_s"):
        yield from _above((*at, wait), getattr(target, wait), 0)


def _url(place: Place, url: str) -> Iterator[Problem]:
    example = "write it like http://127.0.0.1:11434"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        yield Problem(place, f"{shown(place, url)} is no URL; {example}")
        return
    if parts.username is not None or parts.password is not None:
        message = "a URL must not hold a password; put the key into an environment variable"
        yield Problem(place, f"{message} and name it in api_key_env")
    elif parts.query or parts.fragment:
        yield Problem(place, f"a URL here ends before any ? or #; {example}")
    elif parts.scheme not in ("http", "https"):
        yield Problem(
            place, f"{shown(place, url)} does not begin with http:// or https://; {example}"
        )
    elif not host or port == 0 or re.search(r"[\s\x00-\x1f\x7f]", url):
        yield Problem(place, f"{shown(place, url)} has no usable host and port; {example}")


def _header(place: Place, name: str, value: str) -> Iterator[Problem]:
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
        yield Problem(place, f"{name[:60]!r} is no header name; use letters, digits and -", True)
    elif name.lower() in ("authorization", "proxy-authorization"):
        message = f"{name} is a secret; put it into an environment variable, name it in api_key_env"
        yield Problem(place, message, at_key=True)
    elif name.lower() in _FRAMING:
        yield Problem(place, f"{name} is set by the HTTP client; remove it", at_key=True)
    elif _CONTROL.search(value) or not value.isascii():
        message = "the value has a line break or another character that headers lack; remove it"
        yield Problem(place, message)


def _models(scenario: Scenario, base: Path | None) -> Iterator[Problem]:
    if not scenario.models:
        yield Problem(("models",), "no model; add one with name, target and model")
    for number, model in enumerate(scenario.models):
        at: Place = ("models", number)
        yield from _name((*at, "name"), model.name)
        yield from _model(at, model, scenario.targets)
        yield from _prompt((*at, "prompt"), model.prompt, base)
        yield from _at_least((*at, "weight"), model.weight, 0)
    yield from _twice([model.name for model in scenario.models])
    if scenario.models and all(model.weight == 0 for model in scenario.models):
        message = "every weight is 0, so no model would be asked; give one a weight above 0"
        yield Problem(("models", 0, "weight"), message)


def _twice(names: list[str]) -> Iterator[Problem]:
    for name, times in Counter(names).items():
        if times > 1:
            number = names.index(name, names.index(name) + 1)
            message = f"{name!r} already names models[{names.index(name)}]; give it another name"
            yield Problem(("models", number, "name"), message)


def _model(at: Place, model: Model, targets: dict[str, Target]) -> Iterator[Problem]:
    target = targets.get(model.target)
    if target is None:
        message = f"{model.target[:60]!r} is no target; {nearest(model.target, list(targets))}"
        yield Problem((*at, "target"), message)
    else:
        yield from _fits(at, model, target)
    for key in ("model", "system"):
        text = getattr(model, key)
        if text is not None and not text.strip():
            yield Problem((*at, key), f"{text!r} is empty; write it or leave the key out")
    yield from _tokens((*at, "output", "tokens"), model.output.tokens)
    for option in model.options:
        if option in OURS:
            message = f"option {option!r} is set by the key {OURS[option]} of the model; use that"
            yield Problem((*at, "options", option), message, at_key=True)
    if model.slo is not None:
        yield from _slo((*at, "slo"), model.slo)


def _fits(at: Place, model: Model, target: Target) -> Iterator[Problem]:
    known = ENDPOINTS[target.api]
    if model.endpoint not in known:
        message = f"{model.endpoint!r} is no endpoint of api {target.api}; use {', '.join(known)}"
        yield Problem((*at, "endpoint"), message)
    if model.keep_alive is None:
        return
    place = (*at, "keep_alive")
    if target.api != "ollama":
        yield Problem(place, f"api {target.api} has no keep_alive; remove it, or use api: ollama")
    elif isinstance(model.keep_alive, str) and not _DURATION.fullmatch(model.keep_alive):
        message = (
            f"{shown(place, model.keep_alive)} is no duration; write '5m', or seconds as a number"
        )
        yield Problem(place, message)


def _prompt(at: Place, prompt: Prompt, base: Path | None) -> Iterator[Problem]:
    if isinstance(prompt, TextPrompt):
        if not prompt.text.strip():
            yield Problem((*at, "text"), f"{prompt.text!r} is empty; write the prompt")
    elif isinstance(prompt, InlinePrompt):
        if not prompt.texts or not all(text.strip() for text in prompt.texts):
            yield Problem((*at, "texts"), "an empty prompt, or none; write at least one")
    elif isinstance(prompt, FilePrompt):
        if base is not None:
            yield from _prompt_file((*at, "path"), prompt, base)
    else:
        yield from _tokens((*at, "tokens"), prompt.tokens)


def _prompt_file(place: Place, prompt: FilePrompt, base: Path) -> Iterator[Problem]:
    try:
        promptfile.read(prompt, base)
    except ScenarioError as error:
        yield Problem(place, str(error))


def _tokens(at: Place, tokens: int | Spread) -> Iterator[Problem]:
    if isinstance(tokens, int):
        if not 1 <= tokens <= MAX_TOKENS:
            yield Problem(at, f"{tokens} is no length; give 1 to {MAX_TOKENS} tokens")
        return
    yield from _at_least((*at, "std"), tokens.std, 0)
    yield from _at_least((*at, "min"), tokens.min, 1)
    if tokens.max > MAX_TOKENS:
        yield Problem((*at, "max"), f"{tokens.max} is too long; give at most {MAX_TOKENS} tokens")
    if tokens.min > tokens.max:
        message = f"{tokens.min} is above max, {tokens.max}; exchange or change them"
        yield Problem((*at, "min"), message)
    elif not tokens.min <= tokens.mean <= tokens.max:
        message = (
            f"{tokens.mean:g} is outside [{tokens.min}, {tokens.max}]; change mean, min or max"
        )
        yield Problem((*at, "mean"), message)


def _slo(at: Place, slo: Slo) -> Iterator[Problem]:
    figures = {key: getattr(slo, key) for key in slo.__struct_fields__}
    if all(value is None for value in figures.values()):
        yield Problem(at, f"an SLO without a figure; give one of {', '.join(figures)}")
    for key, value in figures.items():
        if value is not None:
            yield from _above((*at, key), value, 0)


_OF_ORDER = {"exponent": "zipf", "every": "rotate", "stay": "markov", "transitions": "markov"}


def _mix(mix: Mix, scenario: Scenario) -> Iterator[Problem]:
    for key, order in _OF_ORDER.items():
        if getattr(mix, key) != getattr(Mix(), key) and mix.order != order:
            message = f"it has no effect with order: {mix.order}; remove it, or use order: {order}"
            yield Problem(("mix", key), message, at_key=True)
    yield from _at_least(("mix", "exponent"), mix.exponent, 0)
    yield from _at_least(("mix", "every"), mix.every, 1)
    yield from _share(("mix", "stay"), mix.stay)
    if mix.transitions:
        yield from _transitions(mix, [m.name for m in scenario.models if m.weight > 0])


def _transitions(mix: Mix, names: list[str]) -> Iterator[Problem]:
    at: Place = ("mix", "transitions")
    for name, row in mix.transitions.items():
        for key in [name, *row]:
            if key not in names:
                place = (*at, name) if key == name else (*at, name, key)
                message = f"{key[:60]!r} is no model of the mix; {nearest(key, names)}"
                yield Problem(place, message, at_key=True)
        for key, weight in row.items():
            yield from _at_least((*at, name, key), weight, 0)
        if not any(row.values()):
            message = "no model follows; give one a weight above 0"
            yield Problem((*at, name), message)


def _load(scenario: Scenario, base: Path | None) -> Iterator[Problem]:
    load = scenario.load
    if isinstance(load, TraceLoad):
        yield from _trace(load, base)
        return
    if isinstance(load, ClosedLoad):
        yield from _at_least(("load", "users"), load.users, 1)
        yield from _at_least(("load", "think_s"), load.think_s, 0)
        yield from _conversations(load, scenario)
    else:
        yield from _open_load(load)
    if load.shape is not None:
        yield from _shape(("load", "shape"), load.shape, scenario.duration_s)


def _conversations(load: ClosedLoad, scenario: Scenario) -> Iterator[Problem]:
    yield from _at_least(("load", "turns"), load.turns, 1)
    others = [m.endpoint for m in scenario.models if m.endpoint != "chat"]
    if load.turns > 1 and others:
        message = f"a conversation needs endpoint chat, and a model has {others[0]};"
        yield Problem(("load", "turns"), f"{message} set its endpoint, or turns: 1")


def _trace(load: TraceLoad, base: Path | None) -> Iterator[Problem]:
    yield from _above(("load", "unit_s"), load.unit_s, 0)
    yield from _above(("load", "speed"), load.speed, 0)
    yield from _at_least(("load", "max_in_flight"), load.max_in_flight, 1)
    if load.times_s:
        if sorted(load.times_s) != load.times_s or load.times_s[0] < 0:
            message = "times must not decrease, nor begin before 0; sort them"
            yield Problem(("load", "times_s"), message)
    elif load.path is None:
        message = "a trace without times; name a file with `path: arrivals.txt`"
        yield Problem(("load",), message)
    elif base is not None and load.unit_s > 0 and load.speed > 0:
        try:
            tracefile.read(load, base)
        except ScenarioError as error:
            yield Problem(("load", "path"), str(error))


def _shape(at: Place, shape: Shape, duration_s: float) -> Iterator[Problem]:
    if isinstance(shape, RampShape):
        yield from _share((*at, "start"), shape.start)
        yield from _share((*at, "end"), shape.end)
        yield from _above((*at, "over_s"), shape.over_s, 0)
        if shape.start == shape.end == 0:
            yield Problem((*at, "end"), "nothing would be sent; give an end above 0")
    elif isinstance(shape, StepsShape):
        for number, level in enumerate(shape.levels):
            yield from _share((*at, "levels", number), level)
        yield from _above((*at, "each_s"), shape.each_s, 0)
        if not any(shape.levels):
            yield Problem((*at, "levels"), "nothing would be sent; give levels above 0, up to 1")
    elif isinstance(shape, SpikeShape):
        yield from _spike(at, shape)
    else:
        assert isinstance(shape, SoakShape)
        yield from _above((*at, "ramp_s"), shape.ramp_s, 0)
        if not 2 * shape.ramp_s <= duration_s:
            message = f"up and down take longer than duration_s, {duration_s:g}; make it shorter"
            yield Problem((*at, "ramp_s"), message)


def _spike(at: Place, shape: SpikeShape) -> Iterator[Problem]:
    yield from _share((*at, "base"), shape.base)
    yield from _at_least((*at, "at_s"), shape.at_s, 0)
    yield from _above((*at, "for_s"), shape.for_s, 0)
    if shape.every_s is not None and not shape.every_s > shape.for_s:
        message = f"{shape.every_s:g} is out of range; give more than for_s, {shape.for_s:g}"
        yield Problem((*at, "every_s"), message)


def _share(place: Place, value: float) -> Iterator[Problem]:
    if not 0 <= value <= 1:
        yield Problem(place, f"{value:g} is no share; give 0 to 1")


def _open_load(load: OpenLoad) -> Iterator[Problem]:
    yield from _above(("load", "rate"), load.rate, 0)
    yield from _at_most(("load", "rate"), load.rate, MAX_RATE)
    yield from _above(("load", "burstiness"), load.burstiness, 0)
    yield from _at_least(("load", "max_in_flight"), load.max_in_flight, 1)
    if load.burstiness != 1 and load.arrivals != "gamma":
        message = f"{load.burstiness:g} has no effect on {load.arrivals} arrivals;"
        yield Problem(("load", "burstiness"), f"{message} remove it, or use arrivals: gamma")


def _times(scenario: Scenario) -> Iterator[Problem]:
    yield from _above(("duration_s",), scenario.duration_s, 0)
    yield from _at_least(("drain_s",), scenario.drain_s, 0)
    yield from _at_least(("warmup_s",), scenario.warmup_s, 0)
    if 0 < scenario.duration_s <= scenario.warmup_s:
        message = f"{scenario.warmup_s:g} s of warm-up leave nothing of {scenario.duration_s:g} s;"
        yield Problem(("warmup_s",), f"{message} make duration_s longer")
    if scenario.max_requests is not None:
        yield from _at_least(("max_requests",), scenario.max_requests, 1)


def _telemetry(scenario: Scenario) -> Iterator[Problem]:
    telemetry = scenario.telemetry
    for number, agent in enumerate(telemetry.agents):
        yield from _agent(("telemetry", "agents", number), agent)
    if telemetry.gpu.source == "agent" and not telemetry.agents:
        message = "there is no agent to listen to;"
        yield Problem(("telemetry", "gpu", "source"), f"{message} name it in telemetry.agents")
    if (telemetry.gpu.source == "replay") != (telemetry.gpu.trace is not None):
        message = "source: replay and trace: FILE belong together;"
        yield Problem(("telemetry", "gpu", "trace"), f"{message} give both or neither")
    yield from _at_least(("telemetry", "gpu", "interval_s"), telemetry.gpu.interval_s, 0.01)
    yield from _at_least(("telemetry", "engine", "interval_s"), telemetry.engine.interval_s, 0.05)


def _agent(place: Place, text: str) -> Iterator[Problem]:
    try:
        agent_address(text)
    except UsageError as e:
        yield Problem(place, f"{shown(place, text)} {e}")


def _at_least(place: Place, value: float, least: float) -> Iterator[Problem]:
    if not least <= value < inf:  # false for NaN too
        yield Problem(place, f"{value:g} is out of range; give {least:g} or more")


def _at_most(place: Place, value: float, most: float) -> Iterator[Problem]:
    if not value <= most:
        yield Problem(place, f"{value:g} is out of range; give {most:g} or less")


def _above(place: Place, value: float, bound: float) -> Iterator[Problem]:
    if not bound < value < inf:
        yield Problem(place, f"{value:g} is out of range; give more than {bound:g}")
