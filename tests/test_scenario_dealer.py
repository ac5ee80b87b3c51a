"""When a worker is lost, or one comes, what is still to send is dealt to those that are there."""

from tests.test_scenario_plan import model, scenario
from tokenswarm.scenario.deal import following, shares
from tokenswarm.scenario.dealer import LEAD_S, Dealer
from tokenswarm.scenario.model import ClosedLoad, OpenLoad

OPEN = scenario(model("a"), load=OpenLoad(rate=10, arrivals="constant"))


def dealer_at_10_s() -> Dealer:
    """Three workers that have sent what was due in 10 s."""
    dealer = Dealer(OPEN, ["a", "b", "c"])
    for rank, worker in enumerate("abc"):
        dealer.report(worker, 100 + rank)
    return dealer


def test_nothing_is_dealt_anew_while_everybody_is_there() -> None:
    assert dealer_at_10_s().look(["c", "b", "a"], 10.0) is None


def test_a_lost_workers_share_goes_to_the_others_from_a_moment_ahead() -> None:
    dealer = dealer_at_10_s()
    deals = dealer.look(["a", "c"], 14.0)
    assert deals is not None
    first = round(10 * (14.0 + LEAD_S))
    assert deals[-1].first == first
    taken = []
    for worker in ("a", "c"):
        own, index = shares(deals, worker), first - 1
        while (unit := following(own, index)) is not None and unit < first + 100:
            taken.append(unit)
            index = unit
    assert sorted(taken) == list(range(first, first + 100))


def test_what_nobody_sent_is_counted() -> None:
    dealer = dealer_at_10_s()
    dealer.look(["a", "c"], 14.0)
    (note,) = dealer.notes
    # b's next is 101 or later, dealt anew from 155: 103, 106, ..., 154
    assert "up to 18 requests due" in note
    assert "from request 155 on" in note


def test_a_worker_that_returns_has_its_share_again() -> None:
    dealer = dealer_at_10_s()
    dealer.look(["a", "c"], 14.0)
    deals = dealer.look(["a", "b", "c"], 30.0)
    assert deals is not None
    assert shares(deals, "b")[-1].of == 3
    assert "worker b joined at 30.0 s" in dealer.notes


def test_with_nobody_left_nothing_is_dealt() -> None:
    assert dealer_at_10_s().look([], 14.0) is None


def test_a_closed_loop_is_dealt_anew_beyond_what_anybody_has_taken() -> None:
    dealer = Dealer(scenario(model("a"), load=ClosedLoad(users=3)), ["a", "b"])
    dealer.report("a", 40)
    dealer.report("b", 60)
    deals = dealer.look(["a"], 9.0)
    assert deals is not None
    assert deals[-1].first > 60
    assert shares(deals, "a")[-1].of == 1
