"""What a request for a model, a loaded model and a load in the making are to the scheduler."""

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from tokenswarm.sim.profile import Model

LoadCause = Literal["demand", "reconfig", "start"]
UnloadCause = Literal["pressure", "reconfig", "ttl", "control", "aborted"]

BUSY = "server busy, please try again.  maximum pending requests exceeded"
NO_MEMORY = "llama-server process has terminated: cudaMalloc failed: out of memory"


class Busy(Exception):
    """The queue of requests that need a load is full."""


class LoadFailed(Exception):
    """The model does not fit, even alone."""


@dataclass(slots=True, eq=False)
class Runner:
    """A loaded model: one process."""

    model: Model
    context: int
    pid: int
    vram_bytes: int
    keep_alive_s: float
    slots: asyncio.Semaphore
    load: int
    refs: int = 0
    doomed: UnloadCause | None = None
    doomed_s: float = 0.0
    doomed_by: int | None = None
    killed_s: float = 0.0
    expires_s: float | None = None
    timer: asyncio.TimerHandle | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request needs. `keep_alive_s` None: it does not say; negative: forever."""

    n: int
    model: Model
    context: int
    keep_alive_s: float | None
    arrived_s: float


@dataclass(frozen=True, slots=True)
class Grant:
    """A runner handed over. `load`: the one this request triggered or waited for."""

    runner: Runner
    load: int | None
    role: Literal["swap_trigger", "swap_waiter"] | None
    locked_s: float


@dataclass(slots=True, eq=False)
class Pending:
    """A request in the queue. `gone`: its client went away."""

    ask: Ask
    granted: "asyncio.Future[Grant]"
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def lost(self) -> bool:
        """Whether nobody waits for the grant any more."""
        return self.gone.is_set() or self.granted.done()


@dataclass(slots=True)
class Marks:
    """Of a load that is being made; perf_counter seconds."""

    load: int
    cause: LoadCause = "demand"
    evict_s: float | None = None
    killed_s: float | None = None
    freed_s: float | None = None
    displaced: list[str] = field(default_factory=list)
    logged: bool = False
