"""Percentiles, throughput and goodput against tables computed by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.synthetic_run import request
from tokenswarm.analysis.columns import columns_of
from tokenswarm.analysis.figures import Percentiles
from tokenswarm.analysis.goodput import goodput
from tokenswarm.analysis.percentiles import GapPool, nearest_rank, percentiles, rank
from tokenswarm.analysis.requests import requests
from tokenswarm.analysis.run import replies
from tokenswarm.analysis.throughput import TokenSeries


@pytest.mark.parametrize(
    ("n", "p", "index"),
    [
        (1, 0.95, 0),  # one value is every percentile
        (2, 0.5, 0),  # ceil(1.0): the lower of two is the median
        (3, 0.5, 1),
        (20, 0.95, 18),  # 0.95*20 is 19.000000000000004 in floating point: rank 19, not 20
        (100, 0.99, 98),
        (101, 0.99, 99),  # ceil(99.99)
        (10, 0.9, 8),
    ],
)
def test_nearest_rank_is_the_ceiling_of_p_times_n(n: int, p: float, index: int) -> None:
    assert rank(n, p) == index


def test_percentiles_of_nothing_are_none_and_not_zero() -> None:
    assert percentiles(np.array([])) == Percentiles(0)
    assert percentiles(np.array([np.nan])) == Percentiles(0)
    assert nearest_rank(np.array([np.nan]), 0.5) is None


def test_a_missing_value_is_not_counted() -> None:
    assert percentiles(np.array([3.0, np.nan, 1.0, 2.0])) == Percentiles(3, 2.0, 3.0, 3.0, 3.0, 3.0)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_nearest_rank_is_the_smallest_value_that_enough_values_do_not_exceed(
    values: list[float], p: float
) -> None:
    found = nearest_rank(np.array(values), p)
    assert found in values
    assert found is not None
    assert sum(v <= found for v in values) >= p * len(values) - 1e-6
    assert sum(v < found for v in values) < p * len(values)


@given(st.lists(st.lists(st.integers(0, 3_000_000), max_size=30), max_size=5))
def test_pooled_gaps_have_the_same_percentiles_as_the_gaps_themselves(
    batches: list[list[int]],
) -> None:
    pool = GapPool()
    for batch in batches:
        pool.add(np.array(batch, dtype=np.int64))
    flat = np.array([gap for batch in batches for gap in batch], dtype=np.float64) / 1e6
    assert pool.percentiles() == percentiles(flat)


# three tokens at 0.5, 1.25 and 2.5 s; the server counted 6
SCALED = request("tinyllama", 0.25, 0.25, 3, output_tokens=6, gaps_us=[0, 750_000, 1_250_000])


def _series(*rows: list[object], load_s: float = 2.0, duration_s: float = 4.0) -> TokenSeries:
    series = TokenSeries(1, duration_s, load_s)
    series.add(replies(columns_of("request", rows), ["tinyllama"]))
    return series


def test_tokens_count_in_the_second_of_their_arrival_scaled_to_the_servers_count() -> None:
    series = _series(SCALED)
    assert series.per_second.tolist() == [[2.0, 2.0, 2.0, 0.0]]
    # 4 of 6 tokens came before the drain began at 2 s
    assert series.output_tok_s() == pytest.approx(4 / 2.0)


def test_gaps_that_leave_out_the_first_events_zero_give_the_same_series() -> None:
    without = request("tinyllama", 0.25, 0.25, 3, output_tokens=6, gaps_us=[750_000, 1_250_000])
    assert _series(without).per_second.tolist() == _series(SCALED).per_second.tolist()
    assert _series(without).itl[0].percentiles() == _series(SCALED).itl[0].percentiles()


def test_a_request_without_the_servers_count_counts_its_events() -> None:
    row = request("tinyllama", 0.0, 0.5, 2, gap_s=0.1, output_tokens=None, status="error")
    assert _series(row).per_second[0, 0] == 2


def test_a_reply_in_one_piece_has_its_tokens_at_its_end() -> None:
    row = request(
        "tinyllama", 0.0, None, end=1.5, output_tokens=7, token_events=0, t_last_token_s=1.5
    )
    assert _series(row).per_second.tolist() == [[0.0, 7.0, 0.0, 0.0]]


def test_a_refused_request_has_no_tokens() -> None:
    row = request("tinyllama", 0.0, None, status="error", end=0.1)
    assert _series(row).per_second.sum() == 0


def test_itl_pools_the_gaps_and_leaves_out_the_way_to_the_first_token() -> None:
    itl = _series(SCALED, request("tinyllama", 1.0, 0.9, 1)).itl[0].percentiles()
    assert (itl.n, itl.p50, itl.max) == (2, 0.75, 1.25)


def test_throughput_does_not_depend_on_how_the_rows_are_cut() -> None:
    rows = [request("tinyllama", 0.1 * i, 0.05, 1 + i % 5) for i in range(20)]
    whole, parts = _series(*rows), TokenSeries(1, 4.0, 2.0)
    for row in rows:
        parts.add(replies(columns_of("request", [row]), ["tinyllama"]))
    assert np.allclose(whole.per_second, parts.per_second)
    assert whole.itl[0].percentiles() == parts.itl[0].percentiles()


def test_a_run_without_length_has_no_throughput() -> None:
    assert TokenSeries(1, 0.0, 0.0).output_tok_s() is None


def _goodput(*judged: tuple[str, bool | None], has_slo: bool = True) -> object:
    rows = [
        request("tinyllama", i, 0.1, status=status, slo_ok=ok)
        for i, (status, ok) in enumerate(judged)
    ]
    table = requests(columns_of("request", rows))
    return goodput(table, np.ones(len(table), dtype=np.bool_), 10.0, has_slo)


@pytest.mark.parametrize(
    ("judged", "expected"),
    [
        ([("ok", True), ("ok", False), ("ok", True)], (0.2, 2 / 3)),
        ([("ok", True), ("error", None)], (0.1, 0.5)),  # the failed one is in the denominator
        ([("ok", True), ("error", True)], (0.1, 0.5)),  # a failure is never good
        ([("ok", None)], (None, None)),  # nobody judged it
        ([("error", None)], (0.0, 0.0)),  # all failed: nothing was good
        ([], (None, None)),
    ],
)
def test_goodput_keeps_failures_in_the_denominator(
    judged: list[tuple[str, bool | None]], expected: tuple[float | None, float | None]
) -> None:
    assert _goodput(*judged) == expected


def test_a_model_without_slos_has_no_goodput() -> None:
    assert _goodput(("error", None), has_slo=False) == (None, None)
