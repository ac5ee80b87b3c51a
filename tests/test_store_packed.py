"""Packed rows as columns: the same as one by one, and by the fast way where they fit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests import schema_rows
from tests.schema_rows import tick
from tokenswarm.errors import SpoolError
from tokenswarm.store import packed, parquet
from tokenswarm.store.columns import Column, Constant, column
from tokenswarm.store.rundir import RunDir
from tokenswarm.store.schema import MEASUREMENTS, Kind, Measurement
from tokenswarm.store.spool import Writer

KINDS: list[Kind] = ["float", "int", "str", "bool", "ints"]
RUN_ID = "20261122t163015z-k3f9qa"
EDGES = [0, 2**7, 2**8, 2**15, 2**16, 2**31, 2**32, 2**53, 2**63]
INTS = [n for edge in EDGES for n in (edge - 1, edge, -edge - 1, -edge) if -(2**63) <= n < 2**63]


def pack(rows: Sequence[Sequence[Any]]) -> list[packed.Packed]:
    return [packed.Packed(msgspec.msgpack.encode(row)) for row in rows]


def plain(made: Column | Constant) -> list[Any]:
    """A column's values as their representation, `None` where missing; lists as JSON."""
    if isinstance(made, Constant):
        return [repr(made.value)] * made.rows
    pairs = zip(made.data.tolist(), made.missing.tolist(), strict=True)
    return [repr(None if missing else value) for value, missing in pairs]


def beside(kind: Kind, values: Sequence[Any]) -> list[Column | Constant] | None:
    """Columns of rows that hold a time and one of `values`."""
    return packed.columns(pack([[7, value] for value in values]), ["int", kind])


def rows_of_one() -> st.SearchStrategy[tuple[Measurement, list[list[Any]]]]:
    return st.sampled_from(list(MEASUREMENTS.values())).flatmap(
        lambda m: st.tuples(st.just(m), st.lists(schema_rows.row(m), min_size=1, max_size=5))
    )


@given(rows_of_one())
@settings(deadline=None, max_examples=60)
def test_rows_of_the_schema_become_what_they_hold_by_the_fast_way(
    made: tuple[Measurement, list[list[Any]]],
) -> None:
    m, rows = made
    kinds = [*parquet.kinds(m).values()][: len(m.columns)]
    found = packed.columns(pack(rows), kinds)
    assert found is not None
    for kind, mine, values in zip(kinds, found, zip(*rows, strict=True), strict=True):
        assert plain(mine) == plain(column(kind, values))
        assert not (isinstance(mine, Column) and mine.refused)


@given(st.sampled_from(KINDS).flatmap(schema_rows.mixed))
@example(("float", [1.5, float("nan"), None, float("-inf")]))
@example(("int", [2**63, 1]))
@example(("ints", [[1], [True], None]))
@settings(deadline=None, max_examples=200)
def test_strays_are_refused_as_one_by_one_or_left_to_that_way(
    strays: tuple[Kind, list[Any]],
) -> None:
    kind, values = strays
    try:
        found = beside(kind, values)
    except OverflowError:  # no place in msgpack, so never in a spool
        return
    if found is not None:
        expected = column(kind, values)
        assert plain(found[1]) == plain(expected)
        assert (found[1].refused if isinstance(found[1], Column) else 0) == expected.refused


@pytest.mark.parametrize("values", [INTS, [None, *INTS], *([n] for n in INTS)])
def test_an_integer_of_every_length_comes_back(values: list[int | None]) -> None:
    found = beside("int", values)
    assert found is not None
    assert plain(found[1]) == list(map(repr, values))


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 31, 32, 255, 256, 65_535])
@pytest.mark.parametrize("same", [True, False])
def test_text_of_every_length_comes_back(length: int, same: bool) -> None:
    texts = ["x" * length, ("x" if same else "y") * length]
    found = beside("str", texts)
    assert found is not None
    assert isinstance(found[1], Constant) == (same or not length)
    assert plain(found[1]) == list(map(repr, texts))


@pytest.mark.parametrize("at", [0, 3, 8, 15])
def test_texts_that_differ_in_one_place_are_not_the_same(at: int) -> None:
    texts = ["x" * 16, "x" * at + "z" + "x" * (15 - at), "x" * 16]
    found = beside("str", texts)
    assert found is not None
    assert plain(found[1]) == list(map(repr, texts))


@pytest.mark.parametrize(
    "rows",
    [
        [[1, "a"], [1]],  # shorter
        [[1, "a"], [1, "a", None]],  # longer
        [[1, "a"], {"a": 1}],
        [[1, "a"], [None, "a"]],  # no time
        [[1, "a"], [1, "x" * 65_536]],
        [[1, "a"], [1, 2]],
    ],
)
def test_what_is_out_of_the_ordinary_is_left_to_the_slow_way(rows: list[Any]) -> None:
    assert packed.columns(pack(rows), ["int", "str"]) is None


@pytest.mark.parametrize(
    "no_row",
    [
        msgspec.msgpack.encode({"not": "a list"}),
        msgspec.msgpack.encode([2, "bad", *tick(2)[1][2:]]).replace(b"bad", b"b\xffd"),
    ],
)
def test_what_is_no_row_is_counted_and_the_others_are_kept(tmp_path: Path, no_row: bytes) -> None:
    run = RunDir.create(tmp_path, RUN_ID)
    rows: list[Any] = [tick(1), ("tick", msgspec.Raw(no_row)), tick(3)]
    with Writer(run.spool, "w0") as writer:
        writer.append(rows)
    report = parquet.build(run)
    assert report.refused_rows == {"tick: not a row": 1}
    found = parquet.read(run, "tick", ["time_ns", "spool_seq"])
    assert [v.tolist() for v in found.values()] == [[1, 3], [0, 2]]


def test_a_derived_value_that_nothing_can_hold_is_named(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, RUN_ID)
    with pytest.raises(SpoolError, match="tick: not of the schema"):
        parquet.write(run, "tick", [[1, *["x"] * 5, 2**70, 1, 1, 1, 1, 1.0]], "analysis")
