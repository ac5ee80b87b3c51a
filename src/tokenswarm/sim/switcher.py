"""Wakes sleeping servers when they are asked, putting others to sleep: a proxy's part."""

import asyncio
from collections import deque

from tokenswarm.sim.clock import now_s
from tokenswarm.sim.gpu import OutOfVram
from tokenswarm.sim.instance import Coming, Instance
from tokenswarm.sim.profile import SwitcherSpec


class Switcher:
    """One wake-up at a time, in the order of demand. `run` must be running."""

    def __init__(self, spec: SwitcherSpec, instances: list[Instance]):
        self._spec, self._instances = spec, instances
        self._queue: deque[tuple[Instance, Coming]] = deque()
        self._some = asyncio.Event()

    def demand(self, instance: Instance, coming: Coming) -> None:
        """`instance` is wanted awake; asked once for each wake-up."""
        self._queue.append((instance, coming))
        self._some.set()

    async def run(self) -> None:
        while True:
            await self._some.wait()
            self._some.clear()
            while self._queue:
                await self._wake(*self._queue.popleft())

    async def _wake(self, instance: Instance, coming: Coming) -> None:
        while len(self._awake()) >= self._spec.awake:
            await self._put_to_sleep(min(self._awake(), key=_used_last), coming)
        try:
            await instance.wake(coming)
        except OutOfVram:
            instance.stop("crash")

    async def _put_to_sleep(self, victim: Instance, coming: Coming) -> None:
        """When it is idle: what it is saying is said first, what comes meanwhile waits."""
        began_s, done_s = await victim.sleep(self._spec.level, "pressure", coming.load)
        coming.displaced.append(victim.model.name)
        coming.evict_s = coming.evict_s or began_s
        coming.freed_s = done_s

    def _awake(self) -> list[Instance]:
        return [i for i in self._instances if i.awake]


def _used_last(instance: Instance) -> float:
    return now_s() if instance.running else instance.used_s
