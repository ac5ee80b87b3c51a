"""One short HTTP exchange with a server's control surface: blocking, bounded, never gevent's."""

import http.client
import json
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec

from tokenswarm.errors import TargetError

MAX_BODY = 1 << 20
SECRET_MIN = 4


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer. `headers` has lower-case names; `body` is at most MAX_BODY bytes."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def json(self) -> Any:
        """The decoded body of a 2xx answer; None when it is another status or no JSON."""
        if not self.ok:
            return None
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, RecursionError):
            return None

    def object(self) -> dict[str, Any]:
        """`json()` when it is an object, else an empty one."""
        value = self.json()
        return value if isinstance(value, dict) else {}


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server listens and what every request to it carries.

    `url` is its root, a trailing `/v1` is taken off. `timeout_s` bounds each whole exchange.
    Raises TargetError for everything that keeps an answer from arriving; its text never holds
    the value of a header.
    """

    url: str
    timeout_s: float
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls_verify: bool = True

    @property
    def root(self) -> str:
        """The URL of the server's root, without trailing slash or `/v1`."""
        place = _split(self.url)
        return f"{place.scheme}://{place.netloc}{_base(place)}"

    def get(self, path: str) -> Reply:
        return self._exchange("GET", path, None)

    def post(self, path: str, payload: object) -> Reply:
        return self._exchange("POST", path, json.dumps(payload).encode())

    def connection(self) -> http.client.HTTPConnection:
        """A connection that is not open yet, to stream from; the exchanges above have their own."""
        return _connection(_split(self.url), self.timeout_s, self.tls_verify)

    def path(self, path: str) -> str:
        """`path` below the server's root."""
        return _base(_split(self.url)) + path

    def stream_headers(self) -> dict[str, str]:
        return {"Accept": "text/event-stream", "Cache-Control": "no-cache", **self.headers}

    def _exchange(self, method: str, path: str, body: bytes | None) -> Reply:
        place = _split(self.url)
        headers = {"Accept": "*/*", "Connection": "close", **self.headers}
        if body is not None:
            headers["Content-Type"] = "application/json"
        deadline = time.perf_counter() + self.timeout_s
        connection = _connection(place, self.timeout_s, self.tls_verify)
        try:
            connection.request(method, _base(place) + path, body, headers)
            response = connection.getresponse()
            content = _read(response, connection.sock, deadline)
        except (OSError, http.client.HTTPException, ValueError) as e:
            raise TargetError(self.scrub(_what_failed(e, self.root + path, self))) from None
        finally:
            connection.close()
        return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, content)

    def scrub(self, text: str) -> str:
        """`text` without any value (or word of a value) of the headers."""
        words = {w for value in self.headers.values() for w in (value, *value.split())}
        for word in sorted(words, key=len, reverse=True):
            if len(word) >= SECRET_MIN and word.lower() not in ("bearer", "basic"):
                text = text.replace(word, "***")
        return text


def said(server: Server, reply: Reply) -> str:
    """What an unwelcome answer was, for an error text: status and the start of its body."""
    text = server.scrub(reply.body[:200].decode("utf-8", "replace"))
    return f"HTTP {reply.status} {text!r}" if text else f"HTTP {reply.status}"


def _split(url: str) -> SplitResult:
    try:
        place = urlsplit(url)
        port = place.port
    except ValueError:
        raise TargetError("a target's url is not a URL: give http://HOST:PORT") from None
    if "@" in url or place.query or place.fragment:
        raise TargetError(
            f"a target's url ({place.hostname or 'without host'}) holds a user name, a query or a "
            "fragment: give http://HOST:PORT, and secrets through headers or api_key_env"
        )
    if place.scheme not in ("http", "https") or not place.hostname or port == 0:
        raise TargetError(f"{url!r} is no address of a server: give http://HOST:PORT")
    return place


def _base(place: SplitResult) -> str:
    return place.path.rstrip("/").removesuffix("/v1")


def _connection(
    place: SplitResult, timeout_s: float, tls_verify: bool
) -> http.client.HTTPConnection:
    host = place.hostname or ""
    if place.scheme == "http":
        return http.client.HTTPConnection(host, place.port, timeout=timeout_s)
    context = ssl.create_default_context()
    if not tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, place.port, timeout=timeout_s, context=context)


def _read(response: http.client.HTTPResponse, sock: socket.socket | None, deadline: float) -> bytes:
    """The body, however slowly it drips in, within the deadline and MAX_BODY."""
    parts: list[bytes] = []
    size = 0
    while True:
        left_s = deadline - time.perf_counter()
        if left_s <= 0:
            raise TimeoutError
        if sock is not None and sock.fileno() >= 0:
            sock.settimeout(left_s)
        part = response.read1(65536)
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
        if size > MAX_BODY:
            raise http.client.HTTPException(f"an answer of more than {MAX_BODY} bytes")


def _what_failed(error: Exception, where: str, server: Server) -> str:
    """An error's one-line text: what failed, where, and the way out."""
    if isinstance(error, ConnectionRefusedError):
        return f"nothing listens at {where}: start the server or correct the target's url"
    if isinstance(error, TimeoutError):
        return (
            f"no answer from {where} within {server.timeout_s:g} s: "
            "is the host reachable and the server not stalled?"
        )
    if isinstance(error, socket.gaierror):
        return f"the host name in {where} cannot be resolved: correct the target's url"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {where} is not trusted ({error.verify_message}): "
            "install its authority or set tls_verify: false"
        )
    if isinstance(error, ssl.SSLError):
        return f"{where} does not speak TLS ({error.reason}): is it http:// rather than https://?"
    if isinstance(error, http.client.RemoteDisconnected):  # an OSError, too
        return f"{where} closed the connection without an answer: is the port the server's?"
    if isinstance(error, OSError):
        return f"the connection to {where} broke: {error.strerror or error}"
    detail = str(error)[:120] or type(error).__name__
    return f"{where} does not answer in HTTP ({detail!r}): is the port the server's?"
