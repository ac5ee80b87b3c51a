"""Spool to Parquet and back: one file a measurement, through DuckDB.

Columns are the schema's, in its order, then `spool_source` and `spool_seq` (who measured it, and
its number there). Rows lie by time. DuckDB never reaches out: it installs and loads no extension.
"""

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import compress, islice
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
from numpy.typing import NDArray

from tokenswarm.errors import SpoolError, UsageError
from tokenswarm.store import packed
from tokenswarm.store.columns import SQL_TYPES, Column, Constant, column, constant
from tokenswarm.store.frame import Row
from tokenswarm.store.inventory import Inventory
from tokenswarm.store.makers import LIVE
from tokenswarm.store.packed import Packed
from tokenswarm.store.row import INT64
from tokenswarm.store.rundir import RunDir
from tokenswarm.store.schema import MEASUREMENTS, Kind, Measurement
from tokenswarm.store.spool import Batch, Reader

# few enough rows that turning them into columns stays in the processor's cache
PIECE_ROWS = 2_000
PIECE_BYTES = 1_000_000
# enough rows that an INSERT's own cost does not show
INSERT_ROWS = 20_000
INSERT_BYTES = 10_000_000


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build made and what it could not: rows a measurement, each source's inventory.

    `refused_rows` counts rows that are not of the schema, by reason; `refused_values` values that
    their column cannot hold (NaN, a number out of range, a wrong type) and that are missing now.
    """

    rows: dict[str, int]
    sources: dict[str, Inventory]
    refused_rows: dict[str, int]
    refused_values: dict[str, int]
    seconds: float

    def notes(self) -> list[str]:
        """One sentence for everything that is not in the files; none when all is."""
        notes = []
        for source, found in self.sources.items():
            notes += [f"{source}: rows {a} to {b - 1} are missing" for a, b in found.gaps]
            notes += [
                f"{d.path.name}: ends at byte {d.offset}, {d.bytes_lost} more not read: {d.reason}"
                for d in found.damages
            ]
        notes += [f"{n} rows not taken: {why}" for why, n in self.refused_rows.items()]
        notes += [f"{what}: {n} values not taken" for what, n in self.refused_values.items()]
        return notes


def connect(scratch: Path | None = None, memory: str = "512MB") -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory that stays off the network; past `memory` it spills to `scratch`."""
    config: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "allow_community_extensions": "false",
        "memory_limit": memory,
        # object columns are text, whatever their first values look like
        "pandas_analyze_sample": "0",
    }
    if scratch is not None:
        config["temp_directory"] = str(scratch)
    return duckdb.connect(config=config)


def build(run: RunDir) -> BuildReport:
    """Write every measurement in the spool as Parquet, each file replaced in one step.

    Live rows of a watch are left to the analysis of the whole run, which makes them anew.
    One without rows gets no file, but for request: whoever looks into a run that was stopped
    before its first request finds that it has none.
    SpoolError when DuckDB or the disk fails; files that were there before are whole then.
    """
    began = time.perf_counter()
    reader = Reader(run.spool)
    refused_rows: Counter[str] = Counter()
    with _building(run) as inserter:
        tables = {m.name: _Table(inserter, m) for m in MEASUREMENTS.values()}
        for batch in reader.packed():
            if batch.source == LIVE:
                continue
            for name, (taken, seqs) in _by_measurement(batch).items():
                if name in tables:
                    tables[name].take(taken, seqs, batch.source)
                else:
                    refused_rows[f"unknown measurement {name[:60]!r}"] += len(taken)
        rows = {name: table.write(run) for name, table in tables.items() if table.flush()}
        if reader.sources and "request" not in rows:
            tables["request"].create()
            tables["request"].write(run)
    refused_values: Counter[str] = Counter()
    for table in tables.values():
        refused_rows += table.refused_rows
        refused_values += table.refused_values
    seconds = time.perf_counter() - began
    return BuildReport(rows, reader.sources, dict(refused_rows), dict(refused_values), seconds)


