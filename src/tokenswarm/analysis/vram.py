"""Device memory around one moment of a run."""

from dataclasses import dataclass

import numpy as np

from tokenswarm.analysis.columns import Columns, Floats, floats, run_seconds, texts


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Samples of one GPU in order of time: seconds on the run's clock, bytes."""

    host: str
    gpu: str
    at_s: Floats
    used: Floats
    total: Floats
    source: str

    @property
    def name(self) -> str:
        return f"{self.host}-{self.gpu}"

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
    host, device = texts(gpu, "host"), texts(gpu, "gpu")
    found = []
    for h, d in sorted(set(zip(host, device, strict=True))):
        rows = np.flatnonzero((host == h) & (device == d))
        rows = rows[np.argsort(at[rows], kind="stable")]
        named = [s for s in source[rows] if s]
        found.append(
            DeviceMemory(h, d, at[rows], used[rows], total[rows], named[0] if named else "unknown")
        )
    return found
