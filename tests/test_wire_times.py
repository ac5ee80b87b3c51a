"""Figures of one request."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenswarm.wire.record import Stamps
from tokenswarm.wire.times import derive

TIMES = [10.5, 10.51, 10.52, 10.62, 10.63]
STAMPS = Stamps(
    intended=9.0, sent=10.0, headers=10.1, first_event=10.4, first_token=10.5, last_token=10.63,
    end=10.7,
)  # fmt: skip


def test_every_figure_by_hand() -> None:
    found = derive(STAMPS, TIMES, 5)
    assert found.gaps_us == [0, 10_000, 10_000, 100_000, 10_000]
    assert found.ttft_s == pytest.approx(0.5)
    assert found.ttft_user_s == pytest.approx(1.5)
    assert found.e2e_s == pytest.approx(0.63)
    assert found.tpot_s == pytest.approx(0.13 / 4)
    assert (found.itl_p50_s, found.itl_p95_s, found.itl_p99_s) == (0.01, 0.1, 0.1)
    assert found.max_stall_s == 0.1


@pytest.mark.parametrize(
    ("times", "tokens", "tpot_s"),
    [
        # the server's count counts
        (TIMES, 14, 0.13 / 13),
        # none given: token events
        (TIMES, None, 0.13 / 4),
        # a single token has no pace
        (TIMES[:1], 1, None),
        (TIMES, 1, None),
        # 24 tokens in one chunk have none, either
        (TIMES[:1], 24, None),
        ([], 24, None),
    ],
)
def test_tpot_needs_two_tokens_at_two_times(
    times: list[float], tokens: int | None, tpot_s: float | None
) -> None:
    assert derive(STAMPS, times, tokens).tpot_s == (tpot_s and pytest.approx(tpot_s))


def test_without_token_times_there_are_no_gaps_and_e2e_is_the_response_s() -> None:
    found = derive(Stamps(intended=1.0, sent=2.0, end=5.0), [], 7)
    assert found.e2e_s == 3.0
    assert found.gaps_us == []
    others = (found.ttft_s, found.ttft_user_s, found.tpot_s, found.itl_p50_s, found.max_stall_s)
    assert others == (None,) * 5


def test_a_request_that_was_never_sent_has_no_figures() -> None:
    found = derive(Stamps(intended=1.0, end=5.0), [], None)
    assert (found.e2e_s, found.ttft_s, found.ttft_user_s) == (None, None, None)


@given(st.lists(st.floats(0, 1000), min_size=2, max_size=80).map(sorted))
def test_gaps_add_up_and_percentiles_are_nearest_rank(times: list[float]) -> None:
    found = derive(Stamps(first_token=times[0], last_token=times[-1]), times, None)
    assert len(found.gaps_us) == len(times)
    assert sum(found.gaps_us) == pytest.approx((times[-1] - times[0]) * 1e6, abs=1)
    gaps = sorted(found.gaps_us[1:])
    for p, value in ((0.5, found.itl_p50_s), (0.95, found.itl_p95_s), (0.99, found.itl_p99_s)):
        assert value == gaps[math.ceil(p * len(gaps)) - 1] / 1e6
    assert found.max_stall_s == gaps[-1] / 1e6