def write(run: RunDir, measurement: str, rows: Iterable[Row], source: str) -> int:
    """Replace `measurement`'s file by `rows`, which `source` derived; their number.

    SpoolError when a row or value is not of the schema. No rows: no file.
    """
    with _building(run) as inserter:
        table = _Table(inserter, MEASUREMENTS[measurement])
        numbered = enumerate(rows)
        while piece := list(islice(numbered, PIECE_ROWS)):
            table.take(_pack(measurement, piece), [seq for seq, _ in piece], source)
        any_rows = table.flush()
        if refused := table.refused_rows + table.refused_values:
            raise SpoolError(f"{measurement}: not of the schema: {dict(refused)}")
        if any_rows:
            return table.write(run)
    run.parquet(measurement).unlink(missing_ok=True)
    return 0


def write_columns(
    run: RunDir,
    measurement: str,
    columns: Mapping[str, NDArray[Any] | str | None],
    count: int,
    source: str,
) -> int:
    """Replace `measurement`'s file by `count` rows that `source` derived, in order of time.

    A column is an array (floats: NaN where missing; objects: None where missing) or the one text
    of all rows; one that is not named is missing. SpoolError: an array of another kind or length.
    """
    path = run.parquet(measurement)
    if not count:
        path.unlink(missing_ok=True)
        return 0
    wanted = kinds(MEASUREMENTS[measurement])
    given = {**columns, "spool_source": source, "spool_seq": np.arange(count)}
    arrays: dict[str, NDArray[Any]] = {"row": np.empty(count, dtype=np.bool_)}
    parameters = [v for name in wanted if not isinstance(v := given.get(name), np.ndarray)]
    terms = [_derived(name, kind, given.get(name), count, arrays) for name, kind in wanted.items()]
    if unknown := set(given) - set(wanted):
        raise SpoolError(f"{measurement}: not of the schema: columns {sorted(unknown)}")
    partial = path.with_name(path.name + ".part")
    with _building(run) as inserter:
        inserter.con.register("arrays", arrays)
        sql = f"COPY (SELECT {', '.join(terms)} FROM arrays) TO {quoted(partial)}"
        inserter.con.execute(
            f"{sql} (FORMAT parquet, PARQUET_VERSION v2, USE_TMP_FILE false)", parameters
        )
    partial.replace(path)
    return count


_DTYPES: dict[Kind, str] = {"float": "f", "int": "i", "bool": "b", "str": "O"}


def _derived(
    name: str, kind: Kind, value: object, count: int, arrays: dict[str, NDArray[Any]]
) -> str:
    """SQL for a column that was derived, whose data joins `arrays`."""
    if not isinstance(value, np.ndarray):
        return f'CAST(? AS {SQL_TYPES[kind]}) AS "{name}"'
    if len(value) != count or value.dtype.kind != _DTYPES.get(kind):
        raise SpoolError(f"{name}: {len(value)} x {value.dtype}, want {count} x {kind}")
    arrays[name] = value
    term = f'CASE WHEN isfinite("{name}") THEN "{name}" END' if kind == "float" else f'"{name}"'
    return f'CAST({term} AS {SQL_TYPES[kind]}) AS "{name}"'


def _pack(measurement: str, rows: Iterable[tuple[int, Row]]) -> list[Packed]:
    """Numbered rows in msgpack. SpoolError: a value that has no place there."""
    try:
        return [Packed(msgspec.msgpack.encode(row)) for _, row in rows]
    except (TypeError, ValueError, OverflowError) as e:
        raise SpoolError(f"{measurement}: not of the schema: {e}") from e


