"""A simulation in one process: GPU, scheduler, server and control port on one event loop."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from tokenswarm.sim import truth as truth_file
from tokenswarm.sim.clock import WallClock, now_s
from tokenswarm.sim.control import Control, follow_refuse
from tokenswarm.sim.gpu import Gpu
from tokenswarm.sim.host import PageCache
from tokenswarm.sim.http import Listener
from tokenswarm.sim.inference import Inference
from tokenswarm.sim.ollama import OllamaServer
from tokenswarm.sim.profile import Profile
from tokenswarm.sim.scheduler import Scheduler
from tokenswarm.sim.settings import KnobBoard

FLUSH_S = 0.1
PARENT_POLL_S = 0.5


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Where a running simulation is reached. `truth`: path of the ground truth file."""

    ollama_url: str
    control_url: str
    truth: str | None
    profile: str
    speed: float
    seed: int
    pid: int
    simulation: bool = True


def serve(
    profile: Profile,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    control_port: int = 0,
    truth: Path | None = None,
    speed: float = 1.0,
    seed: int = 1,
    ready: Callable[[Endpoints], None],
    watch_parent: bool = False,
) -> None:
    """Run until SIGTERM, SIGINT or POST /shutdown; blocks. Port 0: a free one.

    `ready` is called once, when both ports answer. `watch_parent`: end also when standard input
    ends or the parent process dies. OSError when a port is taken or `truth` cannot be written.
    """
    if speed <= 0:
        raise ValueError(f"speed is {speed}: give a number above 0")
    simulation = _Simulation(profile, truth, speed, seed)
    asyncio.run(simulation.run(host, port, control_port, ready, watch_parent))


class _Simulation:
    def __init__(self, profile: Profile, truth: Path | None, speed: float, seed: int):
        self._profile, self._truth, self._speed, self._seed = profile, truth, speed, seed
        self._clock = WallClock.anchored()
        self._log = truth_file.Writer(truth)
        self._log.add(
            truth_file.Start(
                profile=profile.name, seed=seed, speed=speed, unix_ns=self._clock.unix_ns
            )
        )
        self._log.flush()

    async def run(
        self,
        host: str,
        port: int,
        control_port: int,
        ready: Callable[[Endpoints], None],
        watch_parent: bool,
    ) -> None:
        stop = asyncio.Event()
        _stop_on_signals(stop)
        background = [asyncio.create_task(self._flush_often())]
        if watch_parent:
            background.append(asyncio.create_task(_watch_parent(stop)))
        server, scheduler, control, board = self._build(stop)
        background.append(asyncio.create_task(scheduler.run()))
        front = Listener(server.handle, host, port)
        back = Listener(control.handle, host, control_port)
        try:
            await front.open()
            await back.open()
            front.extra_headers = f"x-tokenswarm-sim: {back.url}\r\n"
            back.extra_headers = front.extra_headers
            control.served = front
            await follow_refuse(front, board)
            _quiet_gc()
            ready(self._endpoints(front, back))
            await _first_of(stop, background)
        finally:
            server.stopping = True
            await front.close()
            await back.close()
            await _cancel(background)
            self._log.close()

    def _build(self, stop: asyncio.Event) -> tuple[OllamaServer, Scheduler, Control, KnobBoard]:
        profile, clock = self._profile.sped_up(self._speed), self._clock
        gpu = Gpu(profile.gpu, profile.co_tenants, now_s())
        cache = PageCache(profile.host, profile.models)
        scheduler = Scheduler(profile.ollama, gpu, cache, self._log, clock)
        scheduler.preload([m for m in profile.models if m.name in profile.ollama.resident])
        board = KnobBoard(profile, self._speed)
        inference = Inference(profile, gpu, scheduler, clock, self._speed)
        server = OllamaServer(profile, scheduler, inference, board, self._log, clock, self._seed)
        about = {"profile": profile.name, "doc": profile.doc, "speed": self._speed}
        about |= {"seed": self._seed, "pid": os.getpid()}
        control = Control(about, lambda: server.arrivals, gpu, board, clock, self._truth, stop)
        return server, scheduler, control, board

    def _endpoints(self, front: Listener, back: Listener) -> Endpoints:
        return Endpoints(
            ollama_url=front.url,
            control_url=back.url,
            truth=str(self._truth) if self._truth else None,
            profile=self._profile.name,
            speed=self._speed,
            seed=self._seed,
            pid=os.getpid(),
        )

    async def _flush_often(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            self._log.flush()


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop.set)
        except (RuntimeError, ValueError):  # not the main thread: POST /shutdown ends it
            return


def _quiet_gc() -> None:
    """Set-up is not garbage, and a full collection would delay tokens."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)


async def _watch_parent(stop: asyncio.Event) -> None:
    """Set `stop` when standard input ends or the parent has changed."""
    loop, parent = asyncio.get_running_loop(), os.getppid()
    descriptor = sys.stdin.fileno()

    def read() -> None:
        if not os.read(descriptor, 4096):
            loop.remove_reader(descriptor)
            stop.set()

    loop.add_reader(descriptor, read)
    while os.getppid() == parent:
        await asyncio.sleep(PARENT_POLL_S)
    stop.set()


async def _first_of(stop: asyncio.Event, background: list[asyncio.Task[None]]) -> None:
    """Until `stop` is set; a background task that fails ends the simulation with its error."""
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({stopped, *background}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    for task in background:
        if task.done() and not task.cancelled():
            task.result()


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
