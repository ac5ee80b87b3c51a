"""A whole run with --influx-url: the database holds what Parquet holds, measurement by measurement.

The comparison here is made by DuckDB and InfluxQL and shares nothing with `tokenswarm verify`.
"""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.running import fair, finished, run_once, scenario, tokenswarm
from tests.services import Influxd, free_port, influxd
from tokenswarm.sim.process import start
from tokenswarm.store import parquet
from tokenswarm.store.rundir import RunDir
from tokenswarm.store.schema import MEASUREMENTS, Measurement

pytestmark = pytest.mark.live

DB = "tokenswarm"
MODELS: tuple[dict[str, Any], ...] = (
    {"name": "tinyllama", "model": "tinyllama:1.1b", "prompt": {"kind": "text", "text": "hi"}},
    {"name": "yi", "model": "yi:6b", "prompt": {"kind": "text", "text": "hi"}},
)
LOAD: dict[str, Any] = {"load": {"kind": "closed", "users": 4}, "max_requests": 30}


@dataclass
class Shipped:
    """A run on the simulator and the server that it was shipped to."""

    run: RunDir
    server: Influxd
    folder: Path


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shipped]:
    folder = tmp_path_factory.mktemp("shipped")
    with influxd(folder) as server, start("rtx5090-crowded") as box:
        file = scenario(folder / "mix.yaml", box.ollama_url, *MODELS, **LOAD)
        code, run = run_once(file, "--influx-url", server.url, "--workers", 2, cwd=folder)
        assert fair(code, folder)
        yield Shipped(run, server, folder)


def figures(m: Measurement) -> list[tuple[str, str]]:
    """(InfluxQL, SQL) of everything that is compared of a measurement."""
    terms = []
    for f in m.fields:
        if f.files_only:
            continue
        name = f'"{f.name}"'
        terms.append((f"count({name})", f"count({name})"))
        if f.kind in ("float", "int"):
            terms.append((f"sum({name})", f"sum({name})"))
            terms.append((f"max({name})", f"max({name})"))
    return terms


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_counts_and_sums_are_those_of_parquet(shipped: Shipped, name: str) -> None:
    m, run = MEASUREMENTS[name], shipped.run
    terms = figures(m)
    sql = ", ".join(f"{term} AS f{i}" for i, (_, term) in enumerate(terms))
    wanted = parquet.query(run, f'SELECT count(*) AS n, {sql} FROM "{name}"')
    found = shipped.server.figures(DB, name, *(term for term, _ in terms))
    if not wanted["n"][0]:
        assert found == []
        return
    for i, (term, _) in enumerate(terms):
        value = wanted[f"f{i}"].tolist()[0]
        if term.startswith("count"):
            assert (found[i] or 0) == value, term
        elif value is None:
            assert found[i] is None, term
        else:
            assert math.isclose(found[i], value, rel_tol=1e-9, abs_tol=1e-9), term


def test_every_measurement_of_a_run_is_there(shipped: Shipped) -> None:
    names = {path.stem for path in shipped.run.path.glob("*.parquet")}
    assert names == set(shipped.server.measurements(DB))
    assert {"request", "request_stratum", "swap", "tick", "gpu", "run", "run_summary"} <= names


def test_points_are_as_many_as_rows(shipped: Shipped) -> None:
    """Rows of equal tags and time would be one point."""
    for path in shipped.run.path.glob("*.parquet"):
        rows = int(parquet.query(shipped.run, f'SELECT count(*) AS n FROM "{path.stem}"')["n"][0])
        series = shipped.server.query(f'select * from "{path.stem}"', DB)
        assert sum(len(s["values"]) for s in series) == rows, path.stem


def test_verify_says_so_as_well(shipped: Shipped) -> None:
    command = tokenswarm(
        "verify", shipped.run.path, "--influx-url", shipped.server.url, cwd=shipped.folder
    )
    assert finished(command) == 0
    assert "everything is there" in (shipped.folder / "stdout.txt").read_text()


def test_the_manifest_says_what_was_shipped(shipped: Shipped) -> None:
    manifest = shipped.run.read_manifest()
    status = manifest.telemetry["shipper"]
    assert status["done"]
    assert status["shipped"]["request"] == LOAD["max_requests"]
    assert not [note for note in manifest.notes if "database" in note]


def test_the_run_and_its_figures_are_rows(shipped: Shipped) -> None:
    summary = json.loads(shipped.run.summary.read_bytes())
    (series,) = shipped.server.query("select scenario, start_ms, end_ms, simulated from run", DB)
    ((_, name, start_ms, end_ms, simulated),) = series["values"]
    assert (name, simulated) == ("mix", True)
    assert 0 < end_ms - start_ms < 600_000
    for model, wanted in summary["models"].items():
        q = f"select requests, ttft_p95_s from run_summary where model = '{model}' and stratum = "
        (series,) = shipped.server.query(f"{q} 'all'", DB)
        assert series["values"][0][1:] == [wanted["requests"], wanted["ttft_s"]["p95"]]
        (series,) = shipped.server.query(f"{q} 'warm'", DB)
        warm = wanted["strata"]["warm"]
        assert series["values"][0][1:] == [warm["requests"], warm["ttft_s"]["p95"]]


def test_another_analysis_takes_the_place_of_the_first(shipped: Shipped) -> None:
    """Rows made by analysis are replaced: what it now sees otherwise does not stay as well."""
    run, url = shipped.run, shipped.server.url
    columns = [*MEASUREMENTS["request_stratum"].columns]
    made = parquet.read(run, "request_stratum", columns)
    rows = [list(row) for row in zip(*(made[c].tolist() for c in columns), strict=True)]
    stratum = columns.index("stratum")
    rows[0][stratum] = "warm" if rows[0][stratum] != "warm" else "swap_waiter"
    parquet.write(run, "request_stratum", rows, "analysis")
    for _ in range(2):
        command = tokenswarm("ship", run.path, "--influx-url", url, cwd=shipped.folder)
        assert finished(command) == 0
        assert shipped.server.figures(DB, "request_stratum", "count(id)") == [len(rows)]
    verified = tokenswarm("verify", run.path, "--influx-url", url, cwd=shipped.folder)
    assert finished(verified) == 0


def test_a_database_that_is_away_costs_a_run_nothing_but_a_note(tmp_path: Path) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    with start("steady") as box:
        model = {"name": "steady", "model": "steady", "prompt": {"kind": "text", "text": "hi"}}
        file = scenario(tmp_path / "short.yaml", box.ollama_url, model, **LOAD)
        began = time.monotonic()
        code, run = run_once(file, "--influx-url", away, cwd=tmp_path)
        assert time.monotonic() - began < 60
    assert fair(code, tmp_path)
    (note,) = [note for note in run.read_manifest().notes if "database" in note]
    assert "cannot reach it" in note
    assert f"tokenswarm ship {run.path}" in note
    assert note in (tmp_path / "stderr.txt").read_text()
    with influxd(tmp_path) as server:
        made_up = tokenswarm("ship", run.path, "--influx-url", server.url, cwd=tmp_path)
        assert finished(made_up) == 0
        verified = tokenswarm("verify", run.path, "--influx-url", server.url, cwd=tmp_path)
        assert finished(verified) == 0
