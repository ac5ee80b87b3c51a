"""The live page and the tab of models, in a real browser, over runs that swap models."""

import json
import os
import signal
import urllib.request
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.browser import Seen, page
from tests.running import ROOT, fair, finished, until
from tests.web import Web, web
from tokenswarm.sim.process import start
from tokenswarm.store.rundir import RunDir

pytestmark = pytest.mark.live

SCENARIO = ROOT / "src" / "tokenswarm" / "demo.yaml"
NAMES = ["tinyllama", "qwen", "yi"]
SHOTS = os.environ.get("TOKENSWARM_SCREENSHOTS")
"""A folder for screenshots, for people who want to look at them."""


@dataclass
class Session:
    """What somebody saw who started a run, looked at the pages, stopped it and started again."""

    runs: list[RunDir]
    seen: Seen
    exit_code: int
    on: Web
    tab_rows: list[str] = field(default_factory=list)
    help_texts: list[str] = field(default_factory=list)
    live: list[dict[str, Any]] = field(default_factory=list)
    table: list[str] = field(default_factory=list)
    canvases: list[list[int]] = field(default_factory=list)
    shades: list[int] = field(default_factory=list)
    links: dict[str, int] = field(default_factory=dict)
    state: str = ""
    simulated: bool = False


@pytest.fixture(scope="module", params=[0, 2], ids=["one process", "master and 2 workers"])
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("live")
    with page() as (tab, seen), start("rtx5090-crowded", speed=4) as box:
        options = ["--target-url", f"box={box.ollama_url}", "--grafana-url", "http://127.0.0.1:9"]
        options += ["--duration", "120"]
        on = web(folder, SCENARIO, *options, processes=request.param)
        found = Session(on.runs, seen, -1, on)
        first_run(tab, on, found, f"live{request.param}")
        again(tab, on, found)
        tab.goto("about:blank")
        os.kill(on.process.pid, signal.SIGTERM)
        found.exit_code = finished(on.process)
        found.runs = on.runs
    return found


def first_run(tab: Any, on: Web, found: Session, name: str) -> None:
    tab.goto(on.url)
    tab.get_by_text("Custom parameters").click()
    found.help_texts = tab.locator("label").all_inner_texts()
    shot(tab, f"{name}-form")
    tab.get_by_role("button", name="Start", exact=True).click()
    tab.get_by_role("tab", name="Models").click()
    for model in NAMES:
        tab.get_by_role("cell", name=model, exact=True).first.wait_for()
    found.tab_rows = tab.locator("thead tr").last.all_inner_texts()
    shot(tab, f"{name}-tab")
    tab.goto(f"{on.url}tokenswarm")
    tab.locator("canvas").first.wait_for()
    until(lambda: sum(bool(e["displaced"]) for e in data(on)["page"]["events"]) > 1)
    tab.wait_for_timeout(2500)
    found.live.append(data(on)["page"])
    until(lambda: data(on)["page"]["now_s"] > found.live[0]["now_s"] + 3)
    found.live.append(data(on)["page"])
    found.table = tab.locator("#models tbody tr").all_inner_texts()
    found.canvases = tab.locator("canvas").evaluate_all("all => all.map(c => [c.width, c.height])")
    found.simulated = tab.locator("#simulated").is_visible()
    shot(tab, f"{name}-page")
    on.post("stop")
    until(on.runs[0].report.is_file)
    tab.get_by_text("over", exact=True).wait_for()
    tab.get_by_role("link", name="report.html").wait_for()
    for link in tab.locator("#links a").all():
        href = link.evaluate("a => a.href")
        if href.startswith(on.url):
            found.links[link.inner_text()] = fetched(href)
        else:
            found.links[href] = 0
    found.state = tab.locator("#state").inner_text()


def again(tab: Any, on: Web, found: Session) -> None:
    """The page, still open, shows the next run."""
    on.post("swarm", user_count=4, spawn_rate=4)
    until(lambda: len(on.runs) == 2)
    tab.locator("#run").filter(has_text=on.runs[1].path.name).wait_for()
    tab.get_by_text("running").first.wait_for()
    on.post("stop")
    until(on.runs[1].report.is_file)


def data(on: Web) -> dict[str, Any]:
    said: dict[str, Any] = on.get("tokenswarm/data")
    return said if said["page"] else {"page": {"events": [], "now_s": 0}}


def fetched(url: str) -> int:
    """How many bytes come from there."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        return len(answer.read())


def shot(tab: Any, name: str) -> None:
    if SHOTS:
        tab.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)


def test_the_form_asks_for_scenario_rate_mix_and_keep_alive_with_help(session: Session) -> None:
    said = "\n".join(session.help_texts)
    for name, text in (
        ("Scenario", "scenario file (YAML)"),
        ("Rate", "requests a second in all"),
        ("Mix", "order of the models"),
        ("Keep Alive", "how long Ollama keeps a model loaded"),
    ):
        assert name in said
        assert text in said


def test_locusts_own_page_has_a_tab_of_models(session: Session) -> None:
    (titles,) = session.tab_rows
    for title in ("Model", "tok/s", "TTFT P95", "ITL P95", "Cold", "Resident", "VRAM"):
        assert title.lower() in titles.lower()


def test_the_live_page_shows_every_model_and_grows(session: Session) -> None:
    first, second = session.live
    assert [line.split("\t")[0] for line in session.table] == first["models"]
    assert set(first["models"]) >= set(NAMES)
    assert second["now_s"] > first["now_s"]
    assert sum(r["requests"] for r in second["rows"]) > sum(r["requests"] for r in first["rows"])
    assert any(r["tok_s"] > 0 for r in second["rows"])
    assert session.simulated


def test_the_charts_are_drawn_with_memory_residency_and_swap_bands(session: Session) -> None:
    line = session.live[1]["timeline"]
    assert len(session.canvases) == 5, "tok/s, TTFT, E2E, VRAM, residency"
    assert all(width > 300 and height > 30 for width, height in session.canvases)
    assert line["memory"]
    assert set(line["residency"]) >= set(NAMES)
    assert sum(bool(e["displaced"]) for e in session.live[1]["events"]) > 1


def test_a_run_that_ended_can_be_downloaded_from_the_page(session: Session) -> None:
    assert session.state == "over"
    for name in ("report.html", "summary.json", "request.parquet"):
        assert session.links[name] > 1000, name
    (grafana,) = [href for href, size in session.links.items() if not size]
    assert grafana.startswith("http://127.0.0.1:9/d/")
    assert session.runs[0].path.name in grafana


def test_the_pages_have_nothing_to_complain_about_and_ask_nobody_else(session: Session) -> None:
    assert session.seen.errors == []
    assert all(u.startswith((session.on.url, "data:", "about:")) for u in session.seen.requests)
    assert "Traceback" not in session.on.said()


def test_start_stop_start_are_two_runs(session: Session) -> None:
    assert len(session.runs) == 2
    for run in session.runs:
        assert json.loads(run.summary.read_bytes())["run_id"] == run.path.name
    assert fair(session.exit_code, session.on.cwd)
