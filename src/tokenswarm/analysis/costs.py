"""What one event moved and drew: device memory around it, bytes, speed against a limit, energy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenswarm.analysis.coldstarts import Coldstart
from tokenswarm.analysis.columns import Columns, floats, run_seconds
from tokenswarm.analysis.marks import Marks
from tokenswarm.analysis.vram import DeviceMemory


@dataclass(frozen=True, slots=True)
class Limits:
    """What the bus and the disk give at most, measured or given; None where not known."""

    pcie_bytes_per_s: float | None = None
    disk_bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class DiskReads:
    """Bytes that the host had read from disk by each moment, from rows of `host`."""

    at_s: Any
    total: Any

    def ratio(self, lo_s: float, hi_s: float, moved: int | None) -> float | None:
        """Bytes read in [lo, hi] over `moved`; None when no rows lie around it."""
        if not moved or len(self.at_s) < 2 or lo_s < self.at_s[0] or hi_s > self.at_s[-1]:
            return None
        before, after = np.interp([lo_s, hi_s], self.at_s, self.total)
        return float(after - before) / moved


def disk_reads(host: Columns, t0_unix_ns: int) -> DiskReads:
    """From rows of `host`, of one host. No rows: nothing is known."""
    at, rate = run_seconds(host, t0_unix_ns), floats(host, "disk_read_bytes_per_s")
    order = np.argsort(at, kind="stable")
    at, rate = at[order], np.nan_to_num(rate[order])
    if not len(at) or not rate.any():
        return DiskReads(np.zeros(0), np.zeros(0))
    return DiskReads(at, np.cumsum(rate * np.diff(at, prepend=at[0])))


def memory_costs(c: Coldstart, memory: DeviceMemory | None) -> dict[str, Any]:
    """VRAM before t0, lowest and highest in [t0, t5], after t5, what was left; energy."""
    if memory is None:
        return {}
    end = c.t4_s if c.t5_s is None else c.t5_s
    low, high = memory.lowest(c.t0_s, end), memory.highest(c.t0_s, end)
    total = memory.capacity
    return {
        "vram_before_bytes": memory.at(c.t0_s),
        "vram_trough_bytes": low[1] if low else None,
        "vram_peak_bytes": high[1] if high else None,
        "vram_after_bytes": memory.from_(end),
        "headroom_bytes": total - high[1] if total is not None and high else None,
        "energy_j": memory.energy_j(c.t0_s, end),
    }


def moved_bytes(c: Coldstart) -> int | None:
    """What came into device memory: by its process, by a nameless line, by the engine's word."""
    for stay in (c.arrival.gpu, c.arrival.engine):
        if stay and stay.size_bytes is not None and stay.size_bytes > 1:
            return stay.size_bytes
        if c.arrival.move:
            return c.arrival.move.bytes
    return None


def filling(c: Coldstart, marks: Marks) -> tuple[float, float] | None:
    """When memory filled: by the GPU's line where there is one, else [t3, t4]."""
    gpu, move = c.arrival.gpu, c.arrival.move
    if gpu and gpu.birth_s is not None and gpu.full_s is not None and gpu.full_s > gpu.birth_s:
        return gpu.birth_s, gpu.full_s
    if move and move.end_s > move.start_s:
        return move.start_s, move.end_s
    lo, hi = marks.at.get("t3"), marks.at.get("t4")
    return (lo, hi) if lo is not None and hi is not None and hi > lo else None


def speed_costs(
    moved: int | None, when: tuple[float, float] | None, coldness: str | None, limits: Limits
) -> dict[str, Any]:
    """Bytes, bytes/s, and the share of the limit that they ran against."""
    if moved is None or when is None:
        return {"moved_bytes": moved}
    rate = moved / (when[1] - when[0])
    known: Mapping[str, float | None] = {
        "disk": limits.disk_bytes_per_s if coldness == "disk" else None,
        "pcie": limits.pcie_bytes_per_s,
    }
    limit = next((name for name, value in known.items() if value), None)
    return {
        "moved_bytes": moved,
        "load_bytes_per_s": rate,
        "limit": limit,
        "limit_ratio": rate / (known[limit] or 1.0) if limit else None,
    }


NO_LIMITS = Limits()
NO_READS = DiskReads(np.zeros(0), np.zeros(0))
