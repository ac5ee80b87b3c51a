"""A run directory in, figures out: ended runs, killed runs, damaged runs."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.synthetic_run import (
    Story,
    manifest,
    ns,
    polls_of_generator,
    request,
    scenario,
    story,
    write_run,
)
from tokenswarm.analysis.figures import STRATA, Summary
from tokenswarm.analysis.run import Analysis, analyse
from tokenswarm.errors import UsageError
from tokenswarm.report.finish import exit_code, finish
from tokenswarm.store import parquet
from tokenswarm.store.rundir import Manifest, RunDir
from tokenswarm.store.schema import GENERATOR, REQUEST


def small(*rows: list[Any], seconds: int = 10, **health: Any) -> Story:
    """A run of `rows` and a healthy generator."""
    told = Story(duration_s=float(seconds))
    for made in rows:
        told.put("request", made)
    for made in polls_of_generator(seconds, **health):
        told.put("generator", made)
    return told


def ran(path: Path, told: Story, facts: Manifest | None = None, *gates: str) -> Analysis:
    return analyse(write_run(path, told, facts), gates)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, Story, Analysis]:
    told = story(seed=4, duration_s=30, users=5)
    gates = ["cold_starts.count > 0", "swaps.count < 1000"]
    facts = manifest(told, scenario=scenario(gates=gates), load_end_unix_ns=ns(30))
    run = write_run(tmp_path_factory.mktemp("whole"), told, facts)
    return run, told, analyse(run)


def test_every_request_is_counted_once(whole: tuple[RunDir, Story, Analysis]) -> None:
    _, told, done = whole
    s = done.summary
    assert s.requests == len(told.rows["request"]) == sum(m.requests for m in s.models.values())
    for m in s.models.values():
        assert sum(part.requests for part in m.strata.values()) == m.requests
        assert sum(m.by_status.values()) == m.requests
        assert list(m.strata) == list(STRATA)


def test_tokens_of_the_run_are_the_servers(whole: tuple[RunDir, Story, Analysis]) -> None:
    _, told, done = whole
    s = done.summary
    at = REQUEST.columns.index("output_tokens")
    assert sum(m.output_tokens or 0 for m in s.models.values()) == sum(
        r[at] for r in told.rows["request"]
    )
    rates = [m.output_tok_s or 0.0 for m in s.models.values()]
    assert s.output_tok_s == pytest.approx(sum(rates))


def test_all_loads_are_cold_starts_and_those_with_a_victim_are_swaps(
    whole: tuple[RunDir, Story, Analysis],
) -> None:
    _, told, done = whole
    assert done.summary.cold_starts.count == len(told.loads)
    assert done.summary.swaps.count == sum(k.victim is not None for k in told.loads)
    assert done.summary.verdict == "good"
    assert done.summary.generator.lost is None


def test_analysing_twice_gives_the_same_files(whole: tuple[RunDir, Story, Analysis]) -> None:
    run, _, _ = whole
    first = run.summary.read_bytes()
    rows = {m: parquet.read(run, m) for m in ("swap", "request_stratum", "request")}
    analyse(run)
    assert run.summary.read_bytes() == first
    for measurement, before in rows.items():
        after = parquet.read(run, measurement)
        assert all(before[c].tolist() == after[c].tolist() for c in before if c != "gaps_us")


def test_strata_and_events_are_rows_of_the_schema(
    whole: tuple[RunDir, Story, Analysis],
) -> None:
    run, told, done = whole
    strata = parquet.read(run, "request_stratum")
    assert sorted(strata["id"]) == sorted(r[9] for r in told.rows["request"])
    assert all(np.diff(strata["time_ns"]) > 0)
    events = parquet.read(run, "swap")
    assert list(events["trigger_id"]) == [e.trigger_id for e in done.summary.swaps.events]
    assert all(np.diff(events["time_ns"]) > 0)


def test_summary_json_reads_back_as_it_was(whole: tuple[RunDir, Story, Analysis]) -> None:
    run, _, done = whole
    assert msgspec.json.decode(run.summary.read_bytes(), type=Summary) == done.summary
    keys = list(json.loads(run.summary.read_bytes()))
    assert keys[:6] == ["schema", "run_id", "scenario", "simulated", "verdict", "reasons"]


def test_a_gate_that_failed_makes_the_verdict(tmp_path: Path) -> None:
    told = small(request("tinyllama", 1.0))
    done = ran(tmp_path, told, None, "requests > 1", "requests > 0")
    assert done.summary.verdict == "gate_failed"
    assert done.summary.reasons == ["gate requests > 1: 1 is not > 1"]
    assert exit_code(done.summary) == 1


def test_a_gate_with_an_unknown_path_is_refused_before_any_file_is_written(tmp_path: Path) -> None:
    run = write_run(tmp_path, small(request("tinyllama", 1.0)))
    with pytest.raises(UsageError, match=r"did you mean 'models\.tinyllama'"):
        analyse(run, ["models.tinylama.requests > 0"])
    assert not run.summary.exists()


def test_a_run_without_an_ok_request_is_not_valid(tmp_path: Path) -> None:
    failed = request("tinyllama", 1.0, None, status="error", error_kind="http", http_status=500)
    done = ran(tmp_path, small(failed), None, "requests > 5")
    assert done.summary.verdict == "not_valid"
    assert done.summary.reasons[0] == "none of 1 requests ended ok"
    assert exit_code(done.summary) == 3


def test_an_empty_run_is_not_valid(tmp_path: Path) -> None:
    done = ran(tmp_path, small())
    assert (done.summary.verdict, done.summary.requests) == ("not_valid", 0)
    assert done.summary.success_ratio is None
    assert done.summary.models["tinyllama"].ttft_s.n == 0


@pytest.mark.parametrize(
    ("health", "load", "reason"),
    [
        ({"records_dropped": 3}, "closed", "dropped 3 records"),
        ({"loop_lag_s": 0.26}, "closed", "stood still for over 250 ms in 10 of 10 seconds"),
        ({"late_starts": 1}, "open", "100% of the requests were sent over 10 ms late"),
        ({"late_starts": 1}, "closed", None),  # a closed loop has no schedule to be late for
        ({"loop_lag_s": 0.25}, "open", None),
        ({"cpu_ratio": 0.95}, "closed", "over 90% of a processor in 10 of 10 seconds"),
        ({"cpu_ratio": 0.3, "cpu_wait_ratio": 0.65}, "closed", "use more workers, or a host"),
        ({"cpu_ratio": 0.3, "cpu_wait_ratio": 0.5}, "closed", None),
    ],
)
def test_a_generator_that_did_not_keep_up_makes_the_run_invalid(
    tmp_path: Path, health: dict[str, Any], load: str, reason: str | None
) -> None:
    told = small(*(request("tinyllama", i / 2) for i in range(10)), **health)
    facts = manifest(told, scenario=scenario(load={"kind": load, "rate": 2, "users": 1}))
    done = ran(tmp_path, told, facts)
    wanted = "good" if reason is None else "not_valid" if load_broke(reason) else "client_bound"
    assert done.summary.verdict == wanted
    assert (exit_code(done.summary) == 3) == (reason is not None)
    assert reason is None or reason in done.summary.reasons[0]


def load_broke(reason: str) -> bool:
    return reason.startswith("dropped")


def test_what_requests_waited_in_the_generator_is_stated_without_connecting(
    tmp_path: Path,
) -> None:
    rows = [request("tinyllama", i / 2) for i in range(10)]
    at = {name: REQUEST.columns.index(name) for name in ("t_intended_s", "t_sent_s", "connect_s")}
    for number, row in enumerate(rows):
        row[at["t_intended_s"]] = row[at["t_sent_s"]] - 0.030 - number / 1000
        row[at["connect_s"]] = 0.010
    found = ran(tmp_path, small(*rows)).summary.generator.self_delay_s
    assert found.n == 10
    assert found.p99 == pytest.approx(0.029)


@pytest.mark.parametrize(
    ("stalls", "seconds", "verdict"),
    [
        (1, 10, "good"),  # a hiccup of the host
        (2, 10, "good"),
        (3, 10, "client_bound"),
        (5, 100, "good"),  # 5 % is the bound
        (6, 100, "client_bound"),
    ],
)
def test_a_hiccup_is_stated_and_many_make_the_run_invalid(
    tmp_path: Path, stalls: int, seconds: int, verdict: str
) -> None:
    told = small(request("tinyllama", 1.0), seconds=seconds)
    at = GENERATOR.columns.index("loop_lag_s")
    for made in told.rows["generator"][:stalls]:
        made[at] = 0.3
    summary = ran(tmp_path, told).summary
    assert (summary.verdict, summary.generator.stalled_s) == (verdict, stalls)


def test_a_killed_run_ends_at_its_last_row_and_says_what_is_missing(tmp_path: Path) -> None:
    told = small(request("tinyllama", 1.0), request("tinyllama", 8.0), seconds=9)
    done = ran(tmp_path, told, manifest(told, ended=False))
    s = done.summary
    assert s.verdict == "good"  # a stated loss does not make the rest invalid
    assert s.duration_s == pytest.approx(9.0)
    assert s.generator.lost == (
        "w0: it never reported its end, its last row is at 9.0 s, what it had not written by then "
        "is lost"
    )


def test_a_torn_spool_is_stated_and_what_is_before_it_counts(tmp_path: Path) -> None:
    told = small(*(request("tinyllama", i / 10) for i in range(50)))
    run = write_run(tmp_path, told, manifest(told, ended=False))
    segment = next(run.spool.glob("w0*"))
    segment.write_bytes(segment.read_bytes() + b"torn")
    s = analyse(run).summary
    assert s.requests == 50
    assert "4 bytes unreadable" in (s.generator.lost or "")
    assert any("4 more not read" in note for note in s.notes)


def test_rows_that_went_missing_without_a_trace_make_the_run_invalid(tmp_path: Path) -> None:
    told = small(request("tinyllama", 1.0))
    facts = msgspec.structs.replace(manifest(told), ended={"w0": 99})
    s = ran(tmp_path, told, facts).summary
    assert s.verdict == "not_valid"
    assert s.reasons == ["w0: 88 rows are gone without a trace"]
    assert s.generator.lost == "w0: 88 of 99 rows are not here"


def test_a_run_without_a_scenario_names_the_models_of_its_requests(tmp_path: Path) -> None:
    told = small(request("mine", 1.0))
    s = ran(tmp_path, told, manifest(told, scenario=None)).summary
    assert list(s.models) == ["mine"]
    assert s.models["mine"].goodput_rps is None


def test_errors_are_grouped_with_the_first_text(tmp_path: Path) -> None:
    def failed(at: float, text: str | None) -> list[Any]:
        return request(
            "yi", at, None, status="error", error_kind="http", http_status=503, error_text=text
        )

    cut = request("yi", 5.0, None, status="cut", error_kind="cut")
    told = small(request("yi", 0.5), failed(3.0, None), failed(1.0, "busy"), cut)
    errors = ran(tmp_path, told).summary.errors
    assert [(e.kind, e.status, e.http_status, e.count, e.example) for e in errors] == [
        ("http", "error", 503, 2, "busy"),
        ("cut", "cut", None, 1, None),
    ]
    assert errors[0].first_s == 2.0  # sent at 1, ended at 2


def test_finishing_a_run_writes_the_page_and_prints_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path, story(seed=1, duration_s=10))
    summary = finish(run.path, ["requests > 0"])
    assert exit_code(summary) == 0
    assert run.report.read_text("utf-8").startswith("<!doctype html>")
    printed = capsys.readouterr().out
    assert f"report: {run.report}" in printed
    assert "pass  requests > 0" in printed


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give the directory of one run"):
        finish(tmp_path)
