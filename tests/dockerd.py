"""A real Docker engine of one's own, without network, whose one image holds a busybox.

    with dockerd(tmp_path) as docker:
        docker.run("srv", "sleep 100", labels={"tokenswarm.model": "m"})
        docker.kill()     # kill -9
        docker.start()    # the same data

Debian's docker.io and busybox-static, root, and no Docker of the machine's is touched.
"""

import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tokenswarm.telemetry.owners.container import docker_client

IMAGE = "tokenswarm-test:1"
READY_S = 60.0
STOP_S = 30.0


@dataclass
class Dockerd:
    """`folder` holds all that it writes; sockets need a short one."""

    folder: Path
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)
    client: Any = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/d.sock"

    def start(self) -> None:
        f = self.folder
        command = [
            "dockerd", f"--data-root={f}/data", f"--exec-root={f}/exec", f"--host={self.url}",
            f"--pidfile={f}/d.pid", "--bridge=none", "--iptables=false", "--ip6tables=false",
            "--containerd-namespace=tokenswarm-test",
        ]  # fmt: skip
        for left in ("d.pid", "exec/containerd/containerd.pid"):
            (f / left).unlink(missing_ok=True)  # its process may lie about, dead and not reaped
        with (f / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._await()

    def kill(self) -> None:
        """kill -9 the engine; what it runs goes on without it."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """Let it end its containers and itself."""
        if self.client is None or self.process is None or self.process.poll() is not None:
            return
        for container in self.client.containers():
            self.client.kill(container["Id"])
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
        finally:
            self.client.close()

    def run(self, name: str, script: str, labels: Mapping[str, str], **host: Any) -> str:
        """Start `sh -c script` in a container of that name: its id. `host`: mem_limit and such."""
        config = self.client.create_host_config(network_mode="none", **host)
        made = self.client.create_container(
            IMAGE, ["/bin/sh", "-c", script], name=name, labels=dict(labels), host_config=config
        )
        self.client.start(made["Id"])
        return str(made["Id"])

    def pid(self, container: str) -> int:
        return int(self.client.inspect_container(container)["State"]["Pid"])

    def _await(self) -> None:
        from docker.errors import DockerException
        from requests.exceptions import RequestException

        if self.client is not None:
            self.client.close()
        end = time.monotonic() + READY_S
        while True:
            try:
                self.client = docker_client(self.url, 60)
                return
            except (DockerException, RequestException, OSError):
                assert self.process is not None
                if self.process.poll() is not None or time.monotonic() > end:
                    log = (self.folder / "log").read_text()[-3000:]
                    raise RuntimeError(f"dockerd does not start: {log}") from None
                time.sleep(0.1)


@contextmanager
def dockerd() -> Iterator[Dockerd]:
    """Skips the test, with the reason, where there is no Docker engine to start."""
    busybox = _needed()
    folder = Path(tempfile.mkdtemp(prefix="tsd-", dir="/tmp"))
    engine = Dockerd(folder)
    try:
        engine.start()
        engine.client.import_image_from_data(_image(busybox), repository=IMAGE[:-2], tag="1")
        yield engine
    finally:
        engine.stop()
        sweep(folder)


def sweep(folder: Path) -> None:
    """Take away what an engine that was killed has left: its shims with their containers, known
    by the folder in their command lines, and its mounts."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{folder}/" not in (process / "cmdline").read_text():
                continue
            pid = int(process.name)
            children = (process / "task" / process.name / "children").read_text().split()
            for left in (*map(int, children), pid):
                os.kill(left, signal.SIGKILL)
        except OSError:
            pass  # it has ended by itself
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in reversed([m for m in mounts if m.startswith(f"{folder}/")]):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


def _needed() -> Path:
    if os.geteuid() != 0:
        pytest.skip("a Docker engine of one's own needs root")
    if shutil.which("dockerd") is None:
        pytest.skip("no dockerd: install Debian's docker.io")
    busybox = Path("/bin/busybox")
    if not busybox.exists():
        pytest.skip("no /bin/busybox: install Debian's busybox-static")
    return busybox


def _image(busybox: Path) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        tar.add(busybox, "bin/busybox")
        for name in ("sh", "sleep", "cat", "true", "test"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return content.getvalue()
