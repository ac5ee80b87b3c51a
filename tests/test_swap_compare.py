"""The comparison itself: what differs from the truth is found, what cannot be known is not held."""

from dataclasses import replace
from typing import Any

import pytest

from tests.swap_compare import (
    Compared,
    Lengths,
    Told,
    compare_events,
    compare_strata,
    true_strata,
)
from tests.swap_scenarios import FAMILIES, draw
from tokenswarm.sim import truth

T0 = 1_000_000_000_000_000_000
SAMPLE_S = 0.05
REQUEST: dict[str, Any] = {
    "path": "/api/chat", "stream": True, "headers_unix_ns": None, "prompt_tokens": 3,
    "output_tokens": 2, "http_status": 200, "outcome": "ok", "finish_reason": "length",
    "load": None, "collateral_wait_s": 0.0,
}  # fmt: skip


def ns(s: float) -> int:
    return T0 + round(s * 1e9)


def request(n: int, model: str, at_s: float, wait_s: float, **more: Any) -> truth.Request:
    """A request with two tokens 10 ms apart."""
    first = at_s + wait_s
    given = {
        "n": n, "request_id": f"r{n}", "model": model, "arrival_unix_ns": ns(at_s),
        "granted_unix_ns": ns(first), "started_unix_ns": ns(first),
        "first_token_unix_ns": ns(first), "last_token_unix_ns": ns(first + 0.01),
        "end_unix_ns": ns(first + 0.01), "token_unix_ns": [ns(first), ns(first + 0.01)],
        "stratum": "warm",
    }  # fmt: skip
    return truth.Request(**{**REQUEST, **given, **more})


def load(number: int, model: str, trigger: int, **more: Any) -> truth.Load:
    """A load from 1.0 to 2.0 s that displaced model b at 1.1 s."""
    given = {
        "load": number, "model": model, "context": 1024, "cause": "demand", "outcome": "ok",
        "trigger": trigger, "displaced": ["b"], "demand_unix_ns": ns(1.0),
        "evict_unix_ns": ns(1.05), "killed_unix_ns": ns(1.1), "freed_unix_ns": ns(1.3),
        "load_unix_ns": ns(1.4), "ready_unix_ns": ns(2.0), "end_unix_ns": ns(2.0), "pid": 7,
        "file_bytes": 1, "vram_bytes": 1, "disk_cold": False,
    }  # fmt: skip
    return truth.Load(**{**given, **more})


def told(requests: list[truth.Request], loads: list[truth.Load], **seen: Lengths) -> Told:
    start = truth.Start(profile="p", seed=1, speed=1.0, unix_ns=T0)
    whole = truth.Truth(start, [], requests, loads, [], [])
    ids = {r.request_id or "": r for r in requests}
    slugs = {i: r.model or "" for i, r in ids.items()}
    return Told(whole, T0, slugs, {i: Lengths.true(r) for i, r in ids.items()} | seen)


def event(**more: Any) -> dict[str, Any]:
    """What analysis would say of `load`."""
    given = {
        "model_in": "a", "model_out": "b", "kind": "process_cold", "outcome": "ok",
        "trigger_id": "r1", "t0_s": 0.999, "t1_s": 1.12, "t2_s": 1.35, "t3_s": 1.45,
        "t4_s": 2.001, "t5_s": 2.02, "t6_s": None, "confidence": "confirmed",
        "marks_from": {"t0": "client", "t1": "gpu", "t2": "gpu", "t4": "client"},
    }  # fmt: skip
    return {**given, **more}


ONE = told([request(1, "a", 1.0, 1.02, stratum="swap_trigger", load=1)], [load(1, "a", 1)])


def compared(*found: dict[str, Any], of: Told = ONE) -> Compared:
    out = Compared()
    compare_events(of.events(), list(found), SAMPLE_S, of.stood_still(), out)
    return out


def test_an_event_that_is_right_has_its_marks_measured() -> None:
    out = compared(event())
    assert (len(out.pairs), out.missed, out.false) == (1, [], [])
    errors = {k: round(v[0], 3) for k, v in out.errors.items()}
    assert errors == {
        ("t0", "client"): 0.001, ("t1", "gpu"): 0.02, ("t2", "gpu"): 0.05, ("t4", "client"): 0.001,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("found", "missed", "false"),
    [
        ([], 1, 0),
        ([event(), event(trigger_id="r9")], 0, 1),  # one load, told twice
        ([event(model_out="none")], 1, 1),  # the victim is a part of it
        ([event(model_out="b-and-c")], 1, 1),
        ([event(model_in="c")], 1, 1),
        ([event(trigger_id="r9")], 0, 0),  # another trigger, the same event: strata tell
        ([event(trigger_id="r9", **{f"t{i}_s": 5.0 + i for i in range(6)})], 1, 1),
    ],
)
def test_what_is_missing_wrong_or_too_many_counts(
    found: list[dict[str, Any]], missed: int, false: int
) -> None:
    out = compared(*found)
    assert (len(out.missed), len(out.false)) == (missed, false)


