"""Samples of a Prometheus text page: the few that are asked for, the rest is skipped."""

import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

_LINE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?[ \t]+(\S+)(?:[ \t]+-?\d+)?\s*")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Sample:
    name: str
    labels: dict[str, str]
    value: float


def samples(page: str, names: Collection[str]) -> Iterator[Sample]:
    """Every finite sample of `page` whose name is one of `names`; a broken line is skipped."""
    for line in page.split("\n"):
        if not line.startswith(tuple(names)):
            continue
        match = _LINE.fullmatch(line)
        if match is None or match[1] not in names:
            continue
        try:
            value = float(match[3])
        except ValueError:
            continue
        if math.isfinite(value):
            yield Sample(match[1], dict(_labels(match[2] or "")), value)


def _labels(text: str) -> Iterator[tuple[str, str]]:
    for label in _LABEL.finditer(text):
        yield label[1], _ESCAPE.sub(lambda m: "\n" if m[1] == "n" else m[1], label[2])
