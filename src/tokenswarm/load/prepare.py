"""Before a run starts: what the targets are, whether they have the models, how they count."""

from dataclasses import dataclass

from tokenswarm.engines.probe import adapter, check_models, probe, target_headers
from tokenswarm.engines.protocol import EngineInfo
from tokenswarm.errors import TargetError
from tokenswarm.scenario.model import Model, Scenario, SyntheticPrompt
from tokenswarm.scenario.prompts import Vocabulary, measure

TOKEN_IDS = (10, 200)  # ids that every vocabulary has
PROBE_S = 10.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """Probed targets by name, vocabularies by model and remarks for the manifest."""

    engines: dict[str, EngineInfo]
    vocabularies: dict[str, Vocabulary]
    notes: list[str]


def prepare(scenario: Scenario) -> Prepared:
    """Probe every target of `scenario`; TargetError when the run cannot work."""
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
    return Prepared(engines, vocabularies, notes)


def _vocabulary(scenario: Scenario, model: Model, engine: EngineInfo) -> Vocabulary | None:
    """How the server counts `model`'s prompts; None where it has no way to say."""
    if not isinstance(model.prompt, SyntheticPrompt):
        return None
    if model.endpoint == "completions" and engine.knobs.token_id_prompts:
        return Vocabulary(token_ids=TOKEN_IDS, exact=True)
    if not engine.knobs.tokenize:
        return None
    return _measured(scenario, model, engine)


def _measured(scenario: Scenario, model: Model, engine: EngineInfo) -> Vocabulary | None:
    target = scenario.targets[model.target]
    headers = target_headers(target.headers, target.api_key_env)
    server = adapter(engine.engine, headers, target.tls_verify)

    def count(text: str) -> int:
        tokens = server.count_tokens(target.url, model.model, text, PROBE_S)
        if tokens is None:
            raise TargetError(f"{target.url}: {engine.engine} stopped counting tokens")
        return tokens

    template = 0
    if model.endpoint == "chat":
        template = server.template_tokens(target.url, model.model, PROBE_S) or 0
    return measure(count, overhead_tokens=template)
