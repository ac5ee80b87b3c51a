"""Where a run's GPU figures come from. The wrong GPU is worse than none."""

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from tokenswarm.engines.protocol import EngineInfo
from tokenswarm.errors import UsageError
from tokenswarm.telemetry.config import GpuKind
from tokenswarm.telemetry.listener import tunnel

DRIVER = Path("/proc/driver/nvidia/version")
WSL = Path("/dev/dxg")

Wanted = Literal["auto", "agent", "nvml", "sim", "replay", "host", "none"]
SourceKind = Literal["agent"] | GpuKind


class GpuSource(msgspec.Struct, frozen=True):
    """What is read, and why that and nothing else. `reason` is for a person. Kind `agent`: the
    sampler reads no GPU itself. `ports` are the servers' whose memory source `host` shows."""

    kind: SourceKind
    control_url: str | None
    reason: str
    ports: tuple[int, ...] = ()


def resolve_source(
    wanted: Wanted, targets: Sequence[EngineInfo], agents: Mapping[str, str] | None = None
) -> GpuSource:
    """The source that is true for `targets`; UsageError when `wanted` cannot be had.

    `agents`: the kind of GPU source of each agent that has one, by its address.
    """
    there = {a: kind for a, kind in (agents or {}).items() if kind != "none"}
    if wanted == "agent" and not there:
        raise UsageError(
            "telemetry.gpu.source is agent, but none of telemetry.agents samples a GPU: start "
            "`tokenswarm agent gpu` on the GPU's host and name it there, or use auto"
        )
    if there and wanted in ("agent", "auto"):
        return GpuSource("agent", None, f"sampled by the agent at {', '.join(there)}")
    if wanted == "none":
        return GpuSource("none", None, "telemetry.gpu.source is none")
    if wanted == "replay":
        return GpuSource("replay", None, "telemetry.gpu.source is replay: a recorded trace")
    if wanted == "host":
        return _host(targets)
    if wanted == "nvml":
        return GpuSource("nvml", None, "telemetry.gpu.source is nvml: the GPUs of this host")
    if wanted == "sim":
        return _simulation(targets) or _no_simulation()
    if wanted == "auto":
        return _simulation(targets) or _local(targets)
    raise UsageError(f"telemetry.gpu.source {wanted!r} is not known: auto, agent, nvml, sim, "
                     "replay, host or none")  # fmt: skip


def _host(targets: Sequence[EngineInfo]) -> GpuSource:
    """The memory of servers on this host, in place of a GPU's."""
    here = [t for t in targets if why_not_here(t.url) is None]
    ports = tuple(dict.fromkeys(port for t in here if (port := urlsplit(t.url).port) is not None))
    if not ports:
        raise UsageError(
            "telemetry.gpu.source is host, but no target runs on this host: run an agent with "
            "`--source host` beside the servers, or use auto"
        )
    return GpuSource("host", None, "telemetry.gpu.source is host: the servers' memory", ports)


def _no_simulation() -> GpuSource:
    raise UsageError(
        "telemetry.gpu.source is sim, but no target says that it is a simulation: "
        "start one with `tokenswarm sim PROFILE`, or use auto"
    )


def _simulation(targets: Sequence[EngineInfo]) -> GpuSource | None:
    urls = list(dict.fromkeys(t.control_url for t in targets if t.control_url is not None))
    if not urls:
        return None
    reason = "the target is a simulation"
    if len(urls) > 1:
        reason += f"; of {len(urls)} simulated GPUs only the first is sampled"
    if any(not t.simulated for t in targets):
        reason += "; the other targets' GPU is not sampled"
    return GpuSource("sim", urls[0], reason)


def _local(targets: Sequence[EngineInfo]) -> GpuSource:
    """This host's GPUs if a target runs on this host."""
    if any(t.simulated for t in targets):
        return GpuSource("none", None, "the simulation does not say where its control port is")
    away = [why for t in targets if (why := why_not_here(t.url)) is not None]
    if len(away) == len(targets):
        remark = "; ".join(dict.fromkeys(away)) or "there is no target"
        return GpuSource("none", None, f"no GPU figures: {remark}")
    if not (DRIVER.exists() or WSL.exists()):
        return GpuSource("none", None, "no GPU figures: this host has no NVIDIA driver")
    remark = "".join(f"; not sampled: {why}" for why in dict.fromkeys(away))
    return GpuSource("nvml", None, f"a target runs on this host{remark}")


def why_not_here(url: str) -> str | None:
    """None if a server at `url` runs on this host, else what speaks against it."""
    place = urlsplit(url)
    host = place.hostname or ""
    try:
        port = place.port or (443 if place.scheme == "https" else 80)
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        return f"{host} cannot be resolved"
    if not all(_is_ours(family, str(address[0])) for family, _, _, _, address in found):
        return f"{host} is another host"
    through = tunnel(port)
    return f"port {port} leads away through {through}" if through else None


def _is_ours(family: int, address: str) -> bool:
    """The system lets a socket be bound to an address of this host only."""
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        try:
            s.bind((address.partition("%")[0], 0))
        except OSError:
            return False
    return True
