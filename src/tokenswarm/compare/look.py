"""Device memory while a solution is started, drilled and ended: a thread that looks 20 times a
second, and questions to what it has seen."""

import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from tokenswarm.errors import UsageError
from tokenswarm.telemetry.config import Gpu
from tokenswarm.telemetry.gpu import TelemetryGap
from tokenswarm.telemetry.hostgpu import Memory
from tokenswarm.telemetry.open import open_gpu

INTERVAL_S = 0.05
STILL_BYTES = 32 << 20
PATIENCE_S = 15.0
KEPT = 20 * 3600 * 4


class Reading(Protocol):
    def used_bytes(self) -> int | None:
        """Device memory in use now, over all GPUs; None: no answer."""

    def names(self) -> list[str]:
        """What the GPUs are called; empty where there is none."""

    def close(self) -> None: ...


class _Device:
    def __init__(self, source: Gpu):
        reader = open_gpu(source)
        if reader is None:
            raise UsageError("gpu.source none has no memory to look at")
        self._reader = reader
        self._names: list[str] = []

    def used_bytes(self) -> int | None:
        try:
            samples = self._reader.sample()
        except TelemetryGap:
            return None
        self._names = [s.name for s in samples]  # readers are for one thread: this one
        known = [s.vram_used_bytes for s in samples if s.vram_used_bytes is not None]
        return sum(known) if known else None

    def names(self) -> list[str]:
        return self._names

    def close(self) -> None:
        self._reader.close()


class _Processes:
    """For engines on the CPU: what the processes of the servers hold."""

    def __init__(self, pids: Callable[[], Iterable[int]]):
        self._pids = pids
        self._known: dict[int, Memory] = {}

    def used_bytes(self) -> int | None:
        self._known = {pid: self._known.get(pid) or Memory(pid) for pid in self._pids()}
        return sum(m.bytes() or 0 for m in self._known.values())

    def names(self) -> list[str]:
        return []

    def close(self) -> None:
        """Nothing is held."""


class _Nothing:
    def used_bytes(self) -> int | None:
        return None

    def names(self) -> list[str]:
        return []

    def close(self) -> None:
        """Nothing is held."""


def open_reading(
    source: str, control_url: str | None, pids: Callable[[], Iterable[int]]
) -> Reading:
    """What a matrix's `gpu` names. UsageError: it cannot be had."""
    if source == "none":
        return _Nothing()
    if source == "host":
        return _Processes(pids)
    if source == "sim":
        return _Device(Gpu(source="sim", control_url=control_url))
    return _Device(Gpu(source="nvml"))


class Look:
    """Looks until it is closed. Times are perf_counter seconds, memory is bytes."""

    def __init__(self, reading: Reading):
        self._reading = reading
        self._seen: list[tuple[float, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._reading.close()

    @property
    def names(self) -> list[str]:
        """What the GPUs are called; empty where none was seen."""
        return self._reading.names()

    def now(self) -> int | None:
        """Memory at the last look."""
        return self._seen[-1][1] if self._seen else None

    def still(self, settle_s: float, patience_s: float = PATIENCE_S) -> int | None:
        """Memory once it has not moved by STILL_BYTES for `settle_s`; after `patience_s` as it
        is. None: nothing looks."""
        began = time.perf_counter()
        while time.perf_counter() - began < patience_s:
            time.sleep(INTERVAL_S)
            now = time.perf_counter()
            if now - began < settle_s:
                continue
            recent = [used for at, used in self._since(now - settle_s)]
            if not recent or max(recent) - min(recent) < STILL_BYTES:
                break
        return self.now()

    def lowest(self, since_s: float) -> int | None:
        """Least memory seen since then."""
        return min((used for _, used in self._since(since_s)), default=None)

    def _since(self, since_s: float) -> list[tuple[float, int]]:
        found = []
        for at, used in reversed(self._seen):
            if at < since_s:
                break
            found.append((at, used))
        return found

    def _run(self) -> None:
        while not self._stop.is_set():
            used = self._reading.used_bytes()
            if used is not None:
                self._seen.append((time.perf_counter(), used))
                del self._seen[:-KEPT]
            self._stop.wait(INTERVAL_S)
