"""A matrix file -> a checked Matrix; every error names file, line, place and the way out."""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec

from tokenswarm.compare import matrix as shapes
from tokenswarm.compare.matrix import Matrix, Solution
from tokenswarm.engines import ENGINES
from tokenswarm.errors import ScenarioError, UsageError
from tokenswarm.launch.start import Container
from tokenswarm.scenario.document import MAX_BYTES, Document
from tokenswarm.scenario.place import Place

SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,40}")
GIVEN = ("python", "here", "port", "box_port", "model")
"""Placeholders beside the matrix's own values: the interpreter, the matrix's folder, a server's
port, its box's port and the name of its (first) model."""
PLACEHOLDER = re.compile(r"\{(\w+)\}")
_STRUCTS: list[type[msgspec.Struct]] = [
    s for s in vars(shapes).values() if isinstance(s, type) and issubclass(s, msgspec.Struct)
]
_STRUCTS.append(Container)
_KEYS = sorted({field.encode_name for s in _STRUCTS for field in msgspec.structs.fields(s)})

Problem = tuple[Place, str]


def read(path: Path, changes: Mapping[str, str] | None = None) -> Matrix:
    """Read and check a matrix; `changes` replace its values. ScenarioError, UsageError."""
    try:
        text = path.read_bytes()[: MAX_BYTES + 1].decode("utf-8-sig")
    except OSError as e:
        raise UsageError(f"{path}: {e.strerror}; give a matrix file, as *.matrix.yaml") from None
    except UnicodeDecodeError:
        raise ScenarioError("not UTF-8; convert it", file=str(path)) from None
    return parse(text, str(path), changes)


def parse(text: str, file: str = "", changes: Mapping[str, str] | None = None) -> Matrix:
    """The checked matrix of a YAML text."""
    document = Document(text, file)
    try:
        matrix = msgspec.convert(document.data, Matrix)
    except msgspec.ValidationError as e:
        place, message = _refused(str(e))
        raise document.error(message, place) from None
    for name in changes or {}:
        if name not in matrix.values:
            known = ", ".join(matrix.values) or "none"
            raise UsageError(f"--set {name}=...: the matrix has no such value; it has {known}")
    matrix = msgspec.structs.replace(matrix, values={**matrix.values, **(changes or {})})
    for place, message in problems(matrix):
        raise document.error(message, place)
    return matrix


def _refused(text: str) -> Problem:
    what, _, where = text.partition(" - at `")
    place: Place = ()
    for name, number in re.findall(r"\.(\w+)|\[(\d+)\]", where):
        place = (*place, name or int(number))
    if match := re.fullmatch(r"Object contains unknown field `(.*)`", what, re.DOTALL):
        near = get_close_matches(match[1], _KEYS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see docs/compare.md"
        return (*place, match[1]), f"unknown key {match[1][:60]!r}; {hint}"
    if match := re.fullmatch(r"Object missing required field `(\w+)`", what):
        return place, f"key {match[1]!r} is missing; add `{match[1]}: ...`"
    return place, f"{what[:1].lower()}{what[1:]}; see docs/compare.md"


def problems(m: Matrix) -> Iterator[Problem]:
    """What a matrix's values have wrong, with the place and the way out."""
    names = [x.name for x in m.models]
    yield from _slugs(("models",), names)
    yield from _slugs(("solutions",), [s.name for s in m.solutions])
    yield from _slugs(("loads",), [x.name for x in m.loads])
    for i, solution in enumerate(m.solutions):
        yield from _solution(m, solution, ("solutions", i), names)
    for i, load in enumerate(m.loads):
        yield from _known(("loads", i, "weights"), load.weights or {}, names, "models")
        if load.users < 1:
            yield ("loads", i, "users"), f"{load.users} users; give 1 or more"
    for key in ("order", "restarts", "sleeps"):
        yield from _known(("drill", key), getattr(m.drill, key) or (), names, "models")
    if m.drill.repeats < 0:
        yield ("drill", "repeats"), "give 0 or more"


def _slugs(place: Place, found: list[str]) -> Iterator[Problem]:
    if not found and place[0] != "loads":
        yield place, "is empty; add at least one"
    for i, name in enumerate(found):
        if not SLUG.fullmatch(name):
            yield (*place, i, "name"), f"{name[:60]!r} is no slug; use a-z, 0-9, - and _"
        if name in found[:i]:
            yield (*place, i, "name"), f"{name!r} is there already; give another name"


def _known(place: Place, found: Any, known: list[str], what: str) -> Iterator[Problem]:
    for name in found:
        if name not in known:
            yield place, f"{name[:60]!r} is not among {what}; they are {', '.join(known)}"


def _solution(m: Matrix, s: Solution, place: Place, models: list[str]) -> Iterator[Problem]:
    if s.engine not in ENGINES:
        yield (*place, "engine"), f"{s.engine[:60]!r} is no engine; use {', '.join(ENGINES)}"
    if s.launcher == "docker" and s.container is None:
        yield place, "launcher docker needs `container: {image: ...}`"
    yield from _slugs((*place, "servers"), [x.name for x in s.servers])
    yield from _known((*place, "loads"), [c.name for c in s.loads], [x.name for x in m.loads],
                      "loads")  # fmt: skip
    served: list[str] = []
    for i, server in enumerate(s.servers):
        here = (*place, "servers", i)
        yield from _known((*here, "models"), server.models, models, "models")
        if not server.models:
            yield (*here, "models"), "is empty; give `{OUR NAME: THE SERVER'S NAME}`"
        if s.launcher == "process" and not (s.command or server.command):
            yield here, "has no command, and neither has its solution; add `command: [...]`"
        twice = [name for name in server.models if name in served and not server.beyond]
        if twice:
            yield (*here, "models"), f"{twice[0]!r} is served by a server before; keep one"
        served += () if server.beyond else server.models
        yield from _texts(m, s, here, i)
    if not served:
        yield (*place, "servers"), "every server is `beyond`; one has to serve"


def _texts(m: Matrix, s: Solution, here: Place, i: int) -> Iterator[Problem]:
    server = s.servers[i]
    known = {*GIVEN, *m.values}
    boxed = [] if s.box is None else s.box.command
    texts = [*s.command, *server.command, *server.arguments, *s.arguments, *server.weights, *boxed]
    texts += [*s.environment.values(), *server.environment.values()]
    for text in texts:
        for name in PLACEHOLDER.findall(text):
            if name not in known:
                yield here, f"{{{name}}} stands for nothing; use {', '.join(sorted(known))}"


def filled(text: str, values: Mapping[str, object]) -> str:
    """`text` with its placeholders replaced."""
    return PLACEHOLDER.sub(lambda m: str(values.get(m[1], m[0])), text)