def test_a_load_that_died_between_two_samples_cannot_be_missed() -> None:
    short = load(1, "a", 1, outcome="aborted", ready_unix_ns=None, end_unix_ns=ns(1.43))
    longer = load(1, "a", 1, outcome="aborted", ready_unix_ns=None, end_unix_ns=ns(1.6))
    asked = [request(1, "a", 1.0, 0.43, outcome="cancelled", granted_unix_ns=None)]
    assert compared(of=told(asked, [short])).missed == []
    assert len(compared(of=told(asked, [longer])).missed) == 1


def test_a_load_is_not_missed_for_one_of_the_same_moment_that_was_too_short() -> None:
    gone: dict[str, Any] = {"outcome": "aborted", "ready_unix_ns": None, "displaced": [],
                            "killed_unix_ns": None, "freed_unix_ns": None}  # fmt: skip
    asked = [request(n, "a", 1.0, 0.9, outcome="cancelled", granted_unix_ns=None) for n in (1, 2)]
    seen = load(1, "a", 1, end_unix_ns=ns(1.9), **gone)
    short = load(2, "a", 2, load_unix_ns=ns(2.0), end_unix_ns=ns(2.0), **gone)
    of = told(asked, [seen, short])
    none: dict[str, Any] = {"model_out": "none", "t1_s": None, "t2_s": None, "t4_s": None,
                            "t5_s": None, "trigger_id": "r2"}  # fmt: skip
    out = compared(event(**none, t3_s=1.45), of=of)
    assert (len(out.missed), len(out.false), len(out.unseen)) == (0, 0, 1)
    out = compared(event(**none, t3_s=2.01), of=of)
    assert (len(out.missed), len(out.false)) == (1, 0)


def test_who_was_evicted_for_a_load_that_never_began_may_be_taken_for_the_next_ones() -> None:
    asked = [request(1, "a", 1.0, 1.02), request(2, "c", 0.9, 0.2, outcome="cancelled")]
    for_nothing = load(2, "c", 2, displaced=["d"], outcome="aborted", load_unix_ns=None,
                       killed_unix_ns=ns(1.05), ready_unix_ns=None)  # fmt: skip
    of = told(asked, [load(1, "a", 1), for_nothing])
    for victims, missed in (("b", 0), ("b-and-d", 0), ("d", 1), ("b-and-e", 1)):
        assert len(compared(event(model_out=victims), of=of).missed) == missed


@pytest.mark.parametrize(("gave_up_s", "missed"), [(0.7, 0), (0.703, 0), (0.72, 1)])
def test_a_load_complete_as_its_client_gave_up_may_be_taken_for_one_broken_off(
    gave_up_s: float, missed: int
) -> None:
    asked = [
        request(1, "a", 1.0, 1.02),
        request(2, "b", 0.2, gave_up_s - 0.2, outcome="cancelled", granted_unix_ns=None,
                first_token_unix_ns=None, token_unix_ns=[], end_unix_ns=ns(gave_up_s)),
    ]  # fmt: skip
    of_b = load(2, "b", 2, displaced=[], ready_unix_ns=ns(0.7), end_unix_ns=ns(0.7),
                killed_unix_ns=None, freed_unix_ns=None)  # fmt: skip
    of = told(asked, [load(1, "a", 1), of_b])
    mine = [e for e in compared(event(model_out="none"), of=of).missed if e.model == "a"]
    assert len(mine) == missed


@pytest.mark.parametrize(("gave_up_s", "wrong"), [(1.38, 0), (1.2, 2)])
def test_who_gave_up_as_a_load_began_may_have_caused_it(gave_up_s: float, wrong: int) -> None:
    of = told(
        [
            request(1, "a", 1.0, gave_up_s - 1.0, outcome="cancelled", granted_unix_ns=None,
                    http_status=None, end_unix_ns=ns(gave_up_s)),
            request(2, "a", 1.1, 0.92, stratum="swap_trigger", load=1),
        ],
        [load(1, "a", 2)],
    )  # fmt: skip
    out = Compared()
    compare_strata(of, of.events(), {"r1": "swap_trigger", "r2": "swap_waiter"}, out, SAMPLE_S)
    assert len(out.wrong_strata) == wrong


