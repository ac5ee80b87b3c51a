"""A scenario file -> a checked Scenario, and a Scenario to and from JSON-able data."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec

from tokenswarm.errors import ScenarioError
from tokenswarm.scenario.check import problems
from tokenswarm.scenario.document import MAX_BYTES, Document
from tokenswarm.scenario.model import Scenario
from tokenswarm.scenario.overrides import override
from tokenswarm.scenario.place import written
from tokenswarm.scenario.promptfile import resolve
from tokenswarm.scenario.shape import Problem, shape

__all__ = ["from_dict", "load", "override", "parse", "published", "resolve", "to_dict"]


def load(path: Path) -> Scenario:
    """Read and check a scenario file. Prompt files are checked, not read in: see resolve().

    ScenarioError names file, line, path, value and the way out.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        message = f"{(error.strerror or 'cannot be read').lower()}{_near(path)}"
        raise ScenarioError(message, file=str(path)) from None
    try:
        # a file cut at the bound is refused as too large, so a character cut there does not matter
        text = content.decode("utf-8-sig", "strict" if len(content) <= MAX_BYTES else "replace")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ScenarioError("not UTF-8; convert it", file=str(path), line=line) from None
    return parse(text, str(path), path.parent)


def parse(text: str, file: str = "", base: Path | None = None) -> Scenario:
    """Return the checked scenario of a YAML text; prompt files are relative to `base` (or here)."""
    document = Document(text, file)
    scenario = shape(document.data)
    if isinstance(scenario, Problem):
        raise document.error(scenario.message, scenario.place, scenario.at_key)
    for problem in problems(scenario, base or Path()):
        raise document.error(problem.message, problem.place, problem.at_key)
    return scenario


def to_dict(scenario: Scenario) -> dict[str, Any]:
    """Return JSON-able data that from_dict() turns back into an equal scenario."""
    data: dict[str, Any] = msgspec.to_builtins(scenario)
    return data


def from_dict(data: Any) -> Scenario:
    """Return the checked scenario of to_dict()'s data; ScenarioError where it is none."""
    scenario = shape(data)
    found = [scenario] if isinstance(scenario, Problem) else list(problems(scenario))
    if isinstance(scenario, Problem) or found:
        raise ScenarioError(found[0].message, path=written(found[0].place))
    return scenario


def published(scenario: Scenario) -> dict[str, Any]:
    """Return to_dict() without header values, which may be secrets: for manifests and reports."""
    data = to_dict(scenario)
    for target in data["targets"].values():
        target["headers"] = dict.fromkeys(target["headers"], "***")
    return data


def _near(path: Path) -> str:
    names = [str(p) for ending in ("*.yaml", "*.yml") for p in path.parent.glob(ending)]
    near = get_close_matches(str(path), names, n=1)
    return f"; did you mean {near[0]}?" if near else "; name a scenario file"
