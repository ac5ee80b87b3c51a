"""Which container a process belongs to, and what Docker says of it."""

import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tokenswarm.telemetry.owners.proc import Proc

DOCKER_URL = "unix:///var/run/docker.sock"
TARGET_LABEL = "tokenswarm.target"
MODEL_LABEL = "tokenswarm.model"
LABELS = (TARGET_LABEL, MODEL_LABEL)

TIMEOUT_S = 1.0
AGAIN_S = 30.0
MAX_LABEL = 200

# `docker-ID.scope`, `cri-containerd-ID.scope`, `kubepods-…slice:cri-containerd:ID`, bare `ID`;
# conmon looks after a container of podman or CRI-O and is not in it; Fargate's are its own
_ID = re.compile(r"(?:^|[-:])([0-9a-f]{64})(?:\.scope)?$")
_CONMON = re.compile(r"(?:libpod|crio)-conmon-")
_FARGATE = re.compile(r"[0-9a-f]{32}-[0-9]+")
# files that Docker and podman mount into each container; the file of a CRI is its pod's
_MOUNTED = re.compile(r"/(?:containers|overlay-containers)/([0-9a-f]{64})/(?:userdata/)?[a-z.]+ ")


def container_ids(cgroup: str, mounts: str = "") -> tuple[str, ...]:
    """Container ids in the texts of `/proc/PID/cgroup` and `mountinfo`, the innermost first.

    Empty for a process of the host. The cgroup's word counts; it has none for those who share
    our own cgroup namespace (`0::/`), whose mounts then tell.
    """
    best: tuple[str, ...] = ()
    for line in cgroup.splitlines():
        path = line.split(":", 2)[-1]
        found = tuple(_ids(path))
        if len(found) > len(best):
            best = found
    if best:
        return best[::-1]
    mounted = _MOUNTED.search(mounts)
    return (mounted[1],) if mounted else ()


def _ids(path: str) -> Iterator[str]:
    parts = path.split("/")
    for before, part in zip(["", *parts], parts, strict=False):
        if _CONMON.match(part):
            continue
        found = _ID.search(part)
        if found:
            yield found[1]
        elif _FARGATE.fullmatch(part) and "ecs" in parts and len(before) == 32:
            yield part


@dataclass(frozen=True, slots=True)
class Container:
    """A container as its engine knows it. `name` is without Docker's leading slash."""

    id: str
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def model(self) -> str | None:
        return self.labels.get(MODEL_LABEL) or None

    @property
    def target(self) -> str | None:
        return self.labels.get(TARGET_LABEL) or None


def docker_client(url: str, timeout_s: float) -> Any:
    """docker's APIClient that speaks the server's own version of the API; what docker raises.

    Its own way to do so (`version="auto"`) leaves sockets open when nobody answers.
    """
    from docker import APIClient

    if url.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as knocking:
            knocking.settimeout(timeout_s)
            knocking.connect(url.removeprefix("unix://"))
    asking = APIClient(url, timeout=timeout_s)
    try:
        version = str(asking.version(api_version=False)["ApiVersion"])
    finally:
        asking.close()
    return APIClient(url, version=version, timeout=timeout_s)


class Directory(Protocol):
    """Knows containers by id."""

    def find(self, container_id: str) -> Container | None:
        """The container; None if it is not there, or nobody can be asked."""


class NoDirectory:
    """Where there is no Docker: nobody knows a container."""

    def find(self, container_id: str) -> Container | None:
        return None


class DockerDirectory:
    """Asks a Docker engine, each id once; one that does not answer is left alone for AGAIN_S."""

    def __init__(self, url: str = DOCKER_URL, now_s: Callable[[], float] = time.monotonic):
        import docker  # noqa: F401, it takes long, and the first question should not

        self._url, self._now_s = url, now_s
        self._known: dict[str, Container | None] = {}
        self._not_before_s = -AGAIN_S

    def find(self, container_id: str) -> Container | None:
        if container_id not in self._known:
            if self._now_s() < self._not_before_s:
                return None
            from docker.errors import DockerException, NotFound
            from requests.exceptions import RequestException

            try:
                self._known[container_id] = self._ask(container_id)
            except NotFound:
                self._known[container_id] = None
            except (DockerException, RequestException, OSError):
                self._not_before_s = self._now_s() + AGAIN_S
                return None
        return self._known[container_id]

    def _ask(self, container_id: str) -> Container:
        client = docker_client(self._url, TIMEOUT_S)
        try:
            return inspected(client.inspect_container(container_id))
        finally:
            client.close()


def inspected(answer: Mapping[str, Any]) -> Container:
    """The container of Docker's answer to an inspection."""
    config = answer.get("Config")
    labels = config.get("Labels") if isinstance(config, dict) else None
    return labelled(answer.get("Id"), str(answer.get("Name", "")).lstrip("/"), labels)


def labelled(container_id: object, name: str, labels: object) -> Container:
    """A container of what Docker says; names and labels are anybody's and cut to MAX_LABEL."""
    given = labels if isinstance(labels, dict) else {}
    kept = {str(label): str(value)[:MAX_LABEL] for label, value in given.items()}
    return Container(str(container_id), name[:MAX_LABEL], kept)


def directory_at(url: str | None = None) -> Directory:
    """The Docker engine at `url`; nobody where its socket is not there."""
    url = url or DOCKER_URL
    if url.startswith("unix://") and not Path(url.removeprefix("unix://")).exists():
        return NoDirectory()
    return DockerDirectory(url)


def container_of(pid: int, proc: Proc, directory: Directory) -> Container | None:
    """The innermost container of `pid` that `directory` knows, else the innermost, named by the
    first 12 digits of its id; None for a process of the host."""
    cgroup = proc.cgroup(pid)
    ids = container_ids(cgroup) or container_ids("", proc.mounts(pid))
    known = (found for i in ids if (found := directory.find(i)) is not None)
    return next(known, None) or (Container(ids[0], ids[0][:12]) if ids else None)
