"""A simulation in one process: GPU, servers and control port on one event loop."""

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
from tokenswarm.sim.control import Control
from tokenswarm.sim.fleet import OLLAMA, Box, Fleet
from tokenswarm.sim.http import Listener
from tokenswarm.sim.profile import Profile

FLUSH_S = 0.1
LAG_TICK_S = 0.005
LAG_S = 0.004  # a tick that is so much late is told
PARENT_POLL_S = 0.5


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Where a running simulation is reached. `ollama_url` is empty when the profile has no such
    server, `urls` has every server by name; `truth`: path of the ground truth file."""

    ollama_url: str
    urls: dict[str, str]
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

    `port` is the Ollama-like server's; the others have theirs in the profile. `ready` is called
    once, when all ports answer. `watch_parent`: end also when standard input
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
        box = Box(self._profile, self._speed, self._log, self._clock, self._seed)
        fleet = Fleet(box, host, port)
        tasks = [self._flush_often(), self._tell_lags(), *fleet.background()]
        background = [asyncio.create_task(t) for t in tasks]
        if watch_parent:
            background.append(asyncio.create_task(_watch_parent(stop)))
        about = {"profile": self._profile.name, "doc": self._profile.doc, "speed": self._speed}
        about |= {"seed": self._seed, "pid": os.getpid()}
        control = Control(about, box, fleet, self._truth, stop)
        back = Listener(control.handle, host, control_port)
        try:
            await back.open()
            back.extra_headers = f"x-tokenswarm-sim: {back.url}\r\n"
            await fleet.open(back.extra_headers)
            _quiet_gc()
            ready(self._endpoints(fleet.urls(), back))
            await _first_of(stop, background)
        finally:
            await fleet.close()
            await back.close()
            await _cancel(background)
            self._log.close()

    def _endpoints(self, urls: dict[str, str], back: Listener) -> Endpoints:
        return Endpoints(
            ollama_url=urls.get(OLLAMA, ""),
            urls=urls,
            control_url=back.url,
            truth=str(self._truth) if self._truth else None,
            profile=self._profile.name,
            speed=self._speed,
            seed=self._seed,
            pid=os.getpid(),
        )

    async def _tell_lags(self) -> None:
        while True:
            due_s = now_s() + LAG_TICK_S
            await asyncio.sleep(LAG_TICK_S)
            now = now_s()
            if now - due_s > LAG_S:
                unix = self._clock.unix
                self._log.add(truth_file.Lag(due_unix_ns=unix(due_s), unix_ns=unix(now)))

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
