"""The rule of strata, case by case and as a property."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.synthetic_run import Row, request
from tokenswarm.analysis.columns import columns_of
from tokenswarm.analysis.figures import STRATA
from tokenswarm.analysis.requests import requests
from tokenswarm.analysis.strata import Window, strata


def calm(model: str, n: int = 20, ttft: float = 0.05) -> list[Row]:
    """Requests long after any swap: the model's usual waits."""
    return [request(model, 100.0 + i, ttft, gap_s=0.01) for i in range(n)]


def stratum_of(row: Row, *others: Row, t4_s: float = 6.0) -> str:
    """The stratum of `row` while yi comes in, wanted at 2.0 and ready at `t4_s`."""
    trigger = request("yi", 2.0, 4.2)
    table = requests(columns_of("request", [trigger, row, *calm("tinyllama"), *others]))
    at = {name: i for i, name in enumerate(table.id)}
    found = strata(table, [Window("box", "yi", 2.0, t4_s, at[trigger[9]])])
    assert found.name[at[trigger[9]]] == "swap_trigger"
    return str(found.name[at[row[9]]])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (request("yi", 2.5, 3.6), "swap_waiter"),
        (request("yi", 6.0, 0.1), "swap_waiter"),  # sent at t4 itself
        (request("yi", 6.001, 0.1), "warm"),  # ready by then
        (request("yi", 1.9, 0.05), "warm"),  # sent before the demand
        (request("tinyllama", 3.0, 3.0), "swap_collateral"),  # waited for its first token
        (request("tinyllama", 3.0, 0.16), "swap_collateral"),  # over 3 x 50 ms
        (request("tinyllama", 3.0, 0.14), "warm"),  # overlaps, but was hardly held up
        (request("tinyllama", 1.0, 0.05, 4, max_stall_s=3.0, t_end_s=5.0), "swap_collateral"),
        (request("tinyllama", 1.0, 0.9, 2), "warm"),  # slow, but over before t0
        (request("tinyllama", 6.5, 3.0), "warm"),  # slow, but after t4
        (request("tinyllama", 1.5, None, status="cut", end=9.0), "swap_collateral"),
        (request("yi", 3.0, None, status="timeout", end=9.0), "swap_waiter"),
        # refused at once: never sent
        (request("yi", 3.0, None, status="error", t_sent_s=None, end=0.01), "warm"),
    ],
)
def test_strata_follow_the_rule(row: Row, expected: str) -> None:
    assert stratum_of(row) == expected


def test_a_request_for_the_same_name_on_another_target_does_not_wait() -> None:
    assert stratum_of(request("yi", 3.0, 0.1, target="other")) != "swap_waiter"


def test_quick_models_are_not_collateral_below_50_ms() -> None:
    table = requests(columns_of("request", [request("yi", 2.0, 4.2), request("fast", 3.0, 0.04)]))
    assert strata(table, [Window("box", "yi", 2.0, 6.0, 0)]).name[1] == "warm"


def test_a_model_that_was_never_left_alone_is_judged_by_its_quicker_requests() -> None:
    asked = [request("yi", 2.0, 50.0)]
    asked += [request("busy", 3.0 + i, 0.2) for i in range(20)]  # its usual, all within [t0, t4]
    asked += [request("busy", 30.0 + i, 2.0) for i in range(10)]
    table = requests(columns_of("request", asked))
    found = strata(table, [Window("box", "yi", 2.0, 52.0, 0)])
    assert list(found.name[1:]) == ["warm"] * 20 + ["swap_collateral"] * 10


def test_the_trigger_of_one_event_is_not_a_waiter_of_another() -> None:
    asked = [request("yi", 1.0, 4.0), request("qwen", 2.0, 5.0), request("qwen", 3.0, 4.1)]
    table = requests(columns_of("request", asked))
    windows = [Window("box", "yi", 1.0, 5.0, 0), Window("box", "qwen", 2.0, 6.9, 1)]
    found = strata(table, windows)
    assert list(found.name) == ["swap_trigger", "swap_trigger", "swap_waiter"]
    assert list(found.event) == [0, 1, 1]


_request = st.builds(
    request,
    st.sampled_from(["tinyllama", "qwen", "yi"]),
    st.floats(0, 60),
    st.one_of(st.none(), st.floats(0.001, 20)),
    st.integers(1, 5),
    status=st.sampled_from(["ok", "error", "cut"]),
)


@given(st.lists(_request, min_size=1, max_size=30), st.data())
def test_every_request_gets_exactly_one_stratum(rows: list[Row], data: st.DataObject) -> None:
    table = requests(columns_of("request", rows))
    windows = []
    for trigger in data.draw(st.sets(st.integers(0, len(rows) - 1), max_size=4)):
        t0 = float(table.t_sent[trigger])
        t4 = t0 + data.draw(st.floats(0, 20))
        windows.append(Window("box", str(table.model[trigger]), t0, t4, trigger))
    found = strata(table, windows)
    assert len(found.name) == len(rows)
    assert set(found.name) <= set(STRATA)
    counted = [int(found.counts(s, len(windows)).sum()) for s in STRATA[1:]]
    assert sum(counted) + list(found.name).count("warm") == len(rows)
    assert all((found.event < 0) == (found.name == "warm"))
    assert list(found.name).count("swap_trigger") == len(windows)
