"""A YAML document: its data, and the line on which each value stands. Safe and bounded."""

from collections.abc import Iterator
from typing import Any

import yaml

from tokenswarm.errors import ScenarioError
from tokenswarm.scenario.place import Place, written

MAX_BYTES = 1 << 20
MAX_VALUES = 100_000
"""Values after aliases are expanded."""
MAX_NUMBER = 2**53
"""Integers beyond it change their value in JSON."""

_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"


class Document:
    """`data` is plain dicts with str keys, lists and scalars. Errors are ScenarioErrors."""

    def __init__(self, text: str, file: str = ""):
        self._file = file
        self._root = self._compose(text)
        self._refuse_bombs()
        self._refuse_keys(self._root, (), set())
        self.data: Any = self._construct()
        self._refuse_odd_values(self.data, ())

    def line(self, place: Place, key: bool = False) -> int:
        """Return the line (from 1) of the value at `place`, or of the nearest that exists.

        `key`: of the value's key instead, as for a key that should not be there.
        """
        node = self._root
        line = node.start_mark.line
        for step, part in enumerate(place):
            found = _child(node, part)
            if found is None:
                break
            key_node, node = found
            wants_key = key and step == len(place) - 1
            line = (key_node if wants_key else node).start_mark.line
        return int(line) + 1

    def error(self, message: str, place: Place, key: bool = False) -> ScenarioError:
        """Return the error of a value of this document."""
        line = self.line(place, key)
        return ScenarioError(message, file=self._file, path=written(place), line=line)

    def _compose(self, text: str) -> yaml.Node:
        if len(text.encode()) > MAX_BYTES:
            raise ScenarioError(
                f"{len(text.encode())} bytes; a scenario has at most {MAX_BYTES}, put long"
                " prompts into files (prompt: {kind: file, path: ...})",
                file=self._file,
            )
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except RecursionError:
            raise ScenarioError("nested too deeply; flatten it", file=self._file) from None
        except yaml.YAMLError as error:
            raise self._syntax(error) from None
        if root is None:
            raise ScenarioError("the file is empty; see docs/scenarios.md", file=self._file)
        return root

    def _syntax(self, error: yaml.YAMLError) -> ScenarioError:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
        line = None if mark is None else mark.line + 1
        message = f"not valid YAML: {problem}; check indentation, quotes and brackets there"
        return ScenarioError(message, file=self._file, line=line)

    def _construct(self) -> Any:
        loader = yaml.SafeLoader("")
        try:
            return loader.construct_document(self._root)
        except yaml.YAMLError as error:
            raise self._syntax(error) from None
        except (ValueError, OverflowError, RecursionError):
            message = "a number or date in it cannot be read; put it in quotes if it is text"
            raise ScenarioError(message, file=self._file) from None
        finally:
            loader.dispose()

    def _refuse_bombs(self) -> None:
        """Count values with aliases expanded; a cycle counts as too many."""
        if _expanded(self._root, {}) > MAX_VALUES:
            message = (
                f"aliases expand to more than {MAX_VALUES} values; write less, or a prompt file"
            )
            raise ScenarioError(message, file=self._file)

    def _refuse_keys(self, node: yaml.Node, place: Place, done: set[int]) -> None:
        """Refuse keys that stand twice in a mapping, and keys that YAML reads as no text."""
        if id(node) in done:
            return
        done.add(id(node))
        seen: dict[str, int] = {}
        for key, part, child in _children(node):
            if key is not None and key.tag != _MERGE:
                problem = _key_problem(key, seen)
                line = key.start_mark.line + 1
                if problem:
                    path = written((*place, part))
                    raise ScenarioError(problem, file=self._file, path=path, line=line)
                seen[key.value] = line
            self._refuse_keys(child, (*place, part), done)

    def _refuse_odd_values(self, value: Any, place: Place) -> None:
        """Refuse what JSON cannot carry: NaN, infinities, huge integers."""
        if isinstance(value, dict):
            for key, child in value.items():
                self._refuse_odd_values(child, (*place, key))
        elif isinstance(value, list):
            for number, child in enumerate(value):
                self._refuse_odd_values(child, (*place, number))
        elif isinstance(value, int | float) and not abs(value) <= MAX_NUMBER:
            message = f"{value!r} is not a usable number; give one between -2**53 and 2**53"
            raise self.error(message, place)


def _key_problem(key: yaml.ScalarNode, seen: dict[str, int]) -> str | None:
    if key.value in seen:
        return f"key {key.value!r} is already on line {seen[key.value]}; keep one of them"
    if key.tag != _TEXT:
        return f"key {key.value!r} is not text to YAML; put it in quotes"
    return None


def _children(node: yaml.Node) -> Iterator[tuple[yaml.ScalarNode | None, str | int, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            if isinstance(key, yaml.ScalarNode):
                yield key, str(key.value), child
    elif isinstance(node, yaml.SequenceNode):
        for number, child in enumerate(node.value):
            yield None, number, child


def _child(node: yaml.Node, part: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    # a mapping's own keys come after those merged in with <<, so the last one counts
    found = [(key or child, child) for key, name, child in _children(node) if name == part]
    return found[-1] if found else None


def _expanded(node: yaml.Node, known: dict[int, int]) -> int:
    if id(node) not in known:
        known[id(node)] = MAX_VALUES + 1  # met again while it is counted: a cycle
        known[id(node)] = 1 + sum(_expanded(child, known) for _, _, child in _children(node))
    return known[id(node)]
