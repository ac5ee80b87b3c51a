"""Which model is loaded, evicted and waited for: the rules of Ollama's scheduler.

One load at a time, and whatever is queued behind it waits (head-of-line blocking), even for
another model; requests to a loaded, compatible model bypass the queue. A victim is chosen by
(keep_alive, name), an idle one first, and goes when its requests are done. After it died its
memory is awaited in polls. A load ends at one of the server's health polls. A load whose client
went away is aborted. Starting and killing a runner holds a lock that every request needs. A
runner that crashed stays listed until it is needed, expires or makes room.
"""

import asyncio
from collections import deque
from typing import Literal

from tokenswarm.sim import truth
from tokenswarm.sim.clock import WallClock, now_s
from tokenswarm.sim.gpu import Gpu, OutOfVram, Ramp
from tokenswarm.sim.host import PageCache
from tokenswarm.sim.profile import Model, OllamaSpec
from tokenswarm.sim.runner import (
    BUSY,
    CRASHED,
    NO_MEMORY,
    Ask,
    Busy,
    Grant,
    LoadFailed,
    Marks,
    Pending,
    Runner,
)
from tokenswarm.sim.truth import LoadCause, LoadOutcome, UnloadCause

WEIGHTS_SHARE = 0.9  # of a load the weights are being copied, the rest is warm-up
LINE_S = 0.001  # a shorter wait is no wait for a lock
CRASH_SHARE = 0.6  # of a load that crashes it takes so much


