"""Everything that engines and GPUs said of where models were, taken together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenswarm.analysis.columns import Columns
from tokenswarm.analysis.costs import DiskReads, Limits, disk_reads
from tokenswarm.analysis.requests import Requests
from tokenswarm.analysis.residency import Stay, engine_stays, process_stays
from tokenswarm.analysis.swaps import Found, find
from tokenswarm.analysis.vram import DeviceMemory, Line, device_memories, lines


@dataclass(frozen=True, slots=True)
class Evidence:
    """Stays of all sides, GPUs, memory without a model's name, disk reads and limits."""

    stays: list[Stay]
    memories: list[DeviceMemory]
    lines: list[Line]
    reads: DiskReads
    limits: Limits
    t0_unix_ns: int

    def find(self, requests: Requests, speed: float = 1.0) -> Found:
        """Cold starts, swaps, strata and changes of residency among `requests`."""
        return find(
            requests, self.stays, self.memories, self.t0_unix_ns, speed,
            self.lines, self.limits, self.reads,
        )  # fmt: skip


def evidence(
    rows: Mapping[str, Columns], t0_unix_ns: int, limits: Limits | None = None
) -> Evidence:
    """From columns of residency, engine, gpu_process, gpu and host, by measurement."""
    memories = device_memories(rows["gpu"], t0_unix_ns)
    return Evidence(
        stays=[
            *engine_stays(rows["residency"], rows["engine"], t0_unix_ns),
            *process_stays(rows["gpu_process"], rows["gpu"], t0_unix_ns),
        ],
        memories=memories,
        lines=lines(memories, rows["gpu_process"], t0_unix_ns),
        reads=disk_reads(rows["host"], t0_unix_ns),
        limits=limits or Limits(),
        t0_unix_ns=t0_unix_ns,
    )


SIDES = ("residency", "engine", "gpu_process", "gpu", "host")
"""Measurements that `evidence` needs."""


def limits_of(telemetry: Mapping[str, Any]) -> Limits:
    """What a manifest's telemetry says of the bus and the disk: `limits: {pcie_bytes_per_s,
    disk_bytes_per_s}`, given by a person or measured."""
    said = telemetry.get("limits")
    values = said if isinstance(said, Mapping) else {}
    known = {k: float(v) for k, v in values.items() if isinstance(v, int | float) and v > 0}
    return Limits(known.get("pcie_bytes_per_s"), known.get("disk_bytes_per_s"))
