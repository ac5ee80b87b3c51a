"""The container watcher and the owners of processes, against a real Docker engine."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.dockerd import Dockerd, dockerd
from tests.running import until
from tokenswarm.clock import Clock
from tokenswarm.store.row import check_row
from tokenswarm.store.schema import CONTAINER
from tokenswarm.store.spool import Writer, rows
from tokenswarm.telemetry.config import Containers
from tokenswarm.telemetry.docker.events import ContainerFeed
from tokenswarm.telemetry.feed import Outbox
from tokenswarm.telemetry.owners.container import DockerDirectory
from tokenswarm.telemetry.owners.owner import Owner, Owners

pytestmark = pytest.mark.live

LABELS = {"tokenswarm.target": "box", "tokenswarm.model": "tiny"}
GREEDY = "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done"  # 16 MiB within a moment


@pytest.fixture(scope="module")
def docker() -> Iterator[Dockerd]:
    with dockerd() as engine:
        yield engine


@pytest.fixture(autouse=True)
def _empty(docker: Dockerd) -> Iterator[None]:
    yield
    for container in docker.client.containers(all=True):
        docker.client.remove_container(container["Id"], force=True)


class Watching:
    """What a feed has written so far."""

    def __init__(self, spool: Path):
        self.spool = spool
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    @property
    def rows(self) -> list[dict[str, Any]]:
        found = []
        for _, _, name, values in rows(self.spool):
            check_row(name, values)
            found.append(dict(zip(CONTAINER.columns, values, strict=True)))
        return found

    def events(self, container: str, *more: str) -> list[str]:
        """Without its use, unless `more` says `stats`."""
        return [
            r["event"]
            for r in self.rows
            if r["container"] == container and (r["event"] != "stats" or "stats" in more)
        ]

    def has(self, container: str, *events: str) -> Callable[[], bool]:
        return lambda: self.events(container) == list(events)


@contextmanager
def watching(
    docker: Dockerd, spool: Path, stats_interval_s: float | None = None
) -> Iterator[Watching]:
    """A feed on a thread of its own, which has begun to watch; the tests wait for its rows."""
    seen, stop = Watching(spool), threading.Event()
    if docker.process is not None:
        docker.run("marker", "sleep 1000", LABELS)
    config = Containers(url=docker.url, stats_interval_s=stats_interval_s)
    feed = ContainerFeed(config, "20261122t163015z-k3f9qa", "here", Clock.anchored())

    def run() -> None:
        with Writer(spool, feed.name) as writer:
            out = Outbox(writer, seen.note, flush_s=0.0)
            feed.run(stop, out)
            out.flush()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        if docker.process is not None:
            until(lambda: "found" in seen.events("marker"))
        yield seen
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


def test_containers_with_labels_come_and_go(docker: Dockerd, tmp_path: Path) -> None:
    docker.run("before", "sleep 100", LABELS)
    docker.run("nobody-s", "sleep 100", {"other": "label"})
    with watching(docker, tmp_path) as seen:
        until(seen.has("before", "found"))
        began_ns = time.time_ns()
        docker.run("Short.one", "exit 3", {"tokenswarm.target": "box"})
        until(seen.has("short-one", "start", "die"))
        docker.client.stop("before", timeout=0)
        until(seen.has("before", "found", "die", "stop"))
    assert seen.events("nobody-s") == []
    start, die = (r for r in seen.rows if r["container"] == "short-one")
    assert (die["exit_code"], die["target"], die["model"]) == (3, "box", None)
    assert began_ns <= start["time_ns"] < die["time_ns"] <= time.time_ns()
    killed = next(r for r in seen.rows if r["container"] == "before" and r["event"] == "die")
    assert (killed["exit_code"], killed["model"]) == (137, "tiny")
    assert seen.notes == []


def test_a_kill_for_memory_is_seen(docker: Dockerd, tmp_path: Path) -> None:
    with watching(docker, tmp_path) as seen:
        docker.run("greedy", GREEDY, LABELS, mem_limit="16m")
        until(seen.has("greedy", "start", "oom", "die"))
    codes = [r["exit_code"] for r in seen.rows if r["container"] == "greedy"]
    assert codes == [None, None, 137]


def test_health_is_seen(docker: Dockerd, tmp_path: Path) -> None:
    check = {"test": ["CMD", "/bin/test", "-e", "/ready"], "interval": 300_000_000, "retries": 1}
    config = docker.client.create_host_config(network_mode="none")
    with watching(docker, tmp_path) as seen:
        made = docker.client.create_container(
            "tokenswarm-test:1", ["/bin/sh", "-c", "sleep 1000"], name="slow",
            labels=LABELS, host_config=config, healthcheck=check,
        )  # fmt: skip
        docker.client.start(made["Id"])
        until(seen.has("slow", "start", "unhealthy"))
        made = docker.client.exec_create(made["Id"], ["/bin/sh", "-c", ": > /ready"])
        docker.client.exec_start(made["Id"])
        until(seen.has("slow", "start", "unhealthy", "ready"))


def test_the_use_is_sampled(docker: Dockerd, tmp_path: Path) -> None:
    docker.run("busy", "while :; do :; done", LABELS, mem_limit="64m")
    with watching(docker, tmp_path, stats_interval_s=0.3) as seen:
        until(lambda: seen.events("busy", "stats").count("stats") >= 3)
    first, *others = (r for r in seen.rows if r["container"] == "busy" and r["event"] == "stats")
    assert first["cpu_ratio"] is None  # there is nothing before it
    assert all(0 < r["cpu_ratio"] < 1.5 for r in others)
    assert all(r["memory_limit_bytes"] == 64 << 20 for r in [first, *others])
    assert all(0 < r["memory_used_bytes"] < 64 << 20 for r in others)


@pytest.mark.slow
def test_what_docker_missed_while_it_was_away_is_caught_up_with(
    docker: Dockerd, tmp_path: Path
) -> None:
    docker.run("victim", "sleep 1000", LABELS)
    with watching(docker, tmp_path) as seen:
        until(seen.has("victim", "found"))
        docker.kill()
        until(lambda: any("waiting for it to be back" in note for note in seen.notes))
        docker.start()  # it ends what ran before it
        until(seen.has("victim", "found", "die"), 60)
        docker.run("after", "sleep 100", LABELS)
        until(seen.has("after", "start"))
    assert any("does not answer" in note for note in seen.notes)


def test_without_docker_the_feed_says_so_and_ends_when_told(tmp_path: Path) -> None:
    nowhere = Dockerd(tmp_path)
    with watching(nowhere, tmp_path / "spool") as seen:
        until(lambda: len(seen.notes) >= 2)
    assert "does not answer" in seen.notes[0]
    assert seen.rows == []


def test_a_process_is_found_in_its_container(docker: Dockerd) -> None:
    owners = Owners(
        ("tiny", "big"), directory=DockerDirectory(docker.url), targets={"box": ["big"]}
    )
    docker.run("labelled", "sleep 100", LABELS)
    docker.run("targeted", "sleep 100", {"tokenswarm.target": "box"})
    docker.run("mute", "sleep 100", {})
    want = {
        "labelled": Owner("tiny", "labelled"),
        "targeted": Owner("big", "targeted"),
        "mute": Owner(None, "mute"),
    }
    assert {name: owners.resolve(docker.pid(name)) for name in want} == want


def test_a_child_inherits_model_and_container(docker: Dockerd) -> None:
    docker.run("parent", "sh -c 'sleep 100; true' --served-model-name tiny; true", {})
    pid = docker.pid("parent")
    until(lambda: len(_descendants(pid)) == 2)
    owners = Owners(("tiny",), directory=DockerDirectory(docker.url))
    assert {owners.resolve(child) for child in _descendants(pid)} == {Owner("tiny", "parent")}


def test_a_container_that_docker_does_not_know_is_named_by_its_id(
    docker: Dockerd, tmp_path: Path
) -> None:
    container = docker.run("unknown", "sleep 100", LABELS)
    for url in (f"unix://{tmp_path}/none.sock", docker.url):
        owners = Owners(("tiny",), directory=DockerDirectory(url))
        found = owners.resolve(docker.pid("unknown"))
        known = url == docker.url
        assert found == (Owner("tiny", "unknown") if known else Owner(None, container[:12]))


def _descendants(pid: int) -> list[int]:
    children = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [d for child in children for d in _descendants(child)]
