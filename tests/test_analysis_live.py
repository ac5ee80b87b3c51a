"""The live page's data: what is on it, how long it stays, and that it never holds more."""

from collections import Counter

import numpy as np
import pytest

from tests.synthetic_run import T0_NS, Story, manifest, story
from tokenswarm.analysis.live import KEPT_S, Live, LivePage
from tokenswarm.store.schema import MEASUREMENTS

COLUMNS = MEASUREMENTS["request"].columns
LENGTH_S = 60.0


@pytest.fixture(scope="module")
def told() -> Story:
    return story(seed=4, duration_s=40)


def page(told: Story, now_s: float, *, step_s: float = 2.0, kept: int = 200_000) -> LivePage:
    """The page at `now_s` after looks every `step_s`."""
    live, pairs, at_s = Live(manifest(told), kept), told.pairs(), 0.0
    while pairs:
        at_s += step_s
        due = [p for p in pairs if p[1][0] <= T0_NS + at_s * 1e9]
        pairs = pairs[len(due) :]
        live.take(due)
        live.page(at_s)
    return live.page(now_s)


def ended_after(told: Story, at_s: float) -> Counter[str]:
    """Requests by model."""
    model = COLUMNS.index("model")
    return Counter(r[model] for r in told.rows["request"] if r[0] >= T0_NS + at_s * 1e9)


def counted(shown: LivePage) -> dict[str, int]:
    return {row.model: row.requests for row in shown.rows if row.requests}


def test_a_run_of_less_than_half_an_hour_is_there_from_its_beginning(told: Story) -> None:
    shown = page(told, LENGTH_S)
    assert shown.offset_s == 0.0
    assert counted(shown) == ended_after(told, 0.0)
    assert sum(row.cold for row in shown.rows) == len(told.loads) == len(shown.events)


def test_what_is_older_than_half_an_hour_is_gone(told: Story) -> None:
    shown = page(told, KEPT_S + 25.0)
    assert shown.offset_s == 25.0
    assert counted(shown) == ended_after(told, 25.0)
    assert sum(counted(shown).values()) > 20
    late = [load for load in told.loads if load.start > 25.0]
    assert {e["model_in"] for e in shown.events} >= {load.model for load in late}


def test_everything_is_gone_in_the_end(told: Story) -> None:
    shown = page(told, KEPT_S + 3600.0)
    assert counted(shown) == {}
    assert {row.itl_p95_s for row in shown.rows} == {None}
    assert shown.events == []


@pytest.mark.parametrize("step_s", [2.0, 50.0])
def test_of_too_many_requests_the_last_stay_and_the_page_begins_with_them(
    told: Story, step_s: float
) -> None:
    shown = page(told, LENGTH_S, step_s=step_s, kept=60)
    assert sum(counted(shown).values()) == 60
    assert 0.0 < shown.offset_s < LENGTH_S
    assert counted(shown) == ended_after(told, shown.offset_s)
    assert shown.timeline.duration_s == pytest.approx(LENGTH_S - shown.offset_s)


def test_itl_is_that_of_all_gaps_but_the_first_of_each_request(told: Story) -> None:
    shown = page(told, LENGTH_S)
    model, gaps = COLUMNS.index("model"), COLUMNS.index("gaps_us")
    for row in shown.rows:
        mine = [r[gaps][1:] for r in told.rows["request"] if r[model] == row.model and r[gaps]]
        pooled = np.sort(np.concatenate(mine))
        assert row.itl_p95_s == pytest.approx(pooled[int(np.ceil(0.95 * len(pooled))) - 1] / 1e6)
