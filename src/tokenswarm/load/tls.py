"""TLS over memory buffers, so that the poller's callback never blocks."""

import ssl
from typing import Any

import gevent

from tokenswarm.load.exchange import Fault

RECV_BYTES = 64 * 1024


class Tls:
    """The client's end of one TLS connection; raises Fault when the handshake fails."""

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
