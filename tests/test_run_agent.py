"""A whole run here, its box and agent in another network: VRAM and residency by the link alone."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from tests.agents import agent_process
from tests.namespaces import FAR_IP, Cable, two_hosts
from tests.running import (
    RUN_S,
    finished,
    popen,
    records,
    run_dirs,
    run_once,
    scenario,
    tokenswarm,
    until,
)
from tokenswarm.sim.process import start
from tokenswarm.store.rundir import RunDir
from tokenswarm.store.spool import inventory

MODELS = ("tinyllama:1.1b", "qwen2.5:3b")
TOKEN = "a-token-of-the-tests-0123456789"
PULLED_S = 10.0


@contextmanager
def far_box(cable: Cable) -> Iterator[dict[str, Any]]:
    """The simulated box on the far side; its endpoints."""
    argv = [*cable.far, sys.executable, "-m", "tokenswarm.sim", "rtx5090", "--end-with-parent"]
    argv += ["--host", FAR_IP, "--port", "11434"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        try:
            endpoints: dict[str, Any] = json.loads(process.stdout.readline())
            yield endpoints
        finally:
            process.terminate()


def models() -> list[dict[str, Any]]:
    return [
        {"name": name.partition(":")[0].replace(".", ""), "model": name,
         "prompt": {"kind": "text", "text": "hi"}, "output": {"tokens": 32}}
        for name in MODELS
    ]  # fmt: skip


def parquet(run: RunDir, measurement: str) -> list[dict[str, Any]]:
    found = duckdb.sql(f"select * from '{run.parquet(measurement)}' order by time_ns")
    assert found is not None
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


@pytest.mark.live
def test_a_run_against_another_network_loses_no_row_while_the_cable_is_out(tmp_path: Path) -> None:
    token, config = tmp_path / "token", tmp_path / "agent.yaml"
    token.write_text(TOKEN)
    box_url = f"http://{FAR_IP}:11434"
    settings = {
        "host": "gpu-box",
        "engines": [{"target": "box", "engine": "ollama", "url": box_url}],
        "engine_interval_s": 0.2,
    }
    config.write_text(yaml.safe_dump(settings))
    with two_hosts() as cable, far_box(cable) as box:
        argv = ("--config", str(config), "--token-file", str(token), "--source", "sim",
                "--control-url", box["control_url"])  # fmt: skip
        with agent_process(tmp_path, *argv, listen=f"{FAR_IP}:7070", prefix=cable.far) as agent:
            file = scenario(
                tmp_path / "far.yaml", box_url, *models(), duration_s=22,
                load={"kind": "closed", "users": 4, "think_s": 0.5},
                telemetry={"agents": [f"{FAR_IP}:7070"], "agent_token_file": str(token)},
            )  # fmt: skip
            run_argv = [sys.executable, "-m", "tokenswarm", "run", str(file)]
            process = popen([*cable.near, *run_argv], tmp_path)
            until(lambda: bool(run_dirs(tmp_path / "runs")))
            (run,) = run_dirs(tmp_path / "runs")
            until(lambda: len(records(run, "gpu")) > 60)
            cable.pull()
            time.sleep(PULLED_S)
            cable.plug()
            code = finished(process, RUN_S)
        assert agent.process.returncode == 0
    said = (tmp_path / "stderr.txt").read_text()
    assert code in (0, 3), said  # requests that stood still for 10 s may make it invalid
    assert "Traceback" not in said
    manifest = run.read_manifest()
    assert manifest.telemetry["gpu"]["kind"] == "agent"
    assert manifest.simulated
    theirs = {s for s, route in manifest.routes.items() if route == f"agent {FAR_IP}:7070"}
    assert theirs == {"gpu-gpu-box", "host-gpu-box", "engine-box", "agent-gpu-box"}
    for source, found in inventory(run.spool).items():
        assert not found.gaps
        assert not found.repeated_rows
        assert found.rows == manifest.ended[source], source
    gpu, residency = parquet(run, "gpu"), parquet(run, "residency")
    assert len(gpu) == len(records(run, "gpu"))
    gaps_s = [(b["time_ns"] - a["time_ns"]) / 1e9 for a, b in pairwise(gpu)]
    assert max(gaps_s) < PULLED_S / 2, "the agent sampled on"
    assert gpu[-1]["time_ns"] - gpu[0]["time_ns"] > (PULLED_S + 5) * 1e9
    assert max(g["vram_used_bytes"] for g in gpu) > min(g["vram_used_bytes"] for g in gpu)
    assert {r["state"] for r in residency} >= {"absent", "resident"}
    assert list(manifest.clocks) == [f"agent {FAR_IP}:7070"]
    assert manifest.telemetry["gpus"][f"agent {FAR_IP}:7070"]["kind"] == "sim"
    assert TOKEN not in said + run.manifest.read_text() + run.report.read_text()
    assert TOKEN not in agent.errors.read_text()


def test_a_run_takes_its_gpu_figures_from_an_agent_named_on_the_command_line(
    tmp_path: Path,
) -> None:
    with start("rtx5090", speed=4) as box:
        argv = ("--source", "sim", "--control-url", box.control_url)
        with agent_process(tmp_path, *argv) as agent:
            file = scenario(tmp_path / "near.yaml", box.ollama_url, models()[0], duration_s=5)
            _, run = run_once(file, "--agent", f"127.0.0.1:{agent.port}", cwd=tmp_path)
    manifest = run.read_manifest()
    assert manifest.telemetry["gpu"]["reason"] == f"sampled by the agent at 127.0.0.1:{agent.port}"
    sources = {s for s, route in manifest.routes.items() if route.startswith("agent ")}
    assert f"gpu-{agent.about['host']}" in sources
    assert {g["source"] for g in records(run, "gpu")} == {"sim"}
    looks = [r for r in records(run, "agent") if r["source"].startswith("gpu-")]
    assert sum(r["looks"] for r in looks) > 20
    summary = json.loads(run.summary.read_text())
    assert summary["generator"]["workers"] == 1  # an agent is none


@pytest.mark.parametrize("token", ["", "another-token-0123456789"])
def test_an_agent_that_cannot_be_used_is_said_before_anything_starts(
    token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a token, or with a wrong one; nobody listening is the same with other words."""
    file = tmp_path / "token"
    file.write_text(TOKEN)
    with start("steady") as box, agent_process(tmp_path, "--token-file", str(file)) as agent:
        monkeypatch.setenv("TOKENSWARM_AGENT_TOKEN", token)
        model = {"name": "steady", "model": "steady"}
        plan = scenario(tmp_path / "no.yaml", box.ollama_url, model)
        argv = ("run", plan, "--agent", f"127.0.0.1:{agent.port}")
        code = finished(tokenswarm(*argv, cwd=tmp_path))
    said = (tmp_path / "stderr.txt").read_text()
    assert code == 2
    assert f"agent 127.0.0.1:{agent.port}" in said
    assert ("another one" if token else "asks for a token") in said
    assert "Traceback" not in said
    assert not run_dirs(tmp_path / "runs")


def test_nobody_at_an_agents_address_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    with start("steady") as box:
        plan = scenario(tmp_path / "no.yaml", box.ollama_url, {"name": "steady", "model": "steady"})
        code = finished(tokenswarm("run", plan, "--agent", "127.0.0.1:9", cwd=tmp_path))
    said = (tmp_path / "stderr.txt").read_text()
    assert code == 2
    assert "agent 127.0.0.1:9: cannot be reached: Connection refused" in said
    assert "tokenswarm agent gpu --listen" in said
