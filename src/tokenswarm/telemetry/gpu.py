"""What one look at a GPU shows, whoever looks, and its rows."""

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Protocol

import msgspec

from tokenswarm.clock import slug
from tokenswarm.store.schema import GPU, GPU_PROCESS
from tokenswarm.telemetry.health import Health
from tokenswarm.telemetry.row import Pair


class GpuProcess(msgspec.Struct, frozen=True, kw_only=True):
    """A process with memory on a GPU. `model` is the server's name for it; None if unknown."""

    pid: int
    vram_used_bytes: int | None = None
    model: str | None = None
    container: str | None = None


class GpuSample(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU at one moment; a figure that the GPU does not give, or not now, is None.

    `label` tells apart what shares an index, as MIG instances do; units are the schema's.
    """

    index: int
    label: str = ""
    name: str = ""
    uuid: str = ""
    vram_total_bytes: int | None = None
    vram_used_bytes: int | None = None
    vram_reserved_bytes: int | None = None
    vram_free_bytes: int | None = None
    util_ratio: float | None = None
    mem_util_ratio: float | None = None
    power_w: float | None = None
    sm_clock_hz: int | None = None
    mem_clock_hz: int | None = None
    throttle_bits: int | None = None
    energy_j: float | None = None
    power_instant_w: float | None = None
    power_sampled_w: float | None = None
    power_sampled_max_w: float | None = None
    util_sampled_ratio: float | None = None
    temperature_c: float | None = None
    mem_temperature_c: float | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    xid: int | None = None
    pcie_tx_bytes: int | None = None
    pcie_rx_bytes: int | None = None
    pcie_tx_bytes_per_s: float | None = None
    pcie_rx_bytes_per_s: float | None = None
    processes: tuple[GpuProcess, ...] = ()

    @property
    def tag(self) -> str:
        """The value of the tag `gpu`."""
        return self.label or str(self.index)


class GpuReader(Protocol):
    """Looks at all GPUs of one place. One thread uses it."""

    kind: str
    healths: Mapping[str, Health]  # of threads that look beside the one that samples

    def about(self) -> dict[str, Any]:
        """What is read and what reading it costs, for the manifest; `kind` is always there."""

    def sample(self) -> list[GpuSample]:
        """Every GPU that answers now; TelemetryGap when none could be asked."""

    def close(self) -> None:
        """Let go of the driver or connection."""


class TelemetryGap(Exception):
    """One look failed; the next may succeed. The text says why."""


_figures = attrgetter(*(f.name for f in GPU.fields if f.name != "source"))


def rows(
    samples: list[GpuSample], when_ns: int, stamp: Callable[[int], int], source: str,
    run_id: str, host: str, slugs: Mapping[str, str],
) -> list[Pair]:  # fmt: skip
    """Rows of one look: each GPU, then its processes. `stamp` makes times strictly increase.

    Up to 100 looks a second: the cells are listed in the schema's order, which a test holds.
    """
    out: list[Pair] = []
    for s in samples:
        place = (run_id, host, s.tag)
        out.append((GPU.name, [stamp(when_ns), *place, *_figures(s), source]))
        for p in s.processes:
            model = "none" if p.model is None else slugs.get(p.model) or slug(p.model)
            tags = (*place, model, p.container or "none")
            out.append((GPU_PROCESS.name, [stamp(when_ns), *tags, p.pid, p.vram_used_bytes]))
    return out
