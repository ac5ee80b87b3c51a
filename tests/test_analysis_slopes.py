"""Memory that falls and rises, held against lines by hand and a recorded GPU."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.synthetic_run import GIB
from tokenswarm.analysis.changes import line_changes
from tokenswarm.analysis.slopes import MIB, Dip, Move, dips, moves
from tokenswarm.analysis.vram import Line

TRACE = Path(__file__).parent / "data" / "vllm-0.24.0-h200" / "gpu_trace.csv"
PRINTED_MIB = {
    # what the script that put them to sleep printed: before and asleep; level
    1: [(48773, 40287), (48491, 34381), (46383, 23581), (45869, 37667)],
    2: [(45871, 37667), (45871, 33869), (45871, 23581)],
}


def recorded() -> list[Move]:
    """The recorded GPU's moves; run seconds begin at its first sample."""
    rows = np.loadtxt(TRACE, delimiter=",", skiprows=1)
    return moves(rows[:, 0] - rows[0, 0], rows[:, 1] * MIB)


def line(*levels_gib: float, step_s: float = 0.05) -> list[Move]:
    used = np.array(levels_gib) * GIB
    return moves(np.arange(len(used), dtype=np.float64) * step_s, used)


def test_the_recorded_gpu_shows_every_sleep_and_wake_and_no_other() -> None:
    found = dips(recorded())
    assert [d.level for d in found] == [1, 1, 1, 2, 2, 2, 1]


def test_bytes_of_recorded_sleeps_are_those_that_were_printed() -> None:
    found = dips(recorded())
    for dip, (before, asleep) in zip(
        [d for d in found if d.level == 1], PRINTED_MIB[1], strict=True
    ):
        assert dip.bytes / MIB == pytest.approx(before - asleep, rel=0.05)


def test_a_sleep_shorter_than_two_samples_is_a_lower_bound() -> None:
    shallow = [d for d in dips(recorded()) if d.level == 2]
    for dip, (before, asleep) in zip(shallow, PRINTED_MIB[2], strict=True):
        assert dip.lower_bound
        assert 0 < dip.bytes / MIB <= before - asleep


def test_the_recorded_start_ups_are_arrivals() -> None:
    told = line_changes([Line("h", "gpu0", tuple(recorded()))])
    assert [c.what for c in told] == ["arrive"] * 4 + ["sleep", "wake"] * 7
    sleeps = [c for c in told if c.what in ("sleep", "wake")]
    assert [c.level for c in sleeps[::2]] == [1, 1, 1, 2, 2, 2, 1]
    assert all(c.model is None and c.side == "gpu" for c in told)


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ((8.0,) * 50, []),  # reserved from the start: a flat line
        ((0, 0, 2, 4, 4, 4), [4]),  # one load
        ((4, 4, 4, 0, 0, 0), [-4]),
        ((4, 4, 0, 3, 3), [-4, 3]),  # another, smaller one
        ((0, 0, 4, 4.1, 3.95, 4.05, 4, 4), [4]),  # work on top of weights
        ((0, 3, 3, 2.9, 6, 6), [6]),  # a load that let go of something meanwhile
    ],
)
def test_moves_are_the_changes_that_last(levels: tuple[float, ...], expected: list[float]) -> None:
    assert [m.bytes / GIB for m in line(*levels)] == pytest.approx(expected)


def test_a_pause_parts_two_loads() -> None:
    found = line(0, 2, *[2] * 120, 5, 5)
    assert [m.bytes / GIB for m in found] == pytest.approx([2, 3])


def test_what_does_not_come_back_is_no_sleep() -> None:
    assert dips(line(8, 8, 2, 2, 2)) == []
    assert dips(line(8, 8, 2, 4, 4, 4)) == []
    (dip,) = dips(line(8, 8, 2, 2, 7.5, 7.5))
    assert isinstance(dip, Dip)


def test_a_sample_without_a_figure_is_left_out() -> None:
    used = np.array([1.0, np.nan, 1.0, 5.0, np.nan, 5.0]) * GIB
    (move,) = moves(np.arange(6, dtype=np.float64) * 0.05, used)
    assert [move.start_s, move.end_s] == pytest.approx([0.1, 0.15])


@given(st.lists(st.integers(0, 64), min_size=2, max_size=60))
def test_moves_lie_in_order_and_add_up(levels: list[int]) -> None:
    found = line(*[x / 2 for x in levels])
    for a, b in pairwise(found):
        assert a.start_s < a.end_s <= b.start_s
    moved = sum(m.bytes for m in found) / GIB
    least = 0.05 * (max(levels) - min(levels)) / 2
    assert moved == pytest.approx((levels[-1] - levels[0]) / 2, abs=2 * least + 1e-9)
