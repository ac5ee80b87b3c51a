"""What takes NVML milliseconds, read twice a second on a thread of its own.

Energy, the driver's own samples, temperatures, ECC counts and critical errors. The same thread
looks for cards that were lost and for MIG instances that come and go. Units come from nvml.h:
mJ, mW, percent, degrees C, kB/s.
"""

import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any

from tokenswarm.telemetry.health import Health
from tokenswarm.telemetry.nvml.card import Calls, Card
from tokenswarm.telemetry.ticks import Ticks

SLOW_S = 0.5
STOP_S = 5.0  # more than the slowest calls take on eight cards
MAX_EVENTS = 100

# NVML's field ids; value -> figure and factor
FIELDS: dict[int, tuple[str, float]] = {
    83: ("energy_j", 1e-3),
    186: ("power_instant_w", 1e-3),
    82: ("mem_temperature_c", 1.0),
    197: ("pcie_tx_bytes", 1),
    198: ("pcie_rx_bytes", 1),
}
VALUES = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}


def slow_calls(nvml: Any) -> Calls:
    """As `fast_calls`. The samples' calls take the time (us) after which samples are wanted."""
    volatile = nvml.NVML_VOLATILE_ECC
    return {
        "energy": (nvml.nvmlDeviceGetTotalEnergyConsumption,),
        "fields": (nvml.nvmlDeviceGetFieldValues,),
        "power samples": (nvml.nvmlDeviceGetSamples, nvml.NVML_TOTAL_POWER_SAMPLES),
        "utilisation samples": (nvml.nvmlDeviceGetSamples, nvml.NVML_GPU_UTILIZATION_SAMPLES),
        "temperature": (nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
        "ECC corrected": (
            nvml.nvmlDeviceGetTotalEccErrors, nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, volatile,
        ),
        "ECC uncorrected": (
            nvml.nvmlDeviceGetTotalEccErrors, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, volatile,
        ),
        "PCIe sent": (nvml.nvmlDeviceGetPcieThroughput, nvml.NVML_PCIE_UTIL_TX_BYTES),
        "PCIe received": (nvml.nvmlDeviceGetPcieThroughput, nvml.NVML_PCIE_UTIL_RX_BYTES),
    }  # fmt: skip


class SlowFigures:
    """Reads one card's slow figures. Remembers how far it has read the driver's samples."""

    def __init__(self, card: Card, *, pcie: bool):
        self.card, self._pcie = card, pcie
        self._seen_us: dict[str, int] = {}
        self._fields = list(FIELDS)

    def read(self) -> dict[str, Any]:
        """By the names of GpuSample; what could not be had is left out."""
        ask = self.card.device.ask
        figures = self._field_values()
        if "energy_j" not in figures and (millijoules := ask("energy")) is not None:
            figures["energy_j"] = millijoules / 1e3
        if power := self._samples("power samples", 1e-3):
            figures["power_sampled_w"] = sum(power) / len(power)
            figures["power_sampled_max_w"] = max(power)
        if utilisation := self._samples("utilisation samples", 1e-2):
            figures["util_sampled_ratio"] = sum(utilisation) / len(utilisation)
        figures["temperature_c"] = _scaled(ask("temperature"), 1.0)
        figures["ecc_corrected"] = ask("ECC corrected")
        figures["ecc_uncorrected"] = ask("ECC uncorrected")
        if self._pcie:
            figures["pcie_tx_bytes_per_s"] = _scaled(ask("PCIe sent"), 1e3)
            figures["pcie_rx_bytes_per_s"] = _scaled(ask("PCIe received"), 1e3)
        return figures

    def _field_values(self) -> dict[str, Any]:
        """One call for all: each value has a result of its own."""
        device, figures = self.card.device, {}
        for value in (device.ask("fields", self._fields) if self._fields else None) or ():
            name, factor = FIELDS[value.fieldId]
            if value.nvmlReturn == device.nvml.NVML_SUCCESS:
                figures[name] = getattr(value.value, VALUES[value.valueType]) * factor
                continue
            device.failed(name, value.nvmlReturn)
            if name in device.absent:
                self._fields.remove(value.fieldId)
        return figures

    def _samples(self, figure: str, factor: float) -> list[float]:
        """The driver's samples since the last look. Its buffer may hold some of before."""
        answer = self.card.device.ask(figure, self._seen_us.get(figure, 0))
        if answer is None:
            return []
        kind, samples = answer
        first = figure not in self._seen_us
        since_us = self._seen_us.get(figure, 0)
        new = [s for s in samples if s.timeStamp > since_us]
        self._seen_us[figure] = max((s.timeStamp for s in new), default=since_us)
        # the first answer reaches back into the time before this run
        return [] if first else [getattr(s.sampleValue, VALUES[kind]) * factor for s in new]


def _scaled(value: Any, factor: float) -> float | None:
    return None if value is None else float(value) * factor


class Events:
    """Critical errors (XID) that the driver reports, put to the cards that they came from."""

    def __init__(self, nvml: Any):
        self._nvml = nvml
        self._set: Any = None
        self.kinds = nvml.nvmlEventTypeXidCriticalError

    def register(self, cards: tuple[Card, ...]) -> None:
        """Listen to every card that can tell, from now on."""
        self.close()
        try:
            self._set = self._nvml.nvmlEventSetCreate()
        except self._nvml.NVMLError:
            return
        for card in cards:
            self.add(card)

    def add(self, card: Card) -> None:
        if self._set is None or card.device.lost:
            return
        try:
            self._nvml.nvmlDeviceRegisterEvents(card.device.handle, self.kinds, self._set)
        except self._nvml.NVMLError as e:
            card.device.failed("XID events", e.value)

    def collect(self, cards: tuple[Card, ...]) -> None:
        """Take what waits, without waiting for more."""
        if self._set is None:
            return
        for _ in range(MAX_EVENTS):
            try:
                event = self._nvml.nvmlEventSetWait_v2(self._set, 0)
            except self._nvml.NVMLError:
                return  # the usual case: nothing happened
            if event.eventType & self.kinds:
                meant = self._of(event.device, cards)
                for card in meant:
                    card.xids.append(int(event.eventData))
                if not meant:
                    raise LookupError(f"XID {event.eventData} of a GPU that is not known here")

    def _of(self, handle: Any, cards: tuple[Card, ...]) -> tuple[Card, ...]:
        """The card that an event's handle means; a host's only card can be meant alone."""
        same = tuple(card for card in cards if _same(card.device.handle, handle))
        return same or (cards if len(cards) == 1 else ())

    def close(self) -> None:
        if self._set is not None:
            try:
                self._nvml.nvmlEventSetFree(self._set)
            except self._nvml.NVMLError:
                pass  # the driver has gone, and its events with it
            self._set = None


def _same(handle: Any, other: Any) -> bool:
    if handle is None or not other:
        return False
    return ctypes.addressof(handle.contents) == ctypes.addressof(other.contents)


class SlowTier:
    """The thread. `look` is called at each tick after the figures: for what comes and goes.

    `failure` is the last thing that went wrong in a way that nobody had thought of.
    """

    def __init__(
        self, cards: tuple[Card, ...], events: Events, look: Callable[[], None], *, pcie: bool
    ):
        self._cards, self._events, self._look = cards, events, look
        self._figures = [SlowFigures(card, pcie=pcie) for card in cards]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nvml-slow", daemon=True)
        self.ticks = Ticks(SLOW_S, self._stop)
        self.health = Health()
        self.failure: str | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> bool:
        """False when it hangs in a call to the driver and is left there."""
        self._stop.set()
        self._thread.join(STOP_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        for _ in self.health.watch(self.ticks):
            try:
                self._read()
            except Exception as e:  # a driver that answers oddly must not end the thread
                self.failure = f"{type(e).__name__}: {e}"

    def _read(self) -> None:
        for figures in self._figures:
            read = figures.read()
            if not figures.card.device.lost:
                figures.card.fresh.append((time.perf_counter(), read))
        self._events.collect(self._cards)
        self._look()
