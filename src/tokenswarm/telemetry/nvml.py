"""NVIDIA GPUs of this host through NVML: cheap figures at every look, dear ones twice a second.

A figure that a card lacks is asked for once and absent from then on; a card that falls off the
bus is left out, the others go on. Units come from nvml.h: bytes, percent, mW, MHz, mJ.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

from tokenswarm.errors import UsageError
from tokenswarm.telemetry.gpu import GpuProcess, GpuSample
from tokenswarm.telemetry.owner import Owners
from tokenswarm.telemetry.ticks import Ticks

SLOW_S = 0.5
FRESH_S = 0.1  # an older energy reading does not belong to the sample's time


class Nvml:
    """All GPUs of this host. Energy is read on a thread of its own, since the call takes up to
    20 ms, and goes with the first sample after it."""

    kind = "nvml"

    def __init__(self, owners: Owners, library: Any = None):
        """UsageError when there is no driver or no GPU. `library`: pynvml or its like."""
        self._nvml = _initialised(library)
        self._owners = owners
        try:
            count = int(self._nvml.nvmlDeviceGetCount())
            self._cards = [_Card(self._nvml, i) for i in range(count)]
        except self._nvml.NVMLError as e:
            raise UsageError(f"NVML cannot list the GPUs of this host: {e}") from None
        self.driver = self._driver()
        self._stop = threading.Event()
        self._slow = threading.Thread(target=self._read_energy, name="nvml-slow", daemon=True)
        self._slow.start()

    def about(self) -> dict[str, Any]:
        return {"kind": self.kind, "driver": self.driver}

    def sample(self) -> list[GpuSample]:
        samples = [s for card in self._cards if (s := card.sample(self._owners)) is not None]
        self._owners.forget_all_but({p.pid for s in samples for p in s.processes})
        return samples

    def close(self) -> None:
        self._stop.set()
        self._slow.join()
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError:
            pass  # the driver has gone; so do we

    def _driver(self) -> str:
        try:
            return str(self._nvml.nvmlSystemGetDriverVersion())
        except self._nvml.NVMLError:
            return "of unknown version"

    def _read_energy(self) -> None:
        for _ in Ticks(SLOW_S, self._stop):
            for card in self._cards:
                card.read_energy()


class _Card:
    """One GPU. `_absent` holds the figures that it does not have."""

    def __init__(self, nvml: Any, index: int):
        self._nvml, self.index = nvml, index
        self._handle = nvml.nvmlDeviceGetHandleByIndex(index)
        self._absent: set[str] = set()
        self._lacking = (
            nvml.NVML_ERROR_NOT_SUPPORTED,
            nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
            nvml.NVML_ERROR_NO_PERMISSION,
            nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        )
        self._lost = False
        self._energy: tuple[float, float] | None = None  # perf_counter() and joules
        self.name = str(self._ask("name", nvml.nvmlDeviceGetName) or "")
        self.uuid = str(self._ask("uuid", nvml.nvmlDeviceGetUUID) or "")

    def sample(self, owners: Owners) -> GpuSample | None:
        """None once the card is lost."""
        nvml = self._nvml
        memory = self._ask("memory", nvml.nvmlDeviceGetMemoryInfo, nvml.nvmlMemory_v2)
        if memory is None:
            memory = self._ask("memory v1", nvml.nvmlDeviceGetMemoryInfo)
        total, free = _get(memory, "total"), _get(memory, "free")
        reserved = _get(memory, "reserved")
        utilisation = self._ask("utilisation", nvml.nvmlDeviceGetUtilizationRates)
        power_mw = self._ask("power", nvml.nvmlDeviceGetPowerUsage)
        clock_mhz = self._ask("clock", nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM)
        degrees = self._ask("temperature", nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU)
        throttle = self._ask("throttle", nvml.nvmlDeviceGetCurrentClocksThrottleReasons)
        processes = self._processes(owners)
        if self._lost:
            return None
        return GpuSample(
            index=self.index,
            name=self.name,
            uuid=self.uuid,
            vram_total_bytes=total,
            vram_used_bytes=_used(total, free, reserved),
            vram_reserved_bytes=reserved,
            vram_free_bytes=free,
            util_ratio=_percent(_get(utilisation, "gpu")),
            mem_util_ratio=_percent(_get(utilisation, "memory")),
            power_w=None if power_mw is None else power_mw / 1e3,
            energy_j=self._take_energy(),
            sm_clock_hz=None if clock_mhz is None else int(clock_mhz) * 1_000_000,
            temperature_c=None if degrees is None else float(degrees),
            throttle_bits=None if throttle is None else int(throttle),
            processes=processes,
        )

    def read_energy(self) -> None:
        """The counter, for the next sample; the call is slow."""
        millijoules = self._ask("energy", self._nvml.nvmlDeviceGetTotalEnergyConsumption)
        if millijoules is not None:
            self._energy = time.perf_counter(), millijoules / 1e3

    def _take_energy(self) -> float | None:
        taken, self._energy = self._energy, None
        if taken is None or time.perf_counter() - taken[0] > FRESH_S:
            return None
        return taken[1]

    def _processes(self, owners: Owners) -> tuple[GpuProcess, ...]:
        running = self._ask("processes", self._nvml.nvmlDeviceGetComputeRunningProcesses) or []
        return tuple(
            GpuProcess(
                pid=int(p.pid),
                vram_used_bytes=None if p.usedGpuMemory is None else int(p.usedGpuMemory),
                model=owners.model(int(p.pid)),
            )
            for p in running
        )

    def _ask(self, figure: str, call: Callable[..., Any], *more: Any) -> Any:
        """What NVML says; None when the card lacks the figure, has gone or errs this time."""
        if self._lost or figure in self._absent:
            return None
        try:
            return call(self._handle, *more)
        except self._nvml.NVMLError as e:
            code = getattr(e, "value", None)
            if code == self._nvml.NVML_ERROR_GPU_IS_LOST:
                self._lost = True
            elif code in self._lacking:
                self._absent.add(figure)
            return None


def _initialised(library: Any) -> Any:
    """pynvml with its driver started; UsageError says why there is none."""
    if library is None:
        import pynvml

        library = pynvml
    try:
        library.nvmlInit()
    except library.NVMLError as e:
        raise UsageError(
            f"NVML does not start on this host ({e}): install the NVIDIA driver, give the "
            "container its GPUs (--gpus all), or set telemetry.gpu.source to none"
        ) from None
    return library


def _get(struct: Any, field: str) -> int | None:
    value = getattr(struct, field, None)
    return None if value is None else int(value)


def _used(total: int | None, free: int | None, reserved: int | None) -> int | None:
    """Without what the driver keeps: version 1 of the memory call counts that as used, version 2
    did so in some drivers, but total and free mean the same in all."""
    return None if total is None or free is None else total - free - (reserved or 0)


def _percent(value: int | None) -> float | None:
    return None if value is None else value / 100
