"""A worker's clock beside the master's: measured over Locust's link, before a run and after."""

import time
from dataclasses import replace
from typing import Any

import gevent
from gevent.event import Event

from tokenswarm.clock import SAME_CLOCK, Exchange, Offset, machine, offset_of

TIME = "tokenswarm-time"
PINGS = 8
PING_GAP_S = 0.02
ANSWER_S = 1.0
AGAIN_S = 20.0


def answer(runner: Any, client_id: str, data: dict[str, Any]) -> None:
    """The master's side: what time it is here."""
    now = {"received_ns": time.time_ns(), "asked_ns": data["asked_ns"]}
    runner.send_message(TIME, {**now, "answered_ns": time.time_ns()}, client_id)


class MasterClock:
    """`offset` moves this process's wall clock onto the master's. On the master's own host it is
    0 and nothing is measured; else it is measured anew every AGAIN_S. None: not known yet.

    `here` is the name of this system's clock.
    """

    def __init__(self, runner: Any, here: str | None = None) -> None:
        self._runner, self._here = runner, here or machine()
        self._exchanges: list[Exchange] = []
        self._answered = Event()
        self.offset: Offset | None = None
        runner.register_message(TIME, self._on_answer)

    def follow(self, master: str | None) -> None:
        """Measure now, and from then on in the background. `master` names its system's clock."""
        if master is not None and master == self._here:
            self.offset = SAME_CLOCK
            return
        self._measure()
        gevent.spawn(self._again)

    def _again(self) -> None:
        while True:
            gevent.sleep(AGAIN_S)
            self._measure()

    def _measure(self) -> None:
        """Some pings; those that are not answered in time count for nothing."""
        self._exchanges = []
        for _ in range(PINGS):
            self._answered.clear()
            self._runner.send_message(TIME, {"asked_ns": time.time_ns()})
            self._answered.wait(ANSWER_S)
            gevent.sleep(PING_GAP_S)
        if self._exchanges:
            found = offset_of(self._exchanges)
            # asked by us: what moves the master's clock onto ours, so turned round
            self.offset = replace(found, offset_ns=-found.offset_ns)

    def _on_answer(self, environment: Any, msg: Any, **_: Any) -> None:
        said, now = msg.data, time.time_ns()
        self._exchanges.append(
            Exchange(said["asked_ns"], said["received_ns"], said["answered_ns"], now)
        )
        self._answered.set()
