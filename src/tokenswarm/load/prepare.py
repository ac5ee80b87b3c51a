"""Before a run starts: what the targets are, whether they have the models, how they count."""

from dataclasses import dataclass
from typing import Any

import msgspec

from tokenswarm.engines.probe import adapter, check_models, probe, target_headers
from tokenswarm.engines.protocol import EngineInfo
from tokenswarm.errors import TargetError
from tokenswarm.scenario.model import Model, Scenario, SyntheticPrompt, Target
from tokenswarm.scenario.prompts import Vocabulary, measure
from tokenswarm.telemetry.link.agents import MetAgent, meet
from tokenswarm.wire.call import Call, request

TOKEN_IDS = (10, 200)  # ids that every vocabulary has
PROBE_S = 10.0
PROBE_TEXT = "hi"


@dataclass(frozen=True, slots=True)
class Prepared:
    """Probed targets by name, vocabularies by model and remarks for the manifest."""

    engines: dict[str, EngineInfo]
    vocabularies: dict[str, Vocabulary]
    notes: list[str]
    agents: tuple[MetAgent, ...] = ()


def prepare(scenario: Scenario) -> Prepared:
    """Probe every target and agent of `scenario`; TargetError or UsageError when the run cannot
    work."""
    engines: dict[str, EngineInfo] = {}
    notes: list[str] = []
    for name, target in scenario.targets.items():
        try:
            engines[name] = probe(
                target.url,
                named=target.engine,
                headers=target_headers(target.headers, target.api_key_env),
                timeout_s=PROBE_S,
                tls_verify=target.tls_verify,
            )
            wanted = tuple(m.model for m in scenario.models if m.target == name)
            notes += [f"{name}: {note}" for note in check_models(engines[name], wanted)]
        except TargetError as e:
            raise TargetError(f"target {name}: {e}") from e
        notes += [f"{name}: {note}" for note in engines[name].notes]
    vocabularies = {}
    for model in scenario.models:
        vocabulary = _vocabulary(scenario, model, engines[model.target])
        if vocabulary is not None:
            vocabularies[model.name] = vocabulary
        notes += [f"{model.name}: {note}" for note in _remarks(model, engines, vocabulary)]
    return Prepared(engines, vocabularies, notes, meet(scenario.telemetry))


def _vocabulary(scenario: Scenario, model: Model, engine: EngineInfo) -> Vocabulary | None:
    """How the server counts `model`'s prompts; None where it has no way to say."""
    if not isinstance(model.prompt, SyntheticPrompt):
        return None
    # ids are taken as they are, without BOS; but a system text can stand only before a text
    takes_ids = model.endpoint == "completions" and engine.knobs.token_id_prompts
    if takes_ids and model.system is None:
        return Vocabulary(token_ids=TOKEN_IDS, exact=True)
    if not engine.knobs.tokenize or model.endpoint == "embeddings":
        return None
    return _measured(scenario, model, engine)


def _measured(scenario: Scenario, model: Model, engine: EngineInfo) -> Vocabulary | None:
    """Words counted in whole prompts, as they will be sent: all that the server adds is in."""
    target = scenario.targets[model.target]
    headers = target_headers(target.headers, target.api_key_env)
    server = adapter(engine.engine, headers, target.tls_verify)

    def count(text: str) -> int | None:
        return server.prompt_tokens(target.url, _body(target, model, text), PROBE_S)

    def must_count(text: str) -> int:
        tokens = count(text)
        if tokens is None:
            raise TargetError(f"{target.url}: {engine.engine} stopped counting tokens")
        return tokens

    return None if count(PROBE_TEXT) is None else measure(must_count)


def _body(target: Target, model: Model, text: str) -> dict[str, Any]:
    call = Call(
        api=target.api, endpoint=model.endpoint, model=model.model, prompt=text,
        system=model.system, options=dict(model.options),
    )  # fmt: skip
    body: dict[str, Any] = msgspec.json.decode(request(call)[1])
    return body


def _remarks(
    model: Model, engines: dict[str, EngineInfo], vocabulary: Vocabulary | None
) -> list[str]:
    """Say it where prompt lengths were to be exact by the server's own count and are not."""
    counts = engines[model.target].knobs.tokenize and model.endpoint != "embeddings"
    if not isinstance(model.prompt, SyntheticPrompt) or not counts:
        return []
    if vocabulary is None:
        return ["the server does not count tokens: prompt lengths are near what is wanted"]
    if not vocabulary.exact:
        return ["words in a text count otherwise than alone: prompt lengths are near, not exact"]
    return []
