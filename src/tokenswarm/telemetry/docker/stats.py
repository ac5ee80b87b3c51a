"""What containers use, asked of Docker on a thread of its own."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from tokenswarm.telemetry.docker.link import Link, LinkLost, thing, whole
from tokenswarm.telemetry.owners.container import Container


class Use(msgspec.Struct, frozen=True):
    """What a container uses. None for what Docker does not say."""

    cpu_s: float | None = None
    memory_used_bytes: int | None = None
    page_cache_bytes: int | None = None
    memory_limit_bytes: int | None = None
    disk_read_bytes: int | None = None


class Taken(msgspec.Struct, frozen=True):
    """The use of one container at a time (perf_counter); CPU per second since the one before."""

    container: Container
    at_s: float
    use: Use
    cpu_ratio: float | None


class Uses:
    """The use of all that `running` names, one after the other, every `interval_s`. An answer may
    take a second, since Docker waits for the end of its own interval. What stops it is `failure`.
    """

    def __init__(self, link: Link, running: Callable[[], list[Container]], interval_s: float):
        self._link, self._running, self._interval_s = link, running, interval_s
        self._taken: queue.SimpleQueue[Taken] = queue.SimpleQueue()
        self._last: dict[str, tuple[float, float]] = {}
        self._closed = threading.Event()
        self.failure: str | None = None
        self._thread = threading.Thread(target=self._run, name="docker-stats", daemon=True)
        self._thread.start()

    def taken(self) -> Iterator[Taken]:
        """Those since the last call."""
        while True:
            try:
                yield self._taken.get_nowait()
            except queue.Empty:
                return

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while True:
                for container in self._running():
                    if not self._closed.is_set():
                        self._take(container)
                if self._closed.wait(self._interval_s):
                    return
        except LinkLost as e:
            self.failure = str(e)

    def _take(self, container: Container) -> None:
        answer = self._link.stats(container.id)
        use, now_s = use_in(answer or {}), time.perf_counter()
        if use.cpu_s is None:
            return  # it has ended meanwhile
        then = self._last.get(container.id)
        self._last[container.id] = now_s, use.cpu_s
        ratio = None if then is None else (use.cpu_s - then[1]) / (now_s - then[0])
        self._taken.put(Taken(container, now_s, use, None if ratio is None else max(0.0, ratio)))


def use_in(answer: Mapping[str, Any]) -> Use:
    """The figures in an answer of `GET /containers/ID/stats`, of cgroup v1 or v2."""
    cpu = thing(thing(answer.get("cpu_stats")).get("cpu_usage"))
    memory = thing(answer.get("memory_stats"))
    details = thing(memory.get("stats"))
    used, cpu_ns = whole(memory.get("usage")), whole(cpu.get("total_usage"))
    droppable = _first(details, "total_inactive_file", "inactive_file")
    return Use(
        cpu_s=None if used is None or cpu_ns is None else cpu_ns / 1e9,
        memory_used_bytes=None if used is None else max(0, used - (droppable or 0)),
        page_cache_bytes=_first(details, "total_cache", "file"),
        memory_limit_bytes=whole(memory.get("limit")),
        disk_read_bytes=_read_bytes(thing(answer.get("blkio_stats"))),
    )


def _read_bytes(blkio: Mapping[str, Any]) -> int | None:
    entries = blkio.get("io_service_bytes_recursive")
    if not isinstance(entries, list):
        return None  # nothing was read yet, or the kernel does not count
    reads = (e for e in map(thing, entries) if str(e.get("op")).lower() == "read")
    return sum(whole(e.get("value")) or 0 for e in reads)


def _first(details: Mapping[str, Any], *names: str) -> int | None:
    found = (whole(details.get(name)) for name in names)
    return next((value for value in found if value is not None), None)
