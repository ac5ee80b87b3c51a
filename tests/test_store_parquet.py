import math
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import schema_rows
from tests.schema_rows import Pair, tick
from tokenswarm.errors import SpoolError, UsageError
from tokenswarm.store import parquet
from tokenswarm.store.columns import column
from tokenswarm.store.row import fits
from tokenswarm.store.rundir import RunDir
from tokenswarm.store.schema import MEASUREMENTS, Kind
from tokenswarm.store.spool import Writer, segments

KINDS: list[Kind] = ["float", "int", "str", "bool"]
RUN_ID = "20261122t163015z-k3f9qa"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path, RUN_ID)


def spool(run: RunDir, *rows: Pair, source: str = "w0") -> None:
    with Writer(run.spool, source) as writer:
        writer.append(rows)


def plain(values: Any) -> list[Any]:
    """What `read` gave as Python values, None where missing."""
    if isinstance(values, np.ma.MaskedArray):
        return list(values.tolist())
    return [v.tolist() if isinstance(v, np.ndarray) else v for v in values]


def rows_of(run: RunDir, measurement: str) -> list[tuple[Any, ...]]:
    return list(zip(*map(plain, parquet.read(run, measurement).values()), strict=True))


def request(**values: Any) -> Pair:
    m = MEASUREMENTS["request"]
    row: list[Any] = [0, *(["x"] * len(m.tags)), *([None] * len(m.fields))]
    for name, value in values.items():
        row[m.columns.index(name)] = value
    return "request", row


@given(st.lists(schema_rows.pairs(), min_size=1, max_size=3))
@settings(deadline=None, max_examples=15)
def test_files_hold_exactly_the_rows_by_time(batches: list[list[Pair]]) -> None:
    expected: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        run = RunDir.create(Path(name), RUN_ID)
        for i, batch in enumerate(batches):
            spool(run, *batch, source=f"w{i}")
            for seq, (measurement, row) in enumerate(batch):
                expected[measurement].append((*row, f"w{i}", seq))
        report = parquet.build(run)
        assert report.notes() == []
        assert report.rows == {m: len(rows) for m, rows in expected.items()}
        for measurement, rows in expected.items():
            rows.sort(key=lambda r: (r[0], r[-2], r[-1]))
            assert same(rows_of(run, measurement), rows)


def same(a: list[tuple[Any, ...]], b: list[tuple[Any, ...]]) -> bool:
    """Equal in value, type and sign of zero."""
    return list(map(repr, a)) == list(map(repr, b))


def test_text_of_every_sort_comes_back(run: RunDir) -> None:
    texts = [
        "",  # empty is not missing
        "a\0b\0",  # NUL inside and at the end
        "\u2028\u2029",  # line ends to some JSON readers
        "'\"\\,;\n\r\t",  # whatever ends a string or a line elsewhere
        "😀\U0010ffff\ufeff",  # outside 16 bits, the last code point, a byte order mark
        "null",  # a word that is not a missing value
        "NaN",
        None,
    ]
    spool(run, *(request(time_ns=i, error_text=text) for i, text in enumerate(texts)))
    parquet.build(run)
    assert plain(parquet.read(run, "request", ["error_text"])["error_text"]) == texts


def test_columns_have_the_schemas_types(run: RunDir) -> None:
    spool(run, request(gaps_us=[0, 5], slo_ok=True))
    parquet.build(run)
    with duckdb.connect() as con:
        found = con.execute(
            f"SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM "
            f"read_parquet({parquet.quoted(run.parquet('request'))}))"
        ).fetchall()
    types = dict(found)
    assert list(types) == [*MEASUREMENTS["request"].columns, "spool_source", "spool_seq"]
    wanted = {
        "time_ns": "BIGINT",
        "model": "VARCHAR",
        "ttft_s": "DOUBLE",
        "prompt_tokens": "BIGINT",
        "slo_ok": "BOOLEAN",
        "gaps_us": "INTEGER[]",
        "spool_seq": "BIGINT",
    }
    assert {name: types[name] for name in wanted} == wanted


