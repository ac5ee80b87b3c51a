"""All servers of a simulation, the GPU they share, and who listens where."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from tokenswarm.sim import truth
from tokenswarm.sim.clock import WallClock, now_s
from tokenswarm.sim.gpu import Gpu
from tokenswarm.sim.host import PageCache
from tokenswarm.sim.http import Listener
from tokenswarm.sim.inference import Inference
from tokenswarm.sim.instance import Instance, StartFailed
from tokenswarm.sim.ollama import OllamaServer
from tokenswarm.sim.profile import Profile, ServerSpec
from tokenswarm.sim.scheduler import Scheduler
from tokenswarm.sim.settings import KnobBoard
from tokenswarm.sim.sglang import SglangServer
from tokenswarm.sim.single import SingleServer
from tokenswarm.sim.switcher import Switcher
from tokenswarm.sim.vllm import VllmServer

OLLAMA = "ollama"
SERVERS: dict[str, type[SingleServer]] = {"vllm": VllmServer, "sglang": SglangServer}


class Box:
    """What the servers share: the sped-up profile, GPU, page cache, knobs, truth and clock."""

    def __init__(
        self, profile: Profile, speed: float, log: truth.Writer, clock: WallClock, seed: int
    ):
        self.profile, self.speed, self.seed = profile.sped_up(speed), speed, seed
        self.log, self.clock = log, clock
        self.gpu = Gpu(self.profile.gpu, profile.co_tenants, now_s())
        self.cache = PageCache(self.profile.host, profile.models)
        self.board = KnobBoard(profile, speed)


class Fleet:
    """Every server with its listener. `port` is the Ollama-like server's."""

    def __init__(self, box: Box, host: str, port: int):
        self._box, self._host = box, host
        self.listeners: dict[str, Listener] = {}
        self.singles: dict[str, SingleServer] = {}
        self._starts: set[asyncio.Task[None]] = set()
        self._scheduler: Scheduler | None = None
        self._ollama: OllamaServer | None = None
        self._switcher: Switcher | None = None
        if box.profile.ollama is not None:
            self._add_ollama(port)
        instances = [self._instance(spec) for spec in box.profile.servers]
        if box.profile.switcher is not None:
            self._switcher = Switcher(box.profile.switcher, instances)
        for instance in instances:
            self._add_single(instance)

    def background(self) -> list[Coroutine[Any, Any, None]]:
        """What has to run beside the servers."""
        return [part.run() for part in (self._scheduler, self._switcher) if part is not None]

    async def open(self, extra_headers: str) -> None:
        """Listen; servers that are down, or that found no room on the GPU, do not."""
        for listener in self.listeners.values():
            listener.extra_headers = extra_headers
            await listener.open()  # a port to name, whether the server is up or not
        for name, single in self.singles.items():
            if not (single.instance.spec.started and single.instance.start_at_once()):
                self.listeners[name].refuse()
        await self.follow_knobs()

    async def follow_knobs(self) -> None:
        """Listen or not, as the knob `refuse` says."""
        for name, listener in self.listeners.items():
            if name in self.singles and self.singles[name].instance.state in ("down", "starting"):
                continue
            if self._box.board.refuse:
                listener.refuse()
            else:
                await listener.open()

    async def close(self) -> None:
        for server in (self._ollama, *self.singles.values()):
            if server is not None:
                server.stopping = True
        for listener in self.listeners.values():
            await listener.close()
        for task in self._starts:
            task.cancel()
        await asyncio.gather(*self._starts, return_exceptions=True)

    def urls(self) -> dict[str, str]:
        return {name: listener.url for name, listener in self.listeners.items()}

    def states(self) -> dict[str, dict[str, Any]]:
        """Of the servers of one model: state, pid and why the last start failed."""
        found = {}
        for name, single in self.singles.items():
            i = single.instance
            about: dict[str, Any] = {"url": self.listeners[name].url, "state": i.state}
            about |= {"model": i.model.name, "engine": i.spec.engine, "pid": i.pid}
            about |= {"start_failure": i.start_failure}
            about |= {"weights_bytes": i.model.file_bytes, "kv_bytes": i.kv_bytes}
            found[name] = {**about, "weights_s": i.weights_s, "init_s": i.spec.init_s}
        return found

    def stop(self, name: str, cause: truth.UnloadCause) -> None:
        """The process of server `name` ends (`control`), or dies (`crash`)."""
        instance = self.singles[name].instance
        for task in list(self._starts):
            if task.get_name() == name:
                task.cancel()
        if instance.state not in ("down", "starting"):
            instance.stop(cause)

    def start(self, name: str, port: int | None = None) -> None:
        """Start server `name` if it is down, at `port` if given; returns before it is ready."""
        if port is not None and self.singles[name].instance.state == "down":
            self.listeners[name].port = port
        before = [t for t in self._starts if t.get_name() == name]
        start = self._start(self.singles[name].instance, before)
        task = asyncio.get_running_loop().create_task(start, name=name)
        self._starts.add(task)
        task.add_done_callback(self._starts.discard)

    async def _start(self, instance: Instance, before: list[asyncio.Task[None]]) -> None:
        await asyncio.gather(*before, return_exceptions=True)
        if instance.state != "down":
            return
        try:
            await instance.start()
        except StartFailed:
            return  # the instance keeps the reason
        try:
            await self.listeners[instance.spec.name].open()
        except OSError as e:
            instance.stop("crash")
            instance.start_failure = f"[Errno {e.errno}] {e.strerror}"

    def _add_ollama(self, port: int) -> None:
        box = self._box
        assert box.profile.ollama is not None
        scheduler = Scheduler(box.profile.ollama, box.gpu, box.cache, box.log, box.clock)
        resident = box.profile.ollama.resident
        scheduler.preload([m for m in box.profile.models if m.name in resident])
        inference = Inference(box.profile, box.gpu, scheduler, box.clock, box.speed)
        self._ollama = OllamaServer(
            box.profile, scheduler, inference, box.board, box.log, box.clock, box.seed
        )
        self._scheduler = scheduler
        self.listeners[OLLAMA] = Listener(self._ollama.handle, self._host, port)

    def _instance(self, spec: ServerSpec) -> Instance:
        box = self._box
        model = next(m for m in box.profile.models if m.name == spec.model)
        return Instance(spec, model, box.gpu, box.cache, box.log, box.clock)

    def _add_single(self, instance: Instance) -> None:
        box, spec = self._box, instance.spec
        single = SERVERS[spec.engine](
            instance, box.gpu, self._switcher, box.board, box.log, box.clock, box.seed
        )
        listener = Listener(single.handle, self._host, spec.port)
        instance.on_down = listener.drop
        self.singles[spec.name], self.listeners[spec.name] = single, listener
