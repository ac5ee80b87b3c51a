"""The watch that a run's master starts: live rows, their end, their place after the report."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.running import (
    argv_of,
    children,
    fair,
    finished,
    records,
    run_dirs,
    scenario,
    tokenswarm,
    until,
)
from tests.services import Influxd, influxd
from tokenswarm.sim.process import start
from tokenswarm.store import parquet
from tokenswarm.store.rundir import RunDir
from tokenswarm.store.schema import MEASUREMENTS
from tokenswarm.store.spool import rows

DB = "tokenswarm"
MODELS: tuple[dict[str, Any], ...] = tuple(
    {"name": name, "model": model, "prompt": {"kind": "text", "text": "hi"}}
    for name, model in (("tinyllama", "tinyllama:1.1b"), ("qwen", "qwen2.5:3b"), ("yi", "yi:6b"))
)
DELAY_S = 2.0


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENSWARM_WATCH_DELAY_S", str(DELAY_S))


def live_rows(run: RunDir, measurement: str) -> list[dict[str, Any]]:
    """What the watch has put into the run's spool so far."""
    columns = MEASUREMENTS[measurement].columns
    return [
        dict(zip(columns, row, strict=True))
        for source, _, name, row in rows(run.spool)
        if source == "watch" and name == measurement
    ]


def watch_pid(parent: int) -> int:
    return next(pid for pid in children(parent) if " watch " in argv_of(pid))


def has_begun(folder: Path) -> bool:
    return any(d.manifest.is_file() for d in run_dirs(folder / "runs"))


@pytest.fixture
def swapping(tmp_path: Path) -> Iterator[Path]:
    """A scenario of three models on a simulated GPU with room for two."""
    with start("rtx5090-crowded", speed=4) as box:
        load = {"load": {"kind": "closed", "users": 4}, "duration_s": 60}
        yield scenario(tmp_path / "mix.yaml", box.ollama_url, *MODELS, **load)


def interrupted(process: Any, folder: Path) -> None:
    os.kill(process.pid, signal.SIGINT)
    assert fair(finished(process), folder), (folder / "stderr.txt").read_text()


@pytest.mark.live
def test_strata_are_in_the_database_while_the_run_is_on_and_equal_requests_after_it(
    swapping: Path, tmp_path: Path
) -> None:
    with influxd(tmp_path) as server:
        process = tokenswarm("run", swapping, "--influx-url", server.url, cwd=tmp_path)
        until(lambda: count(server, "request_stratum") >= 10 and count(server, "swap") >= 2, 90)
        (run,) = run_dirs(tmp_path / "runs")
        assert not run.summary.is_file(), "that was live"
        interrupted(process, tmp_path)
        asked = len(records(run))
        assert count(server, "request") == count(server, "request_stratum") == asked
        assert count(server, "swap") == json.loads(run.summary.read_bytes())["cold_starts"]["count"]
        verified = tokenswarm("verify", run.path, "--influx-url", server.url, cwd=tmp_path)
        assert finished(verified) == 0
        again = tokenswarm("ship", run.path, "--influx-url", server.url, "--bucket", "b",
                           cwd=tmp_path)  # fmt: skip
        assert finished(again) == 0
        assert count(server, "request_stratum", "b") == asked


def count(server: Influxd, measurement: str, db: str = DB) -> int:
    column = {"swap": "trigger_id"}.get(measurement, "id")
    if measurement not in (server.measurements(db) if has_database(server, db) else ()):
        return 0
    return int(server.figures(db, measurement, f"count({column})")[0] or 0)


def has_database(server: Influxd, db: str) -> bool:
    return [db] in [v for s in server.query("show databases", "") for v in s.get("values", [])]


def test_what_is_sealed_live_is_told_once_and_the_report_says_the_same(
    swapping: Path, tmp_path: Path
) -> None:
    process = tokenswarm("run", swapping, cwd=tmp_path)
    until(lambda: has_begun(tmp_path))
    (run,) = run_dirs(tmp_path / "runs")
    until(lambda: len(live_rows(run, "swap")) >= 4, 90)
    interrupted(process, tmp_path)
    live = live_rows(run, "request_stratum")
    final = parquet.read(run, "request_stratum", ["id", "stratum", "spool_source"])
    theirs = dict(zip(final["id"].tolist(), final["stratum"].tolist(), strict=True))
    ids = [row["id"] for row in live]
    assert len(ids) == len(set(ids))
    assert set(final["spool_source"].tolist()) == {"analysis"}
    assert sorted(theirs) == sorted(r["id"] for r in records(run))
    differ = [row["id"] for row in live if row["stratum"] != theirs[row["id"]]]
    assert len(differ) <= 0.1 * len(live), "known better in the end, but not much"
    swaps = live_rows(run, "swap")
    known = parquet.read(run, "swap", ["trigger_id"])["trigger_id"].tolist()
    assert len({s["trigger_id"] for s in swaps}) == len(swaps)
    assert {s["trigger_id"] for s in swaps} <= set(known)
    said = run.read_manifest().telemetry["watch"]
    assert (said["swaps"], said["requests"]) == (len(swaps), len(live))


def test_every_request_that_ended_long_enough_ago_is_sealed(swapping: Path, tmp_path: Path) -> None:
    process = tokenswarm("run", swapping, cwd=tmp_path)
    until(lambda: has_begun(tmp_path))
    (run,) = run_dirs(tmp_path / "runs")
    until(lambda: len(live_rows(run, "request_stratum")) >= 20, 90)
    before = {r["id"] for r in records(run)}

    def all_sealed() -> bool:
        return before <= {row["id"] for row in live_rows(run, "request_stratum")}

    until(all_sealed, 60)
    assert process.poll() is None, "the run is on"
    interrupted(process, tmp_path)


def test_a_watch_that_is_killed_costs_a_run_nothing_but_a_note(
    swapping: Path, tmp_path: Path
) -> None:
    process = tokenswarm("run", swapping, cwd=tmp_path)
    until(lambda: has_begun(tmp_path))
    (run,) = run_dirs(tmp_path / "runs")
    until(lambda: len(records(run)) > 5, 60)
    os.kill(watch_pid(process.pid), signal.SIGKILL)
    interrupted(process, tmp_path)
    summary = json.loads(run.summary.read_bytes())
    (note,) = [n for n in run.read_manifest().notes if "swaps were not watched" in n]
    assert note in summary["notes"]
    strata = parquet.read(run, "request_stratum", ["id"])["id"]
    assert len(strata) == len(records(run)) == summary["requests"]


@pytest.mark.slow
def test_a_watch_ends_with_a_master_that_was_killed(swapping: Path, tmp_path: Path) -> None:
    process = tokenswarm("run", swapping, cwd=tmp_path)
    until(lambda: has_begun(tmp_path))
    (run,) = run_dirs(tmp_path / "runs")
    until(lambda: bool(live_rows(run, "request_stratum")), 60)
    pid = watch_pid(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    until(lambda: not running(pid), 30)
    assert fair(finished(tokenswarm("report", run.path, cwd=tmp_path)), tmp_path)
    strata = parquet.read(run, "request_stratum", ["id"])["id"].tolist()
    assert sorted(strata) == sorted(r["id"] for r in records(run))


def running(pid: int) -> bool:
    """Whether `pid` is there and no zombie that nobody waits for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
