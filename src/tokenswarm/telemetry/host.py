"""The host beside its GPUs: CPU, memory, page cache, disks and network, from Linux's `/proc`.

Counters of the kernel become rates over the time since the look before; the first look has none.
What a system does not show is None.
"""

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tokenswarm.clock import Clock
from tokenswarm.store.row import Monotonic
from tokenswarm.store.schema import HOST
from tokenswarm.telemetry.row import Pair, row

if TYPE_CHECKING:
    from tokenswarm.telemetry.feed import Outbox

SECTOR = 512  # bytes in the kernel's disk statistics, whatever the disk's own sectors


class HostSample(msgspec.Struct, frozen=True, kw_only=True):
    """One look; names and units are the schema's."""

    cpu_ratio: float | None = None
    cpu_iowait_ratio: float | None = None
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    page_cache_bytes: int | None = None
    disk_read_bytes_per_s: float | None = None
    disk_written_bytes_per_s: float | None = None
    network_received_bytes_per_s: float | None = None
    network_sent_bytes_per_s: float | None = None


class Counters(msgspec.Struct, frozen=True):
    """What only grows: CPU in clock ticks (all, idle, waiting for a disk), bytes of disks and
    network (in, out)."""

    at_s: float
    cpu: tuple[int, int, int] | None
    disk: tuple[int, int] | None
    network: tuple[int, int] | None


class HostReader:
    """Looks at this host. `proc` and `sys` may be copies on disk."""

    def __init__(self, proc: Path = Path("/proc"), sys: Path = Path("/sys")):
        self._proc, self._sys = proc, sys
        self._last: Counters | None = None

    def sample(self) -> HostSample:
        now, last = self._counters(), self._last
        self._last = now
        memory = memory_of(read_text(self._proc / "meminfo"))
        if last is None:
            return memory
        span_s = now.at_s - last.at_s
        cpu, iowait = _shares(now.cpu, last.cpu)
        read, written = _rates(now.disk, last.disk, span_s)
        received, sent = _rates(now.network, last.network, span_s)
        return msgspec.structs.replace(
            memory, cpu_ratio=cpu, cpu_iowait_ratio=iowait,
            disk_read_bytes_per_s=read, disk_written_bytes_per_s=written,
            network_received_bytes_per_s=received, network_sent_bytes_per_s=sent,
        )  # fmt: skip

    def _counters(self) -> Counters:
        disks = _with_device(self._sys / "block")
        cards = _with_device(self._sys / "class" / "net")
        return Counters(
            time.perf_counter(),
            cpu_of(read_text(self._proc / "stat")),
            disk_of(read_text(self._proc / "diskstats"), disks),
            network_of(read_text(self._proc / "net" / "dev"), cards),
        )


class HostFeed:
    """Samples of this host as rows of measurement `host`."""

    def __init__(
        self, interval_s: float, run_id: str, host: str, clock: Clock,
        reader: HostReader | None = None,
    ):  # fmt: skip
        self.name = f"host-{host}"
        self._interval_s, self._clock = interval_s, clock
        self._tags = {"run_id": run_id, "host": host}
        self._reader = reader or HostReader()
        self._stamp = Monotonic()

    def run(self, stop: threading.Event, out: "Outbox") -> None:
        for _ in out.ticks(self._interval_s, stop):
            out.put([self.look()])

    def look(self) -> Pair:
        began = time.perf_counter()
        sample = self._reader.sample()
        when_ns = self._clock.unix((began + time.perf_counter()) / 2)
        return row(HOST, self._stamp(when_ns), **self._tags, **msgspec.structs.asdict(sample))


def cpu_of(stat: str) -> tuple[int, int, int] | None:
    """All, idle and waiting ticks of `/proc/stat`; waiting is idle, too. A guest's time is in
    that of its host process already."""
    for line in stat.splitlines():
        name, *words = line.split()
        if name == "cpu":
            ticks = [int(w) for w in words[:8]]
            return sum(ticks), ticks[3] + ticks[4], ticks[4]
    return None


def memory_of(meminfo: str) -> HostSample:
    """`/proc/meminfo`. Shared memory is in the kernel's count of cached pages, but no cache."""
    kib = {}
    for line in meminfo.splitlines():
        name, _, rest = line.partition(":")
        if rest.strip():
            kib[name] = int(rest.split()[0])
    total, available = kib.get("MemTotal"), kib.get("MemAvailable")
    cached = kib.get("Cached")
    return HostSample(
        memory_total_bytes=None if total is None else total << 10,
        memory_used_bytes=(
            None if total is None or available is None else (total - available) << 10
        ),
        page_cache_bytes=None if cached is None else (cached - kib.get("Shmem", 0)) << 10,
    )


def disk_of(diskstats: str, disks: Iterable[str]) -> tuple[int, int] | None:
    """Bytes read and written by `disks`: whole ones, since partitions and what is stacked on
    them count the same bytes again."""
    wanted = set(disks)
    found = [w for line in diskstats.splitlines() if (w := line.split())[2:3] and w[2] in wanted]
    if not found:
        return None
    return sum(int(w[5]) for w in found) * SECTOR, sum(int(w[9]) for w in found) * SECTOR


def network_of(dev: str, cards: Iterable[str]) -> tuple[int, int] | None:
    """Bytes received and sent by `cards`; in a container without any, by all but loopback."""
    counts = {}
    for line in dev.splitlines():
        name, colon, rest = line.partition(":")
        if colon:
            words = rest.split()
            counts[name.strip()] = int(words[0]), int(words[8])
    counts.pop("lo", None)
    wanted = [counts[c] for c in cards if c in counts] or list(counts.values())
    return (sum(c[0] for c in wanted), sum(c[1] for c in wanted)) if wanted else None


def _with_device(folder: Path) -> list[str]:
    """What hardware, real or virtual, stands behind; not loops, bridges and the like."""
    try:
        return [entry.name for entry in folder.iterdir() if (entry / "device").exists()]
    except OSError:
        return []


def read_text(path: Path) -> str:
    """Empty when it cannot be read."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _shares(
    now: tuple[int, int, int] | None, last: tuple[int, int, int] | None
) -> tuple[float | None, float | None]:
    """CPU in use, and waiting for a disk, of all. The kernel's idle counts may step back."""
    if now is None or last is None or now[0] <= last[0]:
        return None, None
    total, idle, waiting = (a - b for a, b in zip(now, last, strict=True))
    return min(1.0, max(0.0, 1 - idle / total)), min(1.0, max(0.0, waiting / total))


def _rates(
    now: tuple[int, int] | None, last: tuple[int, int] | None, span_s: float
) -> tuple[float | None, float | None]:
    """None also where a counter went back: a disk or card has gone, or it wrapped."""
    if now is None or last is None or span_s <= 0:
        return None, None
    first, second = now[0] - last[0], now[1] - last[1]
    return (
        first / span_s if first >= 0 else None,
        second / span_s if second >= 0 else None,
    )
