"""Every query of every panel, variable and annotation, as Grafana sends it, to a real InfluxDB that
holds real runs: what comes back has the shape that its panel needs, and the run's own figures."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.grafana_client import Json, View, ask, choices, expanded, frames, panels, rows
from tests.grafana_run import DB, Seeded, seeded
from tests.test_grafana import BOARDS
from tokenswarm.store import parquet
from tokenswarm.store.lines import encode
from tokenswarm.store.rundir import RunDir
from tokenswarm.store.schema import MEASUREMENTS

pytestmark = [pytest.mark.live, pytest.mark.slow]

H200 = Path(__file__).parent / "data" / "vllm-0.24.0-h200-run"
NOT_SIMULATED = re.compile(
    r"pcie_tx|mem_clock_hz|mem_temperature_c|power_instant_w|power_sampled_max_w"
    r'|MAX\("(running|waiting)"\)'
)
"""What an Ollama on a simulated GPU does not tell. They are checked with other rows, below."""

TARGETS = [
    pytest.param(panel, target, id=f"{stem}-{panel['id']}-{target['refId']}")
    for stem, board in BOARDS.items()
    for panel in panels(board)
    for target in panel["targets"]
]
VARIABLES = [
    pytest.param(stem, v, id=f"{stem}-{v['name']}")
    for stem, board in BOARDS.items()
    for v in board["templating"]["list"]
    if v["type"] == "query"
]


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeded]:
    with seeded(tmp_path_factory.mktemp("grafana")) as made:
        yield made


def values(found: dict[str, list[list[Any]]]) -> list[Any]:
    return [v for points in found.values() for _, v in points if v is not None]


@pytest.mark.parametrize(("panel", "target"), TARGETS)
def test_a_panel_gets_what_it_draws(db: Seeded, panel: Json, target: Json) -> None:
    view = db.view(db.baseline if panel["title"] == "Failures" else db.run)
    if NOT_SIMULATED.search(target["query"]):
        assert values(frames(db.server, DB, target, view)) == []
        return
    if target["resultFormat"] == "table":
        check_table(panel, rows(db.server, DB, target, view))
        return
    found = frames(db.server, DB, target, view)
    if not found and panel["title"] == "Tokens not produced":
        assert db.summary()["swaps"]["tokens_lost"] is None
        return
    assert values(found), f"no data: {expanded(target['query'], view)}"
    wanted: type | tuple[type, ...] = str if panel["type"] == "state-timeline" else (int, float)
    if re.search("throttle_bits|swap_active", target["query"]):
        wanted = int
    assert all(isinstance(v, wanted) for v in values(found)), panel["title"]
    if wanted is not str:
        assert all(math.isfinite(v) for v in values(found))
    for points in found.values():
        times = [t for t, _ in points]
        assert times == sorted(times)


def check_table(panel: Json, found: list[Json]) -> None:
    assert found, panel["title"]
    shown = panel["transformations"][-1]["options"]["renameByName"]
    here = {name for name in shown if name in found[0]}
    assert here, panel["title"]
    if len(panel["targets"]) == 1:
        assert set(shown) == here
    for name in here:
        if any(row[name] is not None for row in found):
            continue
        # a cold start of a run may lack these, but not all rows of all panels' other columns
        assert name in ("http_status", "output_tok_s", "tpot_p50_s", "tpot_p95_s"), name


@pytest.mark.parametrize(("stem", "variable"), VARIABLES)
def test_a_variable_offers_what_is_there(db: Seeded, stem: str, variable: Json) -> None:
    view = db.view()
    offered = choices(db.server, DB, variable["query"], view)
    ids = {r.read_manifest().run_id for r in (db.run, db.baseline)}
    wanted = {
        "run": ids,
        "baseline": ids - {view.variables["run"]},
        "model": {"tinyllama", "qwen", "yi"},
        "engine": {"ollama"},
        "gpu": {"0"},
    }
    if variable["name"] in wanted:
        assert set(offered) == wanted[variable["name"]]
    else:
        assert offered


@pytest.mark.parametrize("stem", BOARDS)
def test_swaps_are_regions_with_text_and_end(db: Seeded, stem: str) -> None:
    (annotation,) = BOARDS[stem]["annotations"]["list"]
    (series,) = ask(db.server, DB, expanded(annotation["target"]["query"], db.view()))
    assert series["name"] == "swap"
    assert series["columns"] == ["time", "text", "kind", "end_ms"]
    assert len(series["values"]) == db.summary()["cold_starts"]["count"]
    for start_ms, text, kind, end_ms in series["values"]:
        assert None not in (text, kind)
        assert isinstance(end_ms, int)
        assert start_ms <= end_ms < start_ms + 60_000


@pytest.mark.parametrize("chosen", [["qwen"], ["qwen", "yi"]])
def test_choosing_models_narrows_what_is_shown(db: Seeded, chosen: list[str]) -> None:
    view = db.view()
    some = View(view.from_ms, view.to_ms, {**view.variables, "model": chosen})
    (panel,) = [p for p in panels(BOARDS["swaps"]) if p["title"] == "Output tok/s by model"]
    assert set(frames(db.server, DB, panel["targets"][0], some)) == set(chosen)


def figure(db: Seeded, stem: str, title: str, name: str = "") -> Any:
    """The number that a stat panel shows for the run."""
    (panel,) = [p for p in panels(BOARDS[stem]) if p["title"] == title]
    (target,) = [t for t in panel["targets"] if t["alias"] == name]
    found = frames(db.server, DB, target, db.view())
    return values(found)[-1] if found else None


def test_figures_of_the_run_are_those_of_its_summary(db: Seeded) -> None:
    s = db.summary()
    swaps = s["swaps"]
    for title, wanted in {
        "Swaps": swaps["count"],
        "Cold starts": s["cold_starts"]["count"],
        "Swap tax": swaps["tax_ratio"],
        "Requests that paid": swaps["affected_ratio"],
        "Output": s["output_tok_s"],
    }.items():
        assert figure(db, "swaps", title) == wanted, title
    for title, sums in {
        "Waiting bought": swaps["blocked_request_s"],
        "Tokens not produced": swaps["tokens_lost"],
    }.items():
        assert figure(db, "swaps", title) == pytest.approx(sums), title
    for name in ("p50", "p95"):
        shown = figure(db, "swaps", "Swap latency P50, P95", name.upper())
        assert shown == swaps["latency_s"][name]


def test_a_run_beside_its_baseline_shows_both_summaries(db: Seeded) -> None:
    s = db.summary()
    peak = max(g["vram_used_max_bytes"] for g in s["gpu"].values())
    for title, wanted in {
        "Ok": s["success_ratio"],
        "Output": s["output_tok_s"],
        "Swaps": s["swaps"]["count"],
        "Swap P95": s["swaps"]["latency_s"]["p95"],
        "Swap tax": s["swaps"]["tax_ratio"],
        "VRAM peak": peak,
    }.items():
        assert figure(db, "overview", title, "run") == wanted, title
    assert figure(db, "overview", "Ok", "baseline") < 1


def test_percentiles_of_models_and_strata_are_those_of_the_summary(db: Seeded) -> None:
    (panel,) = [p for p in panels(BOARDS["overview"]) if p["title"].startswith("Run against")]
    view = db.view()
    found = {
        (row["model"], row["stratum"]): row
        for row in rows(db.server, DB, panel["targets"][0], view)
        if row["run_id"] == view.variables["run"]
    }
    seen = 0
    for model, figures in db.summary()["models"].items():
        parts = {"all": figures, **figures["strata"]}
        for stratum, wanted in parts.items():
            if not wanted["requests"]:
                assert (model, stratum) not in found
                continue
            row = found[model, stratum]
            assert row["requests"] == wanted["requests"]
            for field in ("ttft_s", "e2e_s", "tpot_s"):
                for p in ("p50", "p95", "p99"):
                    column = f"{field[:-2]}_{p}_s"
                    if column in row:
                        assert row[column] == wanted[field][p], (model, stratum, column)
            seen += 1
    assert seen == len(found) >= 6


def test_tok_s_over_time_add_up_to_the_tokens_that_arrived(db: Seeded) -> None:
    """Nearly: two ticks that fall into one second's bucket show as their mean."""
    (panel,) = [p for p in panels(BOARDS["swaps"]) if p["title"] == "Output tok/s by model"]
    found = frames(db.server, DB, panel["targets"][0], db.view())
    arrived = parquet.query(db.run, 'SELECT sum("token_events") AS n FROM "tick"')["n"][0]
    assert sum(values(found)) == pytest.approx(arrived, rel=0.2)


