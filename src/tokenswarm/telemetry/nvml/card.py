"""One GPU or MIG instance as NVML shows it: what it is asked at every look, and what it lacks.

Units come from nvml.h: bytes, percent, mW, MHz.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from tokenswarm.telemetry.gpu import GpuProcess, GpuSample
from tokenswarm.telemetry.owners.recent import Recent

# Read anew only so often. The driver makes utilisation, power, clocks and throttle reasons up by
# asking the card, which costs a millisecond a look, and averages most of them over longer anyway.
ACTIVITY_S = 0.25
PROCESSES_S = 0.25  # while the card's memory does not move; when it does, at once
FRESH_S = 1.0  # an older slow reading does not belong to the sample's time
MAX_XIDS = 1000

Calls = dict[str, tuple[Any, ...]]


def fast_calls(nvml: Any) -> Calls:
    """By figure: the function of a handle, and its further arguments. Microseconds each."""
    return {
        "memory": (nvml.nvmlDeviceGetMemoryInfo, nvml.nvmlMemory_v2),
        "memory v1": (nvml.nvmlDeviceGetMemoryInfo,),
        "processes": (nvml.nvmlDeviceGetComputeRunningProcesses_v3,),
        "processes v2": (nvml.nvmlDeviceGetComputeRunningProcesses_v2,),
        "graphics processes": (nvml.nvmlDeviceGetGraphicsRunningProcesses_v3,),
        "graphics processes v2": (nvml.nvmlDeviceGetGraphicsRunningProcesses_v2,),
        "utilisation": (nvml.nvmlDeviceGetUtilizationRates,),
        "power": (nvml.nvmlDeviceGetPowerUsage,),
        "SM clock": (nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
        "memory clock": (nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM),
        "clock event reasons": (nvml.nvmlDeviceGetCurrentClocksEventReasons,),
        "throttle reasons": (nvml.nvmlDeviceGetCurrentClocksThrottleReasons,),  # its older name
    }


class Device:
    """A handle that NVML answers for. A figure that it lacks is asked for once.

    Two threads ask: what they share are single assignments and sets, which Python keeps whole.
    """

    def __init__(self, nvml: Any, handle: Any, calls: Calls):
        """`handle` None: it is lost already."""
        self.nvml, self.handle, self._calls = nvml, handle, calls
        self.lost = handle is None
        self.absent: set[str] = set()
        self._lacking = {
            nvml.NVML_ERROR_NOT_SUPPORTED,
            nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
            nvml.NVML_ERROR_NO_PERMISSION,
            nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
            nvml.NVML_ERROR_DEPRECATED,
        }
        self._gone = {
            nvml.NVML_ERROR_GPU_IS_LOST,
            nvml.NVML_ERROR_RESET_REQUIRED,
            nvml.NVML_ERROR_GPU_NOT_FOUND,
            nvml.NVML_ERROR_UNINITIALIZED,
            nvml.NVML_ERROR_DRIVER_NOT_LOADED,
        }

    def ask(self, figure: str, *more: Any) -> Any:
        """What NVML says; None when the card lacks the figure, has gone or errs this time."""
        if self.lost or figure in self.absent:
            return None
        call = self._calls[figure]
        try:
            return call[0](self.handle, *call[1:], *more)
        except self.nvml.NVMLError as e:
            self.failed(figure, e.value)
            return None

    def failed(self, figure: str, code: int) -> None:
        """Remember what an error code says about the figure, or the whole card."""
        if code in self._gone:
            self.lost = True
        elif code in self._lacking:
            self.absent.add(figure)

    def first(self, *figures: str) -> Any:
        """The answer to the first of several ways to ask that this card does not lack."""
        answer = None
        for figure in figures:
            answer = self.ask(figure)
            if figure not in self.absent:
                return answer
        return answer

    def text(self, call: Callable[[Any], Any]) -> str:
        """A name; empty when there is none."""
        try:
            return str(call(self.handle))
        except self.nvml.NVMLError:
            return ""


class Card:
    """One GPU. Its slow figures are put in `fresh` by another thread, and its errors in `xids`."""

    def __init__(self, device: Device, index: int, label: str = "", *, instance: bool = False):
        self.device, self.index, self.label = device, index, label
        self.instance = instance
        self.instances: tuple[Card, ...] = ()
        self.parted = False
        self.fresh: deque[tuple[float, dict[str, Any]]] = deque(maxlen=1)
        self.xids: deque[int] = deque(maxlen=MAX_XIDS)
        self.name = self.uuid = ""
        self._active: tuple[float, dict[str, Any]] | None = None
        self._running: tuple[float, int | None, dict[int, int | None]] | None = None
        if not device.lost:
            self.take(device.handle)

    @property
    def tag(self) -> str:
        return self.label or str(self.index)

    def take(self, handle: Any) -> None:
        """It answers, perhaps again after it was lost."""
        device = self.device
        device.handle, device.lost = handle, False
        self._active = self._running = None
        self.name = device.text(device.nvml.nvmlDeviceGetName)
        self.uuid = device.text(device.nvml.nvmlDeviceGetUUID) or self.uuid

    def sample(self, owners: Recent) -> GpuSample | None:
        """None when it does not answer; a lost card may still have left its last words."""
        now = time.perf_counter()
        memory = self._memory()
        figures = memory if self.instance else memory | self._activity(now)
        used = memory.get("vram_used_bytes")
        processes = () if self.parted else self._processes(owners, used, now)
        if self.device.lost or (self.instance and not figures):
            return self._last_words()
        return GpuSample(
            index=self.index, label=self.label, name=self.name, uuid=self.uuid,
            processes=processes, xid=self._xid(), **figures, **self._slow(),
        )  # fmt: skip

    def _memory(self) -> dict[str, Any]:
        """Total and free mean the same in every version and driver; what is used does not:
        version 1 counts what the driver keeps, and so does version 2 in some drivers."""
        memory = self.device.first("memory", "memory v1")
        if memory is None:
            return {}
        total, free = int(memory.total), int(memory.free)
        reserved = getattr(memory, "reserved", None)
        return {
            "vram_total_bytes": total,
            "vram_free_bytes": free,
            "vram_reserved_bytes": None if reserved is None else int(reserved),
            "vram_used_bytes": max(0, total - free - int(reserved or 0)),
        }

    def _activity(self, now: float) -> dict[str, Any]:
        """What was read last, or is read now."""
        if self._active is None or now - self._active[0] >= ACTIVITY_S:
            self._active = now, self._read_activity()
        return self._active[1]

    def _read_activity(self) -> dict[str, Any]:
        ask = self.device.ask
        utilisation, milliwatts = ask("utilisation"), ask("power")
        sm_mhz, memory_mhz = ask("SM clock"), ask("memory clock")
        throttle = self.device.first("clock event reasons", "throttle reasons")
        return {
            "util_ratio": None if utilisation is None else utilisation.gpu / 100,
            "mem_util_ratio": None if utilisation is None else utilisation.memory / 100,
            "power_w": None if milliwatts is None else milliwatts / 1e3,
            "sm_clock_hz": None if sm_mhz is None else int(sm_mhz) * 1_000_000,
            "mem_clock_hz": None if memory_mhz is None else int(memory_mhz) * 1_000_000,
            "throttle_bits": None if throttle is None else int(throttle),
        }

    def _processes(self, owners: Recent, used: int | None, now: float) -> tuple[GpuProcess, ...]:
        """Listed anew when the card's memory has moved; two that trade to the byte wait a bit."""
        last = self._running
        if last is None or used is None or used != last[1] or now - last[0] >= PROCESSES_S:
            self._running = last = now, used, self._read_processes()
        found = []
        for pid, used in last[2].items():
            owner = owners.resolve(pid)
            found.append(
                GpuProcess(
                    pid=pid, vram_used_bytes=used, model=owner.model, container=owner.container
                )
            )
        return tuple(found)

    def _read_processes(self) -> dict[int, int | None]:
        """A process that computes and draws is listed twice, with the same memory."""
        running: dict[int, int | None] = {}
        for figure in ("processes", "graphics processes"):
            for p in self.device.first(figure, f"{figure} v2") or ():
                if p.usedGpuMemory is not None or p.pid not in running:
                    running[p.pid] = p.usedGpuMemory
        return running

    def _slow(self) -> dict[str, Any]:
        try:
            read_s, figures = self.fresh.popleft()
        except IndexError:
            return {}
        return figures if time.perf_counter() - read_s < FRESH_S else {}

    def _xid(self) -> int | None:
        try:
            return self.xids.popleft()
        except IndexError:
            return None

    def _last_words(self) -> GpuSample | None:
        xid = self._xid()
        if xid is None:
            return None
        return GpuSample(
            index=self.index, label=self.label, name=self.name, uuid=self.uuid, xid=xid
        )
