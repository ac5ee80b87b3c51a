"""One HTTP/1.1 connection whose responses are read by a persistent libev watcher.

A blocking recv in a greenlet costs two recv calls, a watcher start and stop and two greenlet
switches a token. Here the watcher stays started while a response streams: its callback runs in
the hub, does one recv and one perf_counter, and the user's greenlet is switched to once, at the
end. Nothing in the callback may block or raise.
"""

import os
import socket
import ssl
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol
from urllib.parse import urlsplit

import gevent
import gevent.socket
from gevent.hub import Waiter, get_hub
from httptools import HttpParserError, HttpResponseParser

from tokenswarm.errors import UsageError

RECV_BYTES = 256 * 1024
MAX_HEADER_BYTES = 64 * 1024
READ = 1
WRITE = 2


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


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. The defaults outlast a cold load of a large model."""

    connect_s: float = 30.0
    idle_s: float = 600.0
    total_s: float = 1800.0


class Fault(Exception):
    """The exchange failed; `kind` is a key of wire.record.ERROR_KINDS."""

    def __init__(self, kind: str, text: str):
        self.kind, self.text = kind, text
        super().__init__(f"{kind}: {text}")


class Body(Protocol):
    """Takes a response as it arrives (wire.reader.Reader)."""

    done: bool
    fault: bool

    def headers(self, status: int, content_type: str) -> None: ...

    def feed(self, now: float, data: bytes) -> int: ...


class Meter(Protocol):
    """Counts token events as they arrive, for the second's tick."""

    token_events: int


class Exchange:
    """One request's passage over a connection: what httptools calls back and the stamps of it."""

    __slots__ = (
        "body",
        "bytes_received",
        "complete",
        "connection",
        "content_type",
        "ended",
        "fault",
        "framed",
        "header_bytes",
        "headers_at",
        "keep_alive",
        "last_activity",
        "meter",
        "now",
        "parser",
        "sent_at",
        "started_at",
        "status",
        "timeouts",
        "waiter",
    )

    def __init__(self, connection: "Connection", body: Body, meter: Meter, timeouts: Timeouts):
        self.connection = connection
        self.body = body
        self.meter = meter
        self.timeouts = timeouts
        self.parser: Any = HttpResponseParser(self)
        self.waiter = Waiter()
        self.started_at = self.last_activity = self.now = perf_counter()
        self.sent_at: float | None = None
        self.headers_at: float | None = None
        self.status: int | None = None
        self.content_type = ""
        self.framed = False
        self.complete = False
        self.keep_alive = False
        self.ended = False
        self.fault: Fault | None = None
        self.bytes_received = 0
        self.header_bytes = 0

    # -- httptools' callbacks, all inside `received`
    def on_header(self, name: bytes, value: bytes) -> None:
        self.header_bytes += len(name) + len(value)
        if self.header_bytes > MAX_HEADER_BYTES:
            raise Fault("too_large", f"more than {MAX_HEADER_BYTES} bytes of response headers")
        lowered = name.lower()
        if lowered == b"content-type":
            self.content_type = value.decode("latin-1")
        elif lowered in (b"content-length", b"transfer-encoding"):
            self.framed = True

    def on_headers_complete(self) -> None:
        status: int = self.parser.get_status_code()
        self.header_bytes = 0
        if 100 <= status < 200:
            return
        self.status = status
        self.headers_at = self.now
        self.body.headers(status, self.content_type)

    def on_body(self, data: bytes) -> None:
        self.bytes_received += len(data)
        self.meter.token_events += self.body.feed(self.now, data)

    def on_message_complete(self) -> None:
        self.complete = self.status is not None
        # the parser knows this only here: it forgets the message with the end of it
        self.keep_alive = self.framed and self.parser.should_keep_alive()

    # -- called by the connection
    def received(self, now: float, data: bytes) -> None:
        """Take bytes that arrived at `now`; ends the exchange when they complete or break it."""
        self.now = self.last_activity = now
        try:
            self.parser.feed_data(data)
        except HttpParserError as e:
            self.end(_parser_fault(e))
            return
        except Exception as e:  # a hub callback that raises would leave the user waiting for good
            self.end(Fault("protocol", f"{type(e).__name__}: {e}"))
            return
        if self.complete:
            self.end(None)
        elif self.body.fault:
            self.end(Fault("too_large", "the response cannot be read on"))
        elif self.headers_at is None and self.header_bytes + len(data) > 4 * MAX_HEADER_BYTES:
            self.end(Fault("too_large", "response headers without an end"))

    def closed(self) -> None:
        """The peer closed: the end of an unframed body, else a cut."""
        if self.status is not None and not self.framed:
            self.complete = True
            self.end(None)
        else:
            self.end(Fault("reset", "connection closed before the response was complete"))

    def end(self, fault: Fault | None) -> None:
        """Stop listening and hand the exchange back to its greenlet, once. Only from the hub."""
        if self.ended:
            return
        self.ended = True
        self.fault = fault
        self.connection.unlisten()
        self.waiter.switch(None)

    def end_soon(self, fault: Fault) -> None:
        """`end` from any greenlet."""
        get_hub().loop.run_callback(self.end, fault)

    def keeps_alive(self) -> bool:
        """The connection may serve another request. Lets go of the parser (a reference cycle)."""
        self.parser = None
        return self.fault is None and self.complete and self.keep_alive


