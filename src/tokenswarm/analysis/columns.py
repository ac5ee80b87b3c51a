"""Columns of one measurement as numpy arrays, and the few ways the rest of analysis reads them."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tokenswarm.store.schema import MEASUREMENTS, Field

Floats: TypeAlias = NDArray[np.float64]
Texts: TypeAlias = NDArray[np.object_]
Bools: TypeAlias = NDArray[np.bool_]
Ints: TypeAlias = NDArray[np.int64]
Columns: TypeAlias = Mapping[str, NDArray[Any]]
"""Column name -> array; missing values are masked (numpy.ma), None or NaN."""

NS = 1e9


def floats(columns: Columns, name: str) -> Floats:
    """The column as float64, NaN where a value is missing; booleans become 0 and 1."""
    values = columns[name]
    if isinstance(values, np.ma.MaskedArray):
        return np.ma.filled(values.astype(np.float64), np.nan)
    return np.asarray(values, dtype=np.float64)  # None becomes NaN


def texts(columns: Columns, name: str) -> Texts:
    """The column as objects, None where a value is missing."""
    values = columns[name]
    if isinstance(values, np.ma.MaskedArray):
        return np.ma.filled(values.astype(object), None)
    return np.asarray(values, dtype=object)


def coded(values: Texts, names: Sequence[str]) -> Ints:
    """The place of each value among `names`. KeyError: it has none."""
    place = {name: i for i, name in enumerate(names)}
    return np.fromiter(map(place.__getitem__, values.tolist()), np.int64, len(values))


def run_seconds(columns: Columns, t0_unix_ns: int) -> Floats:
    """`time_ns` as seconds on the run's clock; subtracted as integers, so no ns is lost."""
    return np.asarray((columns["time_ns"] - np.int64(t0_unix_ns)) / NS, dtype=np.float64)


def length(columns: Columns) -> int:
    """Number of rows."""
    return len(columns["time_ns"])


def keep(columns: Columns, where: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The rows at `where` (a mask or indices)."""
    return {name: values[where] for name, values in columns.items()}


def columns_of(measurement: str, rows: Sequence[Sequence[Any]]) -> dict[str, NDArray[Any]]:
    """Rows in schema order as columns; the shape that Parquet gives back."""
    m = MEASUREMENTS[measurement]
    cells = list(zip(*rows, strict=True)) if rows else [()] * len(m.columns)
    arrays = dict(zip(m.columns, cells, strict=True))
    kinds: dict[str, Field] = {f.name: f for f in m.fields}
    return {name: _array(kinds.get(name), name, values) for name, values in arrays.items()}


def _array(field: Field | None, name: str, values: Sequence[Any]) -> NDArray[Any]:
    if name == "time_ns":
        return np.array(values, dtype=np.int64)
    kind = field.kind if field else "str"
    if kind in ("str", "ints"):
        return _objects(values)
    dtype = {"float": np.float64, "int": np.int64, "bool": np.bool_}[kind]
    return np.ma.MaskedArray(
        np.array([0 if v is None else v for v in values], dtype=dtype),
        mask=[v is None for v in values],
    )


def _objects(values: Sequence[Any]) -> Texts:
    out = np.empty(len(values), dtype=object)
    for i, v in enumerate(values):  # one by one: numpy would unfold lists of equal length
        out[i] = v
    return out