def _by_measurement(batch: Batch[Packed]) -> dict[str, tuple[list[Packed], Sequence[int]]]:
    """The rows of each measurement in a batch, and their numbers."""
    names = {name for name, _ in batch.rows}
    seqs = range(batch.first_seq, batch.first_seq + len(batch.rows))
    if len(names) == 1:
        return {names.pop(): ([row for _, row in batch.rows], seqs)}
    groups: dict[str, tuple[list[Packed], list[int]]] = {name: ([], []) for name in sorted(names)}
    for seq, (name, row) in zip(seqs, batch.rows, strict=True):
        rows, numbers = groups[name]
        rows.append(row)
        numbers.append(seq)
    return dict(groups)


class _Inserter:
    """A connection and the thread that uses it: DuckDB takes rows in while Python makes the next.

    One job at a time waits, so that memory stays bounded.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection):
        self.con = con
        self._thread = ThreadPoolExecutor(1, "parquet")
        self._job: Future[None] | None = None

    def put(self, job: Callable[[], None]) -> None:
        """Run `job` after the one before it, whose error this raises."""
        self.wait()
        self._job = self._thread.submit(job)

    def wait(self) -> None:
        job, self._job = self._job, None
        if job is not None:
            job.result()

    def close(self) -> None:
        self._thread.shutdown()
        self.con.close()


class _building:
    """An inserter to build with; DuckDB's errors become SpoolError at its end.

    Python's cycle collector rests meanwhile: rows hold no cycles, and looking for them in
    hundreds of thousands of lists costs a fifth of the time.
    """

    def __init__(self, run: RunDir):
        self._run = run
        self._inserter = _Inserter(connect(run.path / ".duckdb"))

    def __enter__(self) -> _Inserter:
        self._collects = gc.isenabled()
        gc.disable()
        return self._inserter

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._inserter.close()
        if self._collects:
            gc.enable()
        if isinstance(error, duckdb.Error):
            raise SpoolError(f"{self._run.path}: cannot write Parquet: {error}") from error


class _Table:
    """One measurement on its way: rows, then numpy columns, then a table in DuckDB."""

    def __init__(self, inserter: _Inserter, measurement: Measurement):
        self.name = measurement.name
        self.refused_rows: Counter[str] = Counter()
        self.refused_values: Counter[str] = Counter()
        self._inserter, self._con = inserter, inserter.con
        self._width = len(measurement.columns)
        self._kinds = kinds(measurement)
        self._own = list(self._kinds.values())[: self._width]
        self._rows: list[Packed] = []
        self._seqs: list[int] = []
        self._sources: list[str] = []
        self._bytes = 0
        self._pieces: list[list[Column | Constant]] = []
        self._piece_rows = self._piece_bytes = 0
        self._created = False
        self._last_ns, self._in_order = INT64.start - 1, True

    def take(self, rows: list[Packed], seqs: Sequence[int], source: str) -> None:
        """Take over rows of `source` with their numbers; pass on what has come together."""
        self._rows += rows
        self._seqs += seqs
        self._sources += [source] * len(rows)
        self._bytes += sum(map(len, rows))
        if len(self._rows) >= PIECE_ROWS or self._bytes >= PIECE_BYTES:
            self._cut_piece()

    def flush(self) -> bool:
        """Hand everything to DuckDB; whether there are rows at all."""
        if self._rows:
            self._cut_piece()
        if self._pieces:
            self._insert()
        self._inserter.wait()
        return self._created

    def create(self) -> None:
        """Make the table, unless it is there."""
        if not self._created:
            self._con.execute(f'CREATE TABLE "{self.name}" ({_declared(self._kinds)})')
            self._created = True

    def write(self, run: RunDir) -> int:
        """Write the file, in order of time, and drop the table; the number of rows."""
        path = run.parquet(self.name)
        partial = path.with_name(path.name + ".part")
        order = "" if self._in_order else "ORDER BY time_ns, spool_source, spool_seq"
        copied = self._con.execute(
            f'COPY (SELECT * FROM "{self.name}" {order}) TO {quoted(partial)} '
            "(FORMAT parquet, PARQUET_VERSION v2, USE_TMP_FILE false)"
        ).fetchone()
        self._con.execute(f'DROP TABLE "{self.name}"')
        partial.replace(path)
        return int(copied[0]) if copied else 0

    def _cut_piece(self) -> None:
        """Turn the rows at hand into columns, counting what the columns refuse."""
        piece = packed.columns(self._rows, self._own) or self._one_by_one()
        if self._rows:
            piece.append(constant("str", self._sources) or column("str", self._sources))
            piece.append(column("int", self._seqs))
            for name, made in zip(self._kinds, piece, strict=True):
                if isinstance(made, Column) and made.refused:
                    self.refused_values[f"{self.name}.{name}"] += made.refused
            self._pieces.append(piece)
            self._see_order(piece[0])
        self._piece_rows += len(self._rows)
        self._piece_bytes += self._bytes
        self._rows, self._seqs, self._sources, self._bytes = [], [], [], 0
        if self._piece_rows >= INSERT_ROWS or self._piece_bytes >= INSERT_BYTES:
            self._insert()

    def _see_order(self, times: Column | Constant) -> None:
        """Whether times still rise from row to row, as those of one source do."""
        if self._in_order and isinstance(times, Column):
            rising = bool(np.all(times.data[1:] > times.data[:-1]))
            self._in_order = rising and int(times.data[0]) > self._last_ns
            self._last_ns = int(times.data[-1])

    def _one_by_one(self) -> list[Column | Constant]:
        """Columns of rows of which some are out of the ordinary; drops what is no row."""
        found = list(map(self._decoded, self._rows))
        kept = [row is not None for row in found]
        self._rows = list(compress(self._rows, kept))
        self._seqs = list(compress(self._seqs, kept))
        self._sources = list(compress(self._sources, kept))
        cells = zip(*compress(found, kept), strict=True)
        return [
            constant(kind, values) or column(kind, values)
            for kind, values in zip(self._own, cells, strict=bool(self._rows))
        ]

    def _decoded(self, packed_row: Packed) -> Row | None:
        """The row; None, counted by reason, when it has another length, no time or is none."""
        try:
            row = msgspec.msgpack.decode(packed_row, type=Row)
        except (msgspec.DecodeError, UnicodeDecodeError):
            why = "not a row"
        else:
            if len(row) != self._width:
                why = f"{len(row)} values, want {self._width}"
            elif type(row[0]) is int and row[0] in INT64:
                return row
            else:
                why = "no time in its first value"
        self.refused_rows[f"{self.name}: {why}"] += 1
        return None

    def _insert(self) -> None:
        """Hand the pieces at hand over to DuckDB."""
        arrays: dict[str, NDArray[Any]] = {"row": np.empty(self._piece_rows, dtype=np.bool_)}
        terms, parameters = [], []
        for i, (name, kind) in enumerate(self._kinds.items()):
            parts = [piece[i] for piece in self._pieces]
            first = parts[0]
            if isinstance(first, Constant) and all(part == first for part in parts):
                terms.append(f'CAST(? AS {SQL_TYPES[kind]}) AS "{name}"')
                parameters.append(first.value)
                continue
            columns = [p.column(kind) if isinstance(p, Constant) else p for p in parts]
            terms.append(f'{_term(f"{i}", kind, columns, arrays)} AS "{name}"')
        self._pieces, self._piece_rows, self._piece_bytes = [], 0, 0
        select = f"SELECT {', '.join(terms)} FROM arrays"
        self._inserter.put(lambda: self._store(arrays, select, parameters))

    def _store(self, arrays: dict[str, NDArray[Any]], select: str, parameters: list[Any]) -> None:
        self.create()
        self._con.register("arrays", arrays)
        self._con.execute(f'INSERT INTO "{self.name}" {select}', parameters)
        self._con.unregister("arrays")


def _term(key: str, kind: Kind, parts: list[Column], arrays: dict[str, NDArray[Any]]) -> str:
    """SQL for a column, whose data joins `arrays`."""
    arrays[f"v{key}"] = np.concatenate([part.data for part in parts])
    missing = np.concatenate([part.missing for part in parts])
    term = f"""from_json(v{key}, '["INTEGER"]')""" if kind == "ints" else f"v{key}"
    if not (missing.any() and kind in ("float", "int", "bool")):
        return term
    arrays[f"m{key}"] = missing
    return f"CASE WHEN m{key} THEN NULL ELSE {term} END"


def kinds(measurement: Measurement) -> dict[str, Kind]:
    """The columns of a measurement's file and their kinds, in order."""
    found: dict[str, Kind] = {"time_ns": "int"}
    found |= dict.fromkeys(measurement.tags, "str")
    found |= {f.name: f.kind for f in measurement.fields}
    return found | {"spool_source": "str", "spool_seq": "int"}


