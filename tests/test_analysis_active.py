"""swap_active: when a model was being brought in, as steps that a dashboard can shade."""

from tests.written_summary import event
from tokenswarm.analysis.rows import active_rows
from tokenswarm.store.rundir import Manifest

T0 = 1_000_000_000_000
RUN = Manifest(
    run_id="r", t0_unix_ns=T0, tokenswarm="1", python="3", platform="p", host="h"
)  # fmt: skip


def steps(*events: object) -> list[tuple[float, int]]:
    """(run seconds, active) of the one target."""
    rows = active_rows(RUN, events)  # type: ignore[arg-type]
    assert {(row[1], row[2]) for row in rows} <= {("r", "box")}
    return [(round((row[0] - T0) / 1e9, 6), row[3]) for row in rows]


def during(t0: float, t5: float | None, **more: object) -> object:
    return event(target="box", t0_s=t0, t1_s=None, t2_s=None, t3_s=None, t4_s=None, t5_s=t5, **more)


def test_it_is_up_from_demand_to_first_token_and_says_so_each_second() -> None:
    assert steps(during(1, 3.5)) == [(0, 0), (1, 1), (2, 1), (3, 1), (3.5, 0)]


def test_swaps_that_overlap_are_one_span_and_no_time_comes_twice() -> None:
    shown = steps(during(1, 3), during(2, 2.5), during(2.5, 4))
    assert [active for t, active in shown if 1 <= t < 3] == [1, 1]
    assert shown[-1] == (4, 0)
    rows = active_rows(RUN, [during(1, 3), during(2.5, 4)])  # type: ignore[list-item]
    times = [row[0] for row in rows]
    assert times == sorted(set(times))


def test_without_a_first_token_the_last_known_mark_ends_it() -> None:
    failed = event(target="box", t0_s=1, t1_s=None, t2_s=None, t3_s=1.2, t4_s=1.9, t5_s=None)
    assert steps(failed) == [(0, 0), (1, 1), (1.9, 0)]


def test_a_run_without_swaps_has_no_rows() -> None:
    assert active_rows(RUN, []) == []
