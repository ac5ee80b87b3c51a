"""The NVIDIA GPUs of this host through NVML: cheap figures at every look, dear ones twice a second.

A figure that a card lacks is asked for once and absent from then on. A card that falls off the bus
is left out and the others go on; it is taken again when it answers again.
"""

import threading
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from tokenswarm.errors import UsageError
from tokenswarm.telemetry.gpu import GpuSample, TelemetryGap
from tokenswarm.telemetry.health import Health
from tokenswarm.telemetry.nvml.card import Card, Device, fast_calls
from tokenswarm.telemetry.nvml.cost import Cost, calibrate
from tokenswarm.telemetry.nvml.slow import Events, SlowTier, slow_calls
from tokenswarm.telemetry.owners.owner import Owners
from tokenswarm.telemetry.owners.recent import Recent
from tokenswarm.telemetry.ticks import Pace

RETAKE_S = 1.0  # how often a lost card is asked whether it is back
RESTART_S = 10.0  # how long until NVML is started anew for one; doubles at each failure
RESTART_MAX_S = 600.0
INSTANCES_S = 10.0  # how often MIG instances are looked for

WAY_OUT = "give the container its GPUs (--gpus all), or set telemetry.gpu.source to none"


class Nvml:
    """All GPUs of this host. One thread samples; another, inside, reads what takes long."""

    kind = "nvml"

    def __init__(self, owners: Owners, *, pcie: bool = False, library: Any = None):
        """UsageError when there is no driver or no GPU can be listed. `pcie`: read throughput,
        too, which blocks the slow thread for 40 ms a card. `library`: pynvml or its like."""
        self._nvml = nvml = _initialised(library)
        self._owners = Recent(owners)
        self._lock = threading.Lock()  # held while NVML is started anew, and by each look
        calls = fast_calls(nvml) | slow_calls(nvml)
        try:
            count = int(nvml.nvmlDeviceGetCount())
        except nvml.NVMLError as e:
            raise UsageError(f"NVML cannot list the GPUs of this host: {e}") from None
        if count == 0:
            raise UsageError(f"NVML runs but lists no GPU: {WAY_OUT}")
        self._calls = calls
        self._cards = tuple(Card(Device(nvml, self._handle(i), calls), i) for i in range(count))
        self._find_instances()
        self.driver = _said(nvml, "nvmlSystemGetDriverVersion")
        self.costs: tuple[Cost, ...] = calibrate(self._cards, nvml, pcie=pcie)
        self._events = Events(nvml)
        self._events.register(self._cards)
        self._slow = SlowTier(self._cards, self._events, self._look, pcie=pcie)
        self.healths: Mapping[str, Health] = {"slow": self._slow.health}
        now = time.perf_counter()
        self._retake_s, self._instances_s = now, now
        self._restart_s: float | None = None
        self._patience_s = RESTART_S
        self._slow.start()

    def about(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "driver": self.driver,
            "nvml": _said(self._nvml, "nvmlSystemGetNVMLVersion"),
            "gpus": [_about(card) for card in self._all()],
            "slow_failure": self._slow.failure,
            "calibration": [msgspec.structs.asdict(cost) for cost in self.costs],
        }

    def sample(self) -> list[GpuSample]:
        with self._lock:
            samples = [s for card in self._all() if (s := card.sample(self._owners)) is not None]
        if not samples:
            raise TelemetryGap("no GPU answers: " + ", ".join(self.lost) + " fell off the bus")
        self._owners.forget_all_but({p.pid for s in samples for p in s.processes})
        return samples

    @property
    def lost(self) -> tuple[str, ...]:
        """The GPUs that do not answer now."""
        return tuple(card.tag for card in self._cards if card.device.lost)

    def slow_pace(self) -> Pace:
        """How the slow thread kept its time since the last call."""
        return self._slow.ticks.pace()

    def close(self) -> None:
        if not self._slow.stop():
            return  # the driver hangs, and NVML must not be shut down under a call
        self._events.close()
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError:
            pass  # the driver has gone; so do we

    def _all(self) -> list[Card]:
        return [c for card in self._cards for c in (card, *card.instances)]

    def _handle(self, index: int) -> Any:
        """None when that card does not answer."""
        try:
            return self._nvml.nvmlDeviceGetHandleByIndex(index)
        except self._nvml.NVMLError:
            return None

    def _look(self) -> None:
        """For what comes back and what comes and goes; on the slow thread."""
        now = time.perf_counter()
        if now - self._retake_s >= RETAKE_S:
            self._retake_s = now
            self._find_lost(now)
        if now - self._instances_s >= INSTANCES_S:
            self._instances_s = now
            self._find_instances()

    def _find_lost(self, now_s: float) -> None:
        for card in self._cards:
            if card.device.lost and self._answers(card):
                self._events.add(card)
        if not self.lost:
            self._restart_s, self._patience_s = None, RESTART_S
        elif self._restart_s is None:
            self._restart_s = now_s + self._patience_s
        elif now_s >= self._restart_s:
            self._patience_s = min(2 * self._patience_s, RESTART_MAX_S)
            self._restart_s = now_s + self._patience_s
            self._start_anew()

    def _answers(self, card: Card) -> bool:
        """Take the card again if it does. Its place on the bus may have changed, its UUID not."""
        nvml = self._nvml
        try:
            handle = (
                nvml.nvmlDeviceGetHandleByUUID(card.uuid)
                if card.uuid
                else nvml.nvmlDeviceGetHandleByIndex(card.index)
            )
            nvml.nvmlDeviceGetMemoryInfo(handle)
        except nvml.NVMLError as e:
            if e.value != nvml.NVML_ERROR_NOT_SUPPORTED:
                return False
        card.take(handle)
        return True

    def _start_anew(self) -> None:
        """NVML may know a card that was reset only after a new start, which ends all handles."""
        nvml = self._nvml
        with self._lock:
            self._events.close()
            try:
                nvml.nvmlShutdown()
            except nvml.NVMLError:
                pass  # it was down already
            try:
                nvml.nvmlInit()
            except nvml.NVMLError:
                pass  # no handle will answer, and the next start is tried later
            for card in self._cards:
                card.device.lost = True
                card.instances = ()
                self._answers(card)
            self._find_instances()
            self._events.register(self._cards)

    def _find_instances(self) -> None:
        for card in self._cards:
            if not card.device.lost:
                card.parted, card.instances = self._instances(card)

    def _instances(self, card: Card) -> tuple[bool, tuple[Card, ...]]:
        """Whether MIG is on, and the instances that there are; known ones keep their state."""
        nvml, handle = self._nvml, card.device.handle
        try:
            mode, _ = nvml.nvmlDeviceGetMigMode(handle)
            if mode != nvml.NVML_DEVICE_MIG_ENABLE:
                return False, ()
            most = int(nvml.nvmlDeviceGetMaxMigDeviceCount(handle))
        except nvml.NVMLError:
            return False, ()
        known = {c.uuid: c for c in card.instances}
        found = []
        for number in range(most):
            try:
                part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
            except nvml.NVMLError:
                continue  # that place is free
            tag = f"{card.index}-mig-{number}"
            new = Card(Device(nvml, part, self._calls), card.index, tag, instance=True)
            old = known.get(new.uuid)
            found.append(old if old is not None and old.label == tag else new)
        return True, tuple(found)


def _about(card: Card) -> dict[str, Any]:
    return {
        "gpu": card.tag, "name": card.name, "uuid": card.uuid, "mig": card.parted,
        "lost": card.device.lost, "absent": sorted(card.device.absent),
    }  # fmt: skip


def _initialised(library: Any) -> Any:
    """pynvml with its driver started; UsageError says why there is none."""
    if library is None:
        import pynvml

        library = pynvml
    try:
        library.nvmlInit()
    except library.NVMLError as e:
        raise UsageError(
            f"NVML does not start on this host ({e}): install the NVIDIA driver, {WAY_OUT}"
        ) from None
    return library


def _said(nvml: Any, function: str) -> str:
    try:
        return str(getattr(nvml, function)())
    except nvml.NVMLError:
        return "of unknown version"
