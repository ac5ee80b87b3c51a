"""Output tokens in blocks of time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenswarm.analysis.throughput import blocks

NAN = float("nan")


def of(
    *replies: tuple[float, float, float], load_s: float = 10.0, width_s: float = 1.0
) -> list[float]:
    first, last, tokens = (
        np.array(column, dtype=np.float64) for column in zip(*replies, strict=True)
    )
    return list(blocks(first, last, tokens, load_s, width_s))


def test_tokens_arrive_evenly_from_the_first_to_the_last() -> None:
    assert of((2.0, 4.0, 20.0)) == pytest.approx([0, 0, 10, 10, 0, 0, 0, 0, 0, 0])
    assert of((2.5, 3.5, 20.0)) == pytest.approx([0, 0, 10, 10, 0, 0, 0, 0, 0, 0])


def test_a_reply_in_one_piece_is_in_its_block() -> None:
    assert of((NAN, 3.2, 7.0)) == pytest.approx([0, 0, 0, 7, 0, 0, 0, 0, 0, 0])


def test_what_is_unknown_or_outside_is_left_out() -> None:
    wanted = [0.0] * 10
    assert of((1.0, 2.0, NAN), (1.0, NAN, 5.0), (11.0, 12.0, 9.0)) == pytest.approx(wanted)
    assert of((-2.0, -1.0, 9.0)) == pytest.approx(wanted)


def test_blocks_fill_the_whole_load_whatever_its_length() -> None:
    assert of((0.0, 7.9, 79.0), load_s=7.9) == pytest.approx([10.0] * 7)
    assert of((0.0, 0.5, 5.0), load_s=0.5) == []


def test_streams_in_step_have_the_rate_that_they_have() -> None:
    """32 streams, each reply 0.98 s long: by its ends every block had 2,048 and no spread."""
    waves = [(i * 0.98 + 0.08, (i + 1) * 0.98, 64.0) for i in range(12) for _ in range(32)]
    load_s = 12 * 0.98
    rates = np.array(of(*waves, load_s=load_s))
    assert rates.mean() == pytest.approx(12 * 32 * 64 / load_s)
    assert rates.std() > 10


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5), st.integers(1, 999)), min_size=1))
def test_every_token_is_in_one_block(replies: list[tuple[float, float, int]]) -> None:
    made = of(*((first, first + long, n) for first, long, n in replies), width_s=0.7)
    assert sum(made) * 10.0 / len(made) == pytest.approx(sum(n for _, _, n in replies), rel=1e-6)