def test_a_missing_value_stays_missing_and_is_never_0(run: RunDir) -> None:
    spool(run, request(time_ns=1), request(time_ns=2, ttft_s=0.0, plan_index=0, slo_ok=False))
    parquet.build(run)
    found = parquet.read(run, "request")
    for name in ("ttft_s", "plan_index", "slo_ok"):
        assert isinstance(found[name], np.ma.MaskedArray)
        assert np.ma.getmaskarray(found[name]).tolist() == [True, False]
    assert plain(found["ttft_s"]) == [None, 0.0]
    assert plain(found["error_text"]) == [None, None]
    assert plain(found["gaps_us"]) == [None, None]


def test_a_number_column_is_masked_even_when_nothing_is_missing(run: RunDir) -> None:
    spool(run, tick(1), tick(2))
    parquet.build(run)
    found = parquet.read(run, "tick", ["token_events", "interval_s"])
    assert all(isinstance(v, np.ma.MaskedArray) for v in found.values())
    assert found["token_events"].dtype == np.int64


@pytest.mark.parametrize(
    ("field", "value", "kept"),
    [
        ("ttft_s", math.nan, None),  # not a measurement
        ("ttft_s", -math.inf, None),
        ("ttft_s", 3, 3.0),  # an int that a double holds
        ("ttft_s", 2**53 + 1, None),  # one that it does not
        ("ttft_s", "3", None),  # text is never parsed
        ("ttft_s", True, None),
        ("plan_index", 3.0, 3),  # a float without fraction
        ("plan_index", 3.5, None),  # nothing is rounded
        ("plan_index", 2**63, None),
        ("plan_index", "3", None),
        ("plan_index", False, None),
        ("slo_ok", 1, None),
        ("error_text", 7, None),
        ("gaps_us", [0, 2**31], None),  # past 32 bits: the whole list
        ("gaps_us", [0, 1.5], None),
        ("gaps_us", [0, None], None),
        ("gaps_us", "[1]", None),
    ],
)
@pytest.mark.parametrize("beside", [None, "a value"])
def test_what_a_column_cannot_hold_is_missing_and_counted(
    run: RunDir, field: str, value: Any, kept: Any, beside: str | None
) -> None:
    good = {"ttft_s": 0.5, "plan_index": 1, "slo_ok": True, "error_text": "x", "gaps_us": [0]}
    other = good[field] if beside else None
    spool(run, request(time_ns=1, **{field: value}), request(time_ns=2, **{field: other}))
    report = parquet.build(run)
    assert plain(parquet.read(run, "request", [field])[field]) == [kept, other]
    counted = {} if kept is not None else {f"request.{field}": 1}
    assert report.refused_values == counted
    assert len(report.notes()) == len(counted)


def test_rows_of_another_schema_are_counted_by_reason(run: RunDir) -> None:
    spool(
        run,
        tick(1),
        ("tock", [1]),
        ("tick", tick(2)[1][:-1]),
        ("tick", []),
        ("tick", [None, *tick(3)[1][1:]]),
        tick(4),
    )
    report = parquet.build(run)
    assert report.rows == {"tick": 2}
    assert report.refused_rows == {
        "unknown measurement 'tock'": 1,
        "tick: 11 values, want 12": 1,
        "tick: 0 values, want 12": 1,
        "tick: no time in its first value": 1,
    }
    assert plain(parquet.read(run, "tick", ["spool_seq"])["spool_seq"]) == [0, 5]


def test_a_build_in_many_pieces_keeps_every_row(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "PIECE_ROWS", 7)
    monkeypatch.setattr(parquet, "PIECE_BYTES", 700)
    monkeypatch.setattr(parquet, "INSERT_ROWS", 30)
    with Writer(run.spool, "w0") as writer:
        for i in range(100):
            gaps = list(range(i % 9))
            writer.append([tick(i, events=i if i % 5 else None), request(time_ns=i, gaps_us=gaps)])
    report = parquet.build(run)
    assert report.rows == {"tick": 100, "request": 100}
    events = parquet.read(run, "tick", ["token_events"])["token_events"]
    assert plain(events) == [i if i % 5 else None for i in range(100)]
    lists = parquet.read(run, "request", ["gaps_us"])["gaps_us"]
    assert plain(lists) == [list(range(i % 9)) for i in range(100)]


