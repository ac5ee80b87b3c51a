"""Which model a request goes to: a function of the seed and the request's index."""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

from tokenswarm.scenario.counter import stream, uniform
from tokenswarm.scenario.model import Scenario

Chooser = Callable[[int], int]


def chooser(scenario: Scenario) -> Chooser:
    """Return the mix order: index -> place in `models`. Weight 0 is left out of every order."""
    mix, models = scenario.mix, scenario.models
    places = [place for place, model in enumerate(models) if model.weight > 0]
    if mix.order == "round_robin":
        return lambda index: places[index % len(places)]
    if mix.order == "rotate":
        return lambda index: places[index // mix.every % len(places)]
    if mix.order == "zipf":
        shares = [rank**-mix.exponent for rank in range(1, len(places) + 1)]
        return _weighted(places, shares, scenario.seed)
    if mix.order == "markov":
        return _Chain(scenario, places)
    return _weighted(places, [models[p].weight for p in places], scenario.seed)


def _weighted(places: Sequence[int], weights: Sequence[float], seed: int) -> Chooser:
    pick, key = _pick(weights), stream(seed, "mix")
    return lambda index: places[pick(uniform(key, index))]


def _pick(weights: Sequence[float]) -> Callable[[float], int]:
    """A number in (0, 1) -> the place of a weight, as often as the weight says."""
    bounds = list(accumulate(weights))
    last = len(weights) - 1
    return lambda u: min(bisect_right(bounds, u * bounds[-1]), last)


class _Chain:
    """A Markov chain over the models. Each step needs the one before: what was walked is kept,
    two bytes a request, and the walk is the same for everybody."""

    def __init__(self, scenario: Scenario, places: Sequence[int]) -> None:
        self._places = places
        self._rows = [_pick(row) for row in _transitions(scenario, places)]
        self._key = stream(scenario.seed, "mix")
        weights = [scenario.models[p].weight for p in places]
        self._walked = array("H", [_pick(weights)(uniform(self._key, 0))])

    def __call__(self, index: int) -> int:
        while len(self._walked) <= index:
            u = uniform(self._key, len(self._walked))
            self._walked.append(self._rows[self._walked[-1]](u))
        return self._places[self._walked[index]]


def _transitions(scenario: Scenario, places: Sequence[int]) -> list[list[float]]:
    """A row a model: how likely each model is after it. Without `transitions` it stays with
    probability `stay`, else one of the others comes by weight."""
    mix, models = scenario.mix, [scenario.models[p] for p in places]
    rows = []
    for model in models:
        given = mix.transitions.get(model.name)
        if given is not None:
            rows.append([given.get(other.name, 0.0) for other in models])
            continue
        others = sum(other.weight for other in models if other is not model)
        rows.append(
            [
                mix.stay if other is model else (1 - mix.stay) * other.weight / others
                for other in models
            ]
            if others
            else [1.0]
        )
    return rows