def read(
    run: RunDir,
    measurement: str,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    parameters: Sequence[object] = (),
) -> dict[str, NDArray[Any]]:
    """Columns of a measurement by time, each (rows,); all of them unless named.

    Numbers and booleans are masked arrays, masked where missing. Text and lists are object
    arrays, None where missing. `where` is an SQL condition with `?` for `parameters`. A
    measurement without a file has no rows. UsageError: an unknown column.
    """
    m = MEASUREMENTS[measurement]
    wanted = list(kinds(m)) if columns is None else list(columns)
    if unknown := [c for c in wanted if c not in kinds(m)]:
        raise UsageError(f"{measurement} has no column {unknown}; it has {list(kinds(m))}")
    names = ", ".join(f'"{c}"' for c in wanted)
    condition = f"WHERE {where}" if where else ""
    # a file lies in order of time, and DuckDB reads it in the order in which it lies
    sql = f"SELECT {names} FROM ({selection(run, m)}) {condition}"
    with connect(run.path / ".duckdb") as con:
        return fetch(con, sql, parameters)


def query(run: RunDir, sql: str, parameters: Sequence[object] = ()) -> dict[str, NDArray[Any]]:
    """The result of `sql` over a run's measurements, each a view; arrays as `read` gives them."""
    with views(run) as con:
        return fetch(con, sql, parameters)


