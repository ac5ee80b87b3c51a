"""Why a model left: made room, died, slept, its time was up, or it never was there as a whole."""

import numpy as np
import pytest

from tests.synthetic_run import GIB, T0_NS, Row, request, row
from tokenswarm.analysis.columns import columns_of
from tokenswarm.analysis.figures import SwapEvent
from tokenswarm.analysis.keepalive import expired
from tokenswarm.analysis.requests import requests
from tokenswarm.analysis.residency import Stay, crashed, engine_stays, process_stays
from tokenswarm.analysis.strata import Window, strata
from tokenswarm.analysis.swaps import find
from tokenswarm.analysis.vram import device_memories

STEP_S = 0.05
END_S = 12.0


def gpu(*processes: tuple[str, int, float, float, float]) -> tuple[list[Row], list[Row]]:
    """Rows of gpu and gpu_process: (model, pid, from, to, GiB), at 20 Hz."""
    looks = np.arange(0, END_S, STEP_S)
    device, shown = [], []
    for at in looks:
        here = [(m, p, int(size * GIB)) for m, p, lo, hi, size in processes if lo <= at < hi]
        device.append(
            row("gpu", at_s=at, host="h", gpu="0", vram_used_bytes=sum(b for *_, b in here),
                vram_total_bytes=10 * GIB)
        )  # fmt: skip
        shown += [
            row("gpu_process", at_s=at, host="h", gpu="0", model=m, pid=p, vram_used_bytes=b)
            for m, p, b in here
        ]
    return device, shown


def residency(*rows: tuple[float, str, str, dict[str, float]]) -> list[Row]:
    return [
        row("residency", at_s=at, target="box", engine="ollama", model=model, state=state, **more)
        for at, model, state, more in rows
    ]


def found(
    asked: list[Row], processes: tuple[list[Row], list[Row]], told: list[Row]
) -> list[SwapEvent]:
    device, shown = (
        columns_of(n, r) for n, r in zip(("gpu", "gpu_process"), processes, strict=True)
    )
    stays = engine_stays(columns_of("residency", told), columns_of("engine", []), T0_NS)
    stays += process_stays(shown, device, T0_NS)
    table = requests(columns_of("request", asked))
    return find(table, stays, device_memories(device, T0_NS), T0_NS).events


def failed(model: str, sent: float, end: float, ttft: float | None = None) -> Row:
    """A request that broke off `end` seconds after it was sent."""
    first = None if ttft is None else sent + ttft
    return request(model, sent, None, status="error", error_kind="server_error", end=end,
                   t_first_token_s=first)  # fmt: skip


GONE = Stay("gpu", "yi", None, 1.0, 1.05, 5.0, 5.05, process=True)


@pytest.mark.parametrize(
    ("asked", "dead"),
    [
        ([failed("yi", 4.0, 1.0, ttft=0.1)], True),  # in the midst of its answer
        ([failed("yi", 4.0, 1.0)], True),  # before its first token
        ([failed("yi", 4.0, 1.4)], False),  # long after: it had waited for the next load
        ([failed("yi", 4.0, 0.6, ttft=0.1), request("yi", 4.7, 0.1)], False),  # it spoke on
        ([failed("qwen", 4.0, 1.0)], False),  # another model's
        ([failed("yi", 4.0, 1.3, ttft=1.2)], False),  # served by the next process
        ([request("yi", 4.0, 0.1)], False),
    ],
)
def test_a_model_died_when_what_it_was_serving_broke_off(asked: list[Row], dead: bool) -> None:
    assert crashed(requests(columns_of("request", asked)), GONE) == dead


def told(at_s: float, expires_s: float, start: float = 1.0, end: float = 6.0) -> Stay:
    return Stay("engine", "yi", "box", start - 1, start, end - 1, end, told_s=at_s,
                expires_s=expires_s)  # fmt: skip


@pytest.mark.parametrize(
    ("said", "up"),
    [
        (told(4.0, 5.02), True),  # idle since 3.0 + 0.13: said to go in the moment in which it went
        (told(4.0, 7.0), False),  # it could have stayed
        (told(4.0, 1.0), False),  # by a clock that is wrong
        (told(2.0, 3.85, end=3.0), True),  # said before its last answer: 1.85 s after that one
        (told(2.0, 4.9, end=3.0), False),
        (told(8.0, 9.87, start=7.0, end=10.0), True),  # said of a later stay, 1.87 s after use
    ],
)
def test_a_model_whose_time_was_up_left_by_itself(said: Stay, up: bool) -> None:
    asked = [request("yi", 1.9, 0.1, tokens=1), request("yi", 3.0, 0.1), request("yi", 7.9, 0.1,
             tokens=1)]  # fmt: skip
    assert expired(requests(columns_of("request", asked)), GONE, [said]) == up


def test_one_that_is_used_is_not_up() -> None:
    asked = [request("yi", 4.0, 0.1, tokens=200)]
    assert not expired(requests(columns_of("request", asked)), GONE, [told(4.5, 5.02)])


