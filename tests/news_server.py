"""A real HTTP server on loopback that tells changes as llama-swap does, beside fixed answers."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Teller:
    """`tell` reaches all who listen; `answers` are the JSON of other paths."""

    url: str
    path: str
    answers: dict[str, object]
    status: int = 200
    calls: int = 0
    listening: int = 0
    headers: list[dict[str, str]] = field(default_factory=list)
    _told: list[bytes | None] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def tell(self, line: str) -> None:
        self._add(line.encode() + b"\n")

    def hang_up(self) -> None:
        """End every stream; new ones may come."""
        self._add(None)

    def lines(self) -> Iterator[bytes]:
        """What is told from now on, until it hangs up."""
        with self._changed:
            at = len(self._told)
            self.listening += 1
        try:
            while (line := self._next(at)) is not None:
                yield line
                at += 1
        finally:
            with self._changed:
                self.listening -= 1

    def _next(self, at: int) -> bytes | None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._told) > at)
            return self._told[at]

    def _add(self, line: bytes | None) -> None:
        with self._changed:
            self._told.append(line)
            self._changed.notify_all()


@contextmanager
def news_server(path: str, **answers: object) -> Iterator[Teller]:
    """Tells at `path`; `answers` by path without its slash."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == teller.path:
                self._tell()
                return
            found = teller.answers.get(self.path.lstrip("/"))
            content = json.dumps(found).encode()
            self.send_response(404 if found is None else 200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _tell(self) -> None:
            teller.calls += 1
            teller.headers.append(dict(self.headers))
            self.send_response(teller.status)
            self.end_headers()
            if teller.status != 200:
                return
            try:
                for line in teller.lines():
                    self.wfile.write(line)
                    self.wfile.flush()
            except OSError:
                pass  # whoever listened has gone

        def log_message(self, *_: object) -> None:
            pass

    class HttpServer(ThreadingHTTPServer):
        daemon_threads = True

    server = HttpServer(("127.0.0.1", 0), Handler)
    teller = Teller(f"http://127.0.0.1:{server.server_port}", path, answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield teller
    finally:
        teller.hang_up()
        server.shutdown()
        thread.join()
        server.server_close()
