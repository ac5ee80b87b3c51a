"""A recorded GPU trace, played as if it happened now, or from a later second of it on.

A trace is CSV with a header. `unix_s` (or `time_s`) is required; `gpu` tells several GPUs apart.
The other columns bear names of GpuSample, or those of RECORDED with their units. An empty cell is
a missing value; columns that nobody knows are skipped.
"""

import csv
import math
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenswarm.errors import UsageError
from tokenswarm.store.schema import GPU
from tokenswarm.telemetry.gpu import GpuSample, TelemetryGap
from tokenswarm.telemetry.health import Health

MAX_BYTES = 256 << 20
MIB = 1 << 20
TIMES = ("unix_s", "time_s")
RECORDED: dict[str, tuple[str, float]] = {
    "memory_total_mib": ("vram_total_bytes", MIB),
    "memory_used_mib": ("vram_used_bytes", MIB),
    "memory_free_mib": ("vram_free_bytes", MIB),
    "gpu_util_percent": ("util_ratio", 0.01),
    "memory_util_percent": ("mem_util_ratio", 0.01),
    "power_mw": ("power_w", 0.001),
    "sm_clock_mhz": ("sm_clock_hz", 1e6),
    "memory_clock_mhz": ("mem_clock_hz", 1e6),
    "energy_mj": ("energy_j", 0.001),
}
KINDS = {f.name: f.kind for f in GPU.fields if f.kind in ("int", "float")}


class Replay:
    """Plays `trace` from `from_s` after its begin; time starts with the first sample.

    Each GPU shows its last row until the next one. After the trace's end there is a gap.
    """

    kind = "replay"
    healths: Mapping[str, Health] = {}

    def __init__(
        self, trace: Path, from_s: float = 0.0, clock: Callable[[], float] = time.perf_counter
    ):
        """UsageError when `trace` is no trace, or ends before `from_s`."""
        self._trace, self._from_s, self._clock = trace, from_s, clock
        self._tracks = _tracks(trace)
        self.length_s = max(times[-1] for times, _ in self._tracks)
        if not 0 <= from_s <= self.length_s:
            raise UsageError(
                f"{trace} cannot be played from second {from_s:g}: it is {self.length_s:.1f} s long"
            )
        self._began: float | None = None

    def about(self) -> dict[str, Any]:
        return {
            "kind": self.kind, "trace": self._trace.name, "from_s": self._from_s,
            "length_s": self.length_s,
        }  # fmt: skip

    def sample(self) -> list[GpuSample]:
        now = self._clock()
        if self._began is None:
            self._began = now
        return self.at(self._from_s + now - self._began)

    def at(self, second: float) -> list[GpuSample]:
        """What the trace shows `second` after its begin."""
        if second > self.length_s:
            raise TelemetryGap(f"{self._trace} has ended after {self.length_s:.1f} s")
        places = ((bisect_right(times, second) - 1, samples) for times, samples in self._tracks)
        return [samples[place] for place, samples in places if place >= 0]

    def close(self) -> None:
        """Nothing is held."""


Track = tuple[list[float], list[GpuSample]]


def _tracks(trace: Path) -> list[Track]:
    """Of each GPU: seconds since the trace's begin, ascending, and what was seen then."""
    try:
        if trace.stat().st_size > MAX_BYTES:
            raise UsageError(f"{trace} is larger than {MAX_BYTES >> 20} MiB: cut it down first")
        with trace.open(encoding="utf-8", newline="") as file:
            tracks = list(_by_gpu(csv.DictReader(file)).values())
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise UsageError(f"trace {trace} cannot be read: {e}") from None
    except (KeyError, ValueError) as e:
        raise UsageError(f"trace {trace} is no GPU trace: {e}") from None
    if not tracks:
        raise UsageError(f"trace {trace} holds no rows")
    start = min(times[0] for times, _ in tracks)
    return [([t - start for t in times], samples) for times, samples in tracks]


def _by_gpu(reader: "csv.DictReader[str]") -> dict[str, Track]:
    known = _columns(reader.fieldnames or ())
    when = next((n for n in TIMES if n in (reader.fieldnames or ())), None)
    if when is None or not known:
        raise ValueError(f"its header needs {' or '.join(TIMES)} and a figure such as power_w")
    tracks: dict[str, Track] = {}
    for cells in reader:
        try:
            gpu = cells.get("gpu") or "0"
            times, samples = tracks.setdefault(gpu, ([], []))
            at_s = _number(cells[when])
            if times and at_s < times[-1]:
                raise ValueError("time steps back")
            times.append(at_s)
            samples.append(_sample(gpu, cells, known))
        except ValueError as e:
            raise ValueError(f"line {reader.line_num}: {e}") from None
    return tracks


def _columns(header: Iterable[str]) -> dict[str, tuple[str, float]]:
    """By column: the figure's name, and the factor to its unit."""
    own: dict[str, tuple[str, float]] = {name: (name, 1) for name in KINDS}
    return {name: (own | RECORDED)[name] for name in header if name in own or name in RECORDED}


def _number(text: str | None) -> float:
    """ValueError for what is none. None is the cell of a line that was cut off."""
    value = float(text or "nothing")
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is no figure")
    return value


def _sample(gpu: str, cells: dict[str, str], known: dict[str, tuple[str, float]]) -> GpuSample:
    figures: dict[str, Any] = {}
    for column, (name, factor) in known.items():
        text = cells[column]
        if text != "":
            value = _number(text) * factor
            figures[name] = round(value) if KINDS[name] == "int" else value
    if gpu.isascii() and gpu.isdigit():
        return GpuSample(index=int(gpu), name="replayed", **figures)
    return GpuSample(index=0, label=gpu, name="replayed", **figures)
