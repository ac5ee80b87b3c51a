"""Whether a database holds what a run's files hold: counts and sums, measurement by measurement."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tokenswarm.store import derived, readback
from tokenswarm.store.cursor import Place
from tokenswarm.store.frame import Pair, Row
from tokenswarm.store.influx import Database
from tokenswarm.store.lines import ENCODERS, Encoded, held, tag_of
from tokenswarm.store.makers import ANALYSIS
from tokenswarm.store.quarantine import read as quarantined
from tokenswarm.store.readback import NUMBERS, Tags, Tallies, Tally
from tokenswarm.store.schema import MEASUREMENTS, Kind
from tokenswarm.store.ship import spool_of
from tokenswarm.store.spool import Reader

CLOSE = 1e-9
"""Sums of floats may differ by this share of the sum of their amounts: another order of adding."""
DIFFERENCES = 20


@dataclass(slots=True)
class Expected:
    """What the files hold of one measurement, without what is in quarantine.

    `amounts` are the sums of absolute values, `sources` who measured, both by tags.
    """

    rows: int = 0
    left_out: int = 0
    quarantined: int = 0
    points: int = 0
    tallies: Tallies = field(default_factory=dict)
    amounts: dict[Tags, dict[str, float]] = field(default_factory=dict)
    sources: dict[Tags, set[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checked:
    """One measurement: the rows in the files, what became of them, and the values compared.

    `differences` says where files and database are not the same; none when they are.
    """

    measurement: str
    rows: int
    left_out: int
    quarantined: int
    points: int
    series: int
    values: int
    values_found: int
    differences: tuple[str, ...]


def verify(path: Path, database: Database) -> list[Checked]:
    """Compare a run directory or a spool with `database`, every measurement that has rows.

    TargetError: the database cannot be read; UsageError: it denies us, or `path` is neither.
    """
    wanted = expected(path, database)
    with readback.pool() as pool:
        found = readback.reader(database, pool)
        checked = []
        for name, e in sorted(wanted.items()):
            run_ids = sorted({tags[0] for tags in e.tallies})
            there: Tallies = {}
            for run_id in run_ids:
                there |= found.tallies(name, run_id)
            checked.append(_checked(name, e, there, found.kinds))
    return checked


def expected(path: Path, database: Database) -> dict[str, Expected]:
    """What the files at `path` hold for `database`, by measurement."""
    spool, run = spool_of(path)
    refused = {(r.source, r.measurement, r.seq) for r in quarantined(_quarantine(spool, database))}
    found: dict[str, Expected] = {}
    for batch in Reader(spool).batches():
        _add(found, batch.source, batch.first_seq, batch.rows, refused)
    for made in derived.found(run) if run else ():
        found.pop(made.measurement, None)  # analysis has the last word
        for first_seq, pairs in made.pieces():
            _add(found, ANALYSIS, first_seq, pairs, refused)
    return found


def _quarantine(spool: Path, database: Database) -> Path:
    return Place(spool, database).quarantine


def _add(
    found: dict[str, Expected],
    source: str,
    first_seq: int,
    pairs: Sequence[Pair],
    refused: set[tuple[str, str, int]],
) -> None:
    groups: dict[str, list[Row]] = {}
    for seq, (name, row) in enumerate(pairs, first_seq):
        e = found.setdefault(name, Expected())
        e.rows += 1
        if (source, name, seq) in refused:
            e.quarantined += 1
        else:
            groups.setdefault(name, []).append(row)
    for name, rows in groups.items():
        _add_rows(found[name], name, source, rows)


def _add_rows(e: Expected, name: str, source: str, rows: list[Row]) -> None:
    encoder = ENCODERS.get(name)
    good = encoder.well_formed(rows, Encoded()) if encoder else []
    e.left_out += len(rows) - len(good)
    if encoder is None:
        return
    end = 1 + len(encoder.measurement.tags)
    series: dict[Tags, list[Row]] = {}
    for row in good:
        series.setdefault(tuple(map(tag_of, row[1:end])), []).append(row)
    for tags, mine in series.items():
        e.sources.setdefault(tags, set()).add(source)
        tallies, amounts = e.tallies.setdefault(tags, {}), e.amounts.setdefault(tags, {})
        filled: Counter[int] = Counter()
        for i, f in encoder.fields:
            values = held(f.kind, [row[i] for row in mine])
            known = [(n, v) for n, v in enumerate(values) if v is not None and v == v]
            known = [(n, v) for n, v in known if f.kind != "float" or math.isfinite(v)]
            filled.update(n for n, _ in known)
            _tally(tallies, amounts, f.name, f.kind, [v for _, v in known])
        e.points += len(filled)
        e.left_out += len(mine) - len(filled)


def _tally(
    tallies: dict[str, Tally],
    amounts: dict[str, float],
    name: str,
    kind: Kind,
    values: list[float] | list[int],
) -> None:
    if not values:
        return
    before = tallies.get(name, Tally(0, 0 if kind in NUMBERS else None))
    total = None
    if before.total is not None:
        total = before.total + (math.fsum(values) if kind == "float" else sum(values))
        amounts[name] = amounts.get(name, 0.0) + math.fsum(map(abs, values))
    tallies[name] = Tally(before.count + len(values), total)


def _checked(name: str, e: Expected, there: Tallies, kinds: frozenset[Kind]) -> Checked:
    wanted = {f.name for f in MEASUREMENTS[name].fields if f.kind in kinds} if e.tallies else set()
    differences: list[str] = []
    values = found = 0
    for tags in sorted(e.tallies.keys() | there.keys()):
        mine, theirs = e.tallies.get(tags, {}), there.get(tags, {})
        values += sum(t.count for f, t in mine.items() if f in wanted)
        found += sum(t.count for f, t in theirs.items() if f in wanted)
        amounts = e.amounts.get(tags, {})
        for text in _differences(mine, theirs, amounts, sorted(wanted)):
            who = ",".join(sorted(e.sources.get(tags, ()))) or "nobody"
            differences.append(f"{name}({' '.join(tags)}, from {who}): {text}")
    shown = differences[:DIFFERENCES]
    if more := len(differences) - len(shown):
        shown.append(f"{name}: {more} more")
    return Checked(
        name, e.rows, e.left_out, e.quarantined, e.points, len(e.tallies), values, found,
        tuple(shown),
    )  # fmt: skip


def _differences(
    mine: dict[str, Tally], theirs: dict[str, Tally], amounts: dict[str, float], wanted: list[str]
) -> Iterator[str]:
    for name in wanted:
        a, b = mine.get(name, Tally(0, None)), theirs.get(name, Tally(0, None))
        if a.count != b.count:
            yield f"{name}: {a.count} values, {b.count} found"
        elif a.total is not None and b.total is not None:
            exact = isinstance(a.total, int) and isinstance(b.total, int)
            allowed = 0.0 if exact else CLOSE * amounts.get(name, 0.0)
            if abs(a.total - b.total) > allowed:
                yield f"{name}: they sum up to {a.total!r}, found {b.total!r}"


COLUMNS = ("measurement", "rows", "left out", "quarantined", "points", "series", "values", "found")


def table(checked: Sequence[Checked]) -> str:
    """The comparison for a terminal, differences below it."""
    cells = [
        (c.measurement, c.rows, c.left_out, c.quarantined, c.points, c.series, c.values,
         c.values_found, "differs" if c.differences else "same")
        for c in checked
    ]  # fmt: skip
    rows = [(*COLUMNS, ""), *(tuple(map(str, row)) for row in cells)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i in (0, len(widths) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines += [text for c in checked for text in c.differences]
    return "\n".join(lines) + "\n"
