"""Hosts on one: network namespaces with cables between them that can be pulled out."""

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


@dataclass(frozen=True)
class Host:
    """`run` is the prefix of a command that is to run there, `hub_ip` where it sees the hub."""

    run: tuple[str, ...]
    hub_ip: str
    _name: str

    def pull(self) -> None:
        _ip("-n", self._name, "link", "set", "leaf", "down")

    def plug(self) -> None:
        _ip("-n", self._name, "link", "set", "leaf", "up")
        _ip("-n", self._name, "route", "replace", "default", "via", self.hub_ip)


HUB_IP = "10.213.99.1"


@contextlib.contextmanager
def star(leaves: int) -> Iterator[tuple[tuple[str, ...], list[Host]]]:
    """A hub with the address HUB_IP, and hosts that reach only it, each by a cable of its own.

    Yields the prefix of a command at the hub and the hosts.
    """
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the program ip (Debian: iproute2)")
    hub, hosts = f"tokenswarm-{os.getpid()}-hub", []
    with contextlib.ExitStack() as undo:
        names = [hub, *(f"tokenswarm-{os.getpid()}-leaf{n}" for n in range(leaves))]
        for name in names:
            try:
                _ip("netns", "add", name)
            except subprocess.CalledProcessError as e:
                pytest.skip(f"no network namespaces here: {e.stderr.strip()}")
            undo.callback(_ip, "netns", "del", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", hub, "address", "add", f"{HUB_IP}/32", "dev", "lo")
        for n, leaf in enumerate(names[1:]):
            near, far = f"10.213.{20 + n}.1", f"10.213.{20 + n}.2"
            _ip("-n", hub, "link", "add", f"hub{n}", "type", "veth", "peer", "name", "leaf",
                "netns", leaf)  # fmt: skip
            _ip("-n", hub, "address", "add", f"{near}/24", "dev", f"hub{n}")
            _ip("-n", leaf, "address", "add", f"{far}/24", "dev", "leaf")
            _ip("-n", hub, "link", "set", f"hub{n}", "up")
            hosts.append(Host(("ip", "netns", "exec", leaf), near, leaf))
            hosts[-1].plug()
        yield ("ip", "netns", "exec", hub), hosts


def _ip(*argv: str) -> None:
    subprocess.run(["ip", *argv], check=True, capture_output=True, text=True)
