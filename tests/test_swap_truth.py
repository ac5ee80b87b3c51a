"""A hundred swaps in scenarios drawn when the test runs, held against the simulator's truth."""

import pytest

from tests.swap_truth import Totals, differences, line, play_all, table

SWAPS = 100


@pytest.fixture(scope="module")
def totals() -> Totals:
    """Scenarios from a drawn seed on, of different sorts; every seed is printed."""
    found = play_all(SWAPS, 1, None)
    print(table(found))
    return found


def _said(totals: Totals) -> str:
    """Every scenario that differs, to play it again by its seed."""
    bad = [p for p in totals.played if not p.good]
    return "\n".join(text for p in bad for text in [line(p), *differences(p)])


def test_every_scenario_could_be_played(totals: Totals) -> None:
    assert not [p.problem for p in totals.played if p.problem]
    assert totals.swaps >= SWAPS


def test_every_true_event_is_found_and_nothing_else(totals: Totals) -> None:
    assert (totals.recall, totals.precision) == (1.0, 1.0), _said(totals)


def test_nearly_every_event_has_more_than_one_witness(totals: Totals) -> None:
    assert totals.evident >= 0.95, _said(totals)


def test_who_paid_is_who_was_held_up(totals: Totals) -> None:
    # one request of a few hundred may be the one of a thousand
    wrong = sum(len(p.compared.wrong_strata) for p in totals.played)
    assert wrong <= max(1, 0.001 * totals.requests), _said(totals)
