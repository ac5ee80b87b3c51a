"""Spool rows as InfluxDB's line protocol: one encoder a measurement, a column at a time.

    gpu,run_id=20261122t163015z-k3f9qa,host=box,gpu=0 util_ratio=0.5,power_w=301 1795000000000000000

A float is written as is, an integer with `i`, a string quoted; what is missing (None, NaN, an
infinity, a value that its field cannot hold) is left out, and so is a row of which nothing is
left. A line break in a string becomes the two characters backslash and n: not every server takes
a line that holds one.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tokenswarm.store.frame import Pair, Row
from tokenswarm.store.row import INT64
from tokenswarm.store.schema import MEASUREMENTS, Kind, Measurement

# few enough rows that all strings of a piece stay in the processor's cache
PIECE_ROWS = 500

_NONE = type(None)
_TYPES: dict[Kind, set[type]] = {
    "float": {float, _NONE}, "int": {int, _NONE}, "bool": {bool, _NONE}, "str": {str, _NONE},
}  # fmt: skip
_json = msgspec.json.Encoder().encode

Values = Sequence[Any]


@dataclass(slots=True)
class Encoded:
    """`text`: lines, each with its line end; `lines` how many of each measurement. `left_out`:
    rows without a line, by measurement and reason."""

    text: bytes = b""
    lines: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)


def encode(pairs: Iterable[Pair]) -> Encoded:
    """`(measurement, row)` as lines; those of one measurement stay in order."""
    encoded = Encoded()
    parts: list[str] = []
    for name, rows in grouped(pairs).items():
        if encoder := ENCODERS.get(name):
            pieces = (rows[at : at + PIECE_ROWS] for at in range(0, len(rows), PIECE_ROWS))
            parts += [encoder.lines(piece, encoded) for piece in pieces]
        else:
            encoded.left_out[f"unknown measurement {name[:60]!r}"] += len(rows)
    encoded.text = "".join(parts).encode()
    return encoded


def grouped(pairs: Iterable[Pair]) -> dict[str, list[Row]]:
    """The rows of each measurement."""
    groups: dict[str, list[Row]] = {}
    for name, row in pairs:
        if (rows := groups.get(name)) is None:
            rows = groups[name] = []
        rows.append(row)
    return groups


class Encoder:
    """Makes lines of one measurement's rows."""

    def __init__(self, m: Measurement):
        self.measurement = m
        self._width = len(m.columns)
        self._tags = slice(1, 1 + len(m.tags))
        self._heads = _Heads(m)
        first = 1 + len(m.tags)
        self.fields = [(i, f) for i, f in enumerate(m.fields, first) if not f.files_only]

    def lines(self, rows: Sequence[Row], encoded: Encoded) -> str:
        """The lines of `rows`; counted in `encoded`."""
        rows = self.well_formed(rows, encoded)
        if not rows:
            return ""
        columns = list(zip(*rows, strict=True))
        heads = list(map(self._heads.__getitem__, zip(*columns[self._tags], strict=True)))
        times = _json(columns[0])[1:-1].decode().split(",")
        first = next((i for i, f in self.fields if _complete(f.kind, columns[i])), None)
        if first is None:
            return self._sparse(columns, heads, times, encoded)
        parts = [heads]
        for i, f in sorted(self.fields, key=lambda p: p[0] != first):
            cells = _cells(f.kind, f"{' ' if i == first else ','}{f.name}=", columns[i])
            if cells:
                parts.append(cells)
        encoded.lines[self.measurement.name] += len(rows)
        return _woven(parts, times)

    def _sparse(
        self, columns: Sequence[Values], heads: list[str], times: list[str], encoded: Encoded
    ) -> str:
        """Lines of which no field is in all: some may have none at all."""
        cells = [_cells(f.kind, f",{f.name}=", columns[i]) for i, f in self.fields]
        bodies = map("".join, zip(*(c for c in cells if c), strict=True)) if any(cells) else ()
        lines = [
            f"{head} {body[1:]} {time}\n"
            for head, body, time in zip(heads, bodies, times, strict=False)
            if body
        ]
        encoded.lines[self.measurement.name] += len(lines)
        if empty := len(times) - len(lines):
            encoded.left_out[f"{self.measurement.name}: no field"] += empty
        return "".join(lines)

    def well_formed(self, rows: Sequence[Row], encoded: Encoded) -> Sequence[Row]:
        """`rows` without those of another length and those without a time."""
        if set(map(len, rows)) == {self._width}:
            times = [row[0] for row in rows]
            if set(map(type, times)) == {int} and max(times) in INT64:
                return rows
        kept, name = [], self.measurement.name
        for row in rows:
            if len(row) != self._width:
                encoded.left_out[f"{name}: {len(row)} values, want {self._width}"] += 1
            elif type(row[0]) is not int or row[0] not in INT64:
                encoded.left_out[f"{name}: no time in its first value"] += 1
            else:
                kept.append(row)
        return kept


