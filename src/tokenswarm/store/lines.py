"""Spool rows as InfluxDB's line protocol: one encoder a measurement, a column at a time.

    gpu,run_id=20261122t163015z-k3f9qa,host=box,gpu=0 util_ratio=0.5,power_w=301 1795000000000000000

A float is written as is, an integer with `i`, a string quoted; what is missing (None, NaN, an
infinity, a value that its field cannot hold) is left out, and so is a row of which nothing is
left. A line break in a string becomes the two characters backslash and n: not every server takes
a line that holds one.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from struct import error as StructError
from struct import pack
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


def encode(pairs: Sequence[Pair]) -> Encoded:
    """`(measurement, row)` as lines; those of one measurement stay in order."""
    encoded = Encoded()
    parts: list[bytes] = []
    for name, rows in grouped(pairs).items():
        if encoder := ENCODERS.get(name):
            pieces = (rows[at : at + PIECE_ROWS] for at in range(0, len(rows), PIECE_ROWS))
            parts += [encoder.lines(piece, encoded) for piece in pieces]
        else:
            encoded.left_out[f"unknown measurement {name[:60]!r}"] += len(rows)
    encoded.text = b"".join(parts)
    return encoded


def grouped(pairs: Sequence[Pair]) -> Mapping[str, Sequence[Row]]:
    """The rows of each measurement."""
    if not pairs:
        return {}
    names, rows = zip(*pairs, strict=True)
    if names.count(names[0]) == len(names):
        return {names[0]: rows}
    groups: dict[str, list[Row]] = {}
    for name, row in pairs:
        if (group := groups.get(name)) is None:
            group = groups[name] = []
        group.append(row)
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

    def lines(self, rows: Sequence[Row], encoded: Encoded) -> bytes:
        """The lines of `rows`; counted in `encoded`."""
        columns, times = self._columns(rows, encoded)
        if not times:
            return b""
        cells = [_cells(f.kind, f",{f.name}=", columns[i]) for i, f in self.fields]
        same = "".join(c for c in cells if isinstance(c, str))
        parts = [c for c in cells if isinstance(c, Part)]
        heads = self._heads_of(columns[self._tags])
        if not same:
            full = next((i for i, part in enumerate(parts) if part.full), None)
            if full is None:
                return self._sparse(heads, parts, times, encoded)
            parts.insert(0, parts.pop(full).first())
        encoded.lines[self.measurement.name] += len(times)
        return _woven(heads, same[1:], parts, times)

    def _sparse(
        self, heads: Sequence[str], parts: list["Part"], times: list[str], encoded: Encoded
    ) -> bytes:
        """Lines of which no field is in all: some may have none at all."""
        bodies = map("".join, zip(*(part.cells for part in parts), strict=True))
        lines = [
            f"{head} {body[1:]} {time}\n"
            for head, body, time in zip(cycle(heads), bodies, times, strict=False)
            if body
        ]
        encoded.lines[self.measurement.name] += len(lines)
        if empty := len(times) - len(lines):
            encoded.left_out[f"{self.measurement.name}: no field"] += empty
        return "".join(lines).encode()

    def _heads_of(self, tags: Sequence[Values]) -> list[str]:
        """The head of each row, or one when all rows have the same."""
        if all(values.count(values[0]) == len(values) for values in tags):
            return [self._heads[tuple(values[0] for values in tags)]]
        return list(map(self._heads.__getitem__, zip(*tags, strict=True)))

    def _columns(
        self, rows: Sequence[Row], encoded: Encoded
    ) -> tuple[list[tuple[Any, ...]], list[str]]:
        """`rows` as columns, and their times as texts; none when no row is one of this
        measurement."""
        try:
            columns = list(zip(*rows, strict=True))
        except ValueError:
            columns = []
        text = _numbers("int", columns[0]) if len(columns) == self._width else None
        if text is None:
            columns = list(zip(*self.well_formed(rows, encoded), strict=True))
            text = _numbers("int", columns[0]) if columns else None
        return columns, text.decode().split(",") if text else []

    def well_formed(self, rows: Sequence[Row], encoded: Encoded) -> Sequence[Row]:
        """`rows` without those of another length and those without a time."""
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


@dataclass(frozen=True, slots=True)
class Part:
    """What one field adds to each row: a cell of the row's own between two texts that are the
    same in all. Where the field is missing in some row, its cells hold everything or nothing."""

    before: str
    cells: Sequence[str]
    after: str = ""

    @property
    def full(self) -> bool:
        """Whether it is in every row."""
        return bool(self.before) or all(self.cells)

    def first(self) -> "Part":
        """It as the first field of its lines: without the comma."""
        if self.before:
            return Part(self.before[1:], self.cells, self.after)
        return Part("", [cell[1:] for cell in self.cells])


def _cells(kind: Kind, key: str, values: Values) -> Part | str:
    """`values`, each behind `key`; one text when it is the same in every row, and empty when
    there is no value at all."""
    first = values[0]
    if first is None and values.count(None) == len(values):
        return ""
    if kind in ("int", "float") and (text := _numbers(kind, values)) is not None:
        end = "i" if kind == "int" else ""
        one = _json(first) + b","
        if len(text) + 1 == len(one) * len(values) and text == (one * len(values))[:-1]:
            return f"{key}{one[:-1].decode()}{end}"
        return Part(key, text.decode().split(","), end)
    if type(first) is str and values.count(first) == len(values) and kind == "str":
        return _some(kind, key, [first], {str})[0]
    values = held(kind, values)
    types, first = set(map(type, values)), values[0]
    if values[-1] == first and len(types) == 1 and values.count(first) == len(values):
        return "" if first is None else _some(kind, key, [first], types)[0]
    if kind == "str" and types == {str}:
        return Part(key + '"', _escaped(values), '"')
    return Part("", _some(kind, key, values, types))


def _numbers(kind: Kind, values: Values) -> bytes | None:
    """`values` as JSON has them, commas between, when each is one that a field of `kind` holds,
    and else None. What the text is made of tells that in a fraction of a look at each type."""
    try:
        text = _json(values)[1:-1]
        if kind == "int":  # refuses what is no integer of 64 bits, but for true and false
            pack(f"{len(values)}q", *values)
            return None if b"e" in text else text
    except (TypeError, ValueError, OverflowError, StructError):
        return None
    if text.count(b".") != len(values) or any(mark in text for mark in (b'"', b"[", b"{")):
        return None
    return text


def held(kind: Kind, values: Values) -> Values:
    """`values`, with None for what a field of `kind` cannot hold; NaN stays."""
    types = set(map(type, values))
    if not types <= _TYPES[kind] or (kind == "int" and _largest(values, types) not in INT64):
        from tokenswarm.store.columns import kept

        return kept(kind, values)
    return values


def _largest(values: Values, types: set[type]) -> int:
    largest: int = max(filter(None, values), default=0) if _NONE in types else max(values)
    return largest


def _some(kind: Kind, key: str, values: Values, types: set[type]) -> list[str]:
    if kind == "str":
        return ["" if v is None else f'{key}"{v}"' for v in _escaped(values)]
    end = "i" if kind == "int" else ""
    text = key + _json(values)[1:-1].decode().replace(",", f"{end}\n{key}") + end
    if "null" in text:  # also what JSON has for NaN and the infinities
        text = text.replace(f"{key}null{end}", "")
    return text.split("\n")


_SPECIAL = re.compile(r'["\\\n\r]')


def _escaped(values: Values) -> Values:
    if _SPECIAL.search("".join(filter(None, values))):
        return [v and escaped_string(v) for v in values]
    return values


def _woven(heads: Sequence[str], same: str, parts: Sequence[Part], times: list[str]) -> bytes:
    """Columns of texts as lines: one string to join for all rows, cell by cell. `same` are the
    fields that are the same in every row; a single head is that of all rows."""
    shared, rows = len(heads) == 1, len(times)
    pattern, columns, text = [], [], f"{heads[0]} {same}"
    if not shared:
        pattern, columns, text = ["", ""], [heads], f" {same}"
    for part in (*parts, Part(" ", times, "\n")):
        pattern += [text + part.before, ""]
        columns.append(part.cells)
        text = part.after
    pattern.append(text)
    cells = pattern * rows
    for i, column in enumerate(columns):
        cells[2 * i + 1 :: len(pattern)] = column
    return "".join(cells).encode()


ENCODERS = {name: Encoder(m) for name, m in MEASUREMENTS.items()}
