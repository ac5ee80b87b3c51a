"""What a request for a model, a loaded model and a load in the making are to the scheduler."""

import asyncio
from dataclasses import dataclass, field
from typing import Literal, Protocol

from tokenswarm.sim.profile import Model
from tokenswarm.sim.truth import LoadCause, UnloadCause

BUSY = "server busy, please try again.  maximum pending requests exceeded"
NO_MEMORY = "llama-server process has terminated: cudaMalloc failed: out of memory"
CRASHED = "llama-server process has terminated: exit status 2"


class Busy(Exception):
    """The queue of requests that need a load is full."""


class LoadFailed(Exception):
    """The model does not fit, even alone, or its process died."""


class Served(Protocol):
    """An answer that a runner is giving."""

    def fail(self) -> None:
        """The runner died."""


@dataclass(slots=True, eq=False)
class Runner:
    """A loaded model: one process. `size_bytes`: with what it has in the host's memory. `dead`:
    the process crashed; the server finds out when it next needs it."""

    model: Model
    context: int
    pid: int
    vram_bytes: int
    size_bytes: int
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
    ready_s: float = 0.0
    dead: bool = False
    serving: set[Served] = field(default_factory=set)

    def fits(self, ask: "Ask") -> bool:
        """Whether it can serve `ask` as it is."""
        return self.context == ask.context and not self.dead


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request needs. `keep_alive_s` None: it does not say; negative: forever.
    `load_crashes`: the process that is started for it will die before it is ready."""

    n: int
    model: Model
    context: int
    keep_alive_s: float | None
    arrived_s: float
    load_crashes: bool = False


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
