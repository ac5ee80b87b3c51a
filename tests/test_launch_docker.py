"""The docker launcher against a real Docker engine with images of the simulator built by it."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.dockerd import Dockerd, dockerd
from tests.matrices import command, shipped, written
from tests.running import tokenswarm, until
from tests.sim_image import IMAGE, UNHEALTHY, build
from tokenswarm.engines import adapter
from tokenswarm.launch.docker import OWNER, DockerLauncher
from tokenswarm.launch.ready import await_ready, free_port
from tokenswarm.launch.start import Container, Start, StartFailed

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def engine() -> Iterator[Dockerd]:
    with dockerd() as running:
        build(running.client)
        yield running


@pytest.fixture(autouse=True)
def _where(engine: Dockerd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    monkeypatch.setattr("tokenswarm.launch.docker.GRACE_S", 3)


def simulator(folder: Path, port: int, image: str = IMAGE, **more: Any) -> Start:
    """A simulated Ollama in a container that shares this host's network."""
    container: dict[str, Any] = {"image": image, "gpus": "none", "network": "host"}
    container |= {"pull": False} | more
    return Start(
        name="s", argv=("steady", "--port", str(port)), log=folder / "logs" / "s.log", port=port,
        container=Container(**container), labels={"tokenswarm.matrix": "m"},
    )  # fmt: skip


def there(engine: Dockerd) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = engine.client.containers(all=True, filters={"label": OWNER})
    return found


def refused(start: Start) -> StartFailed:
    """How it fails to start or to become ready."""
    with pytest.raises(StartFailed) as e:
        _started(start)
    return e.value


def _started(start: Start) -> None:
    with closing(DockerLauncher()) as docker:
        started = docker.start(start)
        try:
            await_ready(started, lambda: False, 60)
        finally:
            started.stop()


def test_a_container_serves_and_leaves_its_log_alone(engine: Dockerd, tmp_path: Path) -> None:
    port = free_port()
    start = simulator(tmp_path, port)
    docker = DockerLauncher()
    started = docker.start(start)
    try:
        url = f"http://127.0.0.1:{port}"
        await_ready(started, lambda: adapter("ollama").ready(url, 5.0), 60)
        (container,) = there(engine)
        assert container["Labels"]["tokenswarm.matrix"] == "m"
        assert started.pids()
        assert '"simulation":true' in started.said()
        assert docker.sweep() == []  # its owner lives
    finally:
        started.stop()
        started.stop()
        docker.close()
    assert there(engine) == []
    assert '"simulation":true' in start.log.read_text()


def test_an_image_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    start = simulator(tmp_path, free_port(), image="no-such-image:1")
    assert refused(start).failure.kind == "image_missing"
    pulled = refused(simulator(tmp_path, free_port(), image="no-such-image:1", pull=True))
    assert pulled.failure.kind == "image_missing"
    assert "cannot be pulled" in pulled.failure.text


def test_a_gpu_that_docker_cannot_give_is_said_so(engine: Dockerd, tmp_path: Path) -> None:
    failure = refused(simulator(tmp_path, free_port(), gpus="all")).failure
    assert failure.kind == "no_gpu_runtime"
    assert "could not select device driver" in failure.text
    assert there(engine) == []


def test_a_taken_port_is_read_from_the_containers_log(engine: Dockerd, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        failure = refused(simulator(tmp_path, taken.getsockname()[1])).failure
    assert failure.kind == "port_taken"
    assert there(engine) == []


def test_a_container_whose_health_check_fails_is_given_up(tmp_path: Path) -> None:
    failure = refused(simulator(tmp_path, free_port(), image=UNHEALTHY)).failure
    assert failure.kind == "unhealthy"
    assert "the doctor says no" in failure.text


def test_what_the_kernel_kills_at_its_memory_limit_is_out_of_memory(tmp_path: Path) -> None:
    start = simulator(tmp_path, free_port())
    small = Start(
        name="s", argv=start.argv, log=start.log, port=start.port, container=start.container,
        memory_limit_bytes=8 << 20,
    )  # fmt: skip
    assert refused(small).failure.kind == "out_of_memory"


def test_no_docker_engine_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    with pytest.raises(StartFailed, match=r"no Docker engine at unix:///nowhere\.sock"):
        DockerLauncher()


def matrix(folder: Path) -> Path:
    """Ollama of the simulated twin, in a container."""
    data = shipped("three-models-simulated")
    data["solutions"] = [s for s in data["solutions"] if s["name"] == "ollama"]
    data["settle_s"], data["loads"] = 0.3, []
    data["drill"]["repeats"] = 0
    solution = data["solutions"][0]
    solution["launcher"] = "docker"
    solution["container"] = {"image": IMAGE, "gpus": "none", "network": "host", "pull": False}
    solution["command"] = ["rtx5090", "--port", "{port}", "--control-port", "{box_port}"]
    return written(folder / "docker.matrix.yaml", data)


def test_after_kill_9_the_next_comparison_ends_the_container_and_goes_on(
    engine: Dockerd, tmp_path: Path
) -> None:
    path = matrix(tmp_path)
    process = tokenswarm("compare", path, "--out", tmp_path / "out", cwd=tmp_path)
    journal = tmp_path / "out" / "journal.jsonl"
    until(lambda: journal.is_file() and b'"start"' in journal.read_bytes(), 60)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (left,) = there(engine)
    assert command("compare", path, tmp_path) == 0
    assert "which an earlier tokenswarm had left running" in (tmp_path / "stderr.txt").read_text()
    assert there(engine) == []
    (ollama,) = json.loads((tmp_path / "out" / "comparison.json").read_text())["solutions"]
    assert ollama["served"] == ["tinyllama", "qwen", "yi"]
    assert ollama["vram_total_bytes"] == 8_500_000_000
    assert left["Id"] not in [c["Id"] for c in there(engine)]
