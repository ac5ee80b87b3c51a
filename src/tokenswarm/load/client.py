"""The HTTP client of one user: kept connections, one exchange at a time, faults as data."""

import ssl
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import gevent

from tokenswarm.load.connection import Connection, Origin
from tokenswarm.load.exchange import Body, Exchange, Fault, Meter, Timeouts

REAP_S = 0.1
DONE_GRACE_S = 2.0


@dataclass(slots=True)
class Attempt:
    """What became of one request; filled as it goes, so that a killed greenlet leaves a trace.

    `exchange` is None while there is no connection, `fault` None unless the transport failed,
    `connect_s` None on a kept connection.
    """

    exchange: Exchange | None = None
    fault: Fault | None = None
    connect_s: float | None = None


class Reaper:
    """Ends exchanges that are past their time-outs; one greenlet a process looks every 100 ms.

    A timer a recv would cost as much as the recv; a look ten times a second costs nothing.
    """

    def __init__(self) -> None:
        self.active: set[Exchange] = set()
        self._greenlet: Any = None

    def watch(self, exchange: Exchange) -> None:
        self.active.add(exchange)
        if self._greenlet is None or self._greenlet.dead:
            self._greenlet = gevent.spawn(self._loop)

    def unwatch(self, exchange: Exchange) -> None:
        self.active.discard(exchange)

    def cut(self) -> int:
        """End every active exchange as `cut`; how many there were."""
        exchanges = list(self.active)
        for exchange in exchanges:
            exchange.end(Fault("cut", "unfinished when the drain time was over"))
        return len(exchanges)

    def _loop(self) -> None:
        while self.active:
            gevent.sleep(REAP_S)
            now = perf_counter()
            for exchange in list(self.active):
                fault = _overdue(exchange, now)
                if fault is not None:
                    exchange.end(fault)


def _overdue(exchange: Exchange, now: float) -> Fault | None:
    idle_s = now - exchange.last_byte_at()
    limits = exchange.timeouts
    if exchange.body.done and idle_s > DONE_GRACE_S:
        # the stream has said its end but the HTTP message never ends: the answer is whole
        return Fault("unended", "message not ended after the stream's own end")
    if idle_s > limits.idle_s:
        return Fault("idle_timeout", f"no byte for {limits.idle_s:g} s")
    if now - exchange.started_at > limits.total_s:
        return Fault("total_timeout", f"not finished after {limits.total_s:g} s")
    return None


REAPER = Reaper()


class Client:
    """Connections of one user to the origins it talks to. Never raises for a failed request."""

    def __init__(self) -> None:
        self._idle: dict[Origin, Connection] = {}

    def send(
        self,
        attempt: Attempt,
        origin: Origin,
        request: bytes,
        body: Body,
        meter: Meter,
        timeouts: Timeouts,
        tls: ssl.SSLContext | None,
    ) -> None:
        """Send `request` and read the response into `body`; what happened goes to `attempt`."""
        connection = self._take(origin)
        if connection is None:
            try:
                connection = Connection(origin, timeouts, tls)
            except Fault as fault:
                attempt.fault = fault
                return
            attempt.connect_s = connection.connect_s
        attempt.exchange = Exchange(connection.unlisten, body, meter, timeouts)
        self._run(connection, attempt.exchange, request, origin)
        ended_by = attempt.exchange.fault
        attempt.fault = None if ended_by is not None and ended_by.kind == "unended" else ended_by

    def close(self) -> None:
        """Close every kept connection."""
        for connection in self._idle.values():
            connection.close()
        self._idle.clear()

    def _take(self, origin: Origin) -> Connection | None:
        connection = self._idle.pop(origin, None)
        if connection is not None and not connection.usable():
            connection.close()
            return None
        return connection

    def _run(
        self, connection: Connection, exchange: Exchange, request: bytes, origin: Origin
    ) -> None:
        REAPER.watch(exchange)
        try:
            connection.exchange(exchange, request)
        finally:
            REAPER.unwatch(exchange)
            if exchange.ended and exchange.keeps_alive():
                self._idle[origin] = connection
            else:
                connection.close()
