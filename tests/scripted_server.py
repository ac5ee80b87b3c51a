"""A real server on a real socket that plays a script: what to send, when, and how to end."""

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Send:
    data: bytes


@dataclass(frozen=True)
class Wait:
    seconds: float


@dataclass(frozen=True)
class Close:
    """Close in good order."""


@dataclass(frozen=True)
class Reset:
    """Close with RST."""


Action = Send | Wait | Close | Reset


def chunked(
    *parts: bytes, content_type: str = "text/event-stream", status: str = "200 OK"
) -> bytes:
    """A whole chunked response, one chunk a part."""
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    return head.encode() + b"".join(chunk(p) for p in parts) + b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def sse(*payloads: str) -> list[bytes]:
    """Events as vLLM writes them."""
    return [f"data: {payload}\n\n".encode() for payload in payloads]


@dataclass
class ScriptedServer:
    """Answers each request with the script; keeps what it was asked in `requests`."""

    script: Sequence[Action]
    port: int = 0
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)


@contextlib.contextmanager
def serve(
    script: Sequence[Action], *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> Iterator[ScriptedServer]:
    """Listen on a free port of `host` and play `script` for each request until the block ends."""
    state = ScriptedServer(script)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, backlog=64) as listener:
        state.port = listener.getsockname()[1]
        listener.settimeout(0.05)
        over = threading.Event()
        thread = threading.Thread(target=_accept, args=(listener, state, tls, over))
        thread.start()
        try:
            yield state
        finally:
            over.set()
            thread.join()


def _accept(
    listener: socket.socket,
    state: ScriptedServer,
    tls: ssl.SSLContext | None,
    over: threading.Event,
) -> None:
    threads = []
    while not over.is_set():
        try:
            sock, _ = listener.accept()
        except TimeoutError:
            continue
        state.connections += 1
        thread = threading.Thread(target=_connection, args=(sock, state, tls, over))
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join()


def _connection(
    sock: socket.socket,
    state: ScriptedServer,
    tls: ssl.SSLContext | None,
    over: threading.Event,
) -> None:
    sock.settimeout(0.1)
    try:
        if tls is not None:
            sock.settimeout(5)
            sock = tls.wrap_socket(sock, server_side=True)
            sock.settimeout(0.1)
        with sock:
            while (request := _request(sock, over)) and _play(sock, state, request):
                pass
    except OSError:
        sock.close()


def _request(sock: socket.socket, over: threading.Event) -> bytes:
    data = b""
    while not over.is_set():
        try:
            part = sock.recv(65536)
        except TimeoutError:
            continue
        if not part:
            return b""
        data += part
        head, end, body = data.partition(b"\r\n\r\n")
        if end and len(body) >= _length(head):
            return data
    return b""


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return 0


def _play(sock: socket.socket, state: ScriptedServer, request: bytes) -> bool:
    state.requests.append(request)
    for action in state.script:
        match action:
            case Send(data):
                sock.sendall(data)
            case Wait(seconds):
                time.sleep(seconds)
            case Close():
                return False
            case Reset():
                linger = struct.pack("ii", 1, 0)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                return False
    return True
