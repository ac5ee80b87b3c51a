"""Models coming in, laid over each other on seconds since demand."""

import re
from pathlib import Path

import pytest

from tests.synthetic_run import story, write_run
from tests.test_report_page import read
from tokenswarm.analysis.correlate import Superposed, Trace
from tokenswarm.analysis.run import Analysis, analyse
from tokenswarm.report.page import render
from tokenswarm.report.superposed import HEIGHT, WIDTH, panels, round_values

GIB = 2**30


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analyse(write_run(tmp_path_factory.mktemp("run"), story(seed=3, duration_s=40)))


def trace(model: str, *gib: float | None, t5_s: float | None = None) -> Trace:
    used = [None if g is None else g * GIB for g in gib]
    return Trace(event=0, model_in=model, t5_s=t5_s, vram_used_bytes=used)


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


def test_each_event_is_a_line_and_the_median_is_a_thick_one() -> None:
    three = [trace("a", 1, 2, 3), trace("a", 1, 4, 5), trace("a", 1, 3, 9)]
    (panel,) = panels(Superposed([-1.0, 0.0, 1.0], three))
    assert len(panel.traces) == 3
    middle, third = points(panel.median), points(panel.traces[2])
    assert middle[1] == third[1]  # 3 of 2, 4, 3
    assert middle[2] == points(panel.traces[1])[2]  # 5 of 3, 5, 9


def test_what_no_sample_shows_is_a_gap_and_no_zero() -> None:
    (panel,) = panels(Superposed([-1.0, 0.0, 1.0, 2.0], [trace("a", 1, None, 2, 3)]))
    assert panel.traces[0].count("M") == 2
    assert len(points(panel.traces[0])) == 3
    assert panel.median == ""  # of one event it would be the same line


def test_a_model_without_any_sample_has_no_panel() -> None:
    assert panels(Superposed([0.0, 1.0], [trace("a", None, None)])) == []
    assert panels(Superposed()) == []


def test_the_dot_is_the_first_token_and_the_line_the_demand() -> None:
    (panel,) = panels(Superposed([-1.0, 0.0, 1.0], [trace("a", 1, 2, 3, t5_s=1.0)]))
    line = points(panel.traces[0])
    assert panel.dots == [line[2]]
    assert panel.demand == line[1][0]
    assert panel.words == "a came in once; first token after 1.00 s"


def test_memory_that_never_changes_is_a_line_within_the_picture() -> None:
    (panel,) = panels(Superposed([-1.0, 0.0, 1.0], [trace("a", 8, 8, 8)]))
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in points(panel.traces[0]))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-2, 7.5), (23.1, 30.2), (0, 0.004), (5, 900)])
def test_labels_are_few_round_and_within(low: float, high: float) -> None:
    values = round_values(low, high)
    assert 2 <= len(values) <= 8
    assert low <= values[0] < values[-1] <= high


def test_the_page_has_a_panel_for_each_model_that_came_in(done: Analysis, tmp_path: Path) -> None:
    found = panels(done.timeline.superposed)
    assert found
    assert {p.model for p in found} <= {e.model_in for e in done.summary.swaps.events}
    html = render(done.summary, done.timeline, done.distributions)
    labels = [v for tag, name, v in read(html).attributes if (tag, name) == ("svg", "aria-label")]
    assert [p.words for p in found] == [label for label in labels if "came in" in label]
