"""Spool rows as InfluxDB's line protocol: one encoder a measurement, a column at a time.

    gpu,run_id=20261122t163015z-k3f9qa,host=box,gpu=0 util_ratio=0.5,power_w=301 1795000000000000000

A float is written as is, an integer with `i`, a string quoted; what is missing (None, NaN, an
infinity, a value that its field cannot hold) is left out, and so is a row of which nothing is
left. A line break in a string becomes the two characters backslash and n: not every server takes
a line that holds one.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
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


def grouped(pairs: Sequence[Pair]) -> dict[str, list[Row]]:
    """The rows of each measurement."""
    names = set(map(itemgetter(0), pairs))
    if len(names) == 1:
        return {names.pop(): list(map(itemgetter(1), pairs))}
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

    def lines(self, rows: Sequence[Row], encoded: Encoded) -> bytes:
        """The lines of `rows`; counted in `encoded`."""
        if not (columns := self._columns(rows, encoded)):
            return b""
        heads = list(map(self._heads.__getitem__, zip(*columns[self._tags], strict=True)))
        times = (b" " + _json(columns[0])[1:-1].replace(b",", b"\n\0 ") + b"\n").split(b"\0")
        cells = [_cells(f.kind, f",{f.name}=".encode(), columns[i]) for i, f in self.fields]
        same = b"".join(c for c in cells if isinstance(c, bytes))
        parts = [c for c in cells if isinstance(c, list)]
        if not same:
            full = next((i for i, part in enumerate(parts) if all(part)), None)
            if full is None:
                return self._sparse(heads, parts, times, encoded)
            parts.insert(0, [cell[1:] for cell in parts.pop(full)])
        encoded.lines[self.measurement.name] += len(times)
        return _woven(heads, b" " + same[1:], parts, times)

    def _sparse(
        self, heads: list[bytes], parts: list[list[bytes]], times: list[bytes], encoded: Encoded
    ) -> bytes:
        """Lines of which no field is in all: some may have none at all."""
        bodies = map(b"".join, zip(*parts, strict=True))
        lines = [
            b"%b %b%b" % (head, body[1:], time)
            for head, body, time in zip(heads, bodies, times, strict=False)
            if body
        ]
        encoded.lines[self.measurement.name] += len(lines)
        if empty := len(times) - len(lines):
            encoded.left_out[f"{self.measurement.name}: no field"] += empty
        return b"".join(lines)

    def _columns(self, rows: Sequence[Row], encoded: Encoded) -> list[tuple[Any, ...]]:
        """`rows` as columns; none when no row is one of this measurement."""
        if set(map(len, rows)) == {self._width}:
            columns = list(zip(*rows, strict=True))
            if set(map(type, columns[0])) == {int} and max(columns[0]) in INT64:
                return columns
        return list(zip(*self.well_formed(rows, encoded), strict=True))

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


class _Heads(dict[tuple[Any, ...], bytes]):
    """Measurement and tags of a line, made once for each set of tag values."""

    def __init__(self, m: Measurement):
        super().__init__()
        self._name = escaped_name(m.name)
        self._keys = [escaped_tag(tag) for tag in m.tags]

    def __missing__(self, values: tuple[Any, ...]) -> bytes:
        tags = [f"{k}={escaped_tag(tag_of(v))}" for k, v in zip(self._keys, values, strict=True)]
        head = ",".join([self._name, *tags]).encode()
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


def _cells(kind: Kind, key: bytes, values: Values) -> list[bytes] | bytes:
    """`values`, each behind `key`, or empty where missing; one text when it is the same in every
    row, and empty when there is no value at all."""
    if values[0] is None and values.count(None) == len(values):
        return b""
    types = set(map(type, values))
    if not types <= _TYPES[kind] or (kind == "int" and _largest(values, types) not in INT64):
        values = held(kind, values)
        types = set(map(type, values))
    first = values[0]
    if values[-1] == first and len(types) == 1 and values.count(first) == len(values):
        return b"" if first is None else _some(kind, key, [first], types)[0]
    return _some(kind, key, values, types)


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


def _some(kind: Kind, key: bytes, values: Values, types: set[type]) -> list[bytes]:
    if kind == "str":
        return _strings(key, values, types)
    end = b"i" if kind == "int" else b""
    text = key + _json(values)[1:-1].replace(b",", b"%b\n%b" % (end, key)) + end
    if b"null" in text:  # also what JSON has for NaN and the infinities
        text = text.replace(b"%bnull%b" % (key, end), b"")
    return text.split(b"\n")


_SPECIAL = re.compile(r'["\\\n\r]')


def _strings(key: bytes, values: Values, types: set[type]) -> list[bytes]:
    if _SPECIAL.search("".join(filter(None, values))):
        values = [v and escaped_string(v) for v in values]
    if _NONE not in types:
        head = key.decode() + '"'
        return (head + f'"\n{head}'.join(values) + '"').encode().split(b"\n")
    return [b"" if v is None else b'%b"%b"' % (key, v.encode()) for v in values]


def _woven(heads: list[bytes], same: bytes, parts: list[list[bytes]], times: list[bytes]) -> bytes:
    """Columns of texts as lines: one string to join for all rows, cell by cell. `same` are the
    fields that are the same in every row, `times` have their space and line end."""
    width, rows = len(parts) + 3, len(heads)
    cells = [same] * (width * rows)
    cells[0::width] = heads
    for i, part in enumerate(parts, 2):
        cells[i::width] = part
    cells[width - 1 :: width] = times
    return b"".join(cells)


ENCODERS = {name: Encoder(m) for name, m in MEASUREMENTS.items()}