def test_rows_of_several_sources_lie_by_time(run: RunDir) -> None:
    spool(run, tick(5), tick(1), source="w0")
    spool(run, tick(3), tick(5), source="w1")
    parquet.build(run)
    found = parquet.read(run, "tick", ["time_ns", "spool_source", "spool_seq"])
    assert list(zip(*map(plain, found.values()), strict=True)) == [
        (1, "w0", 1),
        (3, "w1", 0),
        (5, "w0", 0),
        (5, "w1", 1),
    ]


@pytest.mark.parametrize(
    "times",
    [{"w0": [1, 2, 3]}, {"w0": [1, 4], "w1": [2, 3]}, {"w0": [2], "w1": [1]}, {"w0": [2, 2, 1]},
     {"w0": [1, 2], "w1": [2, 3]}, {"w0": [1, 5], "w1": [6, 7]}],
)  # fmt: skip
@pytest.mark.parametrize("piece", [1, 2, 100])
def test_rows_lie_by_time_however_they_were_cut(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, times: dict[str, list[int]], piece: int
) -> None:
    monkeypatch.setattr(parquet, "PIECE_ROWS", piece)
    monkeypatch.setattr(parquet, "INSERT_ROWS", piece)
    for source, at in times.items():
        for t in at:
            spool(run, tick(t), source=source)
    parquet.build(run)
    found = parquet.read(run, "tick", ["time_ns", "spool_source", "spool_seq"])
    rows = [(t, source, seq) for source, at in times.items() for seq, t in enumerate(at)]
    assert list(zip(*map(plain, found.values()), strict=True)) == sorted(rows)


def test_a_file_of_several_row_groups_lies_by_time(run: RunDir) -> None:
    with Writer(run.spool, "w0") as writer:
        for i in range(0, 300_000, 5_000):
            writer.append([tick(t) for t in range(i, i + 5_000)])
    parquet.build(run)
    assert parquet.read(run, "tick", ["spool_seq"])["spool_seq"].tolist() == list(range(300_000))


def test_damage_and_gaps_are_reported_in_sentences(run: RunDir) -> None:
    with Writer(run.spool, "w0", segment_bytes=1) as writer:
        for i in range(4):
            writer.append([tick(i)])
    paths = segments(run.spool)["w0"]
    paths[1].unlink()
    paths[3].write_bytes(paths[3].read_bytes()[:-1])
    report = parquet.build(run)
    assert report.rows == {"tick": 2}
    gap, torn = report.notes()
    assert gap == "w0: rows 1 to 1 are missing"
    assert torn.startswith("w0-000003.spool: ends at byte 8,")
    assert report.sources["w0"].gaps == [(1, 2)]


def test_an_empty_spool_gives_no_files(run: RunDir) -> None:
    report = parquet.build(run)
    assert (report.rows, report.sources, report.notes()) == ({}, {}, [])
    assert [p.name for p in run.path.iterdir()] == ["spool"]
    found = parquet.read(run, "request", ["time_ns", "model", "ttft_s"])
    assert {name: (len(v), v.dtype.kind) for name, v in found.items()} == {
        "time_ns": (0, "i"),
        "model": (0, "O"),
        "ttft_s": (0, "f"),
    }


def test_a_second_build_replaces_the_first_and_leaves_no_scraps(run: RunDir) -> None:
    spool(run, tick(1))
    parquet.build(run)
    (run.path / "tick.parquet.part").write_bytes(b"left by a build that was killed")
    spool(run, tick(2))
    assert parquet.build(run).rows == {"tick": 2}
    files = ["request.parquet", "spool", "tick.parquet"]
    assert sorted(p.name for p in run.path.iterdir()) == files


def test_a_build_that_cannot_write_says_so_and_leaves_the_old_file(run: RunDir) -> None:
    spool(run, tick(1))
    parquet.build(run)
    spool(run, tick(2))
    (run.path / "tick.parquet.part").mkdir()
    with pytest.raises(SpoolError, match="cannot write Parquet"):
        parquet.build(run)
    assert len(parquet.read(run, "tick")["time_ns"]) == 1


