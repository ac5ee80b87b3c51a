"""Rows that no source has measured: what analysis made of a run, as its Parquet files hold them.

While a run goes on, a watch writes such rows to the run's spool (source LIVE). They are the live
word; once the whole run was analysed, its rows take their place.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenswarm.store.frame import Pair
from tokenswarm.store.makers import ANALYSIS, LIVE_MEASUREMENTS
from tokenswarm.store.rundir import RunDir
from tokenswarm.store.schema import MEASUREMENTS

PIECE_ROWS = 50_000


@dataclass(frozen=True, slots=True)
class Made:
    """One measurement as analysis made it; `digest` tells one making from another."""

    run: RunDir
    measurement: str
    digest: str
    rows: int

    @property
    def run_id(self) -> str:
        return self.run.read_manifest().run_id

    def pieces(self) -> Iterator[tuple[int, list[Pair]]]:
        """All rows with the number of the first, some at a time."""
        from tokenswarm.store import parquet

        where = "spool_source = ? AND spool_seq >= ? AND spool_seq < ?"
        columns = [*MEASUREMENTS[self.measurement].columns]
        for first in range(0, self.rows, PIECE_ROWS):
            between = [ANALYSIS, first, first + PIECE_ROWS]
            found = parquet.read(self.run, self.measurement, columns, where, between)
            cells = (found[name].tolist() for name in columns)
            yield first, [(self.measurement, list(row)) for row in zip(*cells, strict=True)]


def found(run: RunDir) -> list[Made]:
    """Every measurement that analysis made for `run`, live ones also when it made no row."""
    from tokenswarm.store import parquet

    made = []
    for name in MEASUREMENTS:
        path, rows = run.parquet(name), 0
        if path.is_file():
            sql = f'SELECT count(*) AS n FROM "{name}" WHERE spool_source = ?'
            rows = int(parquet.query(run, sql, [ANALYSIS])["n"][0])
        if rows:
            made.append(Made(run, name, _digest(path), rows))
        elif name in LIVE_MEASUREMENTS and final(run):
            made.append(Made(run, name, "none", 0))
    return made


def final(run: RunDir) -> bool:
    """Whether the whole run was analysed: live rows have had their day."""
    return run.summary.is_file()


def _digest(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()[:16]
