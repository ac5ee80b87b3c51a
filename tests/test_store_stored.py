"""Columns read one at a time are those that are read at once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.synthetic_run import polls_of_generator, request, row, story, write_run
from tests.test_analysis_run import small
from tokenswarm.analysis.run import analyse
from tokenswarm.errors import SpoolError, UsageError
from tokenswarm.store import parquet
from tokenswarm.store.rundir import RunDir
from tokenswarm.store.spool import Writer
from tokenswarm.store.stored import FEW, Stored


def plain(values: Any) -> list[Any]:
    array: Any = np.ma.asarray(values)
    return [
        None if m else v
        for v, m in zip(array.data.tolist(), np.ma.getmaskarray(array), strict=True)
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    rows = [
        request(f"m{i % 3}", float(i), 0.1, error_text=None if i % 4 else f"text {i}", id=f"w0-{i}")
        for i in range(FEW * 2)
    ]
    made = write_run(tmp_path_factory.mktemp("run"), small(*rows))
    parquet.build(made)
    return made


def test_every_column_is_the_one_that_read_gives(run: RunDir) -> None:
    whole = parquet.read(run, "request")
    with Stored(run, "request") as columns:
        assert list(columns) == list(whole)
        for name in columns:
            if name != "gaps_us":
                assert plain(columns[name]) == plain(whole[name]), name


def test_few_texts_are_held_once_however_many_rows(run: RunDir) -> None:
    with Stored(run, "request") as columns:
        assert len({id(v) for v in columns["model"]}) == 3
        assert len(set(columns["id"])) == FEW * 2  # many: as they are


def test_an_unknown_column_is_named(run: RunDir) -> None:
    with Stored(run, "tick") as columns, pytest.raises(UsageError, match="no column 'tokens'"):
        columns["tokens"]


def test_a_measurement_without_a_file_has_no_rows(run: RunDir) -> None:
    with Stored(run, "swap") as columns:
        assert len(columns["t0_s"]) == len(columns["model_in"]) == 0


def test_a_run_stopped_before_its_first_request_has_a_file_without_rows(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "20261122t163015z-k3f9qa")
    with Writer(run.spool, "w0") as writer:
        writer.append([("generator", r) for r in polls_of_generator(2)])
    assert parquet.build(run).rows == {"generator": 2}
    assert run.parquet("request").is_file()
    assert len(parquet.read(run, "request")["time_ns"]) == 0


def test_strata_written_as_columns_are_one_a_request(tmp_path: Path) -> None:
    run = write_run(tmp_path, story(seed=4, duration_s=20))
    summary = analyse(run).summary
    found = parquet.read(run, "request_stratum")
    told = parquet.read(run, "request")
    assert len(found["id"]) == summary.requests == len(told["id"])
    assert set(found["id"]) == set(told["id"])
    assert np.all(np.diff(found["time_ns"]) > 0)
    by_id = dict(zip(told["id"], plain(told["ttft_s"]), strict=True))
    assert [by_id[i] for i in found["id"]] == plain(found["ttft_s"])
    warm = found["stratum"] == "warm"
    assert {bool(w) for w in warm} == {True, False}
    assert all((e is None) == w for e, w in zip(found["evidence"], warm, strict=True))


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"nonsense": "x"}, "nonsense"),
        ({"time_ns": np.zeros(3, dtype=np.int64)}, "want 2 x int"),
        ({"time_ns": np.zeros(2)}, "want 2 x int"),
    ],
)
def test_columns_of_another_schema_are_refused(
    tmp_path: Path, columns: dict[str, object], said: str
) -> None:
    run = RunDir.create(tmp_path, "20261122t163015z-k3f9qa")
    with pytest.raises(SpoolError, match=said):
        parquet.write_columns(run, "tick", columns, 2, "analysis")  # type: ignore[arg-type]
    assert not run.parquet("tick").exists()


def test_missing_numbers_in_columns_stay_missing(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "20261122t163015z-k3f9qa")
    columns: dict[str, Any] = {
        "time_ns": np.arange(2),
        "interval_s": np.array([np.nan, 1.0]),
        "model": "m",
    }
    assert parquet.write_columns(run, "tick", columns, 2, "analysis") == 2
    found = parquet.read(run, "tick")
    assert plain(found["interval_s"]) == [None, 1.0]
    assert plain(found["token_events"]) == [None, None]
    assert list(found["model"]) == ["m", "m"]
    assert parquet.write_columns(run, "tick", {}, 0, "analysis") == 0
    assert not run.parquet("tick").exists()


def test_a_column_that_is_the_same_in_every_row_comes_back(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "20261122t163015z-k3f9qa")
    rows = [row("tick", at_s=float(i), model="m'\"", worker="w0") for i in range(50)]
    with Writer(run.spool, "w0") as writer:
        writer.append([("tick", r) for r in rows])
        writer.append([("tick", row("tick", at_s=60.0, model="other", worker="w0"))])
    parquet.build(run)
    assert list(parquet.read(run, "tick")["model"]) == ["m'\""] * 50 + ["other"]
