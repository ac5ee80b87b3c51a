"""The sampler process, beside the real simulator and beside servers that misbehave."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.canned_server import Given, canned_server
from tests.engine_answers import ollama
from tokenswarm.engines.control import Server
from tokenswarm.store.row import check_row
from tokenswarm.store.schema import MEASUREMENTS
from tokenswarm.store.spool import Writer, rows

HOST = "host-1"
WAIT_S = 20.0
SLUGS = {"tinyllama:1.1b": "tiny", "qwen2.5:3b": "qwen"}


def config(spool: Path, **more: Any) -> dict[str, Any]:
    return {
        "run_id": "20261122t163015z-k3f9qa",
        "t0_unix_ns": time.time_ns(),
        "spool": str(spool),
        "host": HOST,
        "gpu": {"source": "none", "interval_s": 0.02, "control_url": None},
        "engines": [],
        "engine_interval_s": 0.05,
        **more,
    }


def engine(url: str, target: str = "box", **more: Any) -> dict[str, Any]:
    return {
        "target": target, "engine": "ollama", "url": url, "headers": {}, "models": SLUGS, **more
    }  # fmt: skip


Process = subprocess.Popen[str]


@contextmanager
def sampler(told: dict[str, Any] | str) -> Iterator[Process]:
    argv = [sys.executable, "-m", "tokenswarm.telemetry"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin is not None
        process.stdin.write((told if isinstance(told, str) else json.dumps(told)) + "\n")
        process.stdin.flush()
        try:
            yield process
        finally:
            process.kill()


def said(process: Process) -> dict[str, Any]:
    """The next line on its standard output."""
    assert process.stdout is not None
    message: dict[str, Any] = json.loads(process.stdout.readline())
    return message


def end(process: Process) -> dict[str, Any]:
    """Close its standard input; its last words."""
    out, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    last: dict[str, Any] = json.loads(out.splitlines()[-1])
    return last


def table(spool: Path, measurement: str) -> list[dict[str, Any]]:
    columns = MEASUREMENTS[measurement].columns
    found = []
    for _, _, name, row in rows(spool):
        check_row(name, row)
        if name == measurement:
            found.append(dict(zip(columns, row, strict=True)))
    return found


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def simulation() -> Iterator[dict[str, Any]]:
    argv = [sys.executable, "-m", "tokenswarm.sim", "rtx5090", "--speed", "10"]
    argv += ["--end-with-parent"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        process.terminate()


def test_a_load_shows_on_the_gpu_and_in_the_residency(
    simulation: dict[str, Any], tmp_path: Path
) -> None:
    url = simulation["ollama_url"]
    gpu = {"source": "sim", "interval_s": 0.02, "control_url": simulation["control_url"]}
    with sampler(config(tmp_path, gpu=gpu, engines=[engine(url)])) as process:
        started = said(process)["started"]
        wait_for(lambda: len(table(tmp_path, "residency")) >= 2)
        Server(url, WAIT_S).post("/api/generate", {"model": "qwen2.5:3b"})  # preload
        wait_for(lambda: any(r["state"] == "resident" for r in table(tmp_path, "residency")))
        wait_for(lambda: any(r["model"] == "qwen" for r in table(tmp_path, "gpu_process")))
        last = end(process)

    assert started["gpu"]["kind"] == "sim"
    assert started["sources"] == [f"gpu-{HOST}", "engine-box"]
    assert last["notes"] == []
    states = [r["state"] for r in table(tmp_path, "residency") if r["model"] == "qwen"]
    assert states[0] == "absent"
    assert states[-1] == "resident"
    used = [g["vram_used_bytes"] for g in table(tmp_path, "gpu")]
    held = [r["vram_bytes"] for r in table(tmp_path, "residency") if r["vram_bytes"]]
    assert used[-1] - used[0] >= held[0] > 0
    assert {g["source"] for g in table(tmp_path, "gpu")} == {"sim"}


def test_times_of_each_source_strictly_increase_and_the_count_is_the_spools(
    simulation: dict[str, Any], tmp_path: Path
) -> None:
    gpu = {"source": "sim", "interval_s": 0.01, "control_url": simulation["control_url"]}
    engines = [engine(simulation["ollama_url"], target) for target in ("one", "two")]
    with sampler(config(tmp_path, gpu=gpu, engines=engines)) as process:
        wait_for(lambda: len(table(tmp_path, "engine")) >= 20)
        ended = end(process)["ended"]
    times: dict[str, list[int]] = {}
    for source, _, _, row in rows(tmp_path):
        times.setdefault(source, []).append(row[0])
    assert {s: len(t) for s, t in times.items()} == ended
    assert set(times) == {f"gpu-{HOST}", "engine-one", "engine-two"}
    assert all(t == sorted(set(t)) for t in times.values())


def test_rows_reach_the_spool_while_it_samples(simulation: dict[str, Any], tmp_path: Path) -> None:
    """Killed with -9 it has lost no more than a flush's worth."""
    gpu = {"source": "sim", "interval_s": 0.02, "control_url": simulation["control_url"]}
    with sampler(config(tmp_path, gpu=gpu)) as process:
        wait_for(lambda: len(table(tmp_path, "gpu")) >= 5)
        process.kill()
    assert len(table(tmp_path, "gpu")) >= 5


