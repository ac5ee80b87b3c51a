"""Owners of processes as they were just now: looking one up reads files, too much for each look."""

import time
from collections.abc import Callable, Collection

from tokenswarm.telemetry.owners.owner import Owner, Owners

FRESH_S = 0.5


class Recent:
    """`owners`, asked again for a process after FRESH_S, or at once while its model is unknown.
    One thread uses it."""

    def __init__(self, owners: Owners, clock: Callable[[], float] = time.perf_counter):
        self._owners, self._clock = owners, clock
        self._known: dict[int, tuple[float, Owner]] = {}

    def resolve(self, pid: int) -> Owner:
        now, known = self._clock(), self._known.get(pid)
        if known is not None and now < known[0]:
            return known[1]
        owner = self._owners.resolve(pid)
        if owner.model is not None:
            self._known[pid] = now + FRESH_S, owner
        return owner

    def forget_all_but(self, pids: Collection[int]) -> None:
        """Drop those that are no longer asked for."""
        for pid in self._known.keys() - pids:
            del self._known[pid]
        self._owners.forget_all_but(pids)
