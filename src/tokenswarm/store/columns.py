"""Rows turned into numpy columns, exactly: what a column's type cannot hold is missing.

A float column takes integers that a double holds exactly, an integer column floats without
fraction. Everything else that is not of the column's type (NaN, infinities and numbers out of
range too) becomes missing and is counted. Nothing is rounded, parsed or made 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tokenswarm.store.row import INT64, fits
from tokenswarm.store.schema import Kind

SQL_TYPES: dict[Kind, str] = {
    "float": "DOUBLE",
    "int": "BIGINT",
    "str": "VARCHAR",
    "bool": "BOOLEAN",
    "ints": "INTEGER[]",
}

Values = Sequence[Any]


class Column(NamedTuple):
    """`data` (n,) and a mask of what is `missing` (n,); `refused` of these could not be held.

    str: objects, None where missing. ints: their JSON text as objects, None where missing.
    """

    data: NDArray[Any]
    missing: NDArray[np.bool_]
    refused: int


@dataclass(frozen=True, slots=True)
class Constant:
    """A column with the same text in every row, or with none at all."""

    value: str | None
    rows: int = field(compare=False)

    def column(self, kind: Kind) -> Column:
        """The same as a column like any other."""
        return column(kind, [self.value] * self.rows)


_NONE = type(None)
_PYTHON: dict[Kind, type] = {"float": float, "int": int, "str": str, "bool": bool}
_Masked = tuple[NDArray[Any], NDArray[np.bool_]]
_Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
_Lists = list[list[_Int32] | None]
_json = msgspec.json.Encoder().encode


def constant(kind: Kind, values: Values) -> Constant | None:
    """`values`, not empty, as a constant: all missing or the same text; None for any others."""
    first = values[0]
    if first is not None and not (kind == "str" and type(first) is str):
        return None
    same = first == values[-1] and values.count(first) == len(values)
    return Constant(first, len(values)) if same else None


def column(kind: Kind, values: Values) -> Column:
    """`values` of one column, None where missing, as numpy wants them."""
    types = set(map(type, values))
    data, missing = _convert(kind, values, types)
    given = values.count(None) if _NONE in types else 0
    return Column(data, missing, int(np.count_nonzero(missing)) - given)


def _convert(kind: Kind, values: Values, types: set[type]) -> _Masked:
    if kind == "ints":
        return _objects([None if v is None else _json(v).decode() for v in _lists(values)])
    if not types <= {_PYTHON[kind], _NONE}:
        values = kept(kind, values)
    if kind == "float":
        data = np.array(values, dtype=np.float64)
        return data, ~np.isfinite(data)
    if kind == "int":
        return _integers(values)
    if kind == "bool":
        return np.array([v is True for v in values]), _absent(values)
    return _objects(values)


def kept(kind: Kind, values: Values) -> list[Any]:
    """`values` with everything made None that a column of `kind` cannot hold exactly."""
    return [_exact(kind, v) for v in values]


def _exact(kind: Kind, value: Any) -> Any:
    if kind == "float" and type(value) is int and abs(value) <= 2**53:
        return float(value)
    if kind == "int" and type(value) is float and value.is_integer() and int(value) in INT64:
        return int(value)
    return value if fits(kind, value) else None


def _integers(values: Values) -> _Masked:
    if None not in values:
        try:
            return np.array(values, dtype=np.int64), np.zeros(len(values), dtype=np.bool_)
        except OverflowError:
            values = kept("int", values)
    elif any(v is not None and v not in INT64 for v in values):
        values = kept("int", values)
    return np.array([v or 0 for v in values], dtype=np.int64), _absent(values)


def _lists(values: Values) -> Values:
    try:
        return msgspec.convert(values, _Lists)
    except msgspec.ValidationError:
        return kept("ints", values)


def _objects(values: Values) -> _Masked:
    data = np.empty(len(values), dtype=object)
    data[:] = values
    return data, _absent(values)


def _absent(values: Values) -> NDArray[np.bool_]:
    if None not in values:
        return np.zeros(len(values), dtype=np.bool_)
    return np.array([v is None for v in values], dtype=np.bool_)