def test_a_newcomer_is_not_blamed_for_a_keep_alive_that_ran_out() -> None:
    asked = [request("yi", 1.0, 0.1), request("qwen", 4.98, 0.5, server_load_s=0.4)]
    told = residency(
        (0.0, "yi", "resident", {"expires_s": 300.0}), (0.0, "qwen", "absent", {}),
        (4.0, "yi", "resident", {"expires_s": 0.98}), (5.0, "qwen", "absent", {}),
        (6.0, "yi", "absent", {}), (6.0, "qwen", "resident", {"expires_s": 3.0}),
    )  # fmt: skip
    processes = gpu(("yi", 1, 0, 5.0, 6), ("qwen", 2, 5.1, END_S, 3))
    (event,) = found(asked, processes, told)
    assert (event.model_in, event.model_out) == ("qwen", "none")
    told[2] = residency((4.0, "yi", "resident", {"expires_s": 280.0}))[0]
    (event,) = found(asked, processes, told)
    assert (event.model_in, event.model_out) == ("qwen", "yi")


def test_a_load_that_was_broken_off_had_nobody_displaced_by_the_next_one() -> None:
    asked = [
        request("yi", 0.5, 0.1),
        request("tiny", 5.0, 0.8, server_load_s=0.7),
        request("tiny", 9.0, 0.1, server_load_s=0.002),
    ]
    told = residency(
        *((float(t), "yi", "resident", {}) for t in range(12)),
        *((float(t), "tiny", "absent" if t < 6 else "resident", {}) for t in range(12)),
        *((float(t), "qwen", "absent", {}) for t in range(12)),
    )
    processes = gpu(("yi", 1, 0, END_S, 4), ("qwen", 2, 4.8, 5.05, 1), ("tiny", 3, 5.2, END_S, 2))
    asked.append(request("qwen", 4.2, None, status="timeout", error_kind="total_timeout", end=0.5))
    events = {e.model_in: e.model_out for e in found(asked, processes, told)}
    assert events == {"tiny": "none"}


def test_a_process_that_sleeps_for_two_samples_had_left_its_memory() -> None:
    used = [3.0] * 20 + [0.3] * 2 + [3.0] * 20
    at = [i * STEP_S for i in range(len(used))]
    shown = [
        row("gpu_process", at_s=t, host="h", gpu="0", model="yi", pid=7,
            vram_used_bytes=int(u * GIB))
        for t, u in zip(at, used, strict=True)
    ]  # fmt: skip
    device = [row("gpu", at_s=t, host="h", gpu="0", vram_used_bytes=GIB) for t in at]
    stays = process_stays(columns_of("gpu_process", shown), columns_of("gpu", device), T0_NS)
    assert [(s.woke, s.went) for s in stays] == [(False, True), (True, False)]


def test_who_got_nothing_long_after_the_load_stood_in_line_for_another() -> None:
    asked = [
        request("yi", 1.0, None, status="timeout", error_kind="total_timeout", end=9.0, id="late"),
        request("yi", 1.001, 2.1, server_load_s=2.0, id="served"),
    ]
    (event,) = found(asked, ([], []), [])
    assert event.trigger_id == "served"
    assert event.waiters == 1  # it was sent in the same moment


def test_whoever_got_the_model_at_once_before_a_poll_saw_it_waited_for_nothing() -> None:
    gone = request("yi", 1.0, None, status="timeout", error_kind="total_timeout", end=2.0)
    asked = [gone, request("yi", 3.2, 0.1, server_load_s=0.001)]
    told = residency(*((t / 2, "yi", "absent" if t < 7 else "resident", {}) for t in range(12)))
    device, shown = (columns_of(n, r) for n, r in zip(
        ("gpu", "gpu_process"), gpu(("yi", 1, 1.4, END_S, 2)), strict=True))  # fmt: skip
    stays = engine_stays(columns_of("residency", told), columns_of("engine", []), T0_NS)
    stays += process_stays(shown, device, T0_NS)
    names = find(requests(columns_of("request", asked)), stays, [], T0_NS).strata.name
    assert list(names) == ["swap_trigger", "warm"]


def test_requests_of_one_moment_belong_to_one_load() -> None:
    table = requests(columns_of("request", [
        request("yi", 1.0, 2.0), request("yi", 1.004, 2.0), request("yi", 0.9, 2.1),
    ]))  # fmt: skip
    strata_of = strata(table, [Window("box", "yi", 1.004, 3.0, 2)])
    assert list(strata_of.name) == ["warm", "swap_waiter", "swap_trigger"]


def test_a_trigger_that_hung_up_after_its_first_token_was_the_trigger() -> None:
    asked = [
        request("yi", 1.0, 1.0, status="timeout", error_kind="total_timeout", id="first"),
        request("yi", 1.3, 0.9, server_load_s=0.88, id="let go later"),
    ]
    told = residency(*((t / 2, "yi", "absent" if t < 5 else "resident", {}) for t in range(12)))
    (event,) = found(asked, gpu(("yi", 1, 1.4, END_S, 2)), told)
    assert (event.trigger_id, event.waiters) == ("first", 1)


