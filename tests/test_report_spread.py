"""Latency distributions: curves that agree with the tables, pictures that cannot be misread."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from tests.synthetic_run import story, write_run
from tests.test_report_page import data_of, read
from tests.written_summary import event, summary, timeline
from tokenswarm.analysis.distributions import SHARES, Distribution, curve
from tokenswarm.analysis.figures import STRATA, Percentiles, Swaps, Thrash
from tokenswarm.analysis.percentiles import percentiles
from tokenswarm.analysis.run import Analysis, analyse
from tokenswarm.report import page, sentences
from tokenswarm.report.page import render
from tokenswarm.report.spread import APART, _x, panels, ticks


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analyse(write_run(tmp_path_factory.mktemp("run"), story(seed=3, duration_s=40)))


def test_a_curve_has_the_percentiles_of_the_tables() -> None:
    values = np.random.default_rng(1).lognormal(0, 1, 777)
    found, told = curve(values), percentiles(values)
    assert found is not None
    at = dict(zip(SHARES, found.values, strict=True))
    assert (at[0.5], at[0.9], at[0.99], at[1.0]) == (told.p50, told.p90, told.p99, told.max)
    assert at[0.0] == values.min()
    assert curve(np.array([np.nan])) is None


def test_every_stratum_with_ok_requests_has_a_curve_of_as_many(done: Analysis) -> None:
    for name, m in done.summary.models.items():
        d = done.distributions[name]
        for stratum in STRATA:
            n = m.strata[stratum].ttft_s.n
            assert (stratum in d.ttft_s) == (n > 0)
            if n:
                assert d.ttft_s[stratum].n == n
                assert d.ttft_s[stratum].values[-1] == m.strata[stratum].ttft_s.max


def test_the_page_draws_each_curve_and_says_it_in_words(done: Analysis) -> None:
    html = render(done.summary, done.timeline, done.distributions)
    curves = sum(len(d.ttft_s) + len(d.e2e_s) for d in done.distributions.values())
    assert html.count("<path class=") == curves
    labels = [v for tag, name, v in read(html).attributes if (tag, name) == ("svg", "aria-label")]
    labels = [label for label in labels if "share of requests" in label]
    assert len(labels) == 2 * len(done.distributions)
    assert all("median" in label for label in labels)


def test_curves_rise_to_the_right_and_stay_in_their_picture(done: Analysis) -> None:
    for panel in panels(done.distributions):
        for line in panel.lines:
            points = re.findall(r"H([\d.]+)V([\d.]+)", line.path)
            x, y = [float(a) for a, _ in points], [float(b) for _, b in points]
            assert x == sorted(x)
            assert y == sorted(y, reverse=True)
            assert min(x) >= 40
            assert max(x) <= 560
            assert min(y) >= 0


@pytest.mark.parametrize(
    ("low", "high"), [(0.0455, 0.0911), (0.9, 1.9), (0.031, 0.2), (0.01, 700.0), (1e-4, 1e3)]
)
def test_every_time_axis_has_labels_that_do_not_touch(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 11
    places = [_x(v, low, high) for v in found]
    assert all(b - a >= APART for a, b in pairwise(places))


def test_a_single_value_is_drawn_as_a_step() -> None:
    only = curve(np.array([0.5]))
    assert only is not None
    (panel,) = panels({"m": Distribution({"warm": only}, {})})
    assert panel.lines[0].title == "warm: median 500 ms, P95 about 500 ms (n 1)"
    assert len(panel.x_ticks) >= 2


def test_swaps_are_listed_by_cost_and_drawn_by_time() -> None:
    events = [
        event(t0_s=10.0, latency_s=1.0, blocked_request_s=2.0),
        event(t0_s=20.0, latency_s=3.0, blocked_request_s=50.0),
        event(t0_s=30.0, latency_s=5.0, blocked_request_s=None),
    ]
    s = summary(swaps=Swaps(3, Percentiles(0), Percentiles(0), None, 0, 0, events))
    html = render(s, timeline())
    assert re.findall(r'<tr data-event="(\d)">', html) == ["1", "2", "0"]
    drawn = data_of(html)["events"]
    assert isinstance(drawn, list)
    assert [e["t0_s"] for e in drawn] == [10.0, 20.0, 30.0]


def test_the_costliest_events_are_kept_when_there_are_too_many() -> None:
    many = [event(t0_s=float(i), latency_s=1.0 + i % 7) for i in range(page.EVENTS_LISTED + 90)]
    kept = page._listed(many)
    assert len(kept) == page.EVENTS_LISTED
    assert min(e.latency_s or 0 for e in kept) > min(e.latency_s or 0 for e in many)


def test_the_swap_tax_is_said_where_it_is_known() -> None:
    s = summary()
    assert sentences.tax(s) == ""
    thrash = Thrash(3.0, 9.0, 0.3, 0.9, 30.0, True)
    taxed = Swaps(
        2, s.swaps.latency_s, s.swaps.penalty_s, 2.0, 3, 2, s.swaps.events,
        tax_ratio=0.123, affected_ratio=0.08, tokens_lost=1234.5, thrash=thrash,
    )  # fmt: skip
    said = sentences.tax(summary(swaps=taxed))
    assert said == (
        "Swap tax: no token came in 12.3 % of the time under load, 8.0 % of the requests paid, "
        "about 1,234 tokens were not produced. The models chase each other out."
    )
    assert said in render(summary(swaps=taxed), timeline())


@pytest.mark.live
def test_a_browser_zooms_by_keyboard_from_the_swap_table(done: Analysis, tmp_path: Path) -> None:
    from tests.browser import page as browser

    hostile = "<script>document.title = 'taken over'</script>"
    s = replace(done.summary, notes=[hostile], reasons=[hostile])
    file = tmp_path / "report.html"
    file.write_text(render(s, done.timeline, done.distributions), "utf-8")
    with browser() as (opened, seen):
        for scheme in ("light", "dark"):
            opened.emulate_media(color_scheme=scheme)
            opened.goto(file.as_uri())
            opened.wait_for_selector(".uplot")
            assert opened.is_disabled("#reset")
            opened.focus("tr[data-event] button")
            opened.keyboard.press("Enter")
            opened.wait_for_function("!document.getElementById('reset').disabled")
            assert opened.evaluate("document.activeElement.id") == "charts"
            opened.keyboard.press("0")
            opened.wait_for_function("document.getElementById('reset').disabled")
            assert "taken over" not in opened.title()
        assert seen.errors == []
        assert [u for u in seen.requests if not u.startswith(("file:", "data:"))] == []


@pytest.mark.live
def test_a_browser_shows_one_crosshair_in_all_charts_and_every_event(
    done: Analysis, tmp_path: Path
) -> None:
    from tests.browser import page as browser

    html = tmp_path / "report.html"
    html.write_text(render(done.summary, done.timeline, done.distributions), "utf-8")
    with browser() as (opened, seen):
        opened.goto(html.as_uri())
        over = opened.locator(".uplot .u-over").nth(1)
        over.scroll_into_view_if_needed()
        over.hover(position={"x": 200, "y": 40})
        opened.wait_for_function(
            """() => {
              const at = [...document.querySelectorAll(".uplot .u-cursor-x")]
                .map((line) => line.style.transform);
              return at.length > 3 && new Set(at).size === 1 && at[0].startsWith("translate(200px");
            }"""
        )
        rows = opened.locator("table.swaps tbody tr").count()
        assert rows == len(done.summary.swaps.events) > 0
        assert f"{rows}, the costliest first" in opened.locator("#h-swaps").inner_text()
    assert not seen.errors
    assert seen.requests == [html.as_uri()]
