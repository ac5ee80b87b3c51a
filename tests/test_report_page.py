"""report.html: one file, nothing from outside, nothing of what a server said acts in it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.synthetic_run import story, write_run
from tests.written_summary import HOSTILE, event, model, stratum, summary, timeline
from tokenswarm.analysis.definitions import DEFINITIONS
from tokenswarm.analysis.figures import ColdStarts, GpuFigures, Percentiles, Summary, Swaps
from tokenswarm.analysis.run import analyse
from tokenswarm.report import page, sentences
from tokenswarm.report.page import render

VOID = {"meta", "link", "br", "hr", "img", "input", "col"}


class Reader(HTMLParser):
    """Collects elements and attributes, and checks that elements are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += "" if self.open and self.open[-1] in ("script", "style") else data


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def data_of(html: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    decoded: dict[str, object] = json.loads(found[1])
    return decoded


def test_the_page_refers_to_nothing_outside_itself() -> None:
    html = render(summary(), timeline())
    for _, name, value in read(html).attributes:
        if name in ("src", "href", "srcset", "action", "poster", "data"):
            assert value == "data:,", (name, value)
    assert not re.search(r"@import|url\(", html)
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|EventSource|import)\s*\(", html)
    assert "default-src 'none'" in html


def test_what_a_server_said_is_text() -> None:
    html = render(summary(reasons=[HOSTILE], notes=[HOSTILE], scenario=HOSTILE), timeline())
    reader = read(html)
    assert "alert('x')" in reader.text
    assert "<script>alert" not in html
    assert html.count("<script") == html.count("</script") == 3


def test_the_embedded_data_cannot_end_its_element() -> None:
    name = "</script><script>alert(1)</script>\u2028&"
    bad = summary(models={name: summary().models["tinyllama"]})
    html = render(bad, replace(timeline(), tok_s={name: [1.0, None]}))
    assert data_of(html)["models"] == [name]
    assert html.count("<script") == 3


def test_the_verdict_comes_first_with_its_reasons() -> None:
    text = read(render(summary(), timeline())).text
    places = [
        text.index(part)
        for part in ("a gate failed", "gate swaps.count == 0: 2 is not == 0", "Time line", "Gates")
    ]
    assert places == sorted(places)


def test_definitions_errors_and_events_are_listed() -> None:
    text = read(render(summary(), timeline())).text
    assert all(name in text for name in DEFINITIONS)
    for part in ("qwen2-5_3b", "1:15.2", "2.13 s", "3.50 GiB to 9.49 GiB", "unknown", "503"):
        assert part in text


def test_phases_of_an_event_fill_its_latency() -> None:
    phases = page._phases(event())
    assert [name for name, _, _ in phases] == ["queue", "evict", "load", "first-token"]
    assert sum(percent for _, percent, _ in phases) == pytest.approx(100)
    # nobody was seen to leave: what came before the load was waiting
    assert page._phases(event(t1_s=None))[0][0] == "queue"
    assert page._phases(event(t5_s=None, latency_s=None)) == []


def empty() -> Summary:
    """A run in which nothing happened at all."""
    return summary(
        models={},
        requests=0,
        success_ratio=None,
        output_tok_s=None,
        gates=[],
        errors=[],
        gpu={},
        facts={},
        cold_starts=ColdStarts(0, Percentiles(0)),
        swaps=Swaps(0, Percentiles(0), Percentiles(0), None, 0, 0),
    )


def test_a_run_without_anything_still_gives_a_page() -> None:
    line = replace(
        timeline(), tok_s={}, ttft_p95_s={}, e2e_p95_s={}, window_n={}, dots={}, memory=[],
        residency={},
    )  # fmt: skip
    text = read(render(empty(), line)).text
    assert "No GPU telemetry" in text
    assert "Nothing said which models were in memory" in text


def test_no_cold_start_is_said_only_where_one_could_have_been_seen() -> None:
    seen = empty()
    seen = replace(seen, cold_starts=ColdStarts(0, Percentiles(0), {}, ["engine"]))
    assert sentences.swaps(seen) == "No cold start was seen."
    assert "cannot be told" in sentences.swaps(empty())


def test_many_events_are_cut_and_that_is_said() -> None:
    many = [event(t0_s=float(i)) for i in range(page.EVENTS_LISTED + 1)]
    crowded = Swaps(len(many), Percentiles(0), Percentiles(0), None, 0, 0, many)
    html = render(summary(swaps=crowded), timeline())
    assert f"The {page.EVENTS_LISTED} costliest of {page.EVENTS_LISTED + 1}" in html


def test_a_model_without_requests_has_an_empty_bar() -> None:
    silent = model(1, 0, {"warm": stratum(1, 1, 0.1)})
    bars = page._bars(summary(models={"tinyllama": silent}))
    assert bars == {"tinyllama": [("warm", 100.0, "warm: 1")]}


def test_gpus_show_their_largest_peak() -> None:
    two = {
        "a-0": GpuFigures("nvml", 5, 24 * 2**30, 20 * 2**30, 1),
        "a-1": GpuFigures("nvml", 5, 24 * 2**30, None, None),
    }
    assert page._tiles(summary(gpu=two))[-1] == ("VRAM peak", "20.0 GiB", "of 24.0 GiB")


def test_a_ten_minute_run_stays_small(tmp_path: Path) -> None:
    told = story(seed=5, users=30, duration_s=600, think_s=1.0, weights=(30, 10, 0.2))
    done = analyse(write_run(tmp_path, told))
    dots = sum(len(d.t_s) for d in done.timeline.dots.values())
    assert len(told.rows["request"]) > 3000
    assert dots <= 4700
    assert len(render(done.summary, done.timeline)) <= 1_500_000


PROBE = """<script>
addEventListener("load", () => {
  const charts = document.getElementById("charts"), key = (k) =>
    charts.dispatchEvent(new KeyboardEvent("keydown", { key: k, bubbles: true }));
  document.querySelector("button[data-event]").click();
  const zoomed = !document.getElementById("reset").disabled;
  for (const k of ["+", "ArrowLeft", "ArrowRight", "-", "0"]) key(k);
  const whole = document.getElementById("reset").disabled;
  document.getElementById("scale").click();
  document.querySelector("#legend button").click();
  const over = document.querySelectorAll(".u-over")[1], box = over.getBoundingClientRect();
  over.dispatchEvent(new MouseEvent("mousemove", { clientX: box.left + 30, clientY: box.top + 9, bubbles: true }));
  dispatchEvent(new Event("beforeprint"));
  dispatchEvent(new Event("afterprint"));
  console.info(`probed ${document.querySelectorAll(".uplot").length} charts, ${zoomed}, ${whole}`);
});
</script>"""  # noqa: E501


@pytest.mark.live
def test_a_browser_draws_it_and_has_nothing_to_complain_about(tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    done = analyse(write_run(tmp_path, story(seed=2, duration_s=20)))
    html = render(done.summary, done.timeline).replace("</body>", PROBE + "</body>")
    (tmp_path / "report.html").write_text(html, "utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    flags += " --disable-background-networking --disable-component-update"
    flags += " --enable-logging=stderr --v=0 --dump-dom"
    ran = subprocess.run(
        [
            chromium,
            *flags.split(),
            f"--user-data-dir={tmp_path / 'profile'}",
            (tmp_path / "report.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    said = re.findall(r'CONSOLE[^"]*"([^"]*)"', ran.stderr)
    assert said == ["probed 5 charts, true, true"]
    assert "<canvas" in ran.stdout
