"""Our images, built by a real Docker engine on a base made of this machine's Python, from wheels;
then simulator, agent, master and worker in containers run a load test into a real InfluxDB."""

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.dockerd import Dockerd, dockerd
from tests.local_base import base_image
from tests.running import ROOT, run_dirs, until
from tests.services import free_port, influxd
from tokenswarm.store.rundir import RunDir

pytestmark = [pytest.mark.live, pytest.mark.slow]

BASE = "tokenswarm-base:1"
USER = 65532
DB = "tokenswarm"
STACK = yaml.safe_load((ROOT / "compose" / "compose.yml").read_text())
IMAGES = {"load": "compose/Dockerfile", "agent": "agents/Dockerfile"}
SECOND = 1_000_000_000
BUILD_S = 300


@dataclass
class Built:
    docker: Dockerd
    folder: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """Both images on an engine of our own, without network."""
    folder = tmp_path_factory.mktemp("images")
    with dockerd() as docker:
        docker.client.timeout = BUILD_S
        path = "ENV PATH=/usr/bin:/bin"
        docker.client.import_image_from_data(
            base_image(), repository=BASE[:-2], tag="1", changes=[path]
        )
        context = folder / "context"
        _context(context)
        for name, dockerfile in IMAGES.items():
            arguments = {
                "BASE": BASE, "BUILD_BASE": BASE, "REVISION": "tested",
                "PIP_ARGS": "--no-index --find-links /wheels",
            }  # fmt: skip
            said = docker.client.build(
                path=str(context), dockerfile=dockerfile, tag=f"tokenswarm-{name}:0.1.0",
                buildargs=arguments, network_mode="none", decode=True, rm=True,
            )  # fmt: skip
            told = [line for line in said]
            assert not [line for line in told if "error" in line], told[-8:]
        yield Built(docker, folder)


def _context(folder: Path) -> None:
    """What .dockerignore lets through, and the wheels of all that is needed."""
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"]
    for name in [*kept, *IMAGES.values()]:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir() and name != "wheels":
            unwanted = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
            shutil.copytree(source, target, ignore=unwanted)
        elif source.is_file():
            shutil.copy(source, target)
    wheels = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    given = ["-w", str(folder / "wheels"), "-c", str(ROOT / "constraints.txt")]
    subprocess.run([*wheels, *given, str(folder), "setuptools"], check=True, timeout=BUILD_S)
    shutil.rmtree(folder / "build", ignore_errors=True)


def inspected(built: Built, name: str) -> dict[str, Any]:
    return dict(built.docker.client.inspect_image(f"tokenswarm-{name}:0.1.0"))


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_not_roots_is_labelled_and_has_a_health_check(built: Built, name: str) -> None:
    config = inspected(built, name)["Config"]
    assert config["User"] == f"{USER}:{USER}"
    assert config["Healthcheck"]["Test"][0] == "CMD"
    labels = config["Labels"]
    assert labels["org.opencontainers.image.revision"] == "tested"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.version"] == STACK_VERSION


STACK_VERSION = STACK["services"]["gpu-agent"]["image"].partition(":")[2]


def test_images_are_small_beside_their_base(built: Built) -> None:
    base = built.docker.client.inspect_image(BASE)["Size"]
    sizes = {name: inspected(built, name)["Size"] - base for name in IMAGES}
    assert sizes["load"] < 350_000_000
    assert sizes["agent"] < 100_000_000


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_holds_no_secret_and_no_wheel(built: Built, name: str) -> None:
    command = "find / -xdev \\( -name '*.whl' -o -name '*token' -o -name '.git' \\) -type f"
    client = built.docker.client
    made = client.create_container(
        f"tokenswarm-{name}:0.1.0", ["-c", command], entrypoint=["/bin/sh"],
        host_config=client.create_host_config(network_mode="none"),
    )  # fmt: skip
    client.start(made["Id"])
    assert client.wait(made["Id"])["StatusCode"] in (0, 1)
    found = client.logs(made["Id"], stderr=False).decode().split()
    client.remove_container(made["Id"])
    assert [f for f in found if "ensurepip" not in f] == []


