"""The life of a run: endings, refusals, exit codes, the link, a locustfile of one's own."""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from tests.running import (
    ROOT,
    fair,
    finished,
    popen,
    records,
    run_dirs,
    run_once,
    scenario,
    tokenswarm,
    until,
)
from tests.scripted_server import Close, serve
from tokenswarm.clock import SAME_CLOCK
from tokenswarm.sim import truth
from tokenswarm.sim.process import start
from tokenswarm.store import parquet

ONE = {"name": "steady", "model": "steady", "prompt": {"kind": "text", "text": "hi"}}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def said(folder: Path) -> str:
    return (folder / "stderr.txt").read_text() + (folder / "stdout.txt").read_text()


def test_requests_in_flight_at_the_end_are_drained_not_lost(tmp_path: Path) -> None:
    with start("steady", truth=tmp_path / "truth.jsonl") as box:
        model = {**ONE, "output": {"tokens": 300}}
        file = scenario(tmp_path / "drain.yaml", box.ollama_url, model, duration_s=2)
        code, run = run_once(file, cwd=tmp_path)
    got = records(run)
    assert fair(code, tmp_path)
    assert len(got) == len(truth.read(tmp_path / "truth.jsonl").requests)
    assert {r["status"] for r in got} == {"ok"}
    assert max(r["t_end_s"] for r in got) > 2.2


def test_gpu_and_engines_were_looked_at_before_the_load_begins(tmp_path: Path) -> None:
    with start("steady") as box:
        file = scenario(tmp_path / "early.yaml", box.ollama_url, ONE, max_requests=3)
        _, run = run_once(file, cwd=tmp_path)
    t0_ns = run.read_manifest().t0_unix_ns
    assert {r["status"] for r in records(run)} == {"ok"}
    for measurement in ("gpu", "engine"):
        assert min(parquet.read(run, measurement)["time_ns"]) < t0_ns
    assert min(r["t_sent_s"] for r in records(run)) >= 0


def test_what_is_left_after_the_drain_is_cut_and_recorded_as_cut(tmp_path: Path) -> None:
    with start("steady") as box:
        model = {**ONE, "output": {"tokens": 4000}}
        file = scenario(tmp_path / "cut.yaml", box.ollama_url, model, duration_s=1, drain_s=1,
                        load={"kind": "closed", "users": 3})  # fmt: skip
        code, run = run_once(file, cwd=tmp_path)
    got = records(run)
    assert [r["status"] for r in got] == ["cut"] * 3
    assert all(r["token_events"] > 50 for r in got)
    assert code == 3, "not one request is ok: there is no valid measurement"