def test_who_was_evicted_for_a_load_too_short_to_be_seen_may_be_taken_for_the_next_ones() -> None:
    asked = [request(1, "a", 1.0, 1.02), request(2, "c", 0.9, 0.2, outcome="cancelled")]
    for end_s, missed in ((1.1, 0), (1.3, 1)):
        short = load(2, "c", 2, displaced=["d"], outcome="aborted", load_unix_ns=ns(1.06),
                     killed_unix_ns=ns(1.05), ready_unix_ns=None,
                     end_unix_ns=ns(end_s))  # fmt: skip
        of = told(asked, [load(1, "a", 1), short])
        out = compared(event(model_out="b-and-d"), of=of)
        assert len([t for t in out.missed if t.model == "a"]) == missed


def test_loads_that_nobody_of_ours_asked_for_and_those_that_never_began_are_no_events() -> None:
    asked = [request(1, "a", 1.0, 1.02)]
    started = load(1, "a", 99)
    queued = load(2, "a", 1, outcome="aborted", load_unix_ns=None)
    assert told(asked, [started, queued]).events() == []


def test_a_mark_near_a_moment_in_which_the_machine_stood_still_is_left_out() -> None:
    lag = truth.Lag(due_unix_ns=ns(0.995), unix_ns=ns(1.03))
    late = replace(ONE, told=truth.Truth(ONE.told.start, [], ONE.told.requests, ONE.told.loads,
                                         [], [lag]))  # fmt: skip
    out = compared(event(), of=late)
    assert out.left_out == 1
    assert ("t0", "client") not in out.errors
    assert ("t4", "client") in out.errors


# strata: model b is loaded all the while, a comes in from 1.0 to 2.0 s


def strata(*others: truth.Request, **seen: Lengths) -> dict[str, tuple[str, bool]]:
    calm = [request(100 + i, "b", 3 + i * 0.1, 0.02) for i in range(20)]
    trigger = request(1, "a", 1.0, 1.02, stratum="swap_trigger", load=1)
    of = told([trigger, *others, *calm], [load(1, "a", 1)], **seen)
    found = true_strata(of, of.events())
    return {i: v for i, v in found.items() if not i.startswith("r1") or i == "r1"}


def test_held_up_beyond_the_bound_is_collateral_and_slow_by_itself_is_not() -> None:
    found = strata(
        request(2, "b", 1.2, 0.3, held_wait_s=0.28),
        request(3, "b", 1.2, 0.3),  # a slow prompt
        request(4, "b", 1.2, 0.03, held_wait_s=0.01),  # held up, but not for long
    )
    said = {i: s for i, (s, _) in found.items()}
    assert said == {
        "r1": "swap_trigger", "r2": "swap_collateral", "r3": "warm", "r4": "warm",
    }  # fmt: skip
    assert not any(close for _, close in found.values())


def test_held_up_while_no_event_was_under_way_is_warm() -> None:
    assert strata(request(5, "b", 2.5, 0.3, held_wait_s=0.28))["r5"] == ("warm", False)


def test_who_gave_up_waiting_for_a_model_that_was_being_loaded_is_a_waiter() -> None:
    gone: dict[str, Any] = {"outcome": "cancelled", "granted_unix_ns": None, "http_status": None,
            "first_token_unix_ns": None, "token_unix_ns": []}  # fmt: skip
    found = strata(request(2, "a", 1.5, 0.2, **gone), request(3, "a", 2.5, 0.2, **gone))
    assert (found["r2"][0], found["r3"][0]) == ("swap_waiter", "warm")


@pytest.mark.parametrize(
    ("hit", "seen"),
    [
        (request(2, "b", 1.2, 0.062, held_wait_s=0.06), None),  # 2 ms over the bound
        (request(2, "b", 1.2, 0.3, late_s=0.2), None),  # the simulation was late itself
        (request(2, "b", 1.2, 0.02), Lengths(0.2, 0.01)),  # the client's machine was
    ],
)
def test_what_the_machine_or_a_hair_decided_may_be_either(
    hit: truth.Request, seen: Lengths | None
) -> None:
    assert strata(hit, **({"r2": seen} if seen else {}))["r2"][1]


def test_strata_that_differ_are_listed_close_ones_are_counted() -> None:
    of = told(
        [
            request(1, "a", 1.0, 1.02, stratum="swap_trigger"),
            request(2, "b", 1.2, 0.3),
            request(3, "b", 3.0, 0.02),
        ],
        [load(1, "a", 1)],
    )
    out, said = Compared(), {"r1": "swap_trigger", "r3": "warm"}
    compare_strata(of, of.events(), {**said, "r2": "swap_collateral"}, out)
    assert (out.requests, [w["id"] for w in out.wrong_strata]) == (3, ["r2"])


@pytest.mark.parametrize("seed", range(len(FAMILIES)))
def test_a_seed_draws_the_same_scenario_each_time(seed: int) -> None:
    assert draw(seed) == draw(seed)
    assert draw(seed).family == draw(seed + len(FAMILIES)).family