class Stack:
    """Containers as compose starts them, but on the host's loopback."""

    def __init__(self, built: Built, folder: Path):
        self.client = built.docker.client
        self.folder = folder
        self.ids: dict[str, str] = {}
        (folder / "runs").mkdir()
        os.chown(folder / "runs", USER, USER)
        token = folder / "agent_token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o444)

    def start(self, name: str, image: str, *command: str, health: str = "", **env: str) -> None:
        mounts = {
            str(self.folder / "runs"): {"bind": "/runs", "mode": "rw"},
            str(self.folder / "agent_token"): {"bind": "/run/secrets/agent_token", "mode": "ro"},
            str(ROOT / "compose" / "scenarios"): {"bind": "/scenarios", "mode": "ro"},
        }
        host = self.client.create_host_config(
            network_mode="host", read_only=True, cap_drop=["ALL"], tmpfs={"/tmp": ""},
            security_opt=["no-new-privileges:true"], binds=mounts, pids_limit=512,
        )  # fmt: skip
        made = self.client.create_container(
            f"tokenswarm-{image}:0.1.0", list(command), name=name, host_config=host,
            environment={"TOKENSWARM_HEALTH": health, **env},
            healthcheck={"interval": 3 * SECOND, "timeout": 5 * SECOND, "retries": 60},
        )  # fmt: skip
        self.client.start(made["Id"])
        self.ids[name] = made["Id"]

    def healthy(self, name: str) -> None:
        def state() -> bool:
            found = self.client.inspect_container(self.ids[name])["State"]
            assert found["Running"], self.said(name)
            return bool(found["Health"]["Status"] == "healthy")

        until(state, 90)

    def said(self, name: str) -> str:
        return str(self.client.logs(self.ids[name]).decode(errors="replace"))


def test_a_load_test_runs_in_containers_from_end_to_end(built: Built, tmp_path: Path) -> None:
    """As compose.sim.yml starts it: the master with its web page, the load by itself."""
    sim, control, agent, link, web = (free_port() for _ in range(5))
    with influxd(tmp_path) as server:
        stack = Stack(built, tmp_path)
        stack.start("sim", "load", "tokenswarm", "sim", "rtx5090-crowded", f"--port={sim}",
                    f"--control-port={control}", health=f"127.0.0.1:{sim}")  # fmt: skip
        stack.healthy("sim")
        stack.start("agent", "agent", "gpu", f"--listen=127.0.0.1:{agent}", "--source=sim",
                    "--token-file=/run/secrets/agent_token", "--spool=/var/lib/agent",
                    f"--control-url=http://127.0.0.1:{control}",
                    health=f"127.0.0.1:{agent}")  # fmt: skip
        stack.healthy("agent")
        stack.start("master", "load", "locust", "--locustfile=/opt/locustfiles/mix.py", "--master",
                    f"--master-bind-port={link}", f"--web-port={web}", "--autostart",
                    "--expect-workers=1",
                    "--runs-dir=/runs", "--scenario=/scenarios/sim.yaml", "--duration=6",
                    f"--target-url=box=http://127.0.0.1:{sim}", f"--agent=127.0.0.1:{agent}",
                    health=f"127.0.0.1:{link},127.0.0.1:{web}", TOKENSWARM_INFLUX_URL=server.url,
                    TOKENSWARM_AGENT_TOKEN_FILE="/run/secrets/agent_token")  # fmt: skip
        stack.healthy("master")
        stack.start("worker", "load", "locust", "--locustfile=/opt/locustfiles/mix.py", "--worker",
                    "--master-host=127.0.0.1", f"--master-port={link}")  # fmt: skip
        until(lambda: bool([*tmp_path.glob("runs/*/run_summary.parquet")]), 150)
        (run,) = run_dirs(tmp_path / "runs")
        _measured(run)
        rows = [json.loads(run.summary.read_bytes())["requests"]]
        until(lambda: server.figures(DB, "request", "count(id)") == rows, 60)
        assert server.figures(DB, "gpu", "count(vram_used_bytes)")[0] > 10
        until(lambda: server.figures(DB, "run_summary", "max(requests)") == rows, 60)


def _measured(run: RunDir) -> None:
    summary = json.loads(run.summary.read_bytes())
    assert summary["requests"] > 5
    assert summary["success_ratio"] == 1
    assert summary["simulated"] is True
    (gpu,) = summary["gpu"].values()
    assert gpu["source"] == "sim"
    assert gpu["samples"] > 10
    assert summary["cold_starts"]["count"] >= 1
    assert (run.path / "report.html").stat().st_uid == USER
