"""Two hosts on one: network namespaces with a cable between them that can be pulled out."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

NEAR_IP, FAR_IP = "10.213.7.1", "10.213.7.2"


@dataclass(frozen=True)
class Cable:
    """`near` and `far` are prefixes of a command that is to run there."""

    near: tuple[str, ...]
    far: tuple[str, ...]
    _far_name: str

    def pull(self) -> None:
        _ip("-n", self._far_name, "link", "set", "cable1", "down")

    def plug(self) -> None:
        _ip("-n", self._far_name, "link", "set", "cable1", "up")


@contextlib.contextmanager
def two_hosts() -> Iterator[Cable]:
    """Two namespaces that are gone with the block; skips where they cannot be made."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the program ip (Debian: iproute2)")
    near, far = (f"tokenswarm-{os.getpid()}-{side}" for side in ("near", "far"))
    with contextlib.ExitStack() as undo:
        for name in (near, far):
            try:
                _ip("netns", "add", name)
            except subprocess.CalledProcessError as e:
                pytest.skip(f"no network namespaces here: {e.stderr.strip()}")
            undo.callback(_ip, "netns", "del", name)
        _ip("-n", near, "link", "add", "cable0", "type", "veth", "peer", "name", "cable1",
            "netns", far)  # fmt: skip
        for name, device, address in ((near, "cable0", NEAR_IP), (far, "cable1", FAR_IP)):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", device)
            _ip("-n", name, "link", "set", device, "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield Cable(("ip", "netns", "exec", near), ("ip", "netns", "exec", far), far)


def _ip(*argv: str) -> None:
    subprocess.run(["ip", *argv], check=True, capture_output=True, text=True)
