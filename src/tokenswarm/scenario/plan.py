"""Which request comes when, to which model, with which prompt: all from the seed and an index.

Nothing here has state that a result depends on: worker w of n asks for w, w + n, w + 2n, ... and
any number of workers together get the same sequence.
"""

from collections.abc import Callable, Mapping

from tokenswarm.scenario.arrivals import Arrivals, arrivals
from tokenswarm.scenario.counter import draw, stream
from tokenswarm.scenario.lengths import Length
from tokenswarm.scenario.mix import chooser
from tokenswarm.scenario.model import (
    ClosedLoad,
    FilePrompt,
    InlinePrompt,
    Model,
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
        load = scenario.load
        self._turns = load.turns if isinstance(load, ClosedLoad) else 1
        self._by_mix = chooser(scenario)
        self._arrivals = None if isinstance(load, ClosedLoad) else arrivals(scenario)

    def request(self, index: int) -> PlannedRequest:
        """Return request number `index`; the same for the same seed, whoever asks, whenever."""
        requests = self._models[self._choose(index)]
        prompt, prompt_tokens = requests.content(index)
        intended_s = None if self._arrivals is None else self._arrivals.time(index)
        history = tuple(
            requests.turn(before) for before in range(index - index % self._turns, index)
        )
        if history:
            prompt_tokens = None  # the whole conversation counts, and nobody measured that
        output_tokens = requests.output.of(index)
        return PlannedRequest(
            index, requests.name, prompt, prompt_tokens, output_tokens, intended_s, history
        )

    def model_of(self, index: int) -> str:
        """Return the name of the model that request `index` goes to, without its prompt."""
        return self._models[self._choose(index)].name

    def _choose(self, index: int) -> int:
        """A conversation stays with its model."""
        return self._by_mix(index // self._turns)


class _Requests:
    """What requests to one model contain."""

    def __init__(self, model: Model, seed: int, vocabulary: Vocabulary | None):
        # streams are named by the model: one more model leaves the others' prompts as they are
        self.name = model.name
        self.content = _content(model, seed, vocabulary or default_vocabulary())
        tokens = 0 if model.endpoint == "embeddings" else model.output.tokens
        self.output = Length(tokens, stream(seed, f"output:{model.name}"))
        self._replies = WordPrompts(default_vocabulary(), stream(seed, f"reply:{model.name}"))

    def turn(self, index: int) -> tuple[str, str]:
        """What request `index` asked and a reply of its length, as a later turn repeats them: the
        plan's own words, so that every server and every run is asked the same."""
        prompt, _ = self.content(index)
        reply = self._replies.draw(max(self.output.of(index), 1), index).text
        return str(prompt), reply


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
