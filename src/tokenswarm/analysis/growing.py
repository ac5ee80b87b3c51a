"""Columns of measurements that grow: each row is turned into columns once, old ones are let go."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from sys import intern
from typing import Any

import numpy as np

from tokenswarm.analysis.columns import Bools, Columns, columns_of, length
from tokenswarm.store.schema import MEASUREMENTS

Row = list[Any]


@dataclass(slots=True)
class Growing:
    """The rows of one measurement so far, by column; of `wanted` columns only, if given."""

    measurement: str
    wanted: Sequence[str] | None = None
    _new: list[Row] = field(default_factory=list)
    _held: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._held = self._columns([])

    def add(self, row: Row) -> None:
        """Take one row in schema order over."""
        self._new.append(row)

    def columns(self) -> Columns:
        """Everything so far, in the order in which it came."""
        if self._new:
            more = self._columns(self._new)
            self._held = {name: _joined(values, more[name]) for name, values in self._held.items()}
            self._new = []
        return self._held

    def forget(self, before_ns: int) -> Bools | None:
        """Let go of rows from before that time; which rows stayed, None: all of them."""
        kept = np.asarray(self.columns()["time_ns"] >= before_ns, dtype=np.bool_)
        if kept.all():
            return None
        self.keep(kept)
        return kept

    def keep(self, which: Bools) -> None:
        """Let go of all rows but `which`, one flag a row in the order in which they came."""
        self._held = {name: values[which] for name, values in self.columns().items()}

    def __len__(self) -> int:
        return length(self._held) + len(self._new)

    def _columns(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Columns of `rows`; tags, which are few, share their texts."""
        tags = range(1, 1 + len(MEASUREMENTS[self.measurement].tags))
        for row in rows:
            for i in tags:
                if type(row[i]) is str:
                    row[i] = intern(row[i])
        made = columns_of(self.measurement, rows)
        return made if self.wanted is None else {name: made[name] for name in self.wanted}


def growing(wanted: Iterable[tuple[str, Sequence[str] | None]]) -> dict[str, Growing]:
    """One of them for each measurement."""
    return {name: Growing(name, columns) for name, columns in wanted}


def _joined(a: Any, b: Any) -> Any:
    masked = isinstance(a, np.ma.MaskedArray)
    return np.ma.concatenate([a, b]) if masked else np.concatenate([a, b])  # type: ignore[no-untyped-call]
