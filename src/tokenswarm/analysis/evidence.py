"""Everything that engines and GPUs said of where models were, taken together."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tokenswarm.analysis.aliases import Aliases, aliases_of, asked, served, served_stays
from tokenswarm.analysis.columns import Columns
from tokenswarm.analysis.costs import DiskReads, Limits, disk_reads
from tokenswarm.analysis.requests import Requests
from tokenswarm.analysis.residency import Stay, engine_stays, process_stays, sleep_levels
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
    aliases: Aliases
    speed: float
    sleeps: Mapping[tuple[str, str], int]

    def find(self, requests: Requests) -> Found:
        """Cold starts, swaps, strata and changes of residency among `requests`."""
        found = find(
            served(requests, self.aliases), served_stays(self.stays, self.aliases),
            self.memories, self.t0_unix_ns, self.speed, self.lines, self.limits, self.reads,
            {(t, self.aliases.get(m, m)): level for (t, m), level in self.sleeps.items()},
        )  # fmt: skip
        return replace(found, events=asked(found.events, requests, self.aliases))


def evidence(
    rows: Mapping[str, Columns],
    t0_unix_ns: int,
    telemetry: Mapping[str, Any] | None = None,
    scenario: Mapping[str, Any] | None = None,
) -> Evidence:
    """From columns of residency, engine, gpu_process, gpu and host, by measurement, and from
    what a manifest says."""
    memories = device_memories(rows["gpu"], t0_unix_ns)
    return Evidence(
        stays=[
            *engine_stays(rows["residency"], rows["engine"], t0_unix_ns),
            *process_stays(rows["gpu_process"], rows["gpu"], t0_unix_ns),
        ],
        memories=memories,
        lines=lines(memories, rows["gpu_process"], t0_unix_ns),
        reads=disk_reads(rows["host"], t0_unix_ns),
        limits=limits_of(telemetry or {}),
        t0_unix_ns=t0_unix_ns,
        aliases=aliases_of(scenario),
        speed=speed_of(telemetry or {}),
        sleeps=sleep_levels(rows["residency"]),
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


def speed_of(telemetry: Mapping[str, Any]) -> float:
    """How much faster than life a simulated GPU says that it runs; 1 where nobody says."""
    gpu = telemetry.get("gpu")
    said = gpu.get("speed") if isinstance(gpu, Mapping) else None
    return float(said) if isinstance(said, int | float) and said > 0 else 1.0
