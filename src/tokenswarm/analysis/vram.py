"""Device memory, and what the GPU drew, around one moment of a run."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tokenswarm.analysis.columns import Columns, Floats, Texts, floats, run_seconds, texts
from tokenswarm.analysis.slopes import Move, moves

ENOUGH = 2
"""Samples that an interval must hold before energy is told for it."""


def _nothing() -> Floats:
    return np.zeros(0)


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Samples of one GPU in order of time: seconds on the run's clock, bytes, joules, watts."""

    host: str
    gpu: str
    at_s: Floats
    used: Floats
    total: Floats
    source: str
    energy: Floats = field(default_factory=_nothing)
    power: Floats = field(default_factory=_nothing)

    @property
    def name(self) -> str:
        return f"{self.host}-{self.gpu}"

    @property
    def capacity(self) -> int | None:
        """Bytes in all; None when no sample says."""
        known = self.total[~np.isnan(self.total)]
        return int(known.max()) if len(known) else None

    def within(self, lo_s: float, hi_s: float) -> slice:
        """Samples in [lo, hi]."""
        lo, hi = np.searchsorted(self.at_s, lo_s), np.searchsorted(self.at_s, hi_s, side="right")
        return slice(int(lo), int(hi))

    def at(self, s: float) -> int | None:
        """Used at the last sample up to `s`; None when there was none."""
        i = int(np.searchsorted(self.at_s, s, side="right")) - 1
        return _bytes(self.used[i]) if i >= 0 else None

    def from_(self, s: float) -> int | None:
        """Used at the first sample from `s` on; None when there was none."""
        i = int(np.searchsorted(self.at_s, s))
        return _bytes(self.used[i]) if i < len(self.at_s) else None

    def lowest(self, lo_s: float, hi_s: float) -> tuple[float, int] | None:
        """(when, bytes) of the first lowest sample in [lo, hi]."""
        return self._extreme(lo_s, hi_s, np.nanargmin)

    def highest(self, lo_s: float, hi_s: float) -> tuple[float, int] | None:
        return self._extreme(lo_s, hi_s, np.nanargmax)

    def energy_j(self, lo_s: float, hi_s: float) -> float | None:
        """Drawn in [lo, hi]: by the counter, else by power over time; None below two samples."""
        return self._counted(lo_s, hi_s) or self._integrated(lo_s, hi_s)

    def _counted(self, lo_s: float, hi_s: float) -> float | None:
        at, energy = self._known(self.energy)
        inside = (at >= lo_s) & (at <= hi_s)
        if np.count_nonzero(inside) < ENOUGH:
            return None
        before, after = np.interp([lo_s, hi_s], at, energy)
        return float(after - before)

    def _integrated(self, lo_s: float, hi_s: float) -> float | None:
        at, power = self._known(self.power)
        inside = np.flatnonzero((at >= lo_s) & (at <= hi_s))
        if len(inside) < ENOUGH:
            return None
        when = np.concatenate([[lo_s], at[inside], [hi_s]])
        return float(np.trapezoid(np.interp(when, at, power), when))

    def _known(self, values: Floats) -> tuple[Floats, Floats]:
        some = ~np.isnan(values)
        return self.at_s[: len(values)][some], values[some]

    def _extreme(self, lo_s: float, hi_s: float, pick: object) -> tuple[float, int] | None:
        part = self.within(lo_s, hi_s)
        used = self.used[part]
        if not np.any(~np.isnan(used)):
            return None
        i = int(pick(used))  # type: ignore[operator]
        return float(self.at_s[part][i]), int(used[i])


def _bytes(value: float) -> int | None:
    return None if np.isnan(value) else int(value)


def device_memories(gpu: Columns, t0_unix_ns: int) -> list[DeviceMemory]:
    """One entry a GPU, from rows of the gpu measurement, by host and gpu."""
    at, used = run_seconds(gpu, t0_unix_ns), floats(gpu, "vram_used_bytes")
    total, source = floats(gpu, "vram_total_bytes"), texts(gpu, "source")
    energy, power = floats(gpu, "energy_j"), floats(gpu, "power_w")
    host, device = texts(gpu, "host"), texts(gpu, "gpu")
    found = []
    for h, d in sorted(set(zip(host, device, strict=True))):
        rows = np.flatnonzero((host == h) & (device == d))
        rows = rows[np.argsort(at[rows], kind="stable")]
        found.append(
            DeviceMemory(
                h, d, at[rows], used[rows], total[rows], _named(source[rows]),
                energy[rows], power[rows],
            )
        )  # fmt: skip
    return found


def _named(source: Texts) -> str:
    return next((str(s) for s in source if s), "unknown")


@dataclass(frozen=True, slots=True)
class Line:
    """Memory that no model's name is tied to: of one process, or of a device whose processes
    are not shown at all. Its moves, by time."""

    host: str
    gpu: str
    moves: tuple[Move, ...]

    @property
    def device(self) -> str:
        return f"{self.host}-{self.gpu}"


def lines(memories: Sequence[DeviceMemory], processes: Columns, t0_unix_ns: int) -> list[Line]:
    """Every line of memory without a name. Where processes are shown, those without a model;
    elsewhere the device as a whole."""
    host, gpu, model = (texts(processes, k) for k in ("host", "gpu", "model"))
    at, pid = run_seconds(processes, t0_unix_ns), floats(processes, "pid")
    used = floats(processes, "vram_used_bytes")
    found = []
    for m in memories:
        here = (host == m.host) & (gpu == m.gpu)
        if not here.any():
            found.append(Line(m.host, m.gpu, tuple(moves(m.at_s, m.used))))
        for p in np.unique(pid[here & (model == "none")]):
            rows = np.flatnonzero(here & (model == "none") & (pid == p))
            rows = rows[np.argsort(at[rows], kind="stable")]
            found.append(Line(m.host, m.gpu, tuple(moves(at[rows], used[rows]))))
    return found
