"""What events cost, why they came about, and what they did to the rest, by hand-made rows."""

from typing import Any

import numpy as np
import pytest

from tests.synthetic_run import GIB, T0_NS, Row, request, row
from tokenswarm.analysis.aliases import aliases_of
from tokenswarm.analysis.collateral import Collateral
from tokenswarm.analysis.columns import columns_of
from tokenswarm.analysis.correlate import thrash, with_and_without
from tokenswarm.analysis.evidence import SIDES, evidence
from tokenswarm.analysis.figures import SwapEvent
from tokenswarm.analysis.requests import Requests, requests
from tokenswarm.analysis.run import replies
from tokenswarm.analysis.swaps import Found

Rows = dict[str, list[Row]]


def held(model: str, pid: int, since: float, until: float, size: int = 2 * GIB) -> list[Row]:
    """A process with memory from `since` to `until`, at 20 Hz; it fills within 0.5 s."""
    return [
        row(
            "gpu_process", at_s=i / 20 + 1e-6, host="h", gpu="gpu0", model=model, pid=pid,
            vram_used_bytes=int(size * min(1.0, 0.3 + (i / 20 - since) * 1.4)),
        )
        for i in range(round(since * 20), round(until * 20))
    ]  # fmt: skip


def device(seconds: int, **more: Any) -> list[Row]:
    return [
        row(
            "gpu", at_s=i / 20, host="h", gpu="gpu0", vram_total_bytes=8 * GIB,
            vram_used_bytes=4 * GIB, power_w=200.0, **more,
        )
        for i in range(seconds * 20)
    ]  # fmt: skip


def look(rows: Rows, **manifest: Any) -> tuple[Found, Requests]:
    table = requests(columns_of("request", rows["request"]))
    sides = {name: columns_of(name, rows.get(name, [])) for name in SIDES}
    return evidence(sides, T0_NS, **manifest).find(table), table


def swapped() -> Rows:
    """a is resident, b comes at 5.0 and throws it out; warm requests before and after."""
    calm = [request("a", 1.0 + i / 5, 0.05) for i in range(15)]
    later = [request("b", 10.0 + i / 5, 0.06) for i in range(15)]
    trigger = request("b", 5.0, 1.5, server_load_s=1.4)
    return {
        "request": [*calm, *later, trigger],
        "gpu": device(16),
        "gpu_process": [*held("a", 1, 0.0, 5.3), *held("b", 2, 5.5, 16.0)],
    }


def one(rows: Rows, **manifest: Any) -> SwapEvent:
    (event,) = look(rows, **manifest)[0].events
    return event


def test_phases_add_up_between_the_marks() -> None:
    e = one(swapped())
    assert (e.model_in, e.model_out, e.kind, e.cause) == ("b", "a", "process_cold", "demand")
    assert e.queue_s == pytest.approx(0.3, abs=0.06)
    assert e.load_s == pytest.approx(0.9, abs=0.06)
    assert e.first_token_s == pytest.approx(0.1, abs=0.01)
    phases = (e.queue_s, e.evict_s, e.gap_s, e.load_s, e.first_token_s)
    assert sum(p or 0.0 for p in phases) == pytest.approx(e.latency_s)


def test_bytes_speed_and_share_of_the_limit() -> None:
    limits = {"limits": {"pcie_bytes_per_s": 16 * GIB}}
    e = one(swapped(), telemetry=limits)
    assert e.moved_bytes == 2 * GIB
    assert e.load_bytes_per_s == pytest.approx(2 * GIB / 0.5, rel=0.15)
    assert e.limit == "pcie"
    assert e.limit_ratio == pytest.approx(0.25, rel=0.15)
    assert one(swapped()).limit_ratio is None


def test_energy_is_power_over_the_time_from_demand_to_token() -> None:
    assert one(swapped()).energy_j == pytest.approx(200 * 1.5, rel=0.01)
    few = swapped()
    few["gpu"] = [r for i, r in enumerate(few["gpu"]) if i % 60 == 0]
    assert one(few).energy_j is None


def test_what_left_before_the_demand_was_not_displaced() -> None:
    rows = swapped()
    rows["gpu_process"] = [*held("a", 1, 0.0, 4.5), *held("b", 2, 5.5, 16.0)]
    e = one(rows)
    assert (e.model_out, e.displaced) == ("none", False)


