"""A spool row held against the schema, and times that never stand still."""

import math
import re
from typing import Any

from tokenswarm.errors import SpoolError
from tokenswarm.store.schema import MEASUREMENTS, Kind

TAG = re.compile(r"[a-z0-9_-]+")
INT64 = range(-(2**63), 2**63)
INT32 = range(-(2**31), 2**31)


def fits(kind: Kind, value: Any) -> bool:
    """Whether `value` is exactly of `kind`: a bool is no int, an int no float, NaN nothing."""
    match kind:
        case "float":
            return type(value) is float and math.isfinite(value)
        case "int":
            return type(value) is int and value in INT64
        case "ints":
            return type(value) is list and all(type(v) is int and v in INT32 for v in value)
        case "str":
            return type(value) is str
        case "bool":
            return type(value) is bool


def check_row(measurement: str, row: list[Any]) -> None:
    """SpoolError unless `row` is one of `measurement`: length, slugs as tags, exact types."""
    m = MEASUREMENTS.get(measurement)
    if m is None:
        raise SpoolError(f"{measurement!r} is no measurement; the schema has {[*MEASUREMENTS]}")
    if len(row) != len(m.columns):
        raise SpoolError(f"{measurement}: a row of {len(row)}, want {len(m.columns)} columns")
    if not fits("int", row[0]) or row[0] < 0:
        raise SpoolError(f"{measurement}: time_ns is {row[0]!r}, want an int, 0 or more")
    for tag, value in zip(m.tags, row[1:], strict=False):
        if not (type(value) is str and TAG.fullmatch(value)):
            raise SpoolError(f"{measurement}: tag {tag} is {value!r}, want a slug ([a-z0-9_-]+)")
    for f, value in zip(m.fields, row[1 + len(m.tags) :], strict=True):
        if value is not None and not fits(f.kind, value):
            raise SpoolError(f"{measurement}: {f.name} is {value!r:.80}, want {f.kind} or None")


class Monotonic:
    """Times of one source in ns, each larger than the one before: no point overwrites another."""

    __slots__ = ("last",)

    def __init__(self, last: int = -1):
        self.last = last

    def __call__(self, time_ns: int) -> int:
        """`time_ns`, or one past the time before it when that is not later."""
        self.last = max(time_ns, self.last + 1)
        return self.last
