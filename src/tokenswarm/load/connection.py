"""One HTTP/1.1 connection, read by the process's poller while a response is awaited.

A blocking recv in a greenlet costs two recv calls, a watcher start and stop and two greenlet
switches a token. Here the socket is left with the poller for the whole response: its callback runs
in the hub, does one recv with the kernel's time stamp, and the user's greenlet is switched to once,
at the end. Nothing in the callback may block or raise.
"""

import contextlib
import os
import socket
import ssl
import struct
from dataclasses import dataclass
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import gevent.socket

from tokenswarm import native
from tokenswarm.clock import NS
from tokenswarm.errors import UsageError
from tokenswarm.load.exchange import Exchange, Fault, Timeouts
from tokenswarm.load.poller import POLLER
from tokenswarm.load.tls import RECV_BYTES, Tls

SO_TIMESTAMPNS = 35  # asm-generic/socket.h; the socket module has no name for it
STAMP = struct.Struct("@qq")  # struct timespec
STAMP_BYTES = socket.CMSG_SPACE(STAMP.size)
EARLIEST_S = -0.1  # bytes may come between the look's moment and the recv; a clock may step
LATEST_S = 600.0


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a target listens. `base_path` goes before every path; `host_header` names the host."""

    scheme: str
    host: str
    port: int
    base_path: str
    host_header: str

    @classmethod
    def parse(cls, url: str) -> "Origin":
        """Split `http[s]://host[:port][/base]`; UsageError for anything else."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url!r} is not a server's address; write http://host:port")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return cls(parts.scheme, parts.hostname, port, parts.path.rstrip("/"), parts.netloc)


class Connection:
    """A socket to an origin, kept between exchanges. Not shared by greenlets at the same time."""

    def __init__(self, origin: Origin, timeouts: Timeouts, tls: ssl.SSLContext | None):
        """Connect, with TLS where the origin says https; raises Fault."""
        self.origin = origin
        started = perf_counter()
        self._sock = _connect(origin, timeouts.connect_s)
        self._raw = self._sock._sock  # the plain socket: its recv does not go through gevent
        self._recvmsg = self._raw.recvmsg
        self._tls = None
        if tls is not None:
            try:
                self._tls = Tls(self._sock, tls, origin.host, timeouts.connect_s)
            except BaseException:
                self._sock.close()
                raise
        self.connect_s = perf_counter() - started
        self._fd: int = self._sock.fileno()
        self._exchange: Exchange | None = None

    def usable(self) -> bool:
        """No byte and no end waits on the idle connection."""
        try:
            self._raw.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def exchange(self, exchange: Exchange, request: bytes) -> None:
        """Send `request` and wait until the exchange has ended. Raises what kills the greenlet."""
        self._exchange = exchange
        exchange.sent_at = exchange.last_activity = perf_counter()
        try:
            self._send(request)
        except OSError as e:
            exchange.ended = True
            exchange.fault = Fault("reset", f"sending failed: {os.strerror(e.errno or 0)}")
            self._exchange = None
            return
        if native.NATIVE and self._tls is None:
            POLLER.add(self._fd, exchange.tap(self._fd, self._failed))
        else:
            POLLER.add(self._fd, self._readable)
        try:
            exchange.waiter.get()
        finally:
            self.unlisten()

    def unlisten(self) -> None:
        """Take the socket from the poller; the connection is idle, or about to be closed."""
        POLLER.remove(self._fd)
        if self._exchange is not None:
            self._exchange.untap()
            self._exchange = None

    def close(self) -> None:
        """Close the socket. Idempotent."""
        POLLER.remove(self._fd)
        self._sock.close()

    def _send(self, request: bytes) -> None:
        data = self._tls.wrap(request) if self._tls else request
        try:
            sent = self._raw.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._sock.sendall(memoryview(data)[sent:])

    def _failed(self, error: int) -> None:
        if self._exchange is not None:
            self._exchange.end(Fault("reset", os.strerror(error)))

    def _readable(self, now: float, unix_ns: int) -> None:
        """Read once. `now` and `unix_ns` are one moment on both clocks, shortly before."""
        exchange = self._exchange
        if exchange is None:
            return
        try:
            data, ancillary, _, _ = self._recvmsg(RECV_BYTES, STAMP_BYTES)
        except BlockingIOError:
            return
        except OSError as e:
            self._failed(e.errno or 0)
            return
        if ancillary:
            seconds, ns = STAMP.unpack(ancillary[0][2])
            age_s = (unix_ns - seconds * NS - ns) / NS
            if EARLIEST_S < age_s < LATEST_S:
                now -= age_s
        if self._tls is None:
            if data:
                exchange.received(now, data)
            else:
                exchange.closed()
            return
        self._tls_readable(exchange, now, data)

    def _tls_readable(self, exchange: Exchange, now: float, data: bytes) -> None:
        assert self._tls is not None
        try:
            plain = self._tls.unwrap(data)
        except ssl.SSLError as e:
            exchange.end(Fault("tls", str(e.reason or e)))
            return
        if plain:
            exchange.received(now, plain)
        if self._exchange is exchange and (not data or self._tls.ended):
            exchange.closed()


def _connect(origin: Origin, timeout_s: float) -> Any:
    address = f"{origin.host}:{origin.port}"
    try:
        sock = gevent.socket.create_connection((origin.host, origin.port), timeout=timeout_s)
    except socket.gaierror as e:
        raise Fault("dns", f"{origin.host}: {e.strerror}") from e
    except ConnectionRefusedError as e:
        raise Fault("connect_refused", f"{address} refused the connection") from e
    except TimeoutError as e:
        raise Fault("connect_timeout", f"no connection to {address} in {timeout_s:g} s") from e
    except OSError as e:
        raise Fault("unreachable", f"{address}: {e.strerror}") from e
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError):  # without it the stamps are those of the look
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    sock.settimeout(None)
    return sock
