"""A real HTTP server on loopback that gives prepared answers."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NOT_FOUND = (404, b'{"detail":"Not Found"}')
Given = tuple[int, bytes] | bytes | dict[str, Any] | Callable[[bytes], "Given"]


@dataclass
class Canned:
    """`answers` maps a path to a body, (status, body), an object, or a function of the request's
    body; it may be changed while the server runs. `seen` holds every request's headers."""

    url: str
    answers: dict[str, Given]
    headers: dict[str, str] = field(default_factory=dict)
    seen: list[tuple[str, Mapping[str, str], bytes]] = field(default_factory=list)

    def answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        given = self.answers.get(path, NOT_FOUND)
        while callable(given):
            given = given(body)
        if isinstance(given, dict):
            given = json.dumps(given).encode()
        return given if isinstance(given, tuple) else (200, given)


@contextmanager
def canned_server(
    answers: Mapping[str, Given], tls: ssl.SSLContext | None = None, **headers: str
) -> Iterator[Canned]:
    """Serve `answers`; `headers` (underscores for dashes) go with every answer."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            canned.seen.append((self.path, dict(self.headers), body))
            status, content = canned.answer(self.path, body)
            self.send_response(status)
            for name, value in canned.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    class HttpServer(ThreadingHTTPServer):
        daemon_threads = True

        def finish_request(self, request: Any, client_address: Any) -> None:
            if tls is not None:
                try:
                    request = tls.wrap_socket(request, server_side=True)
                except (ssl.SSLError, ConnectionError):
                    return  # the client did not like our certificate
            super().finish_request(request, client_address)
            if tls is not None:
                request.close()

    server = HttpServer(("127.0.0.1", 0), Handler)
    canned = Canned(
        f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}",
        dict(answers),
        {k.replace("_", "-"): v for k, v in headers.items()},
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield canned
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
