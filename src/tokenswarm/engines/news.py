"""A server's own stream of events, listened to for one thing: that something has changed."""

import http.client
import socket
import threading
from collections.abc import Callable

import msgspec

from tokenswarm.engines.control import Server
from tokenswarm.errors import TargetError

AGAIN_S = 1.0
SILENT_S = 300.0
HUSH_S = 0.02
MAX_LINE = 1 << 16


class News(msgspec.Struct, frozen=True):
    """Where a server tells changes of residency: the path, and what a line that tells one holds."""

    path: str
    marker: bytes


class Ear:
    """Calls `hear` on a thread of its own whenever the server that it follows tells a change.

    What it tells is then asked for by the adapter: an event alone is not believed. A server
    without the path is left alone; one that hangs up is called again.
    """

    def __init__(self, hear: Callable[[], None]):
        self._hear = hear
        self._followed: tuple[Server, News] | None = None
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def follow(self, server: Server, news: News | None) -> None:
        """Listen to `server` from now on; to nobody where it has no news."""
        wanted = None if news is None else (server, news)
        if wanted == self._followed:
            return
        self.close()
        self._followed, self._closed = wanted, threading.Event()
        if wanted is not None:
            self._thread = threading.Thread(
                target=self._listen, args=(*wanted, self._closed), name="news", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Hang up and wait for the thread."""
        self._closed.set()
        with self._lock:
            if self._socket is not None:
                try:
                    self._socket.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # it has hung up already
        if self._thread is not None:
            self._thread.join()
        self._thread = self._followed = None

    def _listen(self, server: Server, news: News, closed: threading.Event) -> None:
        while not closed.is_set():
            try:
                if not self._call(server, news, closed):
                    return
            except (TargetError, OSError, http.client.HTTPException, ValueError):
                pass  # the polls say what is wrong with the server
            closed.wait(AGAIN_S)

    def _call(self, server: Server, news: News, closed: threading.Event) -> bool:
        """One connection's life; whether another one has a point."""
        connection = server.connection()
        try:
            connection.connect()
            with self._lock:
                self._socket = connection.sock
            connection.request("GET", server.path(news.path), headers=server.stream_headers())
            response = connection.getresponse()
            with response:
                if response.status != 200:
                    return response.status >= 500
                self._socket.settimeout(SILENT_S)
                while not closed.is_set() and (line := response.readline(MAX_LINE)):
                    if news.marker in line:
                        closed.wait(HUSH_S)  # what comes at once is one change
                        self._hear()
        finally:
            with self._lock:
                self._socket = None
            connection.close()
        return True
