"""Runs whose disk fills up, or does not give back what was written."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import fair, finished, records, run_dirs, scenario, tokenswarm, until
from tests.small_disk import fill, small_disk
from tokenswarm.errors import EXIT_NOT_VALID
from tokenswarm.sim import truth
from tokenswarm.sim.process import start
from tokenswarm.store.spool import frames, segments

ONE = {"name": "steady", "model": "steady", "prompt": {"kind": "text", "text": "hi"}}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 16 * 2**20) as folder:
        yield folder


@pytest.mark.slow
def test_a_disk_that_is_full_for_a_while_costs_no_record(tmp_path: Path, disk: Path) -> None:
    with start("steady", truth=tmp_path / "truth.jsonl") as box:
        file = scenario(tmp_path / "full.yaml", box.ollama_url, ONE, duration_s=9)
        process = tokenswarm("run", file, "--out", disk / "runs", cwd=tmp_path)
        until(lambda: bool(run_dirs(disk / "runs")))
        (run,) = run_dirs(disk / "runs")
        until(lambda: len(records(run)) > 100)
        fill(disk / "ballast")
        time.sleep(1)
        held = len(records(run))
        time.sleep(2)
        assert len(records(run)) == held, "the disk is not full"
        (disk / "ballast").unlink()
        code = finished(process)
    said = (tmp_path / "stderr.txt").read_text()
    assert "Traceback" not in said, said
    assert fair(code, tmp_path / "disk"), said
    told = truth.read(tmp_path / "truth.jsonl")
    got = {r["id"] for r in records(run)}
    assert {r.request_id for r in told.requests if r.request_id} <= got
    health = records(run, "generator")
    assert max(r["records_waiting"] for r in health) > 0
    assert {r["records_dropped"] for r in health} == {0}


@pytest.mark.slow
def test_a_disk_that_stays_full_ends_the_run_with_the_reason_and_the_loss_is_stated(
    tmp_path: Path, disk: Path
) -> None:
    with start("steady", truth=tmp_path / "truth.jsonl") as box:
        file = scenario(tmp_path / "full.yaml", box.ollama_url, ONE, duration_s=6)
        process = tokenswarm("run", file, "--out", disk / "runs", cwd=tmp_path)
        until(lambda: bool(run_dirs(disk / "runs")))
        (run,) = run_dirs(disk / "runs")
        until(lambda: len(records(run)) > 100)
        fill(disk / "ballast")
        code = finished(process)
    said = (tmp_path / "stderr.txt").read_text()
    assert code == EXIT_NOT_VALID
    assert "Traceback" not in said, said
    assert "No space left on device; make room" in said
    (disk / "ballast").unlink()
    kept = len(records(run))
    assert finished(tokenswarm("report", run.path, cwd=tmp_path)) in (0, EXIT_NOT_VALID)
    summary = json.loads(run.summary.read_bytes())
    assert summary["requests"] == kept
    assert "never reported its end" in summary["generator"]["lost"]


def test_a_run_on_a_full_disk_does_not_begin_and_says_why(tmp_path: Path, disk: Path) -> None:
    fill(disk / "ballast")
    with start("steady", speed=4) as box:
        file = scenario(tmp_path / "full.yaml", box.ollama_url, ONE, max_requests=20)
        code = finished(tokenswarm("run", file, "--out", disk / "runs", cwd=tmp_path))
    said = (tmp_path / "stderr.txt").read_text()
    assert code == EXIT_NOT_VALID
    assert "Traceback" not in said, said
    assert "No space left on device; make room" in said


def test_a_flipped_byte_costs_one_frame_and_the_report_says_where(tmp_path: Path) -> None:
    with start("steady", speed=4) as box:
        file = scenario(tmp_path / "flip.yaml", box.ollama_url, ONE, max_requests=300)
        assert fair(finished(tokenswarm("run", file, cwd=tmp_path)), tmp_path)
    (run,) = run_dirs(tmp_path / "runs")
    before = json.loads(run.summary.read_bytes())
    assert before["generator"]["lost"] is None
    path = segments(run.spool)["w0"][0]
    written = list(frames(path, []))
    hit = written[len(written) // 2]
    data = bytearray(path.read_bytes())
    data[hit.offset + len(hit.data) // 2] ^= 0x10
    path.write_bytes(data)
    gone = sum(name == "request" for name, _ in hit.rows())
    finished(tokenswarm("report", run.path, cwd=tmp_path))
    after = json.loads(run.summary.read_bytes())
    assert after["requests"] == before["requests"] - gone > 0
    lost = after["generator"]["lost"]
    assert f"{hit.count} of {written[-1].end} rows are not here" in lost
    assert f"{len(hit.data)} bytes unreadable: checksum differs" in lost
    assert any(path.name in note and str(hit.offset) in note for note in after["notes"])
