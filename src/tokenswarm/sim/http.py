"""HTTP/1.1 on an asyncio protocol: requests in, replies out, one at a time a connection."""

import asyncio
import logging
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from urllib.parse import unquote

import httptools

from tokenswarm.sim.clock import now_s

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 16 * 1024**2
JSON = "application/json; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"
SSE = "text/event-stream"
NDJSON = "application/x-ndjson"
_REASONS = {s.value: s.phrase for s in HTTPStatus}
_RST_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 s


class Request:
    """A whole request. `arrived_s`: perf_counter when its last byte was read."""

    __slots__ = ("arrived_s", "body", "headers", "method", "path", "query")

    def __init__(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, query: str = ""
    ):
        self.method, self.path, self.query = method, path, query
        self.headers, self.body = headers, body
        self.arrived_s = now_s()


class Reply:
    """The answer to one request. `headers_s`, `status`: None until the headers were written."""

    def __init__(self, connection: "Connection", head_only: bool, keep_alive: bool, chunked: bool):
        self._connection = connection
        self._transport = connection.transport
        self._head_only, self._keep_alive, self._chunked = head_only, keep_alive, chunked
        self._head = b""
        self.status: int | None = None
        self.headers_s: float | None = None
        self.ended = False

    @property
    def closing(self) -> bool:
        """Whether nothing can be written any more."""
        return self.ended or self._transport.is_closing()

    def whole(self, status: int, body: bytes, content_type: str = JSON) -> None:
        """Write headers and body in one write; the reply has ended."""
        self.status, self.headers_s = status, now_s()
        head = self._headers(status, content_type) + b"Content-Length: %d\r\n\r\n" % len(body)
        self._transport.write(head if self._head_only else head + body)
        self._end()

    def begin(self, status: int, content_type: str) -> None:
        """Open a stream. Its headers travel with the first bytes, as Go's do."""
        self.status = status
        framing = b"Transfer-Encoding: chunked\r\n\r\n" if self._chunked else b"\r\n"
        self._head = self._headers(status, content_type) + framing

    def flush_headers(self) -> None:
        """Write the headers now."""
        if self._head:
            self.headers_s = now_s()
            self._transport.write(self._head)
            self._head = b""

    def send(self, data: bytes) -> None:
        """One write: `data` as one chunk."""
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._head:
            self.headers_s = now_s()
            data = self._head + data
            self._head = b""
        self._transport.write(data)

    def finish(self) -> None:
        """The stream is complete."""
        self.flush_headers()
        if self._chunked:
            self._transport.write(b"0\r\n\r\n")
        else:
            self._keep_alive = False
        self._end()

    def cut(self) -> None:
        """Close the connection in the midst of the reply."""
        self.flush_headers()
        self._keep_alive = False
        self._end()

    def reset(self) -> None:
        """Close the connection with RST."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        self.ended = True
        self._transport.abort()

    def _headers(self, status: int, content_type: str) -> bytes:
        reason = _REASONS.get(status, "Status")
        close = "" if self._keep_alive and self._chunked else "Connection: close\r\n"
        return (
            f"HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\n"
            f"{self._connection.extra_headers}{close}"
        ).encode("latin-1")

    def _end(self) -> None:
        self.ended = True
        if not self._keep_alive:
            self._transport.close()


App = Callable[[Request, Reply], Awaitable[None]]


class Connection(asyncio.Protocol):
    """Parses requests and runs `app` for each; a lost connection cancels the one that runs."""

    transport: asyncio.Transport

    def __init__(self, app: App, extra_headers: str, open_ones: set["Connection"]):
        self._app, self.extra_headers, self._open = app, extra_headers, open_ones
        self._task: asyncio.Task[None] | None = None
        self._reply: Reply | None = None
        self._waiting: deque[tuple[Request, Reply]] = deque()  # pipelined
        self._parser = httptools.HttpRequestParser(self)
        self.on_message_begin()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)
        if self._task is not None and self._reply is not None and not self._reply.ended:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self.transport.is_closing():
                reply = Reply(self, head_only=False, keep_alive=False, chunked=True)
                reply.whole(400, b"400 Bad Request", TEXT)
            return
        self._next()

    def close_if_idle(self) -> None:
        if self._task is None:
            self.transport.abort()

    # httptools' side

    def on_message_begin(self) -> None:
        self._url, self._size = b"", 0
        self._body: list[bytes] = []
        self._headers: dict[str, str] = {}

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._headers.get("expect", "").lower() == "100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > MAX_BODY_BYTES:
            raise httptools.HttpParserError("body too large")
        self._body.append(body)

    def on_message_complete(self) -> None:
        parser = self._parser
        method = parser.get_method().decode("latin-1")
        path, _, query = self._url.decode("latin-1").partition("?")
        request = Request(method, unquote(path), self._headers, b"".join(self._body), query)
        reply = Reply(
            self,
            head_only=method == "HEAD",
            keep_alive=parser.should_keep_alive(),
            chunked=parser.get_http_version() == "1.1",
        )
        self._waiting.append((request, reply))

    # one request at a time

    def _next(self) -> None:
        if self._task is None and self._waiting and not self.transport.is_closing():
            request, reply = self._waiting.popleft()
            self._reply = reply
            self._task = asyncio.get_running_loop().create_task(self._run(request, reply))

    async def _run(self, request: Request, reply: Reply) -> None:
        try:
            await self._app(request, reply)
        except asyncio.CancelledError:
            self.transport.abort()
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            if reply.status is None:
                reply.whole(500, b'{"error":"the simulation failed"}')
            else:
                self.transport.abort()
        self._task = None
        self._next()


class Listener:
    """A listening address that can stop and start to listen while the program runs."""

    def __init__(self, app: App, host: str, port: int):
        self._app, self._host, self.port = app, host, port
        self.extra_headers = ""
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}"

    async def open(self) -> None:
        """Listen; port 0 becomes a free one and stays it."""
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(
                lambda: Connection(self._app, self.extra_headers, self._connections),
                self._host,
                self.port,
                backlog=4096,
            )
            self.port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Stop to listen and drop idle connections; running requests go on."""
        if self._server is not None:
            self._server.close()
            self._server = None
            for connection in list(self._connections):
                connection.close_if_idle()

    def drop(self) -> None:
        """Stop to listen and cut every connection, as when the process dies."""
        self.refuse()
        for connection in list(self._connections):
            connection.transport.abort()

    async def close(self) -> None:
        """Stop to listen and end every connection."""
        self.drop()
        while self._connections:
            await asyncio.sleep(0)
