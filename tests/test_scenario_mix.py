"""Orders of a mix, conversations, and traces from files."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from tests.test_scenario_plan import model, scenario
from tokenswarm.errors import ScenarioError
from tokenswarm.scenario.load import from_dict, load, parse, resolve, to_dict
from tokenswarm.scenario.model import ClosedLoad, InlinePrompt, Mix, TraceLoad
from tokenswarm.scenario.plan import Plan, arrivals

N = 20_000
NAMES = ("a", "b", "c")


def order(mix: Mix, *, weights: tuple[float, ...] = (6, 3, 1), n: int = N) -> list[str]:
    models = [model(name, weight) for name, weight in zip(NAMES, weights, strict=True)]
    plan = Plan(scenario(*models, mix=mix))
    return [plan.model_of(index) for index in range(n)]


def test_zipf_gives_the_model_of_rank_k_a_share_of_one_over_k() -> None:
    share = Counter(order(Mix(order="zipf")))
    total = 1 + 1 / 2 + 1 / 3
    for rank, name in enumerate(NAMES, 1):
        assert share[name] / N == pytest.approx(1 / rank / total, abs=0.01)


def test_rotate_stays_with_a_model_and_goes_on_to_the_next() -> None:
    assert order(Mix(order="rotate", every=3), n=12) == list("aaabbbcccaaa")


def test_rotate_leaves_out_a_model_of_weight_0() -> None:
    assert order(Mix(order="rotate", every=2), weights=(1, 0, 1), n=6) == list("aaccaa")


def test_markov_stays_as_often_as_it_says_and_goes_by_weight() -> None:
    steps = Counter(pairwise(order(Mix(order="markov", stay=0.7))))
    begun = Counter(before for before, _ in steps.elements())
    assert steps["a", "a"] / begun["a"] == pytest.approx(0.7, abs=0.02)
    assert steps["c", "c"] / begun["c"] == pytest.approx(0.7, abs=0.02)
    assert steps["a", "b"] / begun["a"] == pytest.approx(0.3 * 3 / 4, abs=0.02)


def test_markov_follows_a_table_of_transitions() -> None:
    mix = Mix(order="markov", transitions={"a": {"b": 1}, "b": {"c": 3, "a": 1}, "c": {"a": 1}})
    steps = Counter(pairwise(order(mix)))
    assert set(steps) == {("a", "b"), ("b", "c"), ("b", "a"), ("c", "a")}
    assert steps["b", "c"] / (steps["b", "c"] + steps["b", "a"]) == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("name", ["zipf", "markov", "rotate"])
def test_an_order_is_the_same_for_whoever_asks_in_whatever_order(name: str) -> None:
    models = [model(n) for n in NAMES]
    straight, back = (Plan(scenario(*models, mix=Mix(order=name))) for _ in "12")  # type: ignore[arg-type]
    expected = [straight.model_of(index) for index in range(500)]
    assert [back.model_of(index) for index in reversed(range(500))] == expected[::-1]


def test_markov_of_one_model_is_that_model() -> None:
    plan = Plan(scenario(model("a"), mix=Mix(order="markov")))
    assert {plan.model_of(index) for index in range(20)} == {"a"}


def test_a_conversation_stays_with_its_model_and_repeats_what_was_said() -> None:
    texts = InlinePrompt(texts=["one", "two", "three", "four"])
    mix = scenario(model("a", 1, texts), model("b", 1), load=ClosedLoad(turns=3))
    plan = Plan(mix)
    for first in range(0, 30, 3):
        asked = [plan.request(first + turn) for turn in range(3)]
        assert len({request.model for request in asked}) == 1
        assert [len(request.history) for request in asked] == [0, 1, 2]
        assert asked[2].history[0] == asked[1].history[0]
        assert [said for said, _ in asked[2].history] == [asked[0].prompt, asked[1].prompt]
        replies = [reply.split() for _, reply in asked[2].history]
        assert [len(words) for words in replies] == [r.output_tokens for r in asked[:2]]


def test_the_models_of_conversations_come_by_the_mix() -> None:
    mix = scenario(model("a"), model("b"), load=ClosedLoad(turns=2), mix=Mix(order="round_robin"))
    plan = Plan(mix)
    assert [plan.model_of(i) for i in range(8)] == list("aabbaabb")


HEAD = """
name: s
targets: {box: {api: ollama, url: "http://h"}}
models: [{name: a, target: box, model: m}, {name: b, target: box, model: m}]
"""


def trace(folder: Path, name: str, content: str, **more: object) -> TraceLoad:
    (folder / name).write_text(content)
    file = folder / "s.yaml"
    file.write_text(HEAD + yaml.safe_dump({"load": {"kind": "trace", "path": name, **more}}))
    resolved = resolve(load(file), folder).load
    assert isinstance(resolved, TraceLoad)
    return resolved


def test_a_trace_of_lines_is_sorted_and_counted_from_its_first(tmp_path: Path) -> None:
    assert trace(tmp_path, "t.txt", "12.5\n10\n\n11\n").times_s == [0, 1, 2.5]


def test_a_trace_can_be_a_column_or_a_field_in_other_units(tmp_path: Path) -> None:
    csv = trace(tmp_path, "t.csv", "id,at\n1,1000\n2,3000\n", field="at", unit_s=0.001)
    assert csv.times_s == [0, 2]
    lines = '{"timestamp": 5, "x": 1}\n{"timestamp": 9}\n'
    assert trace(tmp_path, "t.jsonl", lines, speed=2).times_s == [0, 2]


def test_a_resolved_trace_travels_to_workers_without_its_file(tmp_path: Path) -> None:
    trace(tmp_path, "t.txt", "0\n1\n")
    resolved = resolve(load(tmp_path / "s.yaml"), tmp_path)
    (tmp_path / "t.txt").unlink()
    schedule = arrivals(from_dict(to_dict(resolved)))
    assert [schedule.time(i) for i in range(2)] == [0, 1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", "0\nsoon\n", r"t\.txt:2: 'soon' is no time"),
        ("t.txt", "\n", "no time in it"),
        ("t.csv", "a,b\n1,2\n", r"t\.csv:2: 'None' is no time; write a number, and name it"),
        ("t.jsonl", '{"at": 1}\n', r"t\.jsonl:1: 'None' is no time"),
        ("t.txt", "0\nnan\n", r"t\.txt:2: 'nan' is no time"),
    ],
)
def test_a_bad_trace_is_refused_with_its_line(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    with pytest.raises(ScenarioError, match=message):
        trace(tmp_path, name, content)


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        ("mix: {exponent: 2}", "no effect with order: weighted; remove it, or use order: zipf"),
        ("mix: {order: rotate, every: 0}", "0 is out of range; give 1 or more"),
        ("mix: {order: markov, stay: 1.5}", "1.5 is no share; give 0 to 1"),
        ("mix: {order: markov, transitions: {z: {a: 1}}}", "'z' is no model of the mix"),
        ("mix: {order: markov, transitions: {a: {z: 1}}}", "'z' is no model of the mix"),
        ("mix: {order: markov, transitions: {a: {b: 0}}}", "no model follows"),
        ("mix: {order: markov, transitions: {a: {b: x}}}", "give a number"),
        ("load: {kind: trace}", "name a file with `path"),
        ("load: {kind: trace, times_s: [2, 1]}", "times must not decrease"),
        ("load: {kind: closed, turns: 0}", "0 is out of range"),
        ("load: {kind: open, rate: 1, shape: {kind: ramp}}", "key 'over_s' is missing"),
        ("load: {kind: open, rate: 1, shape: {kind: hill}}", "did you mean|known here"),
        ("load: {kind: open, rate: 1, shape: {kind: steps, levels: [2], each_s: 1}}", "no share"),
        ("load: {kind: open, rate: 1, shape: {kind: steps, levels: [], each_s: 1}}", "nothing"),
        ("load: {kind: open, rate: 1, shape: {kind: soak, ramp_s: 40}}", "take longer than"),
        (
            "load: {kind: open, rate: 1, shape: {kind: spike, at_s: 1, for_s: 2, every_s: 1}}",
            "give more than for_s",
        ),
        ("load: {kind: open, rate: 1, shape: {kind: ramp, over_s: 9, end: 0}}", "nothing would"),
    ],
)
def test_what_an_order_or_a_shape_may_have_wrong_is_said_with_the_way_out(
    tail: str, message: str
) -> None:
    with pytest.raises(ScenarioError, match=message):
        parse(HEAD + tail + "\n")


def test_conversations_need_chat() -> None:
    text = HEAD.replace("model: m}]", "model: m, endpoint: generate}]")
    with pytest.raises(ScenarioError, match=r"load\.turns: a conversation needs endpoint chat"):
        parse(text + "load: {kind: closed, turns: 2}\n")
