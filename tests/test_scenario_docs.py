"""docs/scenarios.md and scenarios/ against the structs and the loader."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from tokenswarm.scenario import model
from tokenswarm.scenario.load import from_dict, load, parse, resolve, to_dict
from tokenswarm.scenario.plan import Plan

ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs" / "scenarios.md").read_text()
SCENARIOS = [
    path
    for path in sorted((ROOT / "scenarios").glob("*.yaml"))
    if not path.name.endswith(".matrix.yaml")
]

STRUCTS = {
    name: struct
    for name, struct in vars(model).items()
    if isinstance(struct, type)
    and issubclass(struct, model._Strict)
    and struct is not model._Strict
}


def tables() -> dict[str, dict[str, list[str]]]:
    """Struct name -> key -> the other cells of its row."""
    found = {}
    for section in re.split(r"^## ", DOCS, flags=re.MULTILINE)[1:]:
        heading = section.splitlines()[0]
        rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", section, flags=re.MULTILINE)
        if rows:
            struct = re.search(r"\((\w+)\)$", heading)
            assert struct, heading
            cells = {key: [cell.strip() for cell in rest.split("|")] for key, rest in rows}
            assert len(cells) == len(rows), heading
            found[struct[1]] = cells
    return found


def keys(struct: Any) -> list[str]:
    """The keys of a struct as a file spells them, its tag first."""
    tag = [struct.__struct_config__.tag_field] if struct.__struct_config__.tag else []
    return tag + list(struct.__struct_fields__)


def test_every_struct_has_a_table_and_every_table_a_struct() -> None:
    assert set(tables()) == set(STRUCTS)


@pytest.mark.parametrize("name", sorted(STRUCTS))
def test_a_table_has_the_keys_of_its_struct_in_their_order(name: str) -> None:
    assert list(tables()[name]) == keys(STRUCTS[name])


@pytest.mark.parametrize("name", sorted(STRUCTS))
def test_a_table_has_the_defaults_of_its_struct(name: str) -> None:
    rows = tables()[name]
    for field in msgspec.structs.fields(STRUCTS[name]):
        cell = rows[field.encode_name][2]
        if field.required:
            assert cell == "needed", field.name
            continue
        default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
        if cell == "`-`":
            assert default is None, field.name
        else:
            written = yaml.safe_load(cell.strip("`"))
            assert msgspec.convert(written, field.type) == default, field.name


@pytest.mark.parametrize("name", sorted(STRUCTS))
def test_every_key_has_a_type_and_a_sentence(name: str) -> None:
    for key, cells in tables()[name].items():
        kind, unit, _, what = cells
        assert kind, key
        assert what.endswith("."), key
        assert unit == "s" or not key.endswith("_s"), key


def test_the_example_in_the_docs_is_a_scenario() -> None:
    example = re.search(r"```yaml\n(.*?)```", DOCS, flags=re.DOTALL)
    assert example
    assert [m.name for m in parse(example[1]).models] == ["tinyllama", "qwen"]


def test_the_scenarios_are_the_ones_we_ship() -> None:
    assert [path.stem for path in SCENARIOS] == [
        "demo",
        "open-loop",
        "openai-vllm",
        "swap-drill",
        "three-models-ollama",
    ]


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_shipped_scenario_loads_plans_and_travels(path: Path) -> None:
    scenario = resolve(load(path), path.parent)
    assert scenario.name == path.stem
    assert from_dict(to_dict(scenario)) == scenario
    plan = Plan(scenario)
    asked = {plan.request(index).model for index in range(200)}
    assert asked == {m.name for m in scenario.models}


def test_nearly_every_request_of_the_swap_drill_asks_another_model() -> None:
    plan = Plan(load(ROOT / "scenarios" / "swap-drill.yaml"))
    names = [plan.model_of(index) for index in range(50)]
    assert all(a != b for a, b in pairwise(names))
