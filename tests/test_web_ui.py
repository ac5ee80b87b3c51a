"""Locust's web page over our runs, and our report's page, in a real browser."""

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.browser import Seen, page
from tests.running import fair, finished, records, scenario, until
from tests.web import LOOPBACK, Web, free_port, listening, web
from tokenswarm.sim import truth
from tokenswarm.sim.process import start
from tokenswarm.store.rundir import RunDir

pytestmark = pytest.mark.live

MODELS = [
    {"name": name, "model": name, "prompt": {"kind": "text", "text": "hi"}}
    for name in ("steady", "steady-b")
]
USERS = 6
NOWHERE = "http://127.0.0.1:9"


@dataclass
class Session:
    """Two runs that somebody started and stopped on the page, and what the page showed."""

    runs: list[RunDir]
    truth: truth.Truth
    url: str
    exit_code: int
    said: str
    seen: Seen
    form: dict[str, str]
    rows: list[list[str]]
    listeners: dict[int, set[str]] = field(default_factory=dict)


@pytest.fixture(scope="module", params=[0, 2], ids=["one process", "master and 2 workers"])
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Start, stop, new test, stop, SIGTERM."""
    folder = tmp_path_factory.mktemp("web")
    with page() as (tab, seen), start("steady", truth=folder / "truth.jsonl") as box:
        file = scenario(folder / "web.yaml", NOWHERE, *MODELS, load=closed(), drain_s=60)
        on = web(folder, file, "--target-url", f"box={box.ollama_url}", processes=request.param)
        listeners = {p: listening(p) for p in (on.port, on.master_port) if p is not None}
        tab.goto(on.url)
        form = {n: tab.input_value(f"input[name={n}]") for n in ("userCount", "spawnRate", "host")}
        rows = []
        for again in (False, True):
            if again:
                press(tab, "New")
            press(tab, "Start")
            rows = shown_rows(tab)
            until(lambda: len(records(on.runs[-1])) > 20)
            press(tab, "Stop")
            tab.get_by_role("button", name="New", exact=True).wait_for()
        os.kill(on.process.pid, signal.SIGTERM)
        code = finished(on.process)
    told = truth.read(folder / "truth.jsonl")
    return Session(on.runs, told, box.ollama_url, code, on.said(), seen, form, rows, listeners)


def closed(users: int = USERS) -> dict[str, Any]:
    return {"kind": "closed", "users": users}


def press(tab: Any, name: str) -> None:
    tab.get_by_role("button", name=name, exact=True).click()


def shown_rows(tab: Any) -> list[list[str]]:
    """The table of statistics as soon as every model is in it."""
    for model in MODELS:
        tab.get_by_role("cell", name=str(model["name"]), exact=True).wait_for()
    lines = tab.locator("tbody tr").all_inner_texts()
    return [line.split("\t") for line in lines]


def parquet_rows(run: RunDir) -> int:
    with duckdb.connect() as db:
        found = db.execute("SELECT count(*) FROM read_parquet(?)", [str(run.parquet("request"))])
        (count,) = found.fetchone() or (0,)
    return int(count)


def assert_complete(run: RunDir, sources: set[str]) -> None:
    """As complete as a run of `tokenswarm run`."""
    manifest, got = run.read_manifest(), records(run)
    assert manifest.load_end_unix_ns is not None
    assert manifest.end_unix_ns is not None
    assert sources <= set(manifest.ended)
    summary = json.loads(run.summary.read_bytes())
    assert {"schema", "verdict", "models"} <= set(summary)
    assert summary["run_id"] == run.path.name
    assert len(got) == len({r["id"] for r in got}) == summary["requests"] == parquet_rows(run)
    assert run.report.stat().st_size > 10_000


def test_the_form_shows_the_scenario(session: Session) -> None:
    assert session.form == {"userCount": "6", "spawnRate": "6", "host": session.url}


def test_each_model_is_a_row_of_the_statistics(session: Session) -> None:
    shown = {row[1]: row for row in session.rows}
    assert set(shown) == {"steady", "steady-b", "Aggregated"}
    assert all(int(row[2]) > 0 and int(row[3]) == 0 for row in session.rows)


def test_nobody_beyond_this_host_can_reach_the_page_or_the_master(session: Session) -> None:
    assert session.listeners
    assert all(addresses == LOOPBACK for addresses in session.listeners.values())


def test_the_page_has_nothing_to_complain_about_and_stays_here(session: Session) -> None:
    assert session.seen.errors == []
    assert all(u.startswith(("http://127.0.0.1:", "data:")) for u in session.seen.requests)
    assert "Traceback" not in session.said


def test_two_starts_are_two_complete_runs(session: Session) -> None:
    assert len(session.runs) == 2
    sources = {"w0", "w1"} if len(session.listeners) == 2 else {"w0"}
    for run in session.runs:
        assert_complete(run, sources)
        summary = json.loads(run.summary.read_bytes())
        assert set(summary["models"]) == {"steady", "steady-b"}
        assert {r["status"] for r in records(run)} == {"ok"}
    assert fair(session.exit_code, session.runs[0].path.parent.parent)


def test_every_served_request_belongs_to_exactly_one_of_the_two_runs(session: Session) -> None:
    served = Counter(r.request_id for r in session.truth.requests)
    for run in session.runs:
        manifest = run.read_manifest()
        end = manifest.end_unix_ns or 0
        ids = {r["id"] for r in records(run)}
        arrived = [
            r.request_id
            for r in session.truth.requests
            if manifest.t0_unix_ns <= r.arrival_unix_ns <= end
        ]
        assert len(arrived) > 10
        assert sorted(arrived, key=str) == sorted(ids)
        served.subtract(ids)
    assert not +served
    assert not -served


def test_the_report_draws_its_charts_in_light_and_dark_and_asks_nobody(session: Session) -> None:
    report = session.runs[0].report.as_uri()
    with page() as (tab, seen):
        for scheme in ("light", "dark"):
            tab.emulate_media(color_scheme=scheme)
            tab.goto(report)
            tab.locator("canvas").first.wait_for()
            sizes = tab.locator("canvas").evaluate_all("all => all.map(c => [c.width, c.height])")
            assert len(sizes) >= 3
            assert all(width > 100 and height > 50 for width, height in sizes)
            colour = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (brightness(colour) > 128) == (scheme == "light"), colour
    assert seen.errors == []
    assert seen.requests == [report, report]


def brightness(colour: str) -> float:
    """Mean of red, green and blue of `rgb(r, g, b)`."""
    numbers = [float(n) for n in colour.partition("(")[2].rstrip(")").split(",")[:3]]
    return sum(numbers) / len(numbers)


def test_a_refused_start_is_shown_and_a_later_one_works(tmp_path: Path) -> None:
    """First there is no server, then it lacks the model, then all is well."""
    port = free_port()
    file, url = tmp_path / "late.yaml", f"http://127.0.0.1:{port}"
    scenario(file, url, {**MODELS[0], "model": "gone:1b"}, load=closed())
    with page() as (tab, seen):
        on = web(tmp_path, file)
        tab.goto(on.url)
        press(tab, "Start")
        refused(tab, url)
        with start("steady", port=port):
            press(tab, "Start")
            refused(tab, "gone:1b")
            scenario(file, url, MODELS[0], load=closed())
            press(tab, "Start")
            until(lambda: len(on.runs) == 1 and len(records(on.runs[0])) > 10)
            press(tab, "Stop")
            tab.get_by_role("button", name="New", exact=True).wait_for()
            until(on.runs[0].report.is_file)
    assert seen.errors == []
    assert_complete(on.runs[0], {"w0"})
    os.kill(on.process.pid, signal.SIGTERM)
    assert fair(finished(on.process), on.cwd)
    assert "Traceback" not in on.said()


def refused(tab: Any, why: str) -> None:
    """The form stays and says why; the tab of exceptions has it too."""
    tab.get_by_role("alert").filter(has_text=why).wait_for()
    assert why in tab.evaluate("fetch('exceptions').then(a => a.text())")


def terminated(on: Web) -> None:
    os.kill(on.process.pid, signal.SIGTERM)


def interrupted(on: Web) -> None:
    os.killpg(on.process.pid, signal.SIGINT)  # as a terminal does: to every process


@pytest.mark.parametrize("processes", [0, 2])
@pytest.mark.parametrize("end", [terminated, interrupted])
def test_a_signal_ends_the_run_that_is_on_in_order(
    end: Callable[[Web], None], processes: int, tmp_path: Path
) -> None:
    with start("steady", truth=tmp_path / "truth.jsonl") as box:
        file = scenario(tmp_path / "signal.yaml", box.ollama_url, *MODELS, load=closed())
        on = web(tmp_path, file, processes=processes)
        on.post("swarm", user_count=USERS, spawn_rate=USERS)
        until(lambda: bool(on.runs) and len(records(on.runs[0])) > 20)
        end(on)
        code = finished(on.process)
    assert fair(code, on.cwd), on.said()
    (run,) = on.runs
    assert_complete(run, {"w0", "w1"} if processes else {"w0"})
    served = {r.request_id for r in truth.read(tmp_path / "truth.jsonl").requests}
    assert {r["id"] for r in records(run)} == served
    assert {r["status"] for r in records(run)} == {"ok"}


def test_the_scenarios_duration_ends_a_run_unless_the_form_says_how_long(tmp_path: Path) -> None:
    """The form's run time is for one start: the next one has the scenario's again."""
    with start("steady") as box:
        file = scenario(tmp_path / "d.yaml", box.ollama_url, *MODELS, duration_s=1, load=closed())
        on = web(tmp_path, file)
        lasted = []
        for n, run_time in enumerate(["4s", ""], start=1):
            on.post("swarm", user_count=USERS, spawn_rate=USERS, run_time=run_time)
            until(lambda n=n: len(on.runs) == n and on.runs[-1].report.is_file())  # type: ignore[misc]
            manifest = on.runs[-1].read_manifest()
            lasted.append(((manifest.load_end_unix_ns or 0) - manifest.t0_unix_ns) / 1e9)
    os.kill(on.process.pid, signal.SIGTERM)
    assert fair(finished(on.process), on.cwd)
    assert 2 < lasted[0] < 3.5, "4 s from the press of the button, of which 1 is before t0"
    assert 0.9 < lasted[1] < 2


def test_users_still_to_come_do_not_come_after_the_end(tmp_path: Path) -> None:
    """A master in the middle of its ramp would go on to start users on its workers."""
    with start("steady") as box:
        file = scenario(tmp_path / "ramp.yaml", box.ollama_url, *MODELS, duration_s=1)
        on = web(tmp_path, file, processes=2)
        on.post("swarm", user_count=30, spawn_rate=5)
        until(lambda: bool(on.runs) and on.runs[0].report.is_file())
        until(lambda: on.state() == "stopped")
        on.post("swarm", user_count=4, spawn_rate=4)
        until(lambda: len(on.runs) == 2 and on.runs[1].report.is_file())
        until(lambda: on.state() == "stopped")
    os.kill(on.process.pid, signal.SIGTERM)
    assert fair(finished(on.process), on.cwd)
    first, second = on.runs
    assert_complete(first, {"w0", "w1"})
    assert_complete(second, {"w0", "w1"})
    assert max(row["users"] for row in records(first, "generator")) < 15
    assert max(row["users"] for row in records(second, "generator")) == 2
