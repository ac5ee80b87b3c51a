"""What a sampler process is told on the first line of its standard input."""

from typing import Literal

import msgspec

GpuKind = Literal["nvml", "sim", "replay", "host", "none"]


class Gpu(msgspec.Struct, frozen=True):
    """`trace`: the file that `replay` plays; `ports`: where the servers listen whose memory `host`
    shows; `pcie`: ask for PCIe throughput, which blocks for 21 ms a direction."""

    source: GpuKind = "none"
    interval_s: float = 0.05
    control_url: str | None = None
    trace: str | None = None
    ports: tuple[int, ...] = ()
    pcie: bool = False


class Engine(msgspec.Struct, frozen=True):
    """One target. `models`: what the server calls a model -> its slug in the scenario.
    `headers` may hold credentials: they reach the target and nothing else."""

    target: str
    engine: str
    url: str
    headers: dict[str, str] = {}
    models: dict[str, str] = {}
    tls_verify: bool = True


class Config(msgspec.Struct, frozen=True, kw_only=True):
    run_id: str
    t0_unix_ns: int
    spool: str
    host: str
    gpu: Gpu = Gpu()
    engines: list[Engine] = []
    engine_interval_s: float = 0.5
    clock_offset_ns: int = 0

    @property
    def slugs(self) -> dict[str, str]:
        """Server's name -> slug, over all targets."""
        return {name: s for engine in self.engines for name, s in engine.models.items()}
