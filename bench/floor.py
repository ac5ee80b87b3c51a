"""The least a client in this runtime can do; started as `python -m bench.floor KIND URL STREAMS`.

`blocking`: a greenlet a stream, one blocking recv a chunk, events counted.
`watcher`: a started libev watcher a stream, httptools, a time and a byte scan a read; the greenlet
wakes once a request. Both keep connections alive, and end after ten minutes at the latest.
"""

import sys
import time
from urllib.parse import urlsplit

import gevent
import gevent.socket
import httptools
from gevent.hub import Waiter

LIMIT_S = 600
BODY = (
    b'{"model":"bench","stream":true,"max_tokens":64,"messages":[{"role":"user","content":"hi"}]}'
)


def request_for(url: str) -> tuple[tuple[str, int], bytes]:
    """The address to connect to and the bytes of a request."""
    parts = urlsplit(url)
    head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-length: {len(BODY)}"
    return (parts.hostname or "", parts.port or 80), head.encode() + b"\r\n\r\n" + BODY


def stream_blocking(url: str) -> None:
    """Request after request on one connection; returns when the server closes it."""
    address, request = request_for(url)
    with gevent.socket.create_connection(address) as sock:
        events = 0
        while True:
            sock.sendall(request)
            data = b""
            while not data.endswith(b"0\r\n\r\n"):
                data = sock.recv(65536)
                if not data:
                    return
                events += data.count(b"\n\r\n")


class WatchedStream:
    """One connection whose reads happen in the hub."""

    def __init__(self, url: str):
        address, self.request = request_for(url)
        self.sock = gevent.socket.create_connection(address)
        self.recv = self.sock._sock.recv
        self.watcher = gevent.get_hub().loop.io(self.sock.fileno(), 1)
        self.events = 0
        self.times: list[float] = []

    def run(self) -> None:
        while True:
            self.waiter = Waiter()
            self.parser = httptools.HttpResponseParser(self)
            self.times = []
            self.sock.sendall(self.request)
            self.watcher.start(self.on_readable)
            try:
                self.waiter.get()
            finally:
                self.watcher.stop()

    def on_readable(self) -> None:
        try:
            data = self.recv(65536)
        except BlockingIOError:
            return
        self.now = time.perf_counter()
        if data:
            self.parser.feed_data(data)
        else:
            self.waiter.throw(ConnectionResetError("the server closed the connection"))

    def on_body(self, body: bytes) -> None:
        if body.endswith(b"\n") and b'"error"' not in body:
            self.times.append(self.now)
        self.events += body.count(b"\n")

    def on_message_complete(self) -> None:
        self.waiter.switch(None)


KINDS = {"blocking": stream_blocking, "watcher": lambda url: WatchedStream(url).run()}


def main(kind: str, url: str, streams: str) -> None:
    greenlets = [gevent.spawn(KINDS[kind], url) for _ in range(int(streams))]
    gevent.joinall(greenlets, timeout=LIMIT_S, raise_error=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