def test_vram_of_the_models_never_adds_up_to_more_than_there_is(db: Seeded) -> None:
    (panel,) = [p for p in panels(BOARDS["swaps"]) if p["title"] == "VRAM by model"]
    held, used, total, _ = (frames(db.server, DB, t, db.view()) for t in panel["targets"])
    assert {"co-tenant", "tinyllama", "qwen", "yi"} <= set(held)
    (size,) = set(values(total))
    sums: dict[int, float] = {}
    for points in held.values():
        for t, v in points:
            sums[t] = sums.get(t, 0) + v
    assert max(sums.values()) <= size
    assert max(values(used)) <= size
    assert max(sums.values()) > 0.8 * max(values(used))


def test_the_band_is_up_from_demand_to_first_token(db: Seeded) -> None:
    s = db.summary()
    t0_ns = db.run.read_manifest().t0_unix_ns
    (series,) = ask(db.server, DB, f"SELECT active FROM swap_active WHERE run_id = '{s['run_id']}'")
    steps = [(int(t), int(a)) for t, a in series["values"]]
    assert steps[0] == (t0_ns // 1_000_000, 0)
    for event in s["swaps"]["events"]:
        if event["t5_s"] is None:
            continue
        middle = t0_ns / 1e6 + (event["t0_s"] + event["t5_s"]) / 2 * 1e3
        assert [a for t, a in steps if t <= middle][-1] == 1
    assert steps[-1][1] == 0


def some(pattern: str) -> list[Any]:
    return [t for t in TARGETS if re.search(pattern, t.values[1]["query"])]  # type: ignore[index]


@pytest.mark.parametrize(("panel", "target"), some(r'MAX\("(running|waiting)"\)'))
def test_what_vllm_tells_of_its_queue_is_drawn(db: Seeded, panel: Json, target: Json) -> None:
    """Of a run against real vLLM servers on an H200, as it was recorded."""
    made = parquet.read(RunDir(H200), "engine", [*MEASUREMENTS["engine"].columns])
    kept = [list(row) for row in zip(*(c.tolist() for c in made.values()), strict=True)]
    view = _written(db, "queues", "engine", kept)
    found = frames(db.server, "queues", target, view)
    assert len(found) == 3
    assert all(isinstance(v, int) and v >= 0 for v in values(found))
    assert any(values(found)) or "waiting" in target["query"]


@pytest.mark.parametrize(("panel", "target"), some('FROM "gpu"'))
def test_what_a_driver_tells_is_drawn(db: Seeded, panel: Json, target: Json) -> None:
    """Rows with every field; a simulated GPU has not all of them."""
    m = MEASUREMENTS["gpu"]
    cells = [{"float": 0.5, "int": 7, "str": "nvml"}[f.kind] for f in m.fields]
    start = db.run.read_manifest().t0_unix_ns
    kept = [[start + i * 50_000_000, "driver", "h", "0", *cells] for i in range(40)]
    view = _written(db, "driver", "gpu", kept)
    found = values(frames(db.server, "driver", target, view))
    assert found
    assert set(found) <= {0.5, 7, 1}


def _written(db: Seeded, name: str, measurement: str, kept: list[list[Any]]) -> View:
    """A database `name` with these rows, and a look at all of them."""
    db.server.create(name)
    db.server.write(name, encode([(measurement, row) for row in kept]).text.decode())
    chosen = {**db.view().variables, "run": str(kept[0][1])}
    return View(kept[0][0] // 1_000_000, kept[-1][0] // 1_000_000 + 1, chosen)
