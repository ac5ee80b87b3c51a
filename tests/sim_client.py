"""A client for tests of the simulation: plain calls, and streams down to their HTTP chunks."""

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def call(url: str, method: str, path: str, body: object = None, **headers: str) -> Answer:
    """One request on a connection of its own; `body` a JSON value, or bytes as they are."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body)
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, data, headers)
        response = connection.getresponse()
        names = {k.lower(): v for k, v in response.getheaders()}
        return Answer(response.status, names, response.read())


@dataclass(frozen=True, slots=True)
class Streamed:
    """A stream: `chunks` are the HTTP chunks, `end`: done, eof (cut) or reset."""

    head: bytes
    head_s: float
    chunks: list[bytes]
    end: str
    seconds: float

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def lines(self) -> list[Any]:
        """The JSON values of an NDJSON body."""
        return [json.loads(x) for x in self.body.split(b"\n") if x.strip()]

    @property
    def events(self) -> list[Any]:
        """The JSON values of an SSE body, `[DONE]` as that string."""
        data = [x.removeprefix(b"data:").strip() for x in self.body.splitlines()]
        data = [x for x in data if x.startswith((b"{", b"["))]
        return ["[DONE]" if x == b"[DONE]" else json.loads(x) for x in data]


def opened(url: str, path: str, body: object, **headers: str) -> socket.socket:
    """A connection on which the request has been sent."""
    data = json.dumps(body).encode()
    extra = "".join(f"{k}: {v}\r\n" for k, v in headers.items())
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n{extra}\r\n"
    place = urlsplit(url)
    sock = socket.create_connection((place.hostname, place.port), timeout=30)
    sock.sendall(head.encode() + data)
    return sock


def stream(url: str, path: str, body: object) -> Streamed:
    """POST and read until the server ends the connection."""
    start_s = time.perf_counter()
    with opened(url, path, body, Connection="close") as sock:
        got, head_s, end = b"", 0.0, "reset"
        with contextlib.suppress(ConnectionResetError):
            while data := sock.recv(65536):
                head_s = head_s or time.perf_counter() - start_s
                got += data
            end = "done" if got.endswith(b"\r\n0\r\n\r\n") else "eof"
    head, _, rest = got.partition(b"\r\n\r\n")
    chunks = list(_dechunked(rest)) if b"chunked" in head else [rest]
    return Streamed(head, head_s, chunks, end, time.perf_counter() - start_s)


def _dechunked(data: bytes) -> Iterator[bytes]:
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            return
        yield data[:length]
        data = data[length + 2 :]


def wait_until(true: Any, for_s: float = 5.0) -> None:
    """Poll until `true()` holds; fails after `for_s`."""
    deadline = time.monotonic() + for_s
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
