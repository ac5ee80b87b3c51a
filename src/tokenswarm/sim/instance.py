"""One process that serves one model from a fixed share of the GPU: its start, sleep and end."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from tokenswarm.sim import truth
from tokenswarm.sim.clock import WallClock, now_s
from tokenswarm.sim.gpu import Gpu, OutOfVram, Ramp
from tokenswarm.sim.host import PageCache
from tokenswarm.sim.profile import Model, ServerSpec

State = Literal["down", "starting", "awake", "sleeping", "asleep", "waking"]
Level = Literal[1, 2]


class StartFailed(Exception):
    """The server does not start; the text is what it says in its log."""


@dataclass(slots=True)
class Coming:
    """A start or wake-up in the making: who wanted it when, and what had to go for it."""

    load: int
    cause: truth.LoadCause
    demand_s: float | None
    trigger: int | None = None
    displaced: list[str] = field(default_factory=list)
    evict_s: float | None = None
    freed_s: float | None = None
    cold: bool = False
    began_s: float = 0.0


class Instance:
    """The state of one server. `on_down` is told when it can't be reached any more."""

    def __init__(
        self,
        spec: ServerSpec,
        model: Model,
        gpu: Gpu,
        cache: PageCache,
        log: truth.Writer,
        clock: WallClock,
    ):
        self.spec, self.model = spec, model
        self._gpu, self._cache, self._log, self._clock = gpu, cache, log, clock
        self.state: State = "down"
        self.level: Level = 1
        self.weights_good = True
        self.pid: int | None = None
        self.reserved = 0
        self.coming: Coming | None = None  # the wake-up that is wanted or being made
        self.running = 0
        self.used_s = now_s()
        self.start_failure: str | None = None
        self.weights_s: float | None = None  # how long the last start read the weights
        self.on_down: Callable[[], None] = lambda: None
        self._waiters: list[asyncio.Future[None]] = []
        self._idle = asyncio.Event()
        self._idle.set()

    # what requests call

    @property
    def awake(self) -> bool:
        return self.state == "awake"

    @property
    def kv_bytes(self) -> int:
        """Of the reservation, what is KV cache."""
        return max(1, self.reserved - self._least_bytes)

    async def admit(self) -> None:
        """Wait until the model is awake; from then on this request is being served, until `end`.

        Whoever waited is let in before the server can be put to sleep again.
        """
        if self.awake:
            self._begin()
            return
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(admitted)
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():
                self.end()
            elif admitted in self._waiters:
                self._waiters.remove(admitted)
            raise

    def _begin(self) -> None:
        self.running += 1
        self._idle.clear()

    def end(self) -> None:
        """A request that was admitted has ended."""
        self.running -= 1
        self.used_s = now_s()
        if not self.running:
            self._idle.set()

    # start and end

    def start_at_once(self) -> bool:
        """Be there, in no time: how a simulation begins. False: the GPU has no room."""
        now = now_s()
        self.reserved = self._wanted_bytes(now)
        coming = Coming(self._log.new_load(), "start", None, began_s=now)
        try:
            if not self.spec.asleep:
                self._check_room(now)
        except StartFailed as e:
            self.start_failure = str(e)
            self._log_load(coming, "process_cold", "error")
            return False
        self.pid = self._gpu.new_pid()
        self._cache.read(self.model)
        if self.spec.asleep:
            left = self._gpu.spec.context_bytes
            self._claim(Ramp(left, left, now, now), now)
            self.state = "asleep"
            return True
        self._claim(Ramp(self.reserved, self.reserved, now, now), now)
        self._up(coming, "process_cold")
        return True

    async def start(self, cause: truth.LoadCause = "control") -> None:
        """Start the process; returns when it serves. StartFailed when the GPU has no room."""
        now = now_s()
        self.state, self.pid, self.start_failure = "starting", self._gpu.new_pid(), None
        coming = Coming(self._log.new_load(), cause, now, began_s=now)
        coming.cold = not self._cache.holds(self.model)
        try:
            await self._phases(coming)
        except (OutOfVram, StartFailed) as e:
            said = f"CUDA out of memory. {e}" if isinstance(e, OutOfVram) else str(e)
            self.start_failure = said
            self._drop()
            self._log_load(coming, "process_cold", "error")
            raise StartFailed(said) from e
        except asyncio.CancelledError:
            self._drop()
            self._log_load(coming, "process_cold", "aborted")
            raise
        self._up(coming, "process_cold")

    async def _phases(self, coming: Coming) -> None:
        spec, context = self.spec, self._gpu.spec.context_bytes
        await asyncio.sleep(spec.import_s)
        now = now_s()
        self.reserved = self._wanted_bytes(now)
        if spec.engine == "vllm":
            self._check_room(now)
        self._claim(Ramp(context, context, now, now), now)
        lasts_s = self.model.file_bytes / self._cache.bytes_per_s(self.model)
        self._gpu.begin_load(self.model.name, now)
        try:
            weights = context + self.model.file_bytes
            self._resize(Ramp(context, weights, now, now + lasts_s), now)
            await asyncio.sleep(lasts_s)
            self.weights_s = lasts_s
            self._cache.read(self.model)
            await asyncio.sleep(spec.profile_s)
            now = now_s()
            self._check_room(now, mine=weights)
            self._resize(Ramp(weights, self.reserved, now, now), now)
        finally:
            self._gpu.end_load(self.model.name, now_s())
        await asyncio.sleep(spec.init_s)

    def stop(self, cause: truth.UnloadCause) -> None:
        """The process ends, at once; who waits for it is cut off."""
        if self.pid is not None:
            now, lag_s = now_s(), self._gpu.spec.free_lag_s
            held = self._gpu.ledger.held(self.pid, now)
            self._log_unload("process", cause, None, held, (now, now, now + lag_s))
        self._drop()

    def _drop(self) -> None:
        self.state = "down"
        if self.pid is not None:
            now = now_s()
            if any(c.pid == self.pid for c in self._gpu.ledger.claims()):
                self._gpu.ledger.release(self.pid, now, self._gpu.spec.free_lag_s)
        self.pid = None
        self.on_down()

    def _up(self, coming: Coming, kind: truth.LoadKind) -> None:
        self.state, self.weights_good, self.coming = "awake", True, None
        self.used_s = now_s()
        self._log_load(coming, kind, "ok")
        for waiter in self._waiters:
            if not waiter.done():
                self._begin()
                waiter.set_result(None)
        self._waiters = []

    # sleep

    async def sleep(
        self, level: Level, cause: truth.UnloadCause, load: int | None = None
    ) -> tuple[float, float]:
        """Give the memory back, keep the process: first what is being served ends, and what comes
        from now on waits. Returns when memory began to go and when it was gone."""
        assert self.pid is not None
        self.state, self.level = "sleeping", level
        await self._idle.wait()
        now = now_s()
        rate = self.spec.sleep_bytes_per_s
        lasts_s = self.model.file_bytes / rate if level == 1 else self.spec.discard_s
        held = self._gpu.ledger.held(self.pid, now)
        left = self._gpu.spec.context_bytes
        self._resize(Ramp(held, left, now, now + lasts_s), now)
        await asyncio.sleep(lasts_s)
        self.state = "asleep"
        self.weights_good = level == 1 or self.spec.weights_backup
        done = now_s()
        kind: truth.UnloadKind = "sleep_l1" if level == 1 else "sleep_l2"
        self._log_unload(kind, cause, load, held - left, (now, now, done))
        return now, done

    async def wake(self, coming: Coming) -> None:
        """Take the memory again; OutOfVram, and asleep as before, when somebody else has it."""
        assert self.pid is not None
        now = coming.began_s = now_s()
        left = self._gpu.spec.context_bytes
        rate = self.spec.wake_bytes_per_s
        lasts_s = self.model.file_bytes / rate if self.level == 1 else self.spec.discard_s
        kind: truth.LoadKind = "wake_l1" if self.level == 1 else "wake_l2"
        try:
            self._resize(Ramp(left, self.reserved, now, now + lasts_s), now)
        except OutOfVram:
            self._log_load(coming, kind, "error")
            raise
        self.state, self.coming = "waking", coming
        self._gpu.begin_load(self.model.name, now)
        try:
            await asyncio.sleep(lasts_s)
            if not self.weights_good and coming.cause == "demand":
                await self.reload_weights()
        finally:
            self._gpu.end_load(self.model.name, now_s())
        good = self.weights_good
        self._up(coming, kind)
        self.weights_good = good

    async def reload_weights(self) -> None:
        """Read the weights from the model's files again."""
        await asyncio.sleep(self.model.file_bytes / self._cache.bytes_per_s(self.model))
        self._cache.read(self.model)
        self.weights_good = True

    # memory

    @property
    def _least_bytes(self) -> int:
        return self._gpu.spec.context_bytes + self.model.file_bytes + self.model.compute_bytes

    def _wanted_bytes(self, now: float) -> int:
        if self.spec.engine == "vllm":
            return int(self.spec.memory_ratio * self._gpu.ledger.total)
        return int(self.spec.memory_ratio * self._gpu.ledger.free(now))

    def _check_room(self, now: float, mine: int = 0) -> None:
        free = self._gpu.ledger.free(now) + mine
        if self.spec.engine == "vllm" and self.reserved > free:
            raise StartFailed(
                f"Free memory on device ({free} bytes) on startup is less than desired GPU memory "
                f"utilization ({self.spec.memory_ratio}, {self.reserved} bytes)."
            )
        if self._least_bytes >= self.reserved:
            raise StartFailed("Not enough memory. Please try to increase --mem-fraction-static.")

    def _claim(self, ramp: Ramp, now: float) -> None:
        assert self.pid is not None
        self._gpu.ledger.claim(self.pid, self.model.name, ramp, now)

    def _resize(self, ramp: Ramp, now: float) -> None:
        assert self.pid is not None
        self._gpu.ledger.resize(self.pid, ramp, now)

    # truth

    def want(self, cause: truth.LoadCause, demand_s: float, trigger: int | None) -> Coming:
        """A wake-up is wanted from now on."""
        self.coming = Coming(self._log.new_load(), cause, demand_s, trigger)
        return self.coming

    def _log_load(self, coming: Coming, kind: truth.LoadKind, outcome: truth.LoadOutcome) -> None:
        end_ns, maybe = self._clock.unix(now_s()), self._clock.maybe
        row = truth.Load(
            load=coming.load,
            model=self.model.name,
            context=self.model.train_context,
            cause=coming.cause,
            outcome=outcome,
            trigger=coming.trigger,
            displaced=coming.displaced,
            demand_unix_ns=maybe(coming.demand_s),
            evict_unix_ns=maybe(coming.evict_s),
            killed_unix_ns=maybe(coming.evict_s),
            freed_unix_ns=maybe(coming.freed_s),
            load_unix_ns=maybe(coming.began_s),
            ready_unix_ns=end_ns if outcome == "ok" else None,
            end_unix_ns=end_ns,
            pid=self.pid,
            file_bytes=self.model.file_bytes,
            vram_bytes=self.reserved,
            size_bytes=self.reserved,
            disk_cold=coming.cold,
            kind=kind,
            server=self.spec.name,
        )
        self._log.add(row)

    def _log_unload(
        self,
        kind: truth.UnloadKind,
        cause: truth.UnloadCause,
        load: int | None,
        held: int,
        times_s: tuple[float, float, float],
    ) -> None:
        decided_ns, killed_ns, freed_ns = (self._clock.unix(t) for t in times_s)
        row = truth.Unload(
            model=self.model.name,
            pid=self.pid or 0,
            cause=cause,
            load=load,
            vram_bytes=held,
            decided_unix_ns=decided_ns,
            killed_unix_ns=killed_ns,
            freed_unix_ns=freed_ns,
            recovered_unix_ns=None,
            kind=kind,
            server=self.spec.name,
        )
        self._log.add(row)
