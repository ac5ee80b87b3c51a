"""The sequence of requests and the schedule: same seed, same everything, for any workers."""

import math
import statistics
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenswarm.scenario.arrivals import BLOCK
from tokenswarm.scenario.counter import stream, uniform
from tokenswarm.scenario.model import (
    FilePrompt,
    InlinePrompt,
    Mix,
    Model,
    OpenLoad,
    Output,
    Prompt,
    Scenario,
    Spread,
    SyntheticPrompt,
    Target,
    TextPrompt,
)
from tokenswarm.scenario.plan import Plan, arrivals
from tokenswarm.scenario.prompts import Vocabulary

TARGETS = {"box": Target(api="ollama", url="http://h")}
WIDE = Spread(mean=40, std=20, min=8, max=90)


def model(name: str, weight: float = 1, prompt: Prompt | None = None, **more: Any) -> Model:
    prompt = prompt or SyntheticPrompt(tokens=WIDE)
    more = {"output": Output(tokens=WIDE)} | more
    return Model(name=name, target="box", model=name, weight=weight, prompt=prompt, **more)


def scenario(*models: Model, seed: int = 7, **more: Any) -> Scenario:
    mixed = models or (
        model("a", 6),
        model("b", 3, InlinePrompt(texts=["one", "two", "three"])),
        model("c", 1, TextPrompt(text="hi")),
    )
    return Scenario(name="s", targets=TARGETS, models=list(mixed), seed=seed, **more)


OPEN = OpenLoad(rate=50, arrivals="poisson")


@given(st.integers(0, 2**53), st.permutations(range(60)), st.integers(1, 7))
@settings(max_examples=15, deadline=None)
def test_the_sequence_is_the_same_in_any_order_for_any_number_of_workers(
    seed: int, order: list[int], workers: int
) -> None:
    mix = scenario(seed=seed, load=OPEN)
    alone = Plan(mix)
    expected = [alone.request(index) for index in range(60)]
    shuffled = Plan(mix)
    assert {index: shuffled.request(index) for index in order} == dict(enumerate(expected))
    plans = [Plan(mix) for _ in range(workers)]
    shared = [
        plan.request(index) for w, plan in enumerate(plans) for index in range(w, 60, workers)
    ]
    assert sorted(shared, key=lambda request: request.index) == expected


def test_another_seed_gives_another_sequence() -> None:
    first, second = (Plan(scenario(seed=seed, load=OPEN)) for seed in (1, 2))
    pairs = [(first.request(index), second.request(index)) for index in range(100)]
    assert all(a.prompt != b.prompt for a, b in pairs if a.model == b.model == "a")
    assert all(a.intended_s != b.intended_s for a, b in pairs)
    assert [a.model for a, _ in pairs] != [b.model for _, b in pairs]


def test_the_sequence_of_a_seed_stays_what_it_is_from_version_to_version() -> None:
    plan = Plan(scenario(seed=7, load=OPEN))
    seen = [
        (r.model, r.prompt[:20], r.prompt_tokens, r.output_tokens, round(r.intended_s or 0, 6))
        for r in map(plan.request, range(6))
    ]
    assert seen == [
        ("a", "great hundred mind b", 15, 27, 0.006261),
        ("b", "three", None, 17, 0.007396),
        ("a", "ground hundred mind ", 24, 35, 0.008186),
        ("c", "hi", None, 31, 0.026927),
        ("a", "grow hundred mind be", 62, 10, 0.049646),
        ("a", "guess hundred mind b", 13, 75, 0.055289),
    ]


def test_shares_come_near_the_weights() -> None:
    plan = Plan(scenario())
    count = Counter(plan.model_of(index) for index in range(20_000))
    for name, share in (("a", 0.6), ("b", 0.3), ("c", 0.1)):
        # four standard deviations of a binomial share
        assert abs(count[name] / 20_000 - share) < 4 * math.sqrt(share * (1 - share) / 20_000)


@pytest.mark.parametrize("order", ["weighted", "round_robin"])
def test_a_weight_of_zero_leaves_a_model_out(order: Any) -> None:
    mix = scenario(model("a"), model("b", 0), model("c"), mix=Mix(order=order))
    plan = Plan(mix)
    assert {plan.model_of(index) for index in range(50)} == {"a", "c"}


def test_round_robin_takes_the_models_in_turn_whatever_their_weights() -> None:
    plan = Plan(scenario(model("a", 9), model("b", 1), model("c", 2), mix=Mix(order="round_robin")))
    assert [plan.request(index).model for index in range(7)] == list("abcabca")


def test_one_more_model_leaves_the_prompts_of_the_others_as_they_are() -> None:
    mix = Mix(order="round_robin")
    two = Plan(scenario(model("a"), model("b"), mix=mix))
    three = Plan(scenario(model("a"), model("b"), model("c"), mix=mix))
    # index 6 goes to a in both orders
    assert two.request(6) == three.request(6)


def test_lengths_keep_their_bounds_mean_and_spread() -> None:
    wide = Spread(mean=100, std=15, min=60, max=150)
    plan = Plan(scenario(model("a", prompt=TextPrompt(text="x"), output=Output(tokens=wide))))
    lengths = [plan.request(index).output_tokens for index in range(4000)]
    assert min(lengths) >= 60
    assert max(lengths) <= 150
    assert abs(statistics.fmean(lengths) - 100) < 1
    assert abs(statistics.stdev(lengths) - 15) < 0.6


