"""The servers that other tests stand on hold what they are told to hold."""

import gzip
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.hostile_proxy import Answer, Cut, Forward, Half, Late, Lost, Step, hostile_proxy
from tests.services import ADMIN, free_port, influxd, victoria

T = 1_790_000_000_000_000_000


@pytest.mark.live
def test_influxd_holds_its_points_over_kill_9(tmp_path: Path) -> None:
    with influxd(tmp_path) as server:
        server.create("x")
        server.write("x", "\n".join(f"tick,model=a n={i}i {T + i}" for i in range(1000)))
        server.write("x", f"tick,model=a n=1i {T + 1}")
        server.kill()
        assert not server.running
        server.start()
        assert server.measurements("x") == ["tick"]
        assert server.figures("x", "tick", 'count("n")', 'sum("n")') == [1000, 499_500]
        assert server.figures("x", "gpu", 'count("n")') == []


@pytest.mark.live
def test_influxd_with_accounts_lets_nobody_in_without_one(tmp_path: Path) -> None:
    with influxd(tmp_path, auth=True) as server:
        server.create("x")
        server.auth = None
        with pytest.raises(AssertionError, match="401"):
            server.write("x", "tick n=1i")
        server.auth = ADMIN
        server.write("x", "tick n=1i")


@pytest.mark.live
@pytest.mark.parametrize("path", ["/write", "/api/v2/write"])
def test_victoria_counts_a_point_sent_twice_once(tmp_path: Path, path: str) -> None:
    lines = "\n".join(f"tick,model=a n={i}i {T + i * 1_000_000}" for i in range(1000))
    with victoria(tmp_path) as server:
        for _ in range(2):
            server.post(path, lines.encode(), db="x", bucket="x", org="o")
        (series,) = server.samples("tick_.*")
        assert (series["metric"]["__name__"], series["metric"]["model"]) == ("tick_n", "a")
        assert (len(series["values"]), sum(series["values"])) == (1000, 499_500)
        server.stop()
        server.start()
        assert sum(len(s["values"]) for s in server.samples()) == 1000


class Sink(BaseHTTPRequestHandler):
    """Keeps every body it is sent."""

    protocol_version = "HTTP/1.1"
    bodies: list[bytes]

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response_only(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def sink() -> Iterator[tuple[str, list[bytes]]]:
    """A server's URL and what it was sent."""

    class Handler(Sink):
        bodies: list[bytes] = []

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", Handler.bodies
        server.shutdown()
        thread.join()


LINES = b"a n=1 1\na n=2 2\na n=3 3\na n=4 4\n"


@pytest.mark.parametrize(
    ("step", "status", "arrived"),
    [
        (Forward(), 204, [LINES]),
        (Late(0.01), 204, [LINES]),
        (Answer(500), 500, []),
        (Answer(429, retry_after_s=3), 429, []),
        (Answer(413), 413, []),
        (Cut(), None, []),
        (Half(), None, [b"a n=1 1\na n=2 2\n"]),
        (Lost(), None, [LINES]),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_the_proxy_does_what_its_script_says_and_then_forwards(
    sink: tuple[str, list[bytes]],
    step: Step,
    status: int | None,
    arrived: list[bytes],
    packed: bool,
) -> None:
    url, bodies = sink
    headers = {"Content-Encoding": "gzip"} if packed else {}
    body = gzip.compress(LINES) if packed else LINES
    with hostile_proxy(url) as proxy:
        proxy.script.append(step)
        said = posted(f"{proxy.url}/write?db=x", body, headers)
        assert said[0] == status
        assert said[1] == ("3" if status == 429 else None)
        assert bodies == arrived
        assert posted(f"{proxy.url}/api/v2/write", body, headers)[0] == 204
        assert bodies == [*arrived, LINES]
        assert proxy.done == [step, Forward()]


def test_the_proxy_refuses_what_is_too_large_and_cuts_when_the_server_is_away(
    sink: tuple[str, list[bytes]],
) -> None:
    with hostile_proxy(sink[0]) as proxy:
        proxy.max_body_bytes = len(LINES)
        assert posted(f"{proxy.url}/write", LINES + b"a n=5 5\n", {})[0] == 413
        assert posted(f"{proxy.url}/write", LINES, {})[0] == 204
        assert proxy.times(Answer, 413) == 1
    with hostile_proxy(f"http://127.0.0.1:{free_port()}") as proxy:
        assert posted(f"{proxy.url}/write", LINES, {})[0] is None
        assert proxy.away == 1


def posted(url: str, body: bytes, headers: dict[str, str]) -> tuple[int | None, str | None]:
    """The answer's status and Retry-After; a status of None when the connection was reset."""
    try:
        request = urllib.request.Request(url, body, headers)
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.headers["Retry-After"]
    except urllib.error.HTTPError as e:
        with e:
            return e.code, e.headers["Retry-After"]
    except ConnectionResetError:
        return None, None
