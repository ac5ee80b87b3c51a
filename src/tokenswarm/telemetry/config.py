"""What a sampler process is told on the first line of its standard input."""

from typing import Literal

import msgspec

GpuKind = Literal["nvml", "sim", "replay", "host", "none"]


class Gpu(msgspec.Struct, frozen=True):
    """`trace`: the file that `replay` plays, from its second `trace_from_s` on; `ports`: where the
    servers listen whose memory `host` shows; `pcie`: ask for PCIe throughput, which blocks for
    21 ms a direction."""

    source: GpuKind = "none"
    interval_s: float = 0.05
    control_url: str | None = None
    trace: str | None = None
    trace_from_s: float = 0.0
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


class Host(msgspec.Struct, frozen=True):
    """CPU, memory, page cache, disk and network of the sampler's host."""

    interval_s: float = 1.0


class Containers(msgspec.Struct, frozen=True):
    """Containers of the Docker engine at `url` (None: /var/run/docker.sock) that bear `label`
    (None: tokenswarm.target or tokenswarm.model). `stats_interval_s` None: events alone."""

    url: str | None = None
    label: str | None = None
    stats_interval_s: float | None = 1.0


class Agent(msgspec.Struct, frozen=True):
    """An agent to subscribe to, at HOST:PORT. `token` goes over no wire. `gpu` False: its GPU
    figures are not wanted."""

    address: str
    token: str | None = None
    gpu: bool = True


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A feed for the GPU, the host and the containers where they are named, and for each engine.

    `t0_unix_ns` is where run seconds count from, as far as it is known so early.
    `models`: names of models (as in Engine) of targets that somebody else polls. `health`: one
    row a second and feed on the sampling itself. `clock_offset_ns` moves this process's wall
    clock onto the master's.
    """

    run_id: str
    t0_unix_ns: int
    spool: str
    host: str
    gpu: Gpu = Gpu()
    engines: list[Engine] = []
    engine_interval_s: float = 0.5
    host_figures: Host | None = None
    containers: Containers | None = None
    agents: list[Agent] = []
    models: dict[str, str] = {}
    health: bool = False
    clock_offset_ns: int = 0

    @property
    def slugs(self) -> dict[str, str]:
        """Server's name -> slug, over all targets and `models`."""
        return self.models | {
            name: s for engine in self.engines for name, s in engine.models.items()
        }
