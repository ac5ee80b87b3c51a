"""A measurement's file, read a column at a time: what a million rows need to fit into memory."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tokenswarm.errors import UsageError
from tokenswarm.store.parquet import connect, fetch, kinds, selection
from tokenswarm.store.rundir import RunDir
from tokenswarm.store.schema import MEASUREMENTS

FEW = 256
"""A text column with no more values than this holds each of them once, however many rows."""


class Stored(Mapping[str, NDArray[Any]]):
    """Columns of one measurement by time, as `parquet.read` gives them, each read when asked for.

    Nothing is kept: whoever asks twice reads twice. A measurement without a file has no rows.
    """

    def __init__(self, run: RunDir, measurement: str):
        m = MEASUREMENTS[measurement]
        self._kinds = kinds(m)
        self._con = connect(run.path / ".duckdb")
        self._con.execute(f'CREATE VIEW "{m.name}" AS {selection(run, m)}')
        self.name = m.name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._con.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)

    def __getitem__(self, column: str) -> NDArray[Any]:
        """UsageError: no such column."""
        if column not in self._kinds:
            raise UsageError(f"{self.name} has no column {column!r}; it has {list(self._kinds)}")
        if self._kinds[column] == "str" and (values := self._few(column)) is not None:
            return self._shared(column, values)
        found: NDArray[Any] = self.select(f'"{column}" AS found')["found"]
        return found

    def select(self, terms: str, where: str = "true", given: Sequence[object] = ()) -> Any:
        """Columns of an SQL selection, in order of time."""
        return fetch(self._con, f'SELECT {terms} FROM "{self.name}" WHERE {where}', given)

    def _few(self, column: str) -> list[str] | None:
        """The values of a text column, None when they are many."""
        sql = f'SELECT DISTINCT "{column}" AS v FROM "{self.name}" LIMIT {FEW + 1}'
        values = fetch(self._con, sql)["v"]
        return None if len(values) > FEW else [v for v in values.tolist() if v is not None]

    def _shared(self, column: str, values: list[str]) -> NDArray[np.object_]:
        objects = np.empty(len(values) + 1, dtype=object)
        objects[:-1] = values  # the one more is the None of what is missing
        code = f'coalesce(list_position(?::VARCHAR[], "{column}") - 1, ?)::USMALLINT AS code'
        sql = f'SELECT {code} FROM "{self.name}"'
        shared: NDArray[np.object_] = objects[
            np.asarray(fetch(self._con, sql, [values, len(values)])["code"])
        ]
        return shared
