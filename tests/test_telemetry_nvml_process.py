"""The sampler process on the stand-in driver, which it finds as it finds the real one."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fake_driver import MIB, FakeDriver, Install, card, install
from tokenswarm.store.row import check_row
from tokenswarm.store.schema import MEASUREMENTS
from tokenswarm.store.spool import rows

__all__ = ["install"]  # a fixture

pytestmark = pytest.mark.live  # the driver is compiled

WAIT_S = 30.0


@contextmanager
def sampler(spool: Path, driver: FakeDriver) -> Iterator[dict[str, Any]]:
    """A sampler process at 100 Hz; the value is what it says, at its start and then its end."""
    told = {
        "run_id": "20261122t163015z-k3f9qa", "t0_unix_ns": time.time_ns(), "spool": str(spool),
        "host": "h", "health": True, "gpu": {"source": "nvml", "interval_s": 0.01},
    }  # fmt: skip
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-m", "tokenswarm.telemetry"], stdin=pipe, stdout=pipe, text=True,
        env=driver.env,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(told) + "\n")
        process.stdin.flush()
        said = json.loads(process.stdout.readline())
        yield said
        out, _ = process.communicate(timeout=WAIT_S)
        said |= json.loads(out.splitlines()[-1])


def table(spool: Path, measurement: str) -> list[dict[str, Any]]:
    columns = MEASUREMENTS[measurement].columns
    found = []
    for _, _, name, values in rows(spool):
        check_row(name, values)
        if name == measurement:
            found.append(dict(zip(columns, values, strict=True)))
    return found


def wait_for(spool: Path, measurement: str, **wanted: Any) -> None:
    """Until a row with these values is in the spool."""
    until = time.monotonic() + WAIT_S
    while not any(wanted.items() <= row.items() for row in table(spool, measurement)):
        assert time.monotonic() < until, f"no {measurement} with {wanted}"
        time.sleep(0.05)


def test_what_the_driver_shows_over_time_is_in_the_spool(tmp_path: Path, install: Install) -> None:
    driver = install()
    driver.says("count = 2", card("gpu1"), f"gpu0.processes = 1:{7 * MIB}")
    driver.says(f"@0.5 gpu0.memory = {100 * MIB} {10 * MIB} {20 * MIB} {80 * MIB}")
    driver.says(f"@0.5 gpu0.processes = 1:{47 * MIB}", "@0.8 gpu1.lost = 1", "@1.6 gpu1.lost = 0")
    driver.says("@0.9 event = gpu0 31")
    spool = tmp_path / "spool"
    with sampler(spool, driver) as said:
        about = said["started"]["gpu"]
        wait_for(spool, "gpu", xid=31)
        wait_for(spool, "gpu", gpu="0", vram_used_bytes=70 * MIB)
        until = time.monotonic() + WAIT_S
        while not _holes(table(spool, "gpu"), "1") and time.monotonic() < until:
            time.sleep(0.05)
    assert (about["kind"], about["driver"]) == ("nvml", "580.1")
    assert [g["uuid"] for g in about["gpus"]] == ["GPU-gpu0", "GPU-gpu1"]
    assert about["calibration"]
    assert said["notes"] == []
    seen = table(spool, "gpu")
    used = [r["vram_used_bytes"] for r in seen if r["gpu"] == "0"]
    assert list(dict.fromkeys(used)) == [30 * MIB, 70 * MIB]
    held = [r["vram_used_bytes"] for r in table(spool, "gpu_process") if r["gpu"] == "0"]
    assert list(dict.fromkeys(held)) == [7 * MIB, 47 * MIB]
    assert len(_holes(seen, "1")) == 1
    assert _holes(seen, "0") == []  # the other one goes on
    energies = [r for r in seen if r["energy_j"] is not None]
    assert 0 < len(energies) < len(seen) / 5
    assert {r["source"] for r in seen} == {"nvml"}


def test_both_tiers_say_how_they_kept_their_time(tmp_path: Path, install: Install) -> None:
    driver = install()
    driver.says("count = 1")
    spool = tmp_path / "spool"
    with sampler(spool, driver):
        wait_for(spool, "agent", source="gpu-h", interval_s=0.01)
        wait_for(spool, "agent", source="gpu-h-slow", interval_s=0.5)
    slow = [r for r in table(spool, "agent") if r["source"] == "gpu-h-slow" and r["looks"]]
    for r in slow:
        assert r["looks"] <= 4  # two a second
        assert 0 < r["cost_mean_s"] <= r["cost_max_s"]
        assert r["cpu_s"] > 0


def _holes(seen: list[dict[str, Any]], gpu: str) -> list[float]:
    """Seconds of the stretches in which a GPU has no rows but the other one has ten or more."""
    holes: list[float] = []
    last_ns, others = None, 0
    for r in seen:
        if r["gpu"] != gpu:
            others += 1
            continue
        if last_ns is not None and others >= 10:
            holes.append((r["time_ns"] - last_ns) / 1e9)
        last_ns, others = r["time_ns"], 0
    return holes


def test_a_driver_that_does_not_start_is_a_note_and_no_crash(
    tmp_path: Path, install: Install
) -> None:
    driver = install()
    driver.says("error.nvmlInitWithFlags = 9")
    with sampler(tmp_path / "spool", driver) as said:
        assert said["started"]["gpu"]["kind"] == "none"
        assert "NVML does not start" in said["started"]["gpu"]["reason"]
    (note,) = said["notes"]
    assert "install the NVIDIA driver" in note
