import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import schema_rows
from tokenswarm.errors import SpoolError
from tokenswarm.store.row import Monotonic, check_row
from tokenswarm.store.schema import MEASUREMENTS


@given(schema_rows.pairs())
def test_a_row_of_the_schema_passes(pairs: list[schema_rows.Pair]) -> None:
    for measurement, row in pairs:
        check_row(measurement, row)


@pytest.mark.parametrize(
    ("column", "value", "complaint"),
    [
        ("time_ns", 1.0, "time_ns"),  # seconds by mistake
        ("time_ns", -1, "time_ns"),  # before 1970
        ("time_ns", None, "time_ns"),  # no time at all
        ("model", "Qwen2.5:3b", "tag model"),  # the server's name, not the slug
        ("model", "", "tag model"),  # empty is written `none`
        ("model", None, "tag model"),  # tags are never missing
        ("plan_index", 1.0, "plan_index"),  # a float is no int
        ("plan_index", True, "plan_index"),  # a bool is no int
        ("plan_index", 2**63, "plan_index"),  # past 64 bits
        ("ttft_s", 1, "ttft_s"),  # an int is no float
        ("ttft_s", float("nan"), "ttft_s"),  # not a number is not a measurement
        ("ttft_s", float("inf"), "ttft_s"),  # nor is infinity
        ("slo_ok", 1, "slo_ok"),  # an int is no bool
        ("error_text", b"x", "error_text"),  # bytes are no text
        ("gaps_us", [0, 1.5], "gaps_us"),  # whole microseconds
        ("gaps_us", [2**31], "gaps_us"),  # past 32 bits
        ("gaps_us", (0, 1), "gaps_us"),  # a tuple does not come back as one
    ],
)
def test_a_value_of_another_type_is_named(column: str, value: Any, complaint: str) -> None:
    m = MEASUREMENTS["request"]
    row: list[Any] = [0, *(["x"] * len(m.tags)), *([None] * len(m.fields))]
    check_row("request", row)
    row[m.columns.index(column)] = value
    with pytest.raises(SpoolError, match=complaint):
        check_row("request", row)


def test_a_row_of_another_length_or_measurement_is_refused() -> None:
    with pytest.raises(SpoolError, match="a row of 2"):
        check_row("tick", [0, "x"])
    with pytest.raises(SpoolError, match="'tock' is no measurement"):
        check_row("tock", [0])


@given(st.lists(st.integers(0, 100)))
def test_times_of_a_source_strictly_increase_and_never_go_back(times: list[int]) -> None:
    clock = Monotonic()
    given_out = [clock(t) for t in times]
    assert all(a < b for a, b in itertools.pairwise(given_out))
    assert all(out >= t for out, t in zip(given_out, times, strict=True))


def test_a_time_that_is_later_anyway_is_left_alone() -> None:
    clock = Monotonic()
    assert [clock(t) for t in (5, 5, 4, 9)] == [5, 6, 7, 9]