def _parser_fault(error: HttpParserError) -> Fault:
    cause = error.__context__
    if isinstance(cause, Fault):
        return cause
    return Fault("protocol", f"not an HTTP response: {error}")


class Connection:
    """A socket to an origin, kept between exchanges. Not shared by greenlets at the same time."""

    def __init__(self, origin: Origin, timeouts: Timeouts, tls: ssl.SSLContext | None):
        """Connect, with TLS where the origin says https; raises Fault."""
        self.origin = origin
        started = perf_counter()
        self._sock = _connect(origin, timeouts.connect_s)
        self._raw = self._sock._sock  # the plain socket: its recv does not go through gevent
        self._recv = self._raw.recv
        self._tls = None
        if tls is not None:
            try:
                self._tls = _Tls(self._sock, tls, origin.host, timeouts.connect_s)
            except BaseException:
                self._sock.close()
                raise
        self.connect_s = perf_counter() - started
        self._watcher = get_hub().loop.io(self._sock.fileno(), READ)
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
        self._watcher.start(self._readable)
        try:
            exchange.waiter.get()
        finally:
            self.unlisten()

    def unlisten(self) -> None:
        """Stop the watcher; the connection is idle, or about to be closed."""
        self._watcher.stop()
        self._exchange = None

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._watcher.stop()
        self._watcher.close()
        self._sock.close()

    def _send(self, request: bytes) -> None:
        data = self._tls.wrap(request) if self._tls else request
        try:
            sent = self._raw.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._sock.sendall(memoryview(data)[sent:])

    def _readable(self) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        try:
            data = self._recv(RECV_BYTES)
        except BlockingIOError:
            return
        except OSError as e:
            exchange.end(Fault("reset", os.strerror(e.errno or 0)))
            return
        now = perf_counter()
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


class _Tls:
    """TLS over memory buffers, so that the watcher's callback never blocks."""

    def __init__(self, sock: Any, context: ssl.SSLContext, host: str, timeout_s: float):
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self.ended = False
        try:
            with gevent.Timeout(timeout_s, Fault("connect_timeout", "TLS handshake timed out")):
                self._handshake(sock)
        except (ssl.SSLError, OSError) as e:
            raise Fault("tls", f"TLS handshake failed: {e}") from e

    def _handshake(self, sock: Any) -> None:
        while True:
            try:
                self._object.do_handshake()
            except ssl.SSLWantReadError:
                sock.sendall(self._outgoing.read())
                data = sock.recv(RECV_BYTES)
                if not data:
                    raise Fault("tls", "connection closed during the TLS handshake") from None
                self._incoming.write(data)
            else:
                sock.sendall(self._outgoing.read())
                return

    def wrap(self, data: bytes) -> bytes:
        self._object.write(data)
        return self._outgoing.read()

    def unwrap(self, data: bytes) -> bytes:
        """Plain bytes in `data`; sets `ended` on close_notify."""
        self._incoming.write(data)
        parts = []
        while True:
            try:
                part = self._object.read(RECV_BYTES)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                self.ended = True
                break
            if not part:
                self.ended = True
                break
            parts.append(part)
        return b"".join(parts)


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
    sock.settimeout(None)
    return sock