class _Heads(dict[tuple[Any, ...], str]):
    """Measurement and tags of a line, made once for each set of tag values."""

    def __init__(self, m: Measurement):
        super().__init__()
        self._name = escaped_name(m.name)
        self._keys = [escaped_tag(tag) for tag in m.tags]

    def __missing__(self, values: tuple[Any, ...]) -> str:
        tags = [f"{k}={escaped_tag(tag_of(v))}" for k, v in zip(self._keys, values, strict=True)]
        head = ",".join([self._name, *tags])
        if len(self) < 100_000:
            self[values] = head
        return head


def tag_of(value: Any) -> str:
    """A tag's value as the schema has it: `none` when there is none."""
    return value if type(value) is str and value else "none"


def escaped_name(text: str) -> str:
    """A measurement's name in a line."""
    return re.sub(r"([, ])", r"\\\1", _flat(text))


def escaped_tag(text: str) -> str:
    """A tag's key or value in a line. A backslash at its end, which would hide what follows and
    which the protocol cannot express, becomes `-`."""
    if re.fullmatch(r"[a-z0-9_-]+", text):
        return text
    text = _flat(text)
    bare = text.rstrip("\\")
    return re.sub(r"([,= ])", r"\\\1", bare + "-" * (len(text) - len(bare)))


def escaped_string(text: str) -> str:
    """A string between its quotes."""
    return _flat(text.replace("\\", "\\\\").replace('"', '\\"'), "\\\\")


def _flat(text: str, backslash: str = "\\") -> str:
    return text.replace("\n", f"{backslash}n").replace("\r", f"{backslash}r")


def _complete(kind: Kind, values: Values) -> bool:
    """Whether a column has a value in every row; of floats, which may be NaN, nobody knows."""
    if kind == "float" or values[0] is None or set(map(type, values)) != _TYPES[kind] - {_NONE}:
        return False
    return kind != "int" or max(values) in INT64


def _cells(kind: Kind, key: str, values: Values) -> list[str]:
    """`values`, each behind `key`, or empty where missing; no cells at all when all are."""
    if values[0] is None and values.count(None) == len(values):
        return []
    values = held(kind, values)
    if values[0] == values[-1] and values.count(values[0]) == len(values):
        return [] if values[0] is None else _some(kind, key, values[:1]) * len(values)
    return _some(kind, key, values)


def held(kind: Kind, values: Values) -> Values:
    """`values`, with None for what a field of `kind` cannot hold; NaN stays."""
    if not set(map(type, values)) <= _TYPES[kind] or (
        kind == "int" and max(filter(None, values), default=0) not in INT64
    ):
        from tokenswarm.store.columns import kept

        return kept(kind, values)
    return values


def _some(kind: Kind, key: str, values: Values) -> list[str]:
    if kind == "str":
        return _strings(key, values)
    end = "i" if kind == "int" else ""
    text = key + _json(values)[1:-1].decode().replace(",", f"{end}\n{key}") + end
    if "null" in text:  # also what JSON has for NaN and the infinities
        text = text.replace(f"{key}null{end}", "")
    return text.split("\n")


_SPECIAL = re.compile(r'["\\\n\r]')


def _strings(key: str, values: Values) -> list[str]:
    head = f'{key}"'
    if _SPECIAL.search("".join(filter(None, values))):
        values = [v and escaped_string(v) for v in values]
    return ["" if v is None else f'{head}{v}"' for v in values]


def _woven(parts: list[list[str]], times: list[str]) -> str:
    """Columns of texts as lines: one string to join for all rows, cell by cell."""
    width, rows = len(parts) + 3, len(times)
    cells = [" "] * (width * rows)
    for i, part in enumerate(parts):
        cells[i::width] = part
    cells[width - 2 :: width] = times
    cells[width - 1 :: width] = ["\n"] * rows
    return "".join(cells)


ENCODERS = {name: Encoder(m) for name, m in MEASUREMENTS.items()}
