"""Plain data -> a Scenario, or the place where its shape is wrong and the way out."""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect

from tokenswarm.scenario.model import Scenario
from tokenswarm.scenario.place import Place, shown

_WORDS = {
    "object": "a mapping",
    "array": "a list",
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
}


class Problem(NamedTuple):
    """Something wrong at `place`. `at_key`: the key is what is wrong, not its value."""

    place: Place
    message: str
    at_key: bool = False


def shape(data: Any) -> Scenario | Problem:
    """Return the scenario that plain data (as from YAML or JSON) describes, or what is wrong."""
    try:
        return msgspec.convert(data, Scenario)
    except msgspec.ValidationError as error:
        return _problem(data, str(error))


def nearest(word: str, known: list[str]) -> str:
    """Return `did you mean 'x'?`, or all that is known where nothing is near."""
    near = get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"


def _problem(data: Any, text: str) -> Problem:
    what, _, where = text.partition(" - at `")
    place = _place(data, where.rstrip("`"))
    if match := re.fullmatch(r"Object contains unknown field `(.*)`", what, re.DOTALL):
        key = match[1]
        message = f"unknown key {key[:60]!r}; {nearest(key, _keys(data, place))}"
        return Problem((*place, key), message, at_key=True)
    if match := re.fullmatch(r"Object missing required field `(\w+)`", what):
        return Problem(place, _missing(match[1], data, place))
    value = shown(place, _value(data, place))
    if what.startswith("Invalid"):
        choices = _choices(data, place)
        return Problem(place, f"{value} is unknown; {nearest(value.strip(chr(39)), choices)}")
    return Problem(place, f"{value} does not fit; {_way_out(what, _value(data, place))}")


def _missing(key: str, data: Any, place: Place) -> str:
    choices = _choices(data, (*place, key))
    return f"key {key!r} is missing; add `{key}: {' | '.join(choices) or '...'}`"


def _way_out(what: str, value: Any) -> str:
    match = re.match(r"Expected `([^`]*)`", what)
    kinds = [kind for kind in match[1].split(" | ") if kind != "null"] if match else []
    if "float" in kinds and isinstance(value, str) and (number := _number(value)):
        return f"write {number} without quotes"
    if kinds == ["str"] and isinstance(value, int | float):
        return "put it in quotes"
    return f"give {' or '.join(_WORDS.get(kind, kind) for kind in kinds) or 'another value'}"


def _number(text: str) -> str | None:
    """Return the number that YAML took for text, as in 1e3, in a form that it reads."""
    try:
        return repr(float(text))
    except ValueError:
        return None


def _place(data: Any, where: str) -> Place:
    """Return the place that msgspec writes as `$.targets[...].url`, with the right key for ...."""
    place: Place = ()
    for name, number, _ in re.findall(r"\.(\w+)|\[(\d+)\]|(\[\.\.\.\])", where):
        if name:
            place = (*place, name)
        elif number:
            place = (*place, int(number))
        else:
            place = (*place, _culprit(data, place))
    return place


def _culprit(data: Any, place: Place) -> str:
    """Return the key of the first entry of the mapping at `place` that alone is refused there."""
    mapping = _value(data, place)
    for key in mapping:
        alone = _with(data, place, {key: mapping[key]})
        try:
            msgspec.convert(alone, Scenario)
        except msgspec.ValidationError as error:
            where = _written(place) + "[...]"
            if f"at `{where}" in str(error):
                return str(key)
    raise AssertionError(f"no entry of {place} is refused")


def _written(place: Place) -> str:
    """Return a place as msgspec writes it: keys of targets, headers and options are `[...]`."""
    text = "$"
    for step, part in enumerate(place):
        is_free = step == 1 and place[0] == "targets"
        is_free = is_free or (step == 3 and place[2] in ("headers", "options"))
        is_free = is_free or (step > 1 and place[:2] == ("mix", "transitions"))
        text += "[...]" if is_free else f"[{part}]" if isinstance(part, int) else f".{part}"
    return text


def _with(data: Any, place: Place, value: Any) -> Any:
    if not place:
        return value
    first, rest = place[0], place[1:]
    copy = data.copy()
    copy[first] = _with(data[first], rest, value)
    return copy


def _value(data: Any, place: Place) -> Any:
    for part in place:
        data = data[part]
    return data


def _keys(data: Any, place: Place) -> list[str]:
    """Return the keys that the mapping at `place` may have."""
    for kind in _types(data, place):
        if isinstance(kind, inspect.StructType):
            tag = [kind.tag_field] if kind.tag_field else []
            return tag + [field.encode_name for field in kind.fields]
    return []


def _choices(data: Any, place: Place) -> list[str]:
    """Return the words that the value at `place` may be; none where it is not a choice."""
    for kind in _types(data, place):
        if isinstance(kind, inspect.LiteralType):
            return [str(value) for value in kind.values]
    above = _types(data, place[:-1]) if place else []
    structs = [kind for kind in above if isinstance(kind, inspect.StructType)]
    return [str(struct.tag) for struct in structs if struct.tag_field == place[-1]]


@cache
def _root() -> inspect.Type:
    return inspect.type_info(Scenario)


def _types(data: Any, place: Place) -> list[inspect.Type]:
    """Return the types that the model allows at `place`, unions taken apart by their tag."""
    kinds = list(_flat(_root(), data))
    for part in place:
        data = data.get(part) if isinstance(data, dict) else data[int(part)]
        kinds = [leaf for kind in kinds for leaf in _flat(_inside(kind, part), data)]
    return kinds


def _flat(kind: inspect.Type | None, data: Any) -> Iterator[inspect.Type]:
    if isinstance(kind, inspect.UnionType):
        tag = data.get("kind") if isinstance(data, dict) else None
        leaves = [leaf for part in kind.types for leaf in _flat(part, data)]
        tagged = [leaf for leaf in leaves if getattr(leaf, "tag", None) == tag]
        yield from (tagged if tag is not None and tagged else leaves)
    elif kind is not None:
        yield kind


def _inside(kind: inspect.Type, part: str | int) -> inspect.Type | None:
    if isinstance(kind, inspect.StructType):
        found = [field.type for field in kind.fields if field.encode_name == part]
        return found[0] if found else None
    if isinstance(kind, inspect.DictType):
        return kind.value_type
    return kind.item_type if isinstance(kind, inspect.ListType) else None