class Scheduler:
    """Grants runners to requests. `run` must be running; everything happens on one loop."""

    def __init__(
        self, spec: OllamaSpec, gpu: Gpu, cache: PageCache, log: truth.Writer, clock: WallClock
    ):
        self._spec, self._gpu, self._cache = spec, gpu, cache
        self._log, self._clock = log, clock
        self._queue: deque[Pending] = deque()
        self._wake = asyncio.Event()
        self._loaded: dict[str, Runner] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._locked_until = 0.0
        self._line = asyncio.Lock()

    # what requests call

    def loaded(self) -> list[Runner]:
        """The runners that have their model ready, in the order of their loads."""
        return list(self._loaded.values())

    async def unlocked(self) -> float:
        """Wait until no runner is being started or killed; the seconds that it took."""
        began_s = now_s()
        async with self._line:  # who came first goes on first
            while (wait := self._locked_until - now_s()) > 0:
                await asyncio.sleep(wait)
        waited_s = now_s() - began_s
        return waited_s if waited_s > LINE_S else 0.0

    async def acquire(self, ask: Ask) -> Grant:
        """A runner for `ask`; give it back with `release`. Raises Busy or LoadFailed."""
        locked_s = await self.unlocked()
        runner = self._loaded.get(ask.model.name)
        if runner is not None and runner.fits(ask):
            if ask.arrived_s < runner.ready_s:  # it was loaded while the lock was waited for
                return self._use(runner, ask, Grant(runner, runner.load, "swap_waiter", locked_s))
            return self._use(runner, ask, Grant(runner, None, None, locked_s))
        if len(self._queue) >= self._spec.max_queue:
            raise Busy(BUSY)
        pending = Pending(ask, asyncio.get_running_loop().create_future())
        self._queue.append(pending)
        self._wake.set()
        try:
            return await pending.granted
        except asyncio.CancelledError:
            pending.gone.set()
            done = pending.granted
            if done.done() and not done.cancelled() and done.exception() is None:
                self.release(done.result().runner)
            raise

    def release(self, runner: Runner) -> None:
        """A request is done with `runner`."""
        runner.refs -= 1
        if runner.refs:
            return
        if runner.doomed is not None:
            self._unload(runner)
        elif runner.keep_alive_s == 0:
            self._doom(runner, "control")
        elif runner.keep_alive_s > 0:
            self._expire_later(runner)

    def expire(self, model: Model) -> None:
        """Unload `model` when it is idle; returns before that."""
        runner = self._loaded.get(model.name)
        if runner is not None and runner.doomed is None:
            runner.keep_alive_s = 0.0
            if not runner.refs:
                self._doom(runner, "control")

    def crash(self, runner: Runner) -> None:
        """The runner's process dies, in the midst of whatever it was saying."""
        now, runner.dead = now_s(), True
        runner.doomed_s = runner.killed_s = now
        held = self._gpu.ledger.release(runner.pid, now, self._gpu.spec.free_lag_s)
        self._log_unload(runner, "crash", held, now, now, recovered=False)
        for served in list(runner.serving):
            served.fail()

    def _use(self, runner: Runner, ask: Ask, grant: Grant) -> Grant:
        runner.refs += 1
        if runner.timer is not None:
            runner.timer.cancel()
            runner.timer = None
        runner.expires_s = None
        if ask.keep_alive_s is not None:
            runner.keep_alive_s = ask.keep_alive_s
        return grant

    # the queue

    async def run(self) -> None:
        """Serve the queue, one request that needs a load at a time."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                await self._serve(self._queue.popleft())

    def preload(self, models: list[Model]) -> None:
        """Have `models` loaded from the start, in no time and for good."""
        for model in models:
            now = now_s()
            ask = Ask(-1, model, min(self._spec.context_length, model.train_context), -1.0, now)
            marks = self._new_marks("start")
            runner = self._spawn(ask, marks, ready_s=now)
            self._cache.read(model)
            self._loaded[model.name] = runner
            self._log_load(ask, marks, "ok", runner, now)

    def _new_marks(self, cause: LoadCause) -> Marks:
        return Marks(self._log.new_load(), cause)

    async def _serve(self, pending: Pending) -> None:
        ask, marks = pending.ask, None
        while not pending.lost:
            self._forget_dead()
            runner = self._loaded.get(ask.model.name)
            if runner is not None and runner.fits(ask):
                role: Literal["swap_trigger", "swap_waiter"]
                role = "swap_trigger" if marks else "swap_waiter"
                grant = Grant(runner, runner.load, role, 0.0)
                pending.granted.set_result(self._use(runner, ask, grant))
                return
            marks = marks or self._new_marks("demand" if runner is None else "reconfig")
            if runner is not None:
                await self._evict(runner, "reconfig", marks)
            elif (victim := await self._in_the_way(ask)) is not None:
                await self._evict(victim, "pressure", marks)
            elif not await self._load(pending, marks):
                return
        if marks is not None:
            self._given_up(ask, marks)

    def _forget_dead(self) -> None:
        """Crashed runners give way at once: nothing is left of them."""
        for runner in [r for r in self._loaded.values() if r.dead]:
            del self._loaded[runner.model.name]
            if runner.timer is not None:
                runner.timer.cancel()

    def _given_up(self, ask: Ask, marks: Marks) -> None:
        """Nobody waits any more; a load that was complete by then stays as an idle runner."""
        runner = self._loaded.get(ask.model.name)
        if runner is not None and runner.load == marks.load:
            runner.refs += 1
            self.release(runner)
        elif not marks.logged:
            self._log_load(ask, marks, "aborted")

    async def _in_the_way(self, ask: Ask) -> Runner | None:
        """The runner that must go before `ask` can be loaded; None: it fits, or nothing is left."""
        while self._leaving:  # memory on its way back counts
            await asyncio.wait(self._leaving)
        self._forget_dead()
        most = self._spec.max_loaded_models or 3
        if not self._loaded:
            return None
        if len(self._loaded) < most and self._fits(ask):
            return None
        order = sorted(self._loaded.values(), key=lambda r: (_patience(r), r.model.name))
        return next((r for r in order if not r.refs), order[0])

    def _fits(self, ask: Ask) -> bool:
        kv_bytes = ask.model.kv_bytes_per_token * ask.context * self._spec.num_parallel
        predicted = ask.model.file_bytes + kv_bytes + self._spec.batch_bytes
        free = self._gpu.ledger.free(now_s())
        return predicted <= self._spec.fit_ratio * free and self._size_bytes(ask) <= free

    def _vram_bytes(self, ask: Ask, now: float) -> int:
        """What it will take of the GPU: all of it, or what there is."""
        size = self._size_bytes(ask)
        if not self._spec.offload:
            return size
        free = self._gpu.ledger.free(now)
        least = self._gpu.spec.context_bytes + ask.model.compute_bytes
        return size if size <= free else max(least, int(free * self._spec.fit_ratio))

    def _size_bytes(self, ask: Ask) -> int:
        model, parallel = ask.model, self._spec.num_parallel
        kv_bytes = model.kv_bytes_per_token * ask.context * parallel
        return self._gpu.spec.context_bytes + model.file_bytes + model.compute_bytes + kv_bytes

    # loads

    async def _load(self, pending: Pending, marks: Marks) -> bool:
        """Load for `pending`; False when that failed or nobody waits any more."""
        ask, start_s = pending.ask, now_s()
        name, lasts_s = ask.model.name, self._lasts_s(ask.model)
        cold = not self._cache.holds(ask.model)
        try:
            runner = self._spawn(ask, marks, ready_s=start_s + lasts_s)
        except OutOfVram:
            self._log_load(ask, marks, "error")
            if not pending.granted.done():
                pending.granted.set_exception(LoadFailed(NO_MEMORY))
            return False
        self._lock(self._spec.lock_s)
        self._gpu.begin_load(name, start_s)
        try:
            until_s = lasts_s * CRASH_SHARE if ask.load_crashes else lasts_s
            await asyncio.wait_for(pending.gone.wait(), until_s)
        except TimeoutError:
            if ask.load_crashes:
                self._load_crashed(pending, marks, runner, start_s, cold)
                return False
            self._cache.read(ask.model)
            self._loaded[name] = runner
            runner.ready_s = now_s()
            self._log_load(ask, marks, "ok", runner, start_s, cold)
            return True
        finally:
            self._gpu.end_load(name, now_s())
        self._log_load(ask, marks, "aborted", runner, start_s, cold)
        self._doom(runner, "aborted", marks.load)
        return False

    def _load_crashed(
        self, pending: Pending, marks: Marks, runner: Runner, start_s: float, cold: bool
    ) -> None:
        self._log_load(pending.ask, marks, "error", runner, start_s, cold)
        self._doom(runner, "crash", marks.load)
        if not pending.granted.done():
            pending.granted.set_exception(LoadFailed(CRASHED))

    def _lasts_s(self, model: Model) -> float:
        """Spawn, then weights and start-up, seen at the next health poll."""
        work_s = model.file_bytes / self._cache.bytes_per_s(model) + model.init_s
        poll_s = self._spec.poll_s
        polls = -(-work_s // poll_s) if poll_s else 0.0
        return model.spawn_s + (polls * poll_s if poll_s else work_s)

    def _spawn(self, ask: Ask, marks: Marks, *, ready_s: float) -> Runner:
        """Start the process and claim its memory; OutOfVram."""
        now, model = now_s(), ask.model
        vram_bytes = self._vram_bytes(ask, now)
        weights_s = now + (ready_s - now) * WEIGHTS_SHARE
        pid = self._gpu.new_pid()
        ramp = Ramp(self._gpu.spec.context_bytes, vram_bytes, now, weights_s)
        self._gpu.ledger.claim(pid, model.name, ramp, now)
        keep_alive_s = self._spec.keep_alive_s if ask.keep_alive_s is None else ask.keep_alive_s
        slots = asyncio.Semaphore(self._spec.num_parallel)
        size = self._size_bytes(ask)
        return Runner(model, ask.context, pid, vram_bytes, size, keep_alive_s, slots, marks.load)

    def _log_load(
        self,
        ask: Ask,
        marks: Marks,
        outcome: LoadOutcome,
        runner: Runner | None = None,
        load_s: float | None = None,
        cold: bool = False,
    ) -> None:
        marks.logged = True
        end_ns, maybe = self._clock.unix(now_s()), self._clock.maybe
        row = truth.Load(
            load=marks.load,
            model=ask.model.name,
            context=ask.context,
            cause=marks.cause,
            outcome=outcome,
            trigger=None if marks.cause == "start" else ask.n,
            displaced=marks.displaced,
            demand_unix_ns=None if marks.cause == "start" else maybe(ask.arrived_s),
            evict_unix_ns=maybe(marks.evict_s),
            killed_unix_ns=maybe(marks.killed_s),
            freed_unix_ns=maybe(marks.freed_s),
            load_unix_ns=maybe(load_s),
            ready_unix_ns=end_ns if outcome == "ok" else None,
            end_unix_ns=end_ns,
            pid=runner.pid if runner else None,
            file_bytes=ask.model.file_bytes,
            vram_bytes=runner.vram_bytes if runner else self._vram_bytes(ask, now_s()),
            size_bytes=self._size_bytes(ask),
            disk_cold=cold,
            kind="reconfig" if marks.cause == "reconfig" else "process_cold",
        )
        self._log.add(row)

    # unloads

    async def _evict(
        self, victim: Runner, cause: Literal["pressure", "reconfig"], marks: Marks
    ) -> None:
        """Wait for the victim's requests, then for its memory."""
        now = now_s()
        marks.evict_s = marks.evict_s or now
        marks.displaced.append(victim.model.name)
        if victim.doomed is None:
            self._doom(victim, cause, marks.load)
        await victim.gone.wait()
        if victim.dead:  # it died before it could be made to go
            marks.displaced.remove(victim.model.name)
            return
        marks.killed_s = marks.killed_s or victim.killed_s
        marks.freed_s = victim.killed_s + self._gpu.spec.free_lag_s

    def _doom(self, runner: Runner, cause: UnloadCause, load: int | None = None) -> None:
        runner.doomed, runner.doomed_s, runner.doomed_by = cause, now_s(), load
        if not runner.refs:
            self._unload(runner)

    def _expire_later(self, runner: Runner) -> None:
        runner.expires_s = now_s() + runner.keep_alive_s
        loop = asyncio.get_running_loop()
        runner.timer = loop.call_at(runner.expires_s, self._doom, runner, "ttl")

    def _unload(self, runner: Runner) -> None:
        """Kill the process; `runner.gone` is set when its memory is back."""
        if runner.timer is not None:
            runner.timer.cancel()
        if self._loaded.get(runner.model.name) is runner:
            del self._loaded[runner.model.name]
        task = asyncio.get_running_loop().create_task(self._leave(runner))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _leave(self, runner: Runner) -> None:
        if runner.dead:
            runner.gone.set()
            return
        self._lock(self._spec.kill_s)
        if self._spec.kill_s:
            await asyncio.sleep(self._spec.kill_s)
        killed_s = runner.killed_s = now_s()
        lag_s = self._gpu.spec.free_lag_s
        held = self._gpu.ledger.release(runner.pid, killed_s, lag_s)
        recovered = await self._recovered(held, killed_s)
        runner.gone.set()
        cause = runner.doomed or "control"
        self._log_unload(runner, cause, held, runner.doomed_s, killed_s, recovered=recovered)

    def _log_unload(
        self,
        runner: Runner,
        cause: UnloadCause,
        held: int,
        decided_s: float,
        killed_s: float,
        *,
        recovered: bool,
    ) -> None:
        freed_s = killed_s + self._gpu.spec.free_lag_s
        row = truth.Unload(
            model=runner.model.name,
            pid=runner.pid,
            cause=cause,
            load=runner.doomed_by,
            vram_bytes=held,
            decided_unix_ns=self._clock.unix(decided_s),
            killed_unix_ns=self._clock.unix(killed_s),
            freed_unix_ns=self._clock.unix(freed_s),
            recovered_unix_ns=self._clock.unix(now_s()) if recovered else None,
        )
        self._log.add(row)

    async def _recovered(self, held: int, killed_s: float) -> bool:
        """Poll until enough of `held` is back; False after the time-out."""
        lag_s, spec = self._gpu.spec.free_lag_s, self._spec
        ramp = Ramp(held, 0, killed_s, killed_s + lag_s)
        while ramp.at(now_s()) > (1 - spec.recovery_ratio) * held:
            if now_s() - killed_s > spec.recovery_timeout_s:
                return False
            await asyncio.sleep(spec.poll_s)
        return True

    def _lock(self, for_s: float) -> None:
        self._locked_until = max(self._locked_until, now_s() + for_s)


def _patience(runner: Runner) -> float:
    """keep_alive as the victims' order sees it: forever is longest."""
    return float("inf") if runner.keep_alive_s < 0 else runner.keep_alive_s
