"""Which request comes when, to which model, with which prompt: all from the seed and an index.

Nothing here has state that a result depends on: worker w of n asks for w, w + n, w + 2n, ... and
any number of workers together get the same sequence.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

from tokenswarm.scenario.arrivals import Arrivals, arrivals
from tokenswarm.scenario.counter import draw, stream, uniform
from tokenswarm.scenario.lengths import Length
from tokenswarm.scenario.model import (
    FilePrompt,
    InlinePrompt,
    Model,
    OpenLoad,
    PlannedRequest,
    Scenario,
    SyntheticPrompt,
    TextPrompt,
)
from tokenswarm.scenario.prompts import IdPrompts, Vocabulary, WordPrompts, default_vocabulary

__all__ = ["Arrivals", "Plan", "arrivals"]

Content = tuple[str | list[int], int | None]


class Plan:
    """The requests of a scenario by index, 0 upwards, without end.

    `vocabularies` (by model name) say how servers count; default_vocabulary() where none is
    given. File prompts must be resolved first, else ValueError.
    """

    def __init__(
        self, scenario: Scenario, vocabularies: Mapping[str, Vocabulary] | None = None
    ) -> None:
        self.scenario = scenario
        known = vocabularies or {}
        self._models = [
            _Requests(model, scenario.seed, known.get(model.name)) for model in scenario.models
        ]
        self._choose = _chooser(scenario)
        self._arrivals = arrivals(scenario) if isinstance(scenario.load, OpenLoad) else None

    def request(self, index: int) -> PlannedRequest:
        """Return request number `index`; the same for the same seed, whoever asks, whenever."""
        requests = self._models[self._choose(index)]
        prompt, prompt_tokens = requests.content(index)
        intended_s = None if self._arrivals is None else self._arrivals.time(index)
        return PlannedRequest(
            index, requests.name, prompt, prompt_tokens, requests.output.of(index), intended_s
        )

    def model_of(self, index: int) -> str:
        """Return the name of the model that request `index` goes to, without its prompt."""
        return self._models[self._choose(index)].name


class _Requests:
    """What requests to one model contain."""

    def __init__(self, model: Model, seed: int, vocabulary: Vocabulary | None):
        # streams are named by the model: one more model leaves the others' prompts as they are
        self.name = model.name
        self.content = _content(model, seed, vocabulary or default_vocabulary())
        tokens = 0 if model.endpoint == "embeddings" else model.output.tokens
        self.output = Length(tokens, stream(seed, f"output:{model.name}"))


def _content(model: Model, seed: int, vocabulary: Vocabulary) -> Callable[[int], Content]:
    prompt = model.prompt
    key = stream(seed, f"prompt:{model.name}")
    if isinstance(prompt, TextPrompt):
        return lambda index: (prompt.text, None)
    if isinstance(prompt, InlinePrompt):
        return lambda index: (prompt.texts[draw(key, index) % len(prompt.texts)], None)
    if isinstance(prompt, FilePrompt):
        raise ValueError(f"the prompts of model {model.name!r} are in a file; resolve() first")
    return _synthetic(model, prompt, seed, vocabulary)


def _synthetic(
    model: Model, prompt: SyntheticPrompt, seed: int, vocabulary: Vocabulary
) -> Callable[[int], Content]:
    length = Length(prompt.tokens, stream(seed, f"length:{model.name}"))
    key = stream(seed, f"prompt:{model.name}")
    if vocabulary.token_ids is not None:
        if model.endpoint != "completions":
            raise ValueError(f"endpoint {model.endpoint} of {model.name!r} takes no token ids")
        ids = IdPrompts(vocabulary, key)
        return lambda index: (ids.draw(n := length.of(index), index), n)
    words = WordPrompts(vocabulary, key)
    return lambda index: (words.draw(n := length.of(index), index).text, n)


def _chooser(scenario: Scenario) -> Callable[[int], int]:
    """Return the mix order: request index -> place in `models`. Weight 0 is left out of both."""
    places = [place for place, model in enumerate(scenario.models) if model.weight > 0]
    if scenario.mix.order == "round_robin":
        return lambda index: places[index % len(places)]
    return _weighted(places, [scenario.models[p].weight for p in places], scenario.seed)


def _weighted(places: Sequence[int], weights: Sequence[float], seed: int) -> Callable[[int], int]:
    bounds = list(accumulate(weights))
    key, last = stream(seed, "mix"), len(places) - 1
    return lambda index: places[min(bisect_right(bounds, uniform(key, index) * bounds[-1]), last)]