def test_lengths_beyond_the_bounds_become_the_bounds() -> None:
    narrow = Spread(mean=10, std=50, min=9, max=11)
    plan = Plan(scenario(model("a", output=Output(tokens=narrow))))
    assert {plan.request(index).output_tokens for index in range(500)} == {9, 10, 11}


@pytest.mark.parametrize("tokens", [33, Spread(mean=33), Spread(mean=32.6, std=0)])
def test_a_length_without_spread_is_exact(tokens: int | Spread) -> None:
    plan = Plan(scenario(model("a", prompt=SyntheticPrompt(tokens=tokens))))
    assert {plan.request(index).prompt_tokens for index in range(20)} == {33}


def test_prompts_of_a_list_are_all_used_and_have_no_wanted_length() -> None:
    plan = Plan(scenario(model("a", prompt=InlinePrompt(texts=["one", "two", "three"]))))
    requests = [plan.request(index) for index in range(60)]
    assert {request.prompt for request in requests} == {"one", "two", "three"}
    assert {request.prompt_tokens for request in requests} == {None}


def test_embeddings_want_no_output() -> None:
    assert Plan(scenario(model("a", endpoint="embeddings"))).request(0).output_tokens == 0


def test_a_closed_loop_has_no_intended_time() -> None:
    assert Plan(scenario()).request(3).intended_s is None
    with pytest.raises(ValueError, match="closed loop"):
        arrivals(scenario())


def test_ids_are_for_completions_only() -> None:
    ids = {"a": Vocabulary(token_ids=(5, 9), exact=True)}
    asked = Plan(scenario(model("a", endpoint="completions")), ids).request(0)
    assert len(asked.prompt) == asked.prompt_tokens
    assert set(asked.prompt) <= set(range(5, 9))
    with pytest.raises(ValueError, match="takes no token ids"):
        Plan(scenario(model("a")), ids)


def test_prompts_in_a_file_must_be_resolved_first() -> None:
    with pytest.raises(ValueError, match="resolve"):
        Plan(scenario(model("a", prompt=FilePrompt(path="p.txt"))))


# -- arrivals


def times(load: OpenLoad, count: int, seed: int = 7) -> list[float]:
    schedule = arrivals(scenario(load=load, seed=seed))
    return [schedule.time(index) for index in range(count)]


def gaps(load: OpenLoad, count: int, seed: int) -> list[float]:
    return [b - a for a, b in pairwise([0.0, *times(load, count, seed)])]


def test_constant_arrivals_are_evenly_spaced_from_zero() -> None:
    assert times(OpenLoad(rate=4, arrivals="constant"), 4) == [0, 0.25, 0.5, 0.75]


def test_arrivals_far_apart_backwards_and_across_blocks_agree_with_those_in_order() -> None:
    expected = times(OPEN, 3 * BLOCK)
    schedule = arrivals(scenario(load=OPEN))
    for index in (2 * BLOCK + 5, 0, BLOCK, BLOCK - 1, 3 * BLOCK - 1, 1):
        assert schedule.time(index) == expected[index]


def test_arrivals_never_go_back() -> None:
    for burstiness in (0.2, 1, 5):
        load = OpenLoad(rate=10, arrivals="gamma", burstiness=burstiness)
        assert all(gap >= 0 for gap in gaps(load, 3000, 1))


def exponential_cdf(x: float) -> float:
    return 1 - math.exp(-x)


def gamma_half_cdf(x: float) -> float:
    # shape 1/2, mean 1: scale 2, a chi-square with one degree of freedom
    return math.erf(math.sqrt(x / 2))


def gamma_two_cdf(x: float) -> float:
    # shape 2, mean 1: scale 1/2, Erlang
    return 1 - math.exp(-2 * x) * (1 + 2 * x)


LOADS: list[tuple[OpenLoad, Callable[[float], float]]] = [
    (OpenLoad(rate=20, arrivals="poisson"), exponential_cdf),
    (OpenLoad(rate=20, arrivals="gamma", burstiness=1), exponential_cdf),
    (OpenLoad(rate=20, arrivals="gamma", burstiness=0.5), gamma_half_cdf),
    (OpenLoad(rate=20, arrivals="gamma", burstiness=2), gamma_two_cdf),
]


@pytest.mark.parametrize(("load", "cdf"), LOADS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_gaps_have_the_distribution_they_are_named_after(
    load: OpenLoad, cdf: Callable[[float], float], seed: int
) -> None:
    n = 5000
    ranked = sorted(gap * load.rate for gap in gaps(load, n, seed))
    distance = max(
        max((rank + 1) / n - cdf(gap), cdf(gap) - rank / n) for rank, gap in enumerate(ranked)
    )
    # Kolmogorov-Smirnov, alpha 0.001
    assert distance < 1.949 / math.sqrt(n)


@pytest.mark.parametrize("load", [load for load, _ in LOADS])
def test_the_mean_rate_is_the_rate_within_two_percent(load: OpenLoad) -> None:
    last_s = times(load, 40_000)[-1]
    assert abs(40_000 / last_s / load.rate - 1) < 0.02


def test_the_uniforms_of_a_stream_are_open_uniform_and_unlike_those_of_another() -> None:
    one, two = (
        [uniform(stream(7, label), index) for index in range(20_000)] for label in ("one", "two")
    )
    assert min(one) > 0
    assert max(one) < 1
    ranked = sorted(one)
    assert max(abs(x - (rank + 0.5) / 20_000) for rank, x in enumerate(ranked)) < 1.949 / 141
    assert abs(statistics.correlation(one, two)) < 0.03
    assert abs(statistics.correlation(one[1:], one[:-1])) < 0.03