@pytest.mark.parametrize("name", ["it's", "a[b]*?", "sp ace;--", "ünï"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    for parent in (name, "ab", "aab"):
        run = RunDir.create(tmp_path / parent, RUN_ID)
        spool(run, tick(1))
        parquet.build(run)
    odd = RunDir(tmp_path / name / RUN_ID)
    assert len(parquet.read(odd, "tick")["time_ns"]) == 1


def test_a_condition_takes_parameters(run: RunDir) -> None:
    spool(run, *(tick(i, worker=f"w{i % 2}") for i in range(6)))
    parquet.build(run)
    where = "worker = ? AND time_ns > ?"
    found = parquet.read(run, "tick", ["time_ns"], where, ["w1", 1])
    assert plain(found["time_ns"]) == [3, 5]


def test_an_unknown_column_is_named(run: RunDir) -> None:
    with pytest.raises(UsageError, match=r"tick has no column \['tokens'\]"):
        parquet.read(run, "tick", ["tokens"])


def test_a_query_sees_every_measurement_with_or_without_a_file(run: RunDir) -> None:
    spool(run, tick(1), tick(2))
    parquet.build(run)
    sql = "SELECT count(*) AS ticks, (SELECT count(*) FROM swap) AS swaps FROM tick WHERE time_ns>?"
    found = parquet.query(run, sql, [1])
    assert {name: plain(v) for name, v in found.items()} == {"ticks": [1], "swaps": [0]}


def test_derived_rows_replace_a_file_and_wrong_ones_do_not(run: RunDir) -> None:
    assert parquet.write(run, "tick", [tick(2)[1], tick(1)[1]], "analysis") == 2
    found = parquet.read(run, "tick", ["time_ns", "spool_source"])
    assert plain(found["time_ns"]) == [1, 2]
    assert plain(found["spool_source"]) == ["analysis", "analysis"]
    for wrong in ([1, 2], [*tick(1)[1][:-1], math.nan]):
        with pytest.raises(SpoolError, match="not of the schema"):
            parquet.write(run, "tick", [wrong], "analysis")
    assert len(parquet.read(run, "tick")["time_ns"]) == 2
    assert parquet.write(run, "tick", [], "analysis") == 0
    assert not run.parquet("tick").exists()


def test_duckdb_neither_installs_nor_loads_extensions(run: RunDir) -> None:
    with parquet.connect() as con:
        found = parquet.fetch(
            con, "SELECT name, value FROM duckdb_settings() WHERE name LIKE '%extensions%'"
        )
        settings = dict(zip(found["name"], found["value"], strict=True))
        assert settings["autoinstall_known_extensions"] == "false"
        assert settings["autoload_known_extensions"] == "false"
        assert settings["allow_community_extensions"] == "false"
        with pytest.raises(duckdb.Error, match="httpfs"):
            con.execute("SELECT * FROM read_csv('https://127.0.0.1:1/x')")


def test_a_build_needs_neither_pandas_nor_pyarrow(run: RunDir) -> None:
    spool(run, tick(1), request(gaps_us=[1]))
    script = (
        "import sys; from pathlib import Path\n"
        "from tokenswarm.store import parquet; from tokenswarm.store.rundir import RunDir\n"
        "sys.modules.update(pandas=None, pyarrow=None)\n"
        "print(parquet.build(RunDir(Path(sys.argv[1]))).rows)\n"
    )
    command = [sys.executable, "-c", script, str(run.path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == "{'request': 1, 'tick': 1}\n"


@given(st.sampled_from(KINDS).flatmap(schema_rows.mixed))
def test_a_column_keeps_every_value_that_fits_and_counts_the_others(
    case: tuple[Kind, list[Any]],
) -> None:
    kind, values = case
    found = column(kind, values)
    for value, kept, missing in zip(values, found.data.tolist(), found.missing, strict=True):
        if fits(kind, value):
            assert not missing
        if not missing:
            assert kept == value
            assert type(kept) is type(value) or {type(kept), type(value)} == {int, float}
    lost = [v for v, gone in zip(values, found.missing, strict=True) if gone and v is not None]
    assert found.refused == len(lost)