def test_when_it_says_that_it_samples_everything_has_been_looked_at(
    simulation: dict[str, Any], tmp_path: Path
) -> None:
    gpu = {"source": "sim", "interval_s": 0.05, "control_url": simulation["control_url"]}
    told = config(tmp_path, gpu=gpu, engines=[engine(simulation["ollama_url"])], health=True)
    with sampler(told) as process:
        assert "started" in said(process)
        now_ns = time.time_ns()
        end(process)
    for measurement in ("gpu", "engine"):
        assert table(tmp_path, measurement)[0]["time_ns"] < now_ns


def test_a_stuck_engine_delays_neither_the_gpu_nor_the_other_engines(
    simulation: dict[str, Any], tmp_path: Path
) -> None:
    release = threading.Event()

    def stuck(_: bytes) -> Given:
        release.wait(WAIT_S)
        return {"models": []}

    gpu = {"source": "sim", "interval_s": 0.02, "control_url": simulation["control_url"]}
    with canned_server(ollama() | {"/api/ps": stuck}) as canned:
        engines = [engine(canned.url, "stuck"), engine(simulation["ollama_url"], "fine")]
        with sampler(config(tmp_path, gpu=gpu, engines=engines)) as process:
            wait_for(lambda: any(r["target"] == "stuck" for r in table(tmp_path, "engine")))
            end(process)
        release.set()
    polls = table(tmp_path, "engine")
    stuck_ok = {r["poll_ok"] for r in polls if r["target"] == "stuck"}
    fine = [r for r in polls if r["target"] == "fine"]
    assert stuck_ok == {False}
    assert {r["target"] for r in table(tmp_path, "residency")} == {"fine"}
    # in the 0.3 s that the stuck poll took: 6 polls and 15 samples were due
    assert len(fine) >= 3
    assert len(table(tmp_path, "gpu")) >= 5


def test_a_gpu_that_does_not_answer_is_a_note_and_the_engines_go_on(
    simulation: dict[str, Any], tmp_path: Path
) -> None:
    with canned_server({"/gpu": (500, b"")}) as canned:
        gpu = {"source": "sim", "interval_s": 0.02, "control_url": canned.url}
        told = config(tmp_path, gpu=gpu, engines=[engine(simulation["ollama_url"])])
        with sampler(told) as process:
            wait_for(lambda: len(table(tmp_path, "engine")) >= 3)
            last = end(process)
    assert last["ended"][f"gpu-{HOST}"] == 0
    assert any("/gpu: HTTP 500" in note and "times" in note for note in last["notes"])


def test_a_source_with_another_writer_ends_with_a_note(tmp_path: Path) -> None:
    with canned_server(ollama()) as canned, Writer(tmp_path, "engine-box"):
        told = config(tmp_path, engines=[engine(canned.url), engine(canned.url, "other")])
        with sampler(told) as process:
            wait_for(lambda: len(table(tmp_path, "engine")) >= 3)
            last = end(process)
    assert list(last["ended"]) == ["engine-other"]
    assert any("engine-box" in note and "writer already" in note for note in last["notes"])


def test_sigterm_ends_it_in_order_and_ctrl_c_does_not(tmp_path: Path) -> None:
    with (
        canned_server(ollama()) as canned,
        sampler(config(tmp_path, engines=[engine(canned.url)])) as process,
    ):
        said(process)
        os.kill(process.pid, signal.SIGINT)
        wait_for(lambda: len(table(tmp_path, "engine")) >= 2)
        os.kill(process.pid, signal.SIGTERM)
        last = said(process)
        assert process.wait(WAIT_S) == 0
    assert last["ended"]["engine-box"] == sum(1 for _ in rows(tmp_path))


def test_headers_reach_the_target_and_nothing_else(tmp_path: Path) -> None:
    secret = "sk-sampler-77"
    gpu = {"source": "sim", "interval_s": 0.02}
    with canned_server(ollama()) as box, canned_server({"/gpu": b"[]"}) as control:
        headers = {"Authorization": f"Bearer {secret}"}
        told = config(
            tmp_path,
            gpu=gpu | {"control_url": control.url},
            engines=[engine(box.url, headers=headers)],
        )
        with sampler(told) as process:
            wait_for(lambda: len(table(tmp_path, "engine")) >= 2 and control.seen)
            box.answers.clear()
            wait_for(lambda: not table(tmp_path, "engine")[-1]["poll_ok"])
            out, err = process.communicate(timeout=WAIT_S)
    assert all(seen["Authorization"] == f"Bearer {secret}" for _, seen, _ in box.seen)
    assert all("Authorization" not in seen for _, seen, _ in control.seen)
    assert secret not in out + err
    assert all(secret.encode() not in path.read_bytes() for path in tmp_path.glob("*.spool"))


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("not json", "no usable configuration"),
        ("{}", "missing required field `run_id`"),
        (json.dumps({"run_id": 1}), "Expected `str`, got `int`"),
        (json.dumps(config(Path("x"), engines=[engine("http://b", engine="tgi")])), "tgi"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_said(told: str, words: str, tmp_path: Path) -> None:
    with sampler(told.replace('"spool": "x"', f'"spool": "{tmp_path}"')) as process:
        out, err = process.communicate(timeout=WAIT_S)
    assert words in out + err


def test_a_host_without_gpu_says_so_and_goes_on(tmp_path: Path) -> None:
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this host has an NVIDIA driver")
    with sampler(config(tmp_path, gpu={"source": "nvml"})) as process:
        started = said(process)["started"]
        last = end(process)
    assert started["gpu"]["kind"] == "none"
    assert "NVML does not start on this host" in started["gpu"]["reason"]
    assert last["ended"] == {}