@pytest.mark.parametrize(
    ("levels", "kind"),
    [([2.0], "wake_l2"), ([1.0], "wake_l1"), ([], "wake_l1")],
)
def test_how_deep_a_model_slept_is_what_its_engine_says(levels: list[float], kind: str) -> None:
    more = {"sleep_level": levels[0]} if levels else {}
    told = residency((0.0, "yi", "resident", {}), (1.0, "yi", "asleep", more),
                     (2.0, "yi", "asleep", more), (3.0, "yi", "resident", {}))  # fmt: skip
    (event,) = found([request("yi", 2.1, 0.8)], ([], []), told)
    assert event.kind == kind


def test_a_load_in_part_is_known_by_its_memory_where_polls_missed_it() -> None:
    part = {"vram_bytes": 3.0 * GIB, "size_bytes": 5.0 * GIB}
    told = residency((0.0, "yi", "absent", {}), (1.0, "yi", "absent", {}),
                     (2.0, "yi", "partial", part), (3.0, "yi", "absent", {}),
                     (11.0, "yi", "absent", {}))  # fmt: skip
    asked = [request("yi", sent, 0.6, server_load_s=0.5) for sent in (1.1, 5.1, 8.1)]
    processes = gpu(("yi", 1, 1.3, 2.9, 3.3), ("yi", 2, 5.3, 5.9, 3.5), ("yi", 3, 8.3, 8.9, 5.3))
    outcomes = [e.outcome for e in found(asked, processes, told)]
    assert outcomes == ["partial_offload", "partial_offload", "ok"]


@pytest.mark.parametrize("late_s", [0.0, 0.4])
def test_a_request_that_came_late_to_its_server_waited_for_the_same_load(late_s: float) -> None:
    def asked(model: str, sent: float, ready: float, came: float) -> Row:
        load = ready - came
        return request(model, sent, ready + 0.02 - sent, server_load_s=load,
                       server_prompt_eval_s=0.02, server_total_s=load + 0.05)  # fmt: skip

    rows = [asked("yi", 1.0, 3.0, 1.0), asked("yi", 1.5, 3.0, 1.5 + late_s)]
    told = residency(*((t / 2, "yi", "absent" if t < 7 else "resident", {}) for t in range(12)))
    (event,) = found(rows, gpu(("yi", 1, 2.7, END_S, 2)), told)
    assert (event.trigger_id, event.waiters) == ("yi@1", 1)
    assert event.t4_s == pytest.approx(3.0, abs=0.005)


def test_the_victim_goes_when_it_goes_and_not_when_the_model_itself_fell_asleep() -> None:
    asked = [
        request("a", 0.5, 0.1), request("b", 1.9, 0.4), request("a", 1.95, 1.25),
        request("a", 6.0, 0.1), request("b", 2.5, 0.1),
    ]  # fmt: skip
    processes = gpu(
        ("a", 1, 0, 2.0, 3), ("a", 1, 2.0, 3.1, 0.3), ("a", 1, 3.1, END_S, 3),
        ("b", 2, 0, 2.1, 0.3), ("b", 2, 2.1, 3.0, 3), ("b", 2, 3.0, END_S, 0.3),
    )  # fmt: skip
    events = {e.model_in: e for e in found(asked, processes, [])}
    assert (events["a"].model_out, events["b"].model_out) == ("b", "a")
    assert events["a"].t1_s == pytest.approx(3.0, abs=0.075)


def test_a_model_was_ready_before_its_first_token_by_the_time_that_it_takes_to_speak() -> None:
    asked = [
        request("yi", 1.0, 2.02, id="trigger"),
        request("yi", 2.9, 0.12, id="waiter"),
        request("yi", 3.01, 0.02, id="warm"),
        *(request("yi", 5.0 + i, 0.02) for i in range(3)),
    ]
    processes = gpu(("yi", 1, 0, 1.2, 0.3), ("yi", 1, 1.2, END_S, 3))
    device, shown = (columns_of(n, r) for n, r in zip(
        ("gpu", "gpu_process"), processes, strict=True))  # fmt: skip
    table = requests(columns_of("request", asked))
    names = find(table, process_stays(shown, device, T0_NS), [], T0_NS).strata.name
    assert list(names[:3]) == ["swap_trigger", "swap_waiter", "warm"]


def test_a_load_that_comes_to_nothing_is_waited_for_until_it_ends() -> None:
    asked = [
        request("yi", sent, None, status="timeout", error_kind="total_timeout", end=2.0)
        for sent in (1.0, 2.8, 3.2)
    ]
    told = residency((0.0, "yi", "absent", {}), (11.0, "yi", "absent", {}))
    device, shown = (columns_of(n, r) for n, r in zip(
        ("gpu", "gpu_process"), gpu(("yi", 1, 2.0, 3.02, 2)), strict=True))  # fmt: skip
    stays = engine_stays(columns_of("residency", told), columns_of("engine", []), T0_NS)
    stays += process_stays(shown, device, T0_NS)
    names = find(requests(columns_of("request", asked)), stays, [], T0_NS).strata.name
    assert list(names) == ["swap_trigger", "swap_waiter", "warm"]
