"""The simulated GPU: who holds its memory, how fast it decodes, what NVML would show."""

from dataclasses import dataclass
from typing import Any

from tokenswarm.sim.meter import Meter
from tokenswarm.sim.profile import CoTenant, GpuSpec

FIRST_PID = 400_001


class OutOfVram(Exception):
    """A claim is larger than what is free."""


@dataclass(frozen=True, slots=True)
class Ramp:
    """Bytes that go linearly from `before` to `after` between `start_s` and `end_s`."""

    before: int
    after: int
    start_s: float
    end_s: float

    def at(self, now: float) -> int:
        if now >= self.end_s:
            return self.after
        if now <= self.start_s:
            return self.before
        share = (now - self.start_s) / (self.end_s - self.start_s)
        return self.before + int((self.after - self.before) * share)

    def filling(self, now: float) -> float:
        """Bytes a second that come in now."""
        if self.after <= self.before or not self.start_s <= now < self.end_s:
            return 0.0
        return (self.after - self.before) / (self.end_s - self.start_s)


@dataclass(frozen=True, slots=True)
class Claim:
    """A process's memory: `ramp` is what NVML shows, `ramp.after` what it will have in the end."""

    pid: int
    model: str
    ramp: Ramp


class Ledger:
    """VRAM in bytes, by process. Times are seconds on one clock that only moves forward."""

    def __init__(self, total: int, reserved: int = 0):
        self.total, self.reserved = total, reserved
        self._claims: dict[int, Claim] = {}
        self._leaving: list[Ramp] = []

    def claims(self) -> list[Claim]:
        return list(self._claims.values())

    def leaving(self, now: float) -> int:
        """Bytes of dead processes that the driver still counts."""
        self._leaving = [r for r in self._leaving if r.end_s > now]
        return sum(r.at(now) for r in self._leaving)

    def used(self, now: float) -> int:
        """What NVML shows as used, without reserved."""
        return sum(c.ramp.at(now) for c in self._claims.values()) + self.leaving(now)

    def free(self, now: float) -> int:
        """What can be claimed: a process counts with all it will take, or still holds."""
        held = (max(c.ramp.after, c.ramp.at(now)) for c in self._claims.values())
        taken = sum(held) + self.leaving(now)
        return self.total - self.reserved - taken

    def claim(self, pid: int, model: str, ramp: Ramp, now: float) -> None:
        """Give `pid` memory; OutOfVram when it does not fit."""
        if pid in self._claims:
            raise ValueError(f"pid {pid} holds memory already")
        if ramp.after > self.free(now):
            raise OutOfVram(f"{model} needs {ramp.after} bytes, {self.free(now)} are free")
        self._claims[pid] = Claim(pid, model, ramp)

    def resize(self, pid: int, ramp: Ramp, now: float) -> None:
        """`pid` comes to hold more or less; OutOfVram when it does not fit."""
        claim = self._claims[pid]
        more = ramp.after - max(claim.ramp.after, claim.ramp.at(now))
        if more > self.free(now):
            raise OutOfVram(f"{claim.model} needs {more} bytes more, {self.free(now)} are free")
        self._claims[pid] = Claim(pid, claim.model, ramp)

    def held(self, pid: int, now: float) -> int:
        """What NVML shows of `pid`."""
        return self._claims[pid].ramp.at(now)

    def release(self, pid: int, now: float, lag_s: float) -> int:
        """The process died. What it held comes back over `lag_s`; returns those bytes."""
        held = self._claims.pop(pid).ramp.at(now)
        self._leaving.append(Ramp(held, 0, now, now + lag_s))
        return held


class Gpu:
    """The one GPU that all servers of a simulation draw on."""

    def __init__(self, spec: GpuSpec, co_tenants: tuple[CoTenant, ...], now: float):
        self.spec = spec
        self.ledger = Ledger(spec.vram_total_bytes, spec.vram_reserved_bytes)
        self.meter = Meter(spec, now)
        self._streams: dict[str, int] = {}
        self._loading: set[str] = set()
        self._next_pid = FIRST_PID
        for tenant in co_tenants:
            ramp = Ramp(0, tenant.vram_bytes, now, now)
            self.ledger.claim(self.new_pid(), tenant.name, ramp, now)

    def new_pid(self) -> int:
        self._next_pid += 1
        return self._next_pid - 1

    def stretch(self, model: str, batch_slowdown: float) -> float:
        """By what a token of `model` takes longer than alone: its own batch, then the others."""
        if not batch_slowdown and not self.spec.other_model_slowdown:
            return 1.0
        own = self._streams.get(model, 1)
        others = len(self._streams) - (model in self._streams)
        factor = 1 + batch_slowdown * (own - 1)
        return factor * (1 + self.spec.other_model_slowdown * others)

    def slowed_by_load(self, model: str) -> float:
        """By what a token of `model` takes longer because another model is being loaded."""
        if not self._loading or self._loading == {model}:
            return 1.0
        return self.spec.loading_slowdown

    def begin_stream(self, model: str, now: float) -> None:
        self._streams[model] = self._streams.get(model, 0) + 1
        self._measure(now)

    def end_stream(self, model: str, now: float) -> None:
        left = self._streams[model] - 1
        if left:
            self._streams[model] = left
        else:
            del self._streams[model]
        self._measure(now)

    def begin_load(self, model: str, now: float) -> None:
        self._loading.add(model)
        self._measure(now)

    def end_load(self, model: str, now: float) -> None:
        self._loading.discard(model)
        self._measure(now)

    def _measure(self, now: float) -> None:
        self.meter.set_load(sum(self._streams.values()), bool(self._loading), now)

    def view(self, now: float, unix_ns: int) -> dict[str, Any]:
        """One GPU as NVML shows it: memory v2, processes, utilisation, power, clocks."""
        used = self.ledger.used(now)
        return {
            "index": 0,
            "name": f"{self.spec.name} (simulated)",
            "uuid": "GPU-00000000-5157-4152-4d00-000000000000",
            "vram_total_bytes": self.ledger.total,
            "vram_used_bytes": used,
            "vram_reserved_bytes": self.ledger.reserved,
            "vram_free_bytes": self.ledger.total - self.ledger.reserved - used,
            **self.meter.read(now),
            "pcie_rx_bytes_per_s": round(sum(c.ramp.filling(now) for c in self.ledger.claims())),
            "processes": [
                {"pid": c.pid, "vram_used_bytes": c.ramp.at(now), "model": c.model}
                for c in self.ledger.claims()
            ],
            "unix_ns": unix_ns,
        }
