"""Requests dealt to workers, and dealt anew when one is lost: each has exactly one owner."""

from hypothesis import given
from hypothesis import strategies as st

from tokenswarm.scenario.deal import Deal, deal, following, held, shares

NAMES = ("a", "b", "c", "d")


@st.composite
def deals(draw: st.DrawFn) -> list[Deal]:
    firsts = sorted(draw(st.sets(st.integers(1, 60), max_size=4)))
    return [
        deal(first, draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True)))
        for first in [0, *firsts]
    ]


@given(deals())
def test_every_request_is_sent_by_exactly_one_worker(dealt: list[Deal]) -> None:
    taken: list[int] = []
    for worker in NAMES:
        own, index = shares(dealt, worker), -1
        while (unit := following(own, index)) is not None and unit < 100:
            taken.append(unit)
            index = unit
    assert sorted(taken) == list(range(100))


@given(deals(), st.integers(0, 50), st.integers(0, 50))
def test_what_a_worker_held_in_between_is_counted(dealt: list[Deal], a: int, b: int) -> None:
    first, end = min(a, b), max(a, b)
    assert sum(held(shares(dealt, worker), first, end) for worker in NAMES) == end - first


def test_a_worker_without_a_share_has_nothing_to_send() -> None:
    assert following(shares([deal(0, ["a"])], "b"), -1) is None
    assert following((), -1) is None