def test_what_left_after_the_load_began_was_not_displaced() -> None:
    rows = swapped()
    rows["gpu_process"] = [*held("a", 1, 0.0, 6.0), *held("b", 2, 5.5, 16.0)]
    assert one(rows).model_out == "none"


def test_a_server_that_died_with_its_requests_is_no_victim() -> None:
    rows = swapped()
    rows["request"].append(request("a", 5.1, None, status="error", error_kind="reset", end=0.2))
    assert one(rows).model_out == "none"


def test_another_context_length_is_a_reconfiguration() -> None:
    """One model of the server under two names: the second asks for a longer context."""
    scenario = {
        "models": [
            {"name": "a", "target": "box", "model": "a:1b"},
            {"name": "a-long", "target": "box", "model": "a:1b"},
        ]
    }
    rows = swapped()
    rows["request"] = [request("a", 1.0 + i / 5, 0.05) for i in range(15)]
    rows["request"].append(request("a-long", 5.0, 1.5, server_load_s=1.4))
    rows["gpu_process"] = [*held("a", 1, 0.0, 5.3), *held("a", 2, 5.5, 16.0)]
    e = one(rows, scenario=scenario)
    assert (e.model_in, e.model_out, e.kind, e.cause) == ("a-long", "none", "reconfig", "reconfig")
    assert (e.displaced, e.left_because) == (False, "reconfig")


def test_only_models_of_one_target_and_one_name_are_the_same() -> None:
    models = [("a", "box", "m"), ("b", "box", "m"), ("c", "other", "m"), ("d", "box", "n")]
    scenario = {"models": [{"name": n, "target": t, "model": m} for n, t, m in models]}
    assert aliases_of(scenario) == {"b": "a"}


def test_a_slow_prompt_on_a_resident_model_is_neither_swap_nor_collateral() -> None:
    rows = swapped()
    rows["request"] = [request("a", 1.0 + i / 5, 0.05, server_load_s=0.0) for i in range(15)]
    rows["request"].append(request("a", 6.0, 3.0, server_load_s=0.001))
    rows["gpu_process"] = held("a", 1, 0.0, 16.0)
    found, _ = look(rows)
    assert found.events == []
    assert set(found.strata.name) == {"warm"}


def test_waiting_behind_another_models_load_is_collateral() -> None:
    rows = swapped()
    rows["gpu_process"] = [*held("a", 1, 0.0, 16.0), *held("b", 2, 5.5, 16.0)]
    rows["request"].append(request("a", 5.2, 1.3, server_load_s=1.2))
    found, table = look(rows)
    (event,) = found.events
    assert (event.model_in, event.model_out, event.collateral) == ("b", "none", 1)
    assert found.strata.name[list(table.id).index("a@5.2")] == "swap_collateral"


def test_streams_that_stood_still_are_counted_with_what_they_did_not_give() -> None:
    stalled = request("c", 4.0, 0.05, 3, gaps_us=[0, 10_000, 1_500_000], max_stall_s=1.5)
    rows = swapped()
    rows["request"].append(stalled)
    rows["gpu_process"] += held("c", 3, 0.0, 16.0)
    found, _ = look(rows)
    lost = Collateral(["a", "b", "c"], found.events, 16.0)
    lost.add(replies(columns_of("request", rows["request"]), ["a", "b", "c"]))
    assert lost.stall_s(0) == pytest.approx(1.5)
    # others give 10 tok/s when nothing comes in; in 1.4 s they gave one
    assert lost.tokens_lost(0, np.array([0.0, 5.0, 10.0]), 16.0) == pytest.approx(13.0, abs=0.1)
    tax = lost.tax_ratio(16.0)
    assert tax == pytest.approx(1.4 / 16, abs=0.02)


def test_p95_is_given_with_and_without_those_that_a_swap_touched() -> None:
    found, table = look(swapped())
    b = with_and_without(table, found.events)["b"]
    assert (b.requests, b.affected) == (16, 2)  # the trigger, and the first warm one, at t6
    assert b.ttft_all_s == 1.5
    assert b.ttft_without_s == pytest.approx(0.06)


def test_thrash_holds_swaps_against_how_often_the_mix_changes() -> None:
    found, table = look(swapped())
    quiet = thrash(table, found.events, 16.0, 0.05)
    assert quiet is not None
    assert (quiet.swaps_per_change, quiet.came_back, quiet.thrashing) == (1.0, 0.0, False)
    assert thrash(table, found.events, 0.0, None) is None
