"""Servers as containers: one container a start, found again by its labels."""

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenswarm.launch import ledger
from tokenswarm.launch.reasons import failure, one_line, reason
from tokenswarm.launch.start import Container, Failure, Start, Started, StartFailed
from tokenswarm.telemetry.owners.container import docker_client

OWNER = "tokenswarm.owner"
"""Label: pid and start of the tokenswarm that a container belongs to, and the machine's boot."""
TIMEOUT_S = 120
GRACE_S = 20
TAIL_LINES = 2000


def connect() -> Any:
    """Docker's low-level client by DOCKER_HOST or the usual socket. StartFailed: no engine."""
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    where = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    try:
        return docker_client(where, TIMEOUT_S)
    except (DockerException, RequestException, OSError) as e:
        said = failure("no_program", f"no Docker engine at {where}: {e}")
        raise StartFailed("docker", said) from None


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def owner() -> str:
    """This process, as no other will ever be."""
    return f"{os.getpid()}:{ledger.began(os.getpid())}:{boot_id()}"


def _alive(label: str) -> bool:
    pid, began, boot = label.split(":")
    return boot == boot_id() and ledger.alive(int(pid), int(began))


@dataclass
class Running:
    """A container that was started."""

    name: str
    _client: Any
    _id: str
    _log: Path
    _stopped: bool = field(default=False, repr=False)

    def ended(self) -> Failure | None:
        state = self._state()
        if state.get("Running"):
            sick = (state.get("Health") or {}).get("Status") == "unhealthy"
            return failure("unhealthy", _health(state)) if sick else None
        return reason(self.said(), state.get("ExitCode"), oom_killed=bool(state.get("OOMKilled")))

    def pids(self) -> tuple[int, ...]:
        with contextlib.suppress(Exception):  # it may be ending just now
            top = self._client.top(self._id)
            column = top["Titles"].index("PID")
            return tuple(int(row[column]) for row in top["Processes"])
        return ()

    def said(self) -> str:
        raw = self._client.logs(self._id, stdout=True, stderr=True, tail=TAIL_LINES)
        text: str = raw.decode("utf-8", "replace")
        return text

    def stop(self) -> None:
        if self._stopped:
            return
        _remove(self._client, self._id, self._log)
        self._stopped = True

    def _state(self) -> dict[str, Any]:
        from docker.errors import NotFound

        try:
            state: dict[str, Any] = self._client.inspect_container(self._id)["State"]
        except NotFound:
            return {"Running": False, "ExitCode": None}
        return state


class DockerLauncher:
    """Starts a Start's `container` with its `argv` behind the image's entry point."""

    def __init__(self) -> None:
        self._client = connect()

    def start(self, what: Start) -> Started:
        assert what.container is not None
        made = self._create(what, what.container)
        started = Running(what.name, self._client, made, what.log)
        try:
            self._client.start(made)
        except Exception as e:
            said = reason(str(getattr(e, "explanation", None) or e), None)
            started.stop()
            raise StartFailed(what.name, said, what.log) from e
        return started

    def sweep(self) -> list[str]:
        ended = []
        for found in self._client.containers(all=True, filters={"label": OWNER}):
            label = found["Labels"][OWNER]
            with contextlib.suppress(ValueError):
                if _alive(label):
                    continue
                _remove(self._client, found["Id"], None)
                ended.append(found["Names"][0].lstrip("/"))
        return ended

    def close(self) -> None:
        self._client.close()

    def _create(self, what: Start, c: Container) -> str:
        from docker.errors import APIError, ImageNotFound

        config = self._client.create_host_config(
            network_mode=c.network, binds=c.volumes or None, shm_size=c.shm_bytes,
            runtime=c.runtime, device_requests=_gpus(c.gpus), mem_limit=what.memory_limit_bytes,
            port_bindings=None if c.network == "host" else {c.port: ("127.0.0.1", what.port)},
        )  # fmt: skip
        about = {
            "command": list(what.argv) or None, "environment": dict(what.environment),
            "labels": {**what.labels, OWNER: owner()}, "host_config": config,
            "name": f"tokenswarm-{what.name}", "ports": None if c.network == "host" else [c.port],
        }  # fmt: skip
        try:
            try:
                made = self._client.create_container(c.image, **about)
            except ImageNotFound:
                self._pull(what, c)
                made = self._client.create_container(c.image, **about)
        except APIError as e:
            raise StartFailed(what.name, reason(str(e.explanation), None), what.log) from e
        return str(made["Id"])

    def _pull(self, what: Start, c: Container) -> None:
        from docker.errors import APIError, DockerException

        said = "it is not here, and pull is false"
        if c.pull:
            try:
                lines = list(self._client.pull(c.image, stream=True, decode=True))
                if errors := [line["error"] for line in lines if "error" in line]:
                    raise DockerException(errors[0])
                return
            except (APIError, DockerException, OSError) as e:
                said = f"it is not here and cannot be pulled: {e}"
        raise StartFailed(what.name, failure("image_missing", f"{c.image}: {said}"), what.log)


def _gpus(wanted: str) -> list[Any] | None:
    from docker.types import DeviceRequest

    if wanted == "none":
        return None
    ids = None if wanted == "all" else [x.strip() for x in wanted.split(",")]
    count = -1 if ids is None else None
    return [DeviceRequest(driver="", count=count, device_ids=ids, capabilities=[["gpu"]])]


def _health(state: dict[str, Any]) -> str:
    log = (state.get("Health") or {}).get("Log") or [{}]
    return one_line(str(log[-1].get("Output", "its health check fails")))


def _remove(client: Any, container: str, log: Path | None) -> None:
    """End a container, keep what it said, and take it away."""
    from docker.errors import APIError, NotFound

    try:
        with contextlib.suppress(APIError):
            client.stop(container, timeout=GRACE_S)
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as file:
                file.write(client.logs(container, stdout=True, stderr=True))
        client.remove_container(container, force=True, v=True)
    except NotFound:
        pass  # somebody else has taken it away
