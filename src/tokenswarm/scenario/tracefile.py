"""Files of arrival times: a number a line, a column of a CSV file or a field of JSON lines."""

import csv
from collections.abc import Iterator
from math import isfinite
from pathlib import Path

import msgspec

from tokenswarm.errors import ScenarioError
from tokenswarm.scenario.model import TraceLoad

MAX_BYTES = 16 << 20
"""All times travel to every worker."""


def read(load: TraceLoad, base: Path) -> list[float]:
    """Return the arrivals of `load.path`, seconds after the first, in order, at `load.speed`.

    `base` is the folder of the scenario. ScenarioError with file and line where it has none.
    """
    assert load.path is not None
    text = _text(load.path, base)
    times = sorted(_times(text, load))
    if not times:
        raise ScenarioError("no time in it; write one a line", file=load.path)
    scale = load.unit_s / load.speed
    return [(time - times[0]) * scale for time in times]


def resolve(load: TraceLoad, base: Path) -> TraceLoad:
    """Return `load` with its times read in, as workers on other hosts need it."""
    if load.times_s or load.path is None:
        return load
    return msgspec.structs.replace(load, times_s=read(load, base))


def _text(path: str, base: Path) -> str:
    try:
        with (base / path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            message = f"over {MAX_BYTES} bytes; take a part of it"
            raise ScenarioError(message, file=path)
        return content.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or "not UTF-8").lower()
        message = f"{reason}; a trace is a text file, its path relative to the scenario file"
        raise ScenarioError(message, file=path) from None


def _times(text: str, load: TraceLoad) -> Iterator[float]:
    assert load.path is not None
    for line, value in _values(text, load):
        try:
            number = float(str(value))
        except ValueError:
            number = float("nan")
        if not isfinite(number):
            message = f"{str(value)[:40]!r} is no time; write a number, and name it with `field`"
            raise ScenarioError(message, file=load.path, line=line)
        yield number


def _values(text: str, load: TraceLoad) -> Iterator[tuple[int, object]]:
    """Line number and what stands for the time there."""
    assert load.path is not None
    lines = text.splitlines()
    if load.path.endswith(".csv"):
        for number, row in enumerate(csv.DictReader(lines), 2):
            yield number, row.get(load.field)
        return
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        yield number, _field(line, load.field) if load.path.endswith(".jsonl") else line


def _field(line: str, field: str) -> object:
    try:
        row = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return line
    return row.get(field) if isinstance(row, dict) else line
