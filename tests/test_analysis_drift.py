"""Clocks that ran apart: what is moved, by how much, and what is left alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.synthetic_run import T0_NS, manifest, request, story, write_run
from tokenswarm.analysis.columns import columns_of, texts
from tokenswarm.analysis.drift import Drift, added, drifts, moved, moved_requests
from tokenswarm.analysis.requests import requests
from tokenswarm.analysis.run import analyse
from tokenswarm.clock import Clocks, Offset

MS = 1_000_000
ROUTES = {"gpu-box": "agent box:7070", "host-box": "agent box:7070", "w0": "shared"}


def compared(gained_ms: float, unsure_ms: float = 0.1, seconds: float = 600.0) -> Clocks:
    """Two clocks that were 5 ms apart at first."""
    unsure = round(unsure_ms * MS)
    last = Offset(5 * MS + round(gained_ms * MS), unsure)
    return Clocks(Offset(5 * MS, unsure), 0.0, last, seconds)


def test_an_agents_drift_is_that_of_every_source_that_came_from_it() -> None:
    found = drifts({"agent box:7070": compared(12.0)}, ROUTES)
    assert found == dict.fromkeys(("gpu-box", "host-box"), Drift(0.0, 600.0, 12 * MS))


def test_a_workers_drift_is_its_own() -> None:
    assert set(drifts({"worker w1": compared(-3.0)}, ROUTES)) == {"w1"}


@pytest.mark.parametrize(
    "clocks",
    [
        compared(0.1),  # less than both comparisons are unsure of
        compared(400.0),  # 667 ppm: somebody set the clock
        compared(3.0, seconds=0.0),  # compared once only
    ],
)
def test_what_is_no_drift_moves_nothing(clocks: Clocks) -> None:
    assert drifts({"agent box:7070": clocks}, ROUTES) == {}


def test_each_time_is_moved_by_its_share_and_other_sources_not_at_all() -> None:
    found = {"gpu-box": Drift(0.0, 600.0, 12 * MS)}
    sources = np.array(["gpu-box", "gpu-box", "w0"], dtype=object)
    add_s = added(sources, np.array([0.0, 300.0, 300.0]), found)
    assert add_s.tolist() == pytest.approx([0.0, 0.006, 0.0])


def test_rows_of_telemetry_keep_everything_but_their_time() -> None:
    t0 = 10**18
    columns = {
        "time_ns": np.array([t0 + 600 * 10**9, t0 + 600 * 10**9]),
        "spool_source": np.array(["gpu-box", "gpu-here"], dtype=object),
        "power_w": np.array([1.0, 2.0]),
    }
    after = moved(columns, t0, {"gpu-box": Drift(0.0, 600.0, 12 * MS)})
    assert (after["time_ns"] - columns["time_ns"]).tolist() == [12 * MS, 0]
    assert after["power_w"].tolist() == [1.0, 2.0]
    assert moved(columns, t0, {}) is columns


def test_a_requests_stamps_move_together_so_that_no_latency_changes() -> None:
    columns = columns_of("request", [request("yi", 300.0)])
    table = requests(columns)
    after = moved_requests(table, texts(columns, "worker"), {"w0": Drift(0.0, 600.0, 12 * MS)})
    assert (after.t_sent - table.t_sent).tolist() == pytest.approx([0.006], abs=1e-4)
    assert (after.t_first - after.t_sent).tolist() == pytest.approx(table.ttft.tolist())


def test_a_run_whose_agents_clock_drifted_has_the_swaps_of_one_whose_did_not(
    tmp_path: Path,
) -> None:
    told = story(duration_s=60)
    right = analyse(write_run(tmp_path / "right", told)).summary
    late = replace(told, rows={name: list(map(list, rows)) for name, rows in told.rows.items()})
    for name in ("gpu", "gpu_process", "residency", "engine"):
        for row in late.rows.get(name, []):  # their clock loses 24 ms in a minute
            row[0] -= round((row[0] - T0_NS) * 0.0004)
    passed = Clocks(Offset(0, 100), 0.0, Offset(24 * MS, 100), 60.0)
    facts: dict[str, Any] = {
        "clocks": {"agent box:7070": passed},
        "routes": {"sampler": "agent box:7070"},
    }
    empty: dict[str, Any] = {}
    for more, equal in ((facts, True), (empty, False)):
        run = write_run(tmp_path / str(equal), late, manifest(late, **more))
        marks = [(e.t1_s, e.t3_s, e.t4_s) for e in analyse(run).summary.swaps.events]
        wanted = [(e.t1_s, e.t3_s, e.t4_s) for e in right.swaps.events]
        assert (
            np.array(marks, float) == pytest.approx(np.array(wanted, float), abs=2e-4, nan_ok=True)
        ) is equal