def views(run: RunDir) -> duckdb.DuckDBPyConnection:
    """A connection with a view for every measurement, empty where there is no file."""
    con = connect(run.path / ".duckdb")
    for m in MEASUREMENTS.values():
        con.execute(f'CREATE VIEW "{m.name}" AS {selection(run, m)}')
    return con


def fetch(
    con: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[object] = ()
) -> dict[str, NDArray[Any]]:
    """Run `sql` and give its columns as `read` does."""
    found = con.execute(sql, list(parameters)).fetchnumpy()
    return {name: _explicit(values) for name, values in found.items()}


def _explicit(values: NDArray[Any]) -> NDArray[Any]:
    data, missing = np.ma.getdata(values), np.ma.getmaskarray(values)
    if data.dtype != object:
        return np.ma.MaskedArray(data, mask=missing)
    data = data.copy()
    data[missing] = None
    return data


def selection(run: RunDir, m: Measurement) -> str:
    path = run.parquet(m.name)
    if path.is_file():
        return f"SELECT * FROM read_parquet({quoted(path)})"
    nulls = (f'NULL::{SQL_TYPES[kind]} AS "{name}"' for name, kind in kinds(m).items())
    return f"SELECT {', '.join(nulls)} WHERE false"


def _declared(columns: dict[str, Kind]) -> str:
    return ", ".join(f'"{name}" {SQL_TYPES[kind]}' for name, kind in columns.items())


def quoted(path: Path) -> str:
    """`path` as an SQL string."""
    return "'" + str(path).replace("'", "''") + "'"