def test_an_open_loop_sends_on_schedule_whatever_the_number_of_workers(tmp_path: Path) -> None:
    with start("steady") as box:
        file = scenario(
            tmp_path / "open.yaml", box.ollama_url, ONE, duration_s=5,
            load={"kind": "open", "rate": 40, "arrivals": "poisson", "max_in_flight": 64},
        )  # fmt: skip
        schedules = []
        for workers in (0, 2):
            folder = tmp_path / str(workers)
            folder.mkdir()
            _, run = run_once(file, "--workers", workers, cwd=folder)
            got = sorted(records(run), key=lambda r: r["plan_index"])
            assert [r["plan_index"] for r in got] == list(range(len(got)))
            schedules.append([round(r["t_intended_s"], 6) for r in got])
            late = sorted(r["t_sent_s"] - r["t_intended_s"] for r in got)
            assert late[0] >= 0
            assert late[len(late) // 2] < 0.02
    assert schedules[0] == schedules[1]
    assert len(schedules[0]) > 150


def test_a_server_that_hangs_up_makes_failures_and_exit_code_3(tmp_path: Path) -> None:
    with serve([Close()]) as server:
        file = scenario(
            tmp_path / "hang.yaml", f"http://127.0.0.1:{server.port}",
            {**ONE, "endpoint": "chat"}, duration_s=1,
        )  # fmt: skip
        code = finished(tokenswarm("run", file, cwd=tmp_path))
    assert code == 2, "the probe finds no engine there"
    assert "box" in said(tmp_path)
    assert not run_dirs(tmp_path / "runs")


def test_a_missing_model_is_a_usage_error_that_names_those_there(tmp_path: Path) -> None:
    with start("steady") as box:
        file = scenario(tmp_path / "missing.yaml", box.ollama_url, {**ONE, "model": "gone:1b"})
        code = finished(tokenswarm("run", file, cwd=tmp_path))
    assert code == 2
    assert "gone:1b" in said(tmp_path)
    assert "steady-b" in said(tmp_path)
    assert "Traceback" not in said(tmp_path)


def test_a_gate_that_fails_is_exit_code_1(tmp_path: Path) -> None:
    with start("steady", speed=4) as box:
        file = scenario(tmp_path / "gate.yaml", box.ollama_url, ONE, max_requests=40)
        code, run = run_once(file, "--gate", "models.steady.ttft_s.p95 < 0.001", cwd=tmp_path)
    assert code == 1
    assert json.loads(run.summary.read_bytes())["verdict"] == "gate_failed"


def test_ctrl_c_ends_a_run_in_order(tmp_path: Path) -> None:
    with start("steady", truth=tmp_path / "truth.jsonl") as box:
        file = scenario(tmp_path / "int.yaml", box.ollama_url, ONE, duration_s=60)
        process = tokenswarm("run", file, "--workers", 2, cwd=tmp_path)
        until(lambda: bool(run_dirs(tmp_path / "runs")))
        (run,) = run_dirs(tmp_path / "runs")
        until(lambda: len(records(run)) > 100)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process
        code = finished(process)
    assert fair(code, tmp_path), said(tmp_path)
    assert len(records(run)) == len(truth.read(tmp_path / "truth.jsonl").requests)
    assert set(run.read_manifest().ended) >= {"w0", "w1"}
    assert run.report.is_file()


def test_records_of_a_worker_elsewhere_come_over_the_link_once(tmp_path: Path) -> None:
    """Another host is one that cannot see the master's run directory."""
    port = free_port()
    away = tmp_path / "away"
    away.mkdir()
    mix = ROOT / "locustfiles" / "mix.py"
    locust = [sys.executable, "-m", "locust", "-f", str(mix), "--master-port", str(port)]
    with start("steady", truth=tmp_path / "truth.jsonl") as box:
        file = scenario(tmp_path / "link.yaml", box.ollama_url, ONE, duration_s=4)
        master = popen(
            [*locust, "--master", "--master-bind-port", str(port), "--headless",
             "--expect-workers", "2", "--scenario", str(file)],
            tmp_path,
        )  # fmt: skip
        # unshare hides the master's directory: an empty file system lies over it
        # and another name over that of the system's clock, so that it has to be measured
        (tmp_path / "clock").write_text("another system")
        hide = f"mount -t tmpfs none {tmp_path / 'runs'} && "
        hide += f'mount --bind {tmp_path / "clock"} /proc/sys/kernel/random/boot_id && exec "$@"'
        (tmp_path / "runs").mkdir(exist_ok=True)
        worker = [*locust, "--worker"]
        linked = popen(["unshare", "-m", "bash", "-c", hide, "-", *worker], away)
        shared = popen(worker, away)
        codes = [finished(p) for p in (master, linked, shared)]
    (run,) = run_dirs(tmp_path / "runs")
    manifest = run.read_manifest()
    assert sorted(manifest.routes.values()) == ["link", "shared"], said(tmp_path) + said(away)
    got = [r["id"] for r in records(run)]
    served = {r.request_id for r in truth.read(tmp_path / "truth.jsonl").requests}
    assert len(got) == len(set(got))
    assert set(got) == served
    assert fair(codes[0], tmp_path)
    assert codes[1:] == [0, 0]
    away_name = next(source for source, route in manifest.routes.items() if route == "link")
    measured = manifest.clocks.pop(f"worker {away_name}")
    (same,) = manifest.clocks.values()
    assert same.first == same.last == SAME_CLOCK
    assert measured.last_s > measured.first_s
    for offset in (measured.first, measured.last):
        assert 0 < offset.uncertainty_ns < 1_000_000_000
        assert abs(offset.offset_ns) <= offset.uncertainty_ns, "both have one clock in truth"


OWN = """
from locust import between, task

from tokenswarm.load import OllamaUser


class Chat(OllamaUser):
    host = "{url}"
    model = "steady"
    wait_time = between(0, 0.01)

    @task
    def ask(self):
        self.chat("Say hi", num_predict=16)
"""


def test_a_locustfile_of_ten_lines_leaves_a_complete_run(tmp_path: Path) -> None:
    with start("steady") as box:
        (tmp_path / "own.py").write_text(OWN.format(url=box.ollama_url))
        argv = [sys.executable, "-m", "locust", "-f", "own.py", "--headless"]
        code = finished(popen([*argv, "-u", "4", "-r", "4", "-t", "3s"], tmp_path))
    (run,) = run_dirs(tmp_path / "runs")
    got = records(run)
    assert fair(code, tmp_path), said(tmp_path)
    assert len(got) > 20
    assert {r["output_tokens"] for r in got} == {16}
    assert json.loads(run.summary.read_bytes())["requests"] == len(got)
    assert "Aggregated" in said(tmp_path), "Locust's own table stays where Locust is asked for"


@pytest.mark.parametrize("name", ["mix", "open_loop", "model_swap"])
def test_every_locustfile_runs_headless_with_processes(name: str, tmp_path: Path) -> None:
    with start("rtx5090-crowded", speed=8) as box:
        argv = [sys.executable, "-m", "locust", "-f", str(ROOT / "locustfiles" / f"{name}.py")]
        argv += ["--headless", "--processes", "2", "--duration", "12", "--no-live"]
        argv += ["--target-url", f"box={box.ollama_url}"]
        if name == "model_swap":
            argv += ["-u", "2"]  # one for each worker
        if name == "mix":
            argv += ["--scenario", str(ROOT / "scenarios" / "three-models-ollama.yaml")]
        code = finished(popen(argv, tmp_path))
    (run,) = run_dirs(tmp_path / "runs")
    assert fair(code, tmp_path), said(tmp_path)
    assert {r["worker"] for r in records(run)} == {"w0", "w1"}
    assert {r["status"] for r in records(run)} == {"ok"}


def test_a_dry_run_prints_the_plan_and_sends_nothing(tmp_path: Path) -> None:
    file = scenario(tmp_path / "dry.yaml", "http://127.0.0.1:9", ONE)
    code = finished(tokenswarm("run", file, "--dry-run", cwd=tmp_path))
    assert code == 0
    assert "steady" in said(tmp_path)
    assert not (tmp_path / "runs").exists()


def test_a_bad_scenario_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: x\ntargets: {box: {api: olama, url: 'http://a'}}\n")
    began = time.monotonic()
    code = finished(tokenswarm("run", "bad.yaml", cwd=tmp_path))
    assert code == 2
    assert "bad.yaml" in said(tmp_path)
    assert "Traceback" not in said(tmp_path)
    assert time.monotonic() - began < 30
