"""Matrix files: those we ship, and errors that name the place and the way out."""

import re
from pathlib import Path

import pytest

from tests.compare_keys import PAGE, page
from tests.running import ROOT, finished, tokenswarm
from tokenswarm.compare.read import filled, parse, read
from tokenswarm.compare.recommend import Recommendation, recommend
from tokenswarm.errors import ScenarioError, UsageError
from tokenswarm.scenario.model import Spread

MATRICES = sorted((ROOT / "scenarios").glob("*.matrix.yaml"))
GOOD = """
name: m
models: [{name: a}, {name: b}]
values: {site: /x}
drill: {repeats: 1}
loads: [{name: one, users: 2, weights: {a: 1}}]
solutions:
  - name: s
    engine: vllm
    command: [serve, "{site}", "{port}"]
    servers:
      - {name: x, models: {a: A}}
      - {name: y, models: {b: B}, arguments: ["{model}"]}
"""


def test_the_documented_keys_are_those_of_the_structs() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.compare_keys --write"


def test_the_documented_example_is_a_matrix() -> None:
    example = re.search(r"```yaml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert example
    assert [s.name for s in parse(example[1]).solutions] == ["vllm"]


@pytest.mark.parametrize("rule", recommend([]), ids=lambda r: r.use)
def test_every_rule_is_documented(rule: Recommendation) -> None:
    assert f"| {rule.use} |" in PAGE.read_text()


def test_the_matrices_are_the_ones_we_ship() -> None:
    assert sorted(p.name.removesuffix(".matrix.yaml") for p in MATRICES) == [
        "three-models", "three-models-simulated", "vllm-h200",
    ]  # fmt: skip


@pytest.mark.parametrize("path", MATRICES, ids=lambda p: p.name)
def test_a_shipped_matrix_is_good(path: Path) -> None:
    matrix = read(path)
    assert matrix.name == path.name.removesuffix(".matrix.yaml")
    assert [m.name for m in matrix.models] == ["tinyllama", "qwen", "yi"]


def test_the_study_is_shipped_as_it_was() -> None:
    """Ports, shares and engines of the hand-made study; lengths and concurrency are stated."""
    matrix = read(ROOT / "scenarios" / "three-models.matrix.yaml")
    vllm, sglang, ollama = matrix.solutions
    assert [(s.port, s.arguments[-1]) for s in vllm.servers] == [
        (40001, "0.15"), (40002, "0.25"), (40003, "0.45"),
    ]  # fmt: skip
    assert {"--enforce-eager", "--max-model-len", "2048"} <= set(vllm.arguments)
    assert [s.arguments[-2] for s in sglang.servers] == ["--mem-fraction-static"] * 3
    assert [(s.port, list(s.models)) for s in ollama.servers] == [
        (11434, ["tinyllama", "qwen", "yi"])
    ]
    assert all(load.output.tokens and load.users for load in matrix.loads)


def test_the_twin_measures_what_the_study_is_measured_by() -> None:
    real = read(ROOT / "scenarios" / "three-models.matrix.yaml")
    twin = read(ROOT / "scenarios" / "three-models-simulated.matrix.yaml")
    assert [s.name for s in real.solutions] == [s.name for s in twin.solutions]
    assert [x.name for x in real.loads] == [x.name for x in twin.loads]
    assert real.loads[0].output == twin.loads[0].output
    sglang = twin.solutions[1].loads[0].output
    assert sglang is not None
    assert isinstance(sglang.tokens, Spread)
    assert sglang.tokens.mean == 27


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("engine: vllm", "engine: vlm", 9, "'vlm' is no engine; use llama-swap, ollama, vllm"),
        ("engine: vllm", "engin: vllm", 9, "unknown key 'engin'; did you mean 'engine'?"),
        ("users: 2", "users: two", 6, "$.loads[0].users: expected `int`, got `str`"),
        ("users: 2", "users: 0", 6, "0 users; give 1 or more"),
        ("{a: 1}", "{c: 1}", 6, "'c' is not among models; they are a, b"),
        ("{site}", "{sit}", 12, "{sit} stands for nothing; use box_port, here, model, port"),
        ("{name: y, models: {b: B}", "{name: y, models: {a: B}", 13, "'a' is served by a server"),
        ("{name: y, models: {b: B}", "{name: x, models: {b: B}", 13, "'x' is there already"),
        ("name: s\n", "name: S s\n", 8, "'S s' is no slug"),
        ("command: [serve, \"{site}\", \"{port}\"]", "doc: x", 12, "has no command"),
        ("engine: vllm", "launcher: docker\n    engine: vllm", 8, "needs `container: {image"),
        ("{b: B}", "{}", 13, "is empty; give `{OUR NAME: THE SERVER'S NAME}`"),
        ("repeats: 1", "order: [z]", 5, "'z' is not among models"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(old: str, new: str, line: int, said: str) -> None:
    assert old in GOOD
    with pytest.raises(ScenarioError) as e:
        parse(GOOD.replace(old, new, 1), "m.yaml")
    assert said in str(e.value)
    assert str(e.value).startswith(f"m.yaml:{line}: $")


def test_values_are_changed_by_name_and_an_unknown_one_is_refused() -> None:
    assert parse(GOOD, changes={"site": "/y"}).values == {"site": "/y"}
    with pytest.raises(UsageError, match="no such value; it has site"):
        parse(GOOD, changes={"sites": "/y"})


def test_placeholders_are_filled_and_other_braces_left_alone() -> None:
    assert filled('{a} {"b": 1} {c}', {"a": 1}) == '1 {"b": 1} {c}'


def test_a_matrix_that_is_none_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    for argv in (["compare", "nowhere.yaml"], ["capacity", str(ROOT / "scenarios" / "demo.yaml")]):
        assert finished(tokenswarm(*argv, cwd=tmp_path)) == 2
    err = (tmp_path / "stderr.txt").read_text()
    assert "nowhere.yaml" in err
    assert "demo.yaml:5: $.targets: unknown key 'targets'" in err
    assert "Traceback" not in err
