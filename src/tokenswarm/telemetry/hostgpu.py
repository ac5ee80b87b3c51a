"""Source `host`: the memory of engines that run on the CPU, as a GPU called `cpu`.

Which processes those are, their command lines say (they name a model of the scenario) or the
ports that they listen on. Linux, since the memory is read from `/proc`.
"""

import os
import re
import socket
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tokenswarm.errors import UsageError
from tokenswarm.telemetry.gpu import GpuProcess, GpuSample, TelemetryGap
from tokenswarm.telemetry.health import Health
from tokenswarm.telemetry.host import memory_of, read_text
from tokenswarm.telemetry.owners.owner import Owner, Owners

SCAN_S = 1.0  # how often processes are looked for
PORTS_S = 5.0  # how often it is asked who listens
BLOB = "sha256-"  # how Ollama's engines name a model
FIGURE = re.compile(r"^(Rss|Pss): +(\d+) kB$", re.MULTILINE)
PAGE = os.sysconf("SC_PAGE_SIZE")


class Memory:
    """Bytes that one process holds: its proportional share of what it maps (PSS), a model's file
    included. What of its resident memory is others' share is renewed by `renew`, which walks its
    pages; `bytes` follows what is resident in between."""

    def __init__(self, pid: int, proc: Path = Path("/proc")):
        self._folder = proc / str(pid)
        self._others = 0

    def bytes(self) -> int | None:
        """None when the process has gone, or is nobody's business."""
        resident = self._resident()
        if not resident:
            return None  # a process that has ended but was not waited for holds nothing, too
        return max(0, resident - self._others)

    def renew(self) -> "Memory":
        """Ask for its share anew. Both figures are of one walk: beside what another file says
        is resident, the share of a process that loads or drops a model in between would be off
        by the whole model. Somebody else's process does not tell; nothing is shared then."""
        try:
            text = (self._folder / "smaps_rollup").read_text()
        except OSError:
            return self
        of = {name: int(kib) << 10 for name, kib in FIGURE.findall(text)}
        if "Rss" in of and "Pss" in of:
            self._others = max(0, of["Rss"] - of["Pss"])
        return self

    def _resident(self) -> int | None:
        try:
            return int((self._folder / "statm").read_text().split()[1]) * PAGE
        except (OSError, ValueError, IndexError):
            return None


class Engine(NamedTuple):
    """One process that is sampled, and whose it is."""

    memory: Memory
    owner: Owner


class HostGpu:
    """This host's memory as a GPU. `used` is what the engines hold, `free` what is available."""

    kind = "host"
    healths: Mapping[str, Health] = {}

    def __init__(
        self, names: Collection[str], owners: Owners, ports: Collection[int] = (),
        proc: Path = Path("/proc"),
    ):  # fmt: skip
        """UsageError where there is no `/proc`."""
        if not (proc / "self" / "statm").exists():
            raise UsageError(
                "telemetry.gpu.source is host, but this system has no /proc: "
                "it needs Linux; set the source to none"
            )
        self._names, self._owners, self._ports = tuple(names), owners, frozenset(ports)
        self._proc = proc
        self._engines: dict[int, Engine] = {}
        self._scanning: threading.Thread | None = None
        self._listeners: frozenset[int] = frozenset()
        self._scanned_s: float | None = None
        self._asked_s: float | None = None

    def about(self) -> dict[str, Any]:
        return {"kind": self.kind, "ports": sorted(self._ports), "models": list(self._names)}

    def sample(self) -> list[GpuSample]:
        self._look_around()
        engines = self._engines
        held = {pid: m for pid, e in engines.items() if (m := e.memory.bytes())}
        host = memory_of(read_text(self._proc / "meminfo"))
        total, used = host.memory_total_bytes, host.memory_used_bytes
        if total is None or used is None:
            raise TelemetryGap("/proc/meminfo cannot be read")
        return [
            GpuSample(
                index=0, label="cpu", name=f"memory of {socket.gethostname()}",
                vram_total_bytes=total, vram_used_bytes=sum(held.values()),
                vram_free_bytes=total - used,
                processes=tuple(_process(pid, engines[pid].owner, m) for pid, m in held.items()),
            )
        ]  # fmt: skip

    def close(self) -> None:
        """Nothing is held; a scan that is still going on ends."""
        if self._scanning is not None:
            self._scanning.join()

    def _look_around(self) -> None:
        """Find the engines anew once in a while, beside the looks: it reads files of every process
        on this host, and a look that waited for it would miss a model's coming or going, and be
        stamped before it."""
        now = time.perf_counter()
        if self._scanned_s is None:
            self._scan(now)  # the first look is to show something
        elif now - self._scanned_s >= SCAN_S and not (self._scanning and self._scanning.is_alive()):
            self._scanning = threading.Thread(target=self._scan, args=(now,), daemon=True)
            self._scanning.start()

    def _scan(self, now_s: float) -> None:
        """Those that are still there keep what is known of them."""
        self._scanned_s = now_s
        found = set(self._named()) | set(self._serving(now_s))
        found -= {os.getpid(), os.getppid()}
        known = self._engines
        memories = {
            pid: known[pid].memory if pid in known else Memory(pid, self._proc)
            for pid in sorted(found)
        }
        self._engines = {
            pid: Engine(memory.renew(), self._owners.resolve(pid))
            for pid, memory in memories.items()
        }
        self._owners.forget_all_but(found)

    def _named(self) -> Iterator[int]:
        """Processes whose own command line says one of the models; children inherit none."""
        signs = [name.encode() for name in self._names] + [BLOB.encode()]
        for folder in self._proc.iterdir():
            if not folder.name.isdigit():
                continue
            try:
                line = (folder / "cmdline").read_bytes()
            except OSError:
                continue  # it has ended
            if any(sign in line for sign in signs):
                pid = int(folder.name)
                if self._owners.resolve(pid).model in self._names:
                    yield pid

    def _serving(self, now_s: float) -> Iterator[int]:
        """Processes that listen on the ports, and their children: engines of several processes.

        Who listens costs a look at every open file of every process, so it is remembered.
        """
        if not self._ports:
            return
        gone = any(not (self._proc / str(pid)).exists() for pid in self._listeners)
        if self._asked_s is None or gone or now_s - self._asked_s >= PORTS_S:
            self._asked_s, self._listeners = now_s, _listeners(self._ports)
        for pid in self._listeners:
            yield pid
            yield from self._children(pid)

    def _children(self, pid: int) -> Iterator[int]:
        for file in (self._proc / str(pid) / "task").glob("*/children"):
            for child in read_text(file).split():
                yield int(child)
                yield from self._children(int(child))


def _process(pid: int, owner: Owner, held: int) -> GpuProcess:
    return GpuProcess(pid=pid, vram_used_bytes=held, model=owner.model, container=owner.container)


def _listeners(ports: Collection[int]) -> frozenset[int]:
    """Only processes of this user can be seen, unless it is root."""
    return frozenset(
        c.pid
        for c in psutil.net_connections("tcp")
        if c.pid and c.status == psutil.CONN_LISTEN and c.laddr and c.laddr.port in ports
    )
