"""Cold starts and swaps held against runs whose every load is known."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from tests.synthetic_run import GIB, T0_NS, Row, Story, request, row, story
from tokenswarm.analysis.columns import Columns, columns_of
from tokenswarm.analysis.figures import SwapEvent
from tokenswarm.analysis.requests import Requests, requests
from tokenswarm.analysis.residency import Stay, engine_stays, process_stays
from tokenswarm.analysis.swaps import Found, find
from tokenswarm.analysis.vram import DeviceMemory, device_memories

SIDES = ["client+engine+gpu", "client+engine", "client+gpu", "engine+gpu", "engine", "gpu"]


@cache
def told(seed: int) -> Story:
    return story(seed=seed, duration_s=40, users=3 + seed)


def columns(told: Story, measurement: str) -> Columns:
    return columns_of(measurement, told.rows.get(measurement, []))


def looked(told: Story, sides: str) -> Found:
    """What is found in `told` when only `sides` could see it."""
    table = requests(columns(told, "request"))
    if "client" not in sides:  # an OpenAI API tells no load times
        table = replace(table, load=np.full(len(table), np.nan))
    stays: list[Stay] = []
    memories: list[DeviceMemory] = []
    if "engine" in sides:
        stays += engine_stays(columns(told, "residency"), columns(told, "engine"), T0_NS)
    if "gpu" in sides:
        stays += process_stays(columns(told, "gpu_process"), columns(told, "gpu"), T0_NS)
        memories = device_memories(columns(told, "gpu"), T0_NS)
    return find(table, stays, memories, T0_NS)


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_load_is_found_once_with_the_request_that_caused_it(seed: int, sides: str) -> None:
    events = looked(told(seed), sides).events
    assert sorted(e.trigger_id for e in events) == sorted(k.trigger for k in told(seed).loads)


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_displaced_model_is_the_one_that_left(seed: int, sides: str) -> None:
    victims = {e.trigger_id: e.model_out for e in looked(told(seed), sides).events}
    assert victims == {k.trigger: k.victim or "none" for k in told(seed).loads}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_client_alone_finds_the_loads_but_knows_of_no_victim(seed: int) -> None:
    events = looked(told(seed), "client").events
    assert sorted(e.trigger_id for e in events) == sorted(k.trigger for k in told(seed).loads)
    assert {(e.confidence, e.displaced, e.model_out) for e in events} == {("hint", None, "none")}


def test_without_any_evidence_nothing_is_invented() -> None:
    found = looked(told(1), "")
    assert found.events == []
    assert set(found.strata.name) == {"warm"}


def test_two_sides_confirm_one_engine_is_probable() -> None:
    assert {e.confidence for e in looked(told(2), "client+engine+gpu").events} == {"confirmed"}
    assert {e.evidence for e in looked(told(2), "client+engine+gpu").events} == {
        "client+engine+gpu"
    }
    alone = looked(told(2), "engine").events
    # a late first token stands beside the engine where the model was ever warm, else nothing does
    assert {e.confidence for e in alone} <= {"confirmed", "probable"}


def test_marks_lie_within_the_precision_of_the_side_that_gave_them() -> None:
    truth = {k.trigger: k for k in told(3).loads}
    for e in looked(told(3), "client+engine+gpu").events:
        load = truth[e.trigger_id]
        assert e.t0_s == pytest.approx(load.t0, abs=0.005)
        assert e.t4_s == pytest.approx(load.ready, abs=0.005)
        assert e.t3_s == pytest.approx(load.start, abs=0.075)  # 1.5 samples at 20 Hz
        if load.victim:
            assert e.t1_s == pytest.approx(load.evict, abs=0.075)
            assert e.marks_from["t1"] == "gpu"
        known = [t for t in (e.t0_s, e.t1_s, e.t2_s, e.t3_s, e.t4_s, e.t5_s) if t is not None]
        assert known == sorted(known)


def test_costs_are_those_of_the_trigger() -> None:
    table = requests(columns(told(1), "request"))
    ttft = dict(zip(table.id, table.ttft, strict=True))
    found = looked(told(1), "client+engine+gpu")
    warm = {
        m: np.median(table.ttft[(table.model == m) & (found.strata.name == "warm")])
        for m in ("tinyllama", "qwen")
    }
    for e in found.events:
        assert e.latency_s == pytest.approx(ttft[e.trigger_id])
        if e.model_in in warm:
            assert e.penalty_s == pytest.approx(ttft[e.trigger_id] - warm[e.model_in], abs=0.02)


def test_vram_shows_the_trough_between_victim_and_load() -> None:
    events = [e for e in looked(told(1), "client+engine+gpu").events if e.displaced]
    for e in events:
        seen = (e.vram_before_bytes, e.vram_trough_bytes, e.vram_peak_bytes, e.vram_after_bytes)
        before, trough, peak, after = (v or 0 for v in seen)
        assert GIB // 2 <= trough <= before
        assert trough <= after <= peak <= 12 * GIB


def test_events_count_their_waiters_and_collateral_once() -> None:
    found = looked(told(3), "client+engine+gpu")
    names = list(found.strata.name)
    assert sum(e.waiters for e in found.events) == names.count("swap_waiter")
    assert sum(e.collateral for e in found.events) == names.count("swap_collateral")
    assert names.count("swap_trigger") == len(found.events)


# -- single situations, by hand ---------------------------------------------------------------
def polls(model: str, *states: tuple[float, str]) -> list[Row]:
    return [
        row("residency", at_s=at, target="box", engine="ollama", model=model, state=state)
        for at, state in states
    ]


def from_rows(
    asked: list[Row], residency: list[Row] | None = None, speed: float = 1.0
) -> list[SwapEvent]:
    table: Requests = requests(columns_of("request", asked))
    stays = engine_stays(columns_of("residency", residency or []), columns_of("engine", []), T0_NS)
    return find(table, stays, [], T0_NS, speed).events


def test_a_long_load_time_on_a_model_resident_throughout_is_no_cold_start() -> None:
    held_up = request("tinyllama", 5.0, 2.1, server_load_s=2.0)
    heartbeat = polls("tinyllama", *((t / 2, "resident") for t in range(20)))
    assert from_rows([held_up], heartbeat) == []
    assert [e.confidence for e in from_rows([held_up])] == ["hint"]


def test_requests_that_wait_for_one_load_are_one_event() -> None:
    asked = [
        request("yi", 1.0 + i / 10, 3.0 - i / 10, server_load_s=2.9 - i / 10) for i in range(5)
    ]
    (event,) = from_rows(asked)
    assert (event.trigger_id, event.waiters) == ("yi@1", 4)


def test_a_model_that_comes_back_later_is_a_second_event() -> None:
    asked = [
        request("yi", 1.0, 2.1, server_load_s=2.0),
        request("yi", 6.0, 0.1, server_load_s=0.004),
        request("yi", 400.0, 2.1, server_load_s=2.0),
    ]
    assert [e.trigger_id for e in from_rows(asked)] == ["yi@1", "yi@400"]


def test_requests_let_go_when_another_models_load_ended_are_collateral() -> None:
    asked = [
        request("yi", 1.0, 3.1, server_load_s=3.0),
        request("tinyllama", 2.0, 2.1, server_load_s=2.002),
        request("tinyllama", 3.5, 0.6, server_load_s=0.502),
        *(request("tinyllama", 10.0 + i, 0.05, server_load_s=0.002) for i in range(5)),
    ]
    (event,) = from_rows(asked)
    assert (event.trigger_id, event.collateral) == ("yi@1", 2)


@pytest.mark.parametrize(
    ("warm_load_s", "load_s", "events"),
    [
        (0.002, 0.04, 0),  # below 50 ms nothing loads
        (0.002, 0.06, 1),
        (0.040, 0.15, 0),  # a slow host: five times its usual 40 ms is 200 ms
        (0.040, 0.25, 1),  # Ollama's smallest true load always counts
    ],
)
def test_the_bound_for_a_load_follows_the_models_usual_load_time(
    warm_load_s: float, load_s: float, events: int
) -> None:
    asked = [request("yi", i, 0.1, server_load_s=warm_load_s) for i in range(10)]
    asked.append(request("yi", 20.0, 0.5, server_load_s=load_s))
    assert len(from_rows(asked)) == events


def test_a_preload_that_nobody_waited_for_is_no_cold_start() -> None:
    residency = polls("yi", (0.0, "absent"), (0.5, "absent"), (1.0, "resident"), (9.0, "resident"))
    assert from_rows([request("yi", 5.0, 0.1)], residency) == []


def test_a_model_resident_at_the_first_look_was_not_brought_in() -> None:
    residency = polls("yi", (0.0, "resident"), (1.0, "resident"))
    assert from_rows([request("yi", 0.1, 0.1)], residency) == []


def test_a_load_seen_as_loading_starts_there() -> None:
    residency = polls("yi", (0.0, "absent"), (1.0, "loading"), (2.0, "loading"), (3.0, "resident"))
    (event,) = from_rows([request("yi", 0.7, 2.2)], residency)
    assert (event.t0_s, event.t3_s) == (0.7, 1.0)
    assert event.t5_s == pytest.approx(2.9)
    assert event.t4_s == pytest.approx(2.9)  # seen at 3.0, but its first token was there at 2.9
    assert event.marks_from["t3"] == "engine"


def test_waking_up_is_a_kind_of_its_own() -> None:
    residency = polls("yi", (0.0, "asleep"), (1.0, "asleep"), (2.0, "resident"))
    (event,) = from_rows([request("yi", 0.7, 1.2)], residency)
    assert event.kind == "wake_l1"


def test_a_trigger_that_failed_leaves_an_event_without_latency() -> None:
    residency = polls("yi", (0.0, "absent"), (1.0, "absent"), (2.0, "resident"))
    failed = request("yi", 0.5, None, status="timeout", error_kind="total_timeout", end=5.0)
    (event,) = from_rows([failed], residency)
    assert (event.outcome, event.t5_s, event.latency_s) == ("aborted", None, None)


def test_rewarmed_is_the_first_token_of_five_quick_requests_in_a_row() -> None:
    asked = [request("yi", 0.0, 2.1, server_load_s=2.0)]
    slow = {12: 0.4}
    asked += [
        request("yi", 10.0 + i, slow.get(10 + i, 0.1), server_load_s=0.002) for i in range(12)
    ]
    (event,) = from_rows(asked)
    assert event.t6_s == pytest.approx(13.1)  # 10 and 11 are quick, 12 is not


def test_memory_that_flickers_for_one_sample_is_no_reload() -> None:
    gpu = [row("gpu", at_s=i / 20, host="h", gpu="gpu0", vram_used_bytes=GIB) for i in range(100)]
    shown = [
        row(
            "gpu_process", at_s=i / 20, host="h", gpu="gpu0", model="yi", pid=7,
            vram_used_bytes=GIB,
        )
        for i in range(20, 100) if i != 50
    ]  # fmt: skip
    stays = process_stays(columns_of("gpu_process", shown), columns_of("gpu", gpu), T0_NS)
    assert [(s.birth_s, s.went, s.process) for s in stays] == [(1.0, False, True)]


def test_a_reload_between_two_polls_is_seen_by_the_gpu() -> None:
    residency = polls("yi", *((t / 2, "resident") for t in range(40)))
    gpu = [row("gpu", at_s=i / 20, host="h", gpu="gpu0", vram_used_bytes=GIB) for i in range(400)]
    shown = [
        row(
            "gpu_process", at_s=i / 20, host="h", gpu="gpu0", model="yi",
            pid=7 if i < 205 else 8, vram_used_bytes=GIB,
        )
        for i in range(400) if not 202 <= i < 207
    ]  # fmt: skip
    stays = engine_stays(columns_of("residency", residency), columns_of("engine", []), T0_NS)
    stays += process_stays(columns_of("gpu_process", shown), columns_of("gpu", gpu), T0_NS)
    table = requests(columns_of("request", [request("yi", 10.12, 0.35, server_load_s=0.3)]))
    (event,) = find(table, stays, [], T0_NS).events
    assert (event.evidence, event.kind) == ("client+gpu", "process_cold")
