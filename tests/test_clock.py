"""Offsets between clocks, by questions and answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenswarm.clock import SAME_CLOCK, Exchange, Offset, machine, offset_of

NS = st.integers(0, 10**9)
FAR = st.integers(-(10**18), 10**18)


def exchange(theirs_ahead_ns: int, there_ns: int, pause_ns: int, back_ns: int) -> Exchange:
    """An exchange that began when our clock said 1000."""
    received = 1000 + there_ns + theirs_ahead_ns
    answered = received + pause_ns
    return Exchange(1000, received, answered, 1000 + there_ns + pause_ns + back_ns)


@given(FAR, NS, NS, NS)
def test_the_truth_is_within_the_uncertainty_whatever_the_ways_take(
    ahead: int, there: int, pause: int, back: int
) -> None:
    found = offset_of([exchange(ahead, there, pause, back)])
    assert abs(found.offset_ns + ahead) <= found.uncertainty_ns + 1  # halves of a ns
    assert found.uncertainty_ns <= (there + back + 1) // 2


@given(FAR, st.lists(st.tuples(NS, NS, NS), min_size=1, max_size=9))
def test_the_shortest_round_trip_is_the_one_that_counts(
    ahead: int, ways: list[tuple[int, int, int]]
) -> None:
    found = offset_of([exchange(ahead, *way) for way in ways])
    assert found.uncertainty_ns == min((there + back + 1) // 2 for there, _, back in ways)


@pytest.mark.parametrize(
    ("asked", "offset_ns"),
    [
        (Exchange(0, 0, 0, 0), 0),
        (Exchange(0, 1_000_050, 1_000_060, 110), -1_000_000),  # theirs is ahead: move it back
        (Exchange(1_000_000, 50, 60, 1_000_110), 1_000_000),
    ],
)
def test_the_offset_is_what_has_to_be_added_to_their_clock(asked: Exchange, offset_ns: int) -> None:
    assert offset_of([asked]).offset_ns == offset_ns


def test_one_clock_differs_from_itself_by_nothing() -> None:
    assert Offset(0, 0) == SAME_CLOCK
    assert machine() == machine()
