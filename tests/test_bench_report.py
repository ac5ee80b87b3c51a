"""The bench of a run that is over: what it makes is a run, what it judges is judged right."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # bench is no part of the package, and pytest knows no root

from bench import million, parquet, report  # noqa: E402
from bench.__main__ import parser  # noqa: E402
from bench.report import Cost, overruns  # noqa: E402
from tokenswarm.analysis.run import analyse  # noqa: E402
from tokenswarm.store.rundir import RunDir  # noqa: E402


def test_the_run_on_paper_is_a_valid_run_whose_swaps_are_found(tmp_path: Path) -> None:
    run = million.make(tmp_path, 3000, 8, rate=25.0)
    s = analyse(run).summary
    assert (s.requests, s.verdict) == (3000, "good")
    assert s.load_s == pytest.approx(120)
    # one model comes in each turn, the first into an empty GPU
    assert s.cold_starts.count == 120 / million.TURN_S
    waiters = sum(m.strata["swap_waiter"].requests for m in s.models.values())
    assert 0 < waiters < 0.1 * s.requests


def test_telemetry_alone_has_as_many_rows_as_wanted(tmp_path: Path) -> None:
    run = million.telemetry(tmp_path, 2000)
    assert 1800 <= report.build(run.path) <= 2000


def test_each_step_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    run = million.make(tmp_path, 200, 4)
    built = report.measured("build", run.path)
    assert built.rows > 200
    assert built.seconds > 0
    done = report.measured("report", run.path)
    assert done.rows == 200
    assert 10 * 2**20 < done.peak_bytes < 2**30
    assert RunDir(run.path).report.is_file()


@pytest.mark.parametrize(
    ("rows", "seconds", "peak", "over"),
    [
        (200_000, 14.0, 2**29, []),
        (190_000, 16.0, 2**30, []),  # within the margin of a tenth
        (100_000, 14.0, 2**29, ["spool to Parquet: 2.00 x"]),
        (200_000, 30.0, 2**29, ["seconds of analysis and report: 2.00 x"]),
        (200_000, 14.0, 2**31, ["memory of analysis and report: 2.00 x"]),
    ],
)
def test_what_is_over_its_budget_is_named(
    rows: int, seconds: float, peak: int, over: list[str]
) -> None:
    assert overruns(Cost(rows, 1.0, 1.0, 1), Cost(1, seconds, seconds, peak)) == over


def test_the_command_prints_both_and_ends_with_its_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["report", "--requests", "300", "--tokens", "4", "--telemetry-rows", "500"]
    arguments = parser().parse_args([*argv, "--dir", str(tmp_path)])
    assert report.run(arguments) in (0, 1)
    said = capsys.readouterr().out
    assert "spool to Parquet, telemetry:" in said
    assert "analysis and report:" in said
    assert list(tmp_path.iterdir()) == []


def test_spools_are_built_beside_their_floor_and_judged_by_the_median(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["parquet", "--requests", "300", "--telemetry-rows", "900", "--rounds", "1"]
    code = parquet.run(parser().parse_args([*argv, "--dir", str(tmp_path)]))
    told = capsys.readouterr().out
    assert code == ("over budget" in told)
    assert all(kind in told for kind in ("telemetry", "requests", "x floor"))
    floor = Cost(1000, 1.0, 0.004, 1)
    rounds = [parquet.Round(Cost(1000, 1.0, cpu_s, 1), floor) for cpu_s in (0.005, 0.006, 0.02)]
    assert parquet.overruns({"telemetry": rounds[:2] + rounds[:1]}) == []
    assert parquet.overruns({"requests": rounds}) == ["requests: 1.20 x"]
