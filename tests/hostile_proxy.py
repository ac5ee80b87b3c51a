"""An HTTP proxy that does to write requests what networks and busy servers do, by a script.

    with hostile_proxy(server.url) as proxy:
        proxy.script += [Answer(500), Answer(429, retry_after_s=1), Cut(), Half(), Lost(), Late(1)]
        ...                               # proxy.url takes the place of server.url
        assert proxy.done == [...]        # what was done to each write, in order

Each step is for one POST whose path ends in /write; everything else, and every write after the
script's end, is forwarded. While the server is away, connections are cut.
"""

import gzip
import http.client
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

UPSTREAM_S = 60.0
RESET = struct.pack("ii", 1, 0)
HOP = {"connection", "host", "transfer-encoding", "content-length", "content-encoding"}


@dataclass(frozen=True)
class Forward:
    """Pass the request on, and the answer back."""


@dataclass(frozen=True)
class Answer:
    """Take the request and answer in the server's place."""

    status: int
    retry_after_s: int | None = None
    body: bytes = b'{"error": "as the script says"}'


@dataclass(frozen=True)
class Cut:
    """Reset the connection when half of the request's body was read."""


@dataclass(frozen=True)
class Half:
    """Let the server have the first half of the lines, then reset: no answer."""


@dataclass(frozen=True)
class Lost:
    """Let the server have everything, then reset: the answer is lost."""


@dataclass(frozen=True)
class Late:
    """Wait, then forward."""

    seconds: float


Step = Forward | Answer | Cut | Half | Lost | Late


class Proxy:
    """What the script has left, what was done so far, and a limit on bodies (413 above it)."""

    def __init__(self, upstream: str, port: int):
        address = urlsplit(upstream)
        self.upstream = (address.hostname or "", address.port or 80)
        self.url = f"http://127.0.0.1:{port}"
        self.script: deque[Step] = deque()
        self.done: list[Step] = []
        self.away = 0
        self.max_body_bytes: int | None = None
        self._lock = threading.Lock()

    def next_step(self, length: int) -> Step:
        """What to do to a write of `length` bytes."""
        with self._lock:
            step: Step = self.script.popleft() if self.script else Forward()
            if self.max_body_bytes is not None and length > self.max_body_bytes:
                step = Answer(413, body=b'{"error":"Request Entity Too Large"}\n')
            self.done.append(step)
            return step

    def count_away(self) -> None:
        with self._lock:
            self.away += 1

    def times(self, kind: type[Step], status: int | None = None) -> int:
        """How often a kind of step was taken."""
        return sum(
            type(step) is kind and status in (None, getattr(step, "status", None))
            for step in list(self.done)
        )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def do_GET(self) -> None:
        self._forward(b"")

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        write = urlsplit(self.path).path.endswith("/write")
        step = self.proxy.next_step(length) if write else Forward()
        body = self.rfile.read(length // 2 if isinstance(step, Cut) else length)
        match step:
            case Answer():
                self._answer(step)
            case Cut():
                self._cut()
            case Half():
                self._ask(_first_half(self._plain(body)))
                self._cut()
            case Lost():
                self._ask(self._plain(body))
                self._cut()
            case Late():
                time.sleep(step.seconds)
                self._forward(self._plain(body))
            case Forward():
                self._forward(self._plain(body))

    def _plain(self, body: bytes) -> bytes:
        """The lines; decompressed, so that half of them is half of them."""
        packed = self.headers.get("Content-Encoding") == "gzip"
        return gzip.decompress(body) if packed else body

    def _answer(self, step: Answer) -> None:
        headers = {"Content-Type": "application/json"}
        if step.retry_after_s is not None:
            headers["Retry-After"] = str(step.retry_after_s)
        self._say(step.status, headers, step.body)

    def _forward(self, body: bytes) -> None:
        if answer := self._ask(body):
            self._say(*answer)
        else:
            self._cut()

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes] | None:
        """The server's answer; None when it is away."""
        connection = http.client.HTTPConnection(*self.proxy.upstream, timeout=UPSTREAM_S)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP}
        try:
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            said = {k: v for k, v in response.getheaders() if k.lower() not in HOP}
            return response.status, said, response.read()
        except (OSError, http.client.HTTPException):
            self.proxy.count_away()
            return None
        finally:
            connection.close()

    def _say(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status != 204:
            self.wfile.write(body)

    def _cut(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: `Proxy.done` tells."""


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def __init__(self, handler: type[_Handler]):
        super().__init__(("127.0.0.1", 0), handler)
        self.open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        # no shutdown(2) first: with lingering set to 0 s a close is a reset
        self.open.discard(request)
        request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed in the middle of its request is what this is for."""

    def end(self) -> None:
        self.shutdown()
        for request in list(self.open):
            try:
                request.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it went by itself
        self.server_close()


@contextmanager
def hostile_proxy(upstream: str) -> Iterator[Proxy]:
    """A proxy before the server at `upstream`, on a free loopback port."""

    class Handler(_Handler):
        pass

    server = _Server(Handler)
    proxy = Handler.proxy = Proxy(upstream, server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        server.end()
        thread.join()


def _first_half(lines: bytes) -> bytes:
    """Whole lines, half of them."""
    every = lines.splitlines(keepends=True)
    return b"".join(every[: len(every) // 2])
