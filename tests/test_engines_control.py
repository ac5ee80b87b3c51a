"""One blocking exchange: what it brings back, and what it says when nothing comes."""

import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.canned_server import canned_server
from tokenswarm.engines.control import MAX_BODY, Reply, Server, said
from tokenswarm.errors import TargetError

SECRET = "sk-very-secret-7081"


@contextmanager
def raw_server(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A listener that hands its first connection to `talk`."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            try:
                connection.recv(65536)
                talk(connection)
            except OSError:
                pass  # the client gave up, as it should

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        thread.join()
        listener.close()


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def test_an_answer_comes_back_with_status_headers_and_body() -> None:
    with canned_server({"/a": (201, b'{"x": 1}')}, X_Thing="yes") as canned:
        reply = Server(canned.url, 5.0).get("/a")
    assert (reply.status, reply.headers["x-thing"], reply.object()) == (201, "yes", {"x": 1})


def test_headers_of_the_target_go_with_every_request() -> None:
    with canned_server({"/a": b"{}"}) as canned:
        Server(canned.url, 5.0, {"Authorization": f"Bearer {SECRET}"}).post("/a", {"q": 1})
    assert canned.seen[0][1]["Authorization"] == f"Bearer {SECRET}"
    assert canned.seen[0][2] == b'{"q": 1}'


@pytest.mark.parametrize(
    ("tail", "path"),
    [
        ("", "/v1/models"),
        ("/", "/v1/models"),
        ("/v1", "/v1/models"),  # as OpenAI's clients want their base url
        ("/v1/", "/v1/models"),
        ("/proxy/box", "/proxy/box/v1/models"),  # behind a path
    ],
)
def test_the_url_may_end_as_people_write_it(tail: str, path: str) -> None:
    with canned_server({path: b"{}"}) as canned:
        assert Server(canned.url + tail, 5.0).get("/v1/models").ok


def test_an_ipv6_address_is_a_url() -> None:
    with pytest.raises(TargetError, match="nothing listens at http://\\[::1\\]"):
        Server(f"http://[::1]:{closed_port()}", 5.0).get("/")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("box:11434", "is no address of a server"),  # no scheme
        ("ftp://box", "is no address of a server"),  # not HTTP
        ("http://", "is no address of a server"),  # no host
        ("http://box:99999", "is not a URL"),  # no such port
        (f"http://user:{SECRET}@box", "holds a user name"),  # secrets have another place
        (f"user:{SECRET}@box", "holds a user name"),  # the same without a scheme
        (f"http://box/?api_key={SECRET}", "a query"),  # the same
    ],
)
def test_a_bad_url_is_refused_without_repeating_secrets(url: str, words: str) -> None:
    with pytest.raises(TargetError, match=words) as caught:
        Server(url, 1.0).get("/")
    assert SECRET not in str(caught.value)


def test_nothing_listening_says_so_and_what_to_do() -> None:
    with pytest.raises(TargetError, match=r"nothing listens at .*: start the server"):
        Server(f"http://127.0.0.1:{closed_port()}", 5.0).get("/")


def test_a_host_without_a_name_says_so() -> None:
    with pytest.raises(TargetError, match="cannot be resolved"):
        Server("http://no-such-host.invalid", 5.0).get("/")


def test_silence_ends_with_the_timeout() -> None:
    def say_nothing(s: socket.socket) -> None:
        s.recv(1)

    with (
        raw_server(say_nothing) as url,
        pytest.raises(TargetError, match=r"no answer from .* within 0.05 s"),
    ):
        Server(url, 0.05).get("/")


def test_a_body_that_drips_in_ends_with_the_timeout_too() -> None:
    def drip(s: socket.socket) -> None:
        s.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        for _ in range(1000):
            s.sendall(b"x")
            time.sleep(0.005)

    began = time.perf_counter()
    with raw_server(drip) as url, pytest.raises(TargetError, match="no answer"):
        Server(url, 0.1).get("/")
    assert time.perf_counter() - began < 4


def test_what_is_not_http_says_so() -> None:
    with (
        raw_server(lambda s: s.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")) as url,
        pytest.raises(TargetError, match="does not answer in HTTP"),
    ):
        Server(url, 5.0).get("/")


def test_a_connection_closed_without_an_answer_says_so() -> None:
    with raw_server(lambda s: None) as url, pytest.raises(TargetError, match="without an answer"):
        Server(url, 5.0).get("/")


def test_https_to_a_plain_port_says_so() -> None:
    with (
        raw_server(lambda s: s.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as url,
        pytest.raises(TargetError, match="does not speak TLS"),
    ):
        Server(url.replace("http:", "https:"), 5.0).get("/")


def test_an_endless_body_is_cut_off() -> None:
    with (
        canned_server({"/": b"x" * (MAX_BODY + 1)}) as canned,
        pytest.raises(TargetError, match="more than 1048576 bytes"),
    ):
        Server(canned.url, 5.0).get("/")


@pytest.mark.parametrize(
    "value",
    [
        f"Bearer {SECRET}\nX: y",  # http.client's own error repeats the header
        f"Bearer {SECRET}\u2026",  # pasted with an ellipsis: no Latin-1
    ],
)
def test_a_header_that_cannot_be_sent_does_not_leak(value: str) -> None:
    with canned_server({}) as canned, pytest.raises(TargetError) as caught:
        Server(canned.url, 5.0, {"Authorization": value}).get("/")
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_server_that_repeats_the_key_does_not_leak_it() -> None:
    server = Server("http://box", 5.0, {"Authorization": f"Bearer {SECRET}"})
    text = said(server, Reply(401, {}, f"Incorrect API key: {SECRET}".encode()))
    assert text == "HTTP 401 'Incorrect API key: ***'"
    assert SECRET not in repr(server)


def test_json_is_none_for_an_error_status_and_for_nonsense() -> None:
    assert Reply(500, {}, b'{"a": 1}').json() is None
    assert Reply(200, {}, b"<html>").json() is None
    assert Reply(200, {}, b"[" * 100_000).json() is None
    assert Reply(200, {}, b"[1]").object() == {}


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate")
def test_an_untrusted_certificate_says_so_and_can_be_accepted(tmp_path: Path) -> None:
    pem = tmp_path / "both.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    argv += ["-subj", "/CN=localhost", "-keyout", str(pem), "-out", str(tmp_path / "cert.pem")]
    subprocess.run(argv, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", pem)
    with canned_server({"/": b"{}"}, tls=context) as canned:
        with pytest.raises(TargetError, match=r"not trusted .*: install its authority or set"):
            Server(canned.url, 5.0).get("/")
        assert Server(canned.url, 5.0, tls_verify=False).get("/").ok
