"""The HTTP client against real sockets: every way a request can end, told apart."""

import contextlib
import json
import os
import secrets
import socket
import ssl
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.compiled import compiled
from tests.scripted_server import (
    Action,
    Close,
    Reset,
    ScriptedServer,
    Send,
    Wait,
    chunk,
    chunked,
    serve,
    sse,
)

TOKEN = '{"id":"x","model":"m","choices":[{"index":0,"delta":{"content":"hi"}}]}'
FINISH = '{"id":"x","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'
USAGE = '{"id":"x","model":"m","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}'
WHOLE = sse(TOKEN, TOKEN, FINISH, USAGE, "[DONE]")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
UNFRAMED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
NDJSON = (
    b'{"model":"m","message":{"role":"assistant","content":"a"},"done":false}\n'
    b'{"model":"m","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop",'
    b'"total_duration":3000000000,"load_duration":1000000000,"prompt_eval_count":5,'
    b'"eval_count":1,"eval_duration":20000000}\n'
)


def plain(status: str, content_type: str, body: bytes) -> bytes:
    """A whole response with a Content-Length."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


@dataclass(frozen=True)
class Case:
    """What the server plays and what the record must say: (status, error_kind)."""

    name: str
    script: Sequence[Action]
    ending: tuple[str, str | None]
    times: int = 1
    api: str = "openai"
    target: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


DRIP: list[Action] = [Send(chunk(WHOLE[0])), Wait(0.1)]
CASES = [
    Case("a whole stream", [Send(chunked(*WHOLE))], ("ok", None)),
    Case("a whole stream three times", [Send(chunked(*WHOLE))], ("ok", None), times=3),
    # every byte its own segment: parsers must not care
    Case("byte by byte", [Send(bytes([b])) for b in chunked(*WHOLE)], ("ok", None)),
    Case("no chunking, ended by close", [Send(UNFRAMED + b"".join(WHOLE)), Close()], ("ok", None)),
    Case("ollama lines", [Send(chunked(NDJSON, content_type="application/x-ndjson"))],
         ("ok", None), api="ollama"),
    Case("closed in mid stream", [Send(HEAD + chunk(WHOLE[0])), Close()], ("error", "reset")),
    Case("reset in mid stream", [Send(HEAD + chunk(WHOLE[0])), Wait(0.1), Reset()],
         ("error", "reset")),
    Case("closed before any answer", [Close()], ("error", "reset")),
    # [DONE] arrived: the answer is whole, whatever becomes of the connection
    Case("reset after done", [Send(HEAD + b"".join(map(chunk, WHOLE))), Wait(0.1), Reset()],
         ("ok", None)),
    Case("the message never ends after done",
         [Send(HEAD + b"".join(map(chunk, WHOLE))), Wait(6)], ("ok", None)),
    Case("unframed and cut", [Send(UNFRAMED + WHOLE[0]), Close()], ("error", "truncated")),
    Case("an error object under 200",
         [Send(chunked(*sse(TOKEN, '{"error":{"message":"boom","code":500}}', "[DONE]")))],
         ("error", "server_error")),
    Case("abort", [Send(chunked(*sse(TOKEN, FINISH.replace("stop", "abort"), "[DONE]")))],
         ("error", "aborted")),
    Case("an empty 200", [Send(chunked(*sse(FINISH, "[DONE]")))], ("error", "empty")),
    Case("404 with JSON",
         [Send(plain("404 Not Found", "application/json", b'{"error":{"message":"no model m"}}'))],
         ("error", "http")),
    Case("502 with HTML",
         [Send(plain("502 Bad Gateway", "text/html", b"<html><h1>Bad Gateway</h1></html>"))],
         ("error", "http")),
    Case("503 without a body", [Send(plain("503 Unavailable", "text/plain", b""))],
         ("error", "http")),
    Case("100-continue first", [Send(b"HTTP/1.1 100 Continue\r\n\r\n" + chunked(*WHOLE))],
         ("ok", None)),
    Case("not http", [Send(b"220 smtp ready\r\n")], ("error", "protocol")),
    Case("a gigantic event", [Send(HEAD + chunk(b"data: " + b"x" * 6_000_000)), Wait(0.2)],
         ("error", "too_large")),
    Case("headers without an end", [Send(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 60_000)],
         ("error", "too_large")),
    Case("silence", [Wait(1.5)], ("timeout", "idle_timeout"), target={"idle_timeout_s": 0.4}),
    Case("a drip that never ends",
         [Send(HEAD), *DRIP * 15],
         ("timeout", "total_timeout"), target={"total_timeout_s": 0.6}),
    Case("cut at the end of the drain", [Send(HEAD + chunk(WHOLE[0])), Wait(6)],
         ("cut", "cut"), extra={"cut_after_s": 3.0}),
]  # fmt: skip


def play(cases: list[dict[str, Any]], compiled: bool = True) -> dict[str, list[dict[str, Any]]]:
    """Records by case name, from the client in its own process."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("client_cases.py"))],
        input=json.dumps(cases).encode(),
        capture_output=True,
        check=False,
        timeout=60,
        env={**os.environ, "TOKENSWARM_NATIVE": str(int(compiled))},
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return {case["name"]: r for case, r in zip(cases, json.loads(done.stdout), strict=True)}


def spec(case: Case, port: int) -> dict[str, Any]:
    return {
        "name": case.name.replace(" ", "-"),
        "url": f"http://127.0.0.1:{port}",
        "api": case.api,
        "engine": case.api,
        "endpoint": "chat",
        "times": case.times,
        "target": case.target,
        **case.extra,
    }


@pytest.fixture(scope="module", params=[True, False], ids=["compiled", "python"])
def played(
    request: pytest.FixtureRequest,
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, ScriptedServer]]:
    """Every case played once, at the same time, each against a server of its own; with the
    compiled part (where there is one) and without."""
    with contextlib.ExitStack() as stack:
        servers = {c.name: stack.enter_context(serve(c.script)) for c in CASES}
        records = play([spec(c, servers[c.name].port) for c in CASES], request.param)
    return records, servers


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_every_ending_is_told_apart(case: Case, played: Any) -> None:
    records, _ = played
    got = records[case.name.replace(" ", "-")]
    endings = [(r["ending"]["status"], r["ending"]["error_kind"]) for r in got]
    assert endings == [case.ending] * case.times
    for record in got:
        assert (record["locust"]["exception"] is None) == (case.ending[0] == "ok")


def test_a_connection_is_kept_for_the_next_request(played: Any) -> None:
    records, servers = played
    assert servers["a whole stream three times"].connections == 1
    connects = [r["stamps"]["connect_s"] for r in records["a-whole-stream-three-times"]]
    assert connects[0] > 0
    assert connects[1:] == [None, None]


def test_stamps_are_in_order_and_counts_are_the_servers(played: Any) -> None:
    record = played[0]["a-whole-stream"][0]
    stamps = record["stamps"]
    order = ["intended", "sent", "headers", "first_event", "first_token", "last_token", "end"]
    times = [stamps[name] for name in order]
    assert times == sorted(times)
    assert record["counts"]["output"] == 2
    assert record["counts"]["token_events"] == len(record["token_times"]) == 2


def test_ollamas_durations_are_seconds_in_the_record(played: Any) -> None:
    server = played[0]["ollama-lines"][0]["server"]
    assert server == {"total_s": 3.0, "load_s": 1.0, "prompt_eval_s": None, "eval_s": 0.02}


def test_locust_gets_milliseconds(played: Any) -> None:
    record = played[0]["silence"][0]
    seconds = record["stamps"]["end"] - record["stamps"]["sent"]
    assert record["locust"]["response_time"] == pytest.approx(seconds * 1000)


def test_an_error_text_is_short_and_names_the_cause(played: Any) -> None:
    assert played[0]["404-with-JSON"][0]["ending"]["error_text"] == "no model m"
    assert played[0]["404-with-JSON"][0]["ending"]["http_status"] == 404
    assert "<" not in played[0]["502-with-HTML"][0]["ending"]["error_text"]


def test_a_request_names_itself_to_the_server(played: Any) -> None:
    request = played[1]["a whole stream"].requests[0]
    assert request.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert b"X-Request-Id: w0-" in request


def test_nothing_listening_is_refused_not_slow() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    case = Case("refused", [], ("error", "connect_refused"))
    ending = play([spec(case, port)])["refused"][0]["ending"]
    assert (ending["status"], ending["error_kind"]) == case.ending
    assert str(port) in ending["error_text"]


def test_an_unknown_host_name_is_dns() -> None:
    case = spec(Case("dns", [], ("error", "dns")), 1) | {"url": "http://no-such-host.invalid:1"}
    assert play([case])["dns"][0]["ending"]["error_kind"] == "dns"


def test_ipv6_works() -> None:
    with serve([Send(chunked(*WHOLE))], host="::1") as server:
        case = spec(CASES[0], 0) | {"url": f"http://[::1]:{server.port}"}
        assert play([case])["a-whole-stream"][0]["ending"]["status"] == "ok"
    assert b"Host: [::1]:%d\r\n" % server.port in server.requests[0]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost, key included."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    argv += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*argv, "-keyout", path, "-out", path], check=True, capture_output=True)
    return path


def _tls_case(certificate: Path, verify: bool, script: Sequence[Action]) -> dict[str, Any]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serve(script, tls=context) as server:
        case = spec(CASES[0], 0) | {
            "url": f"https://localhost:{server.port}",
            "target": {"tls_verify": verify},
            "times": 2,
        }
        records = play([case])["a-whole-stream"]
    return {"records": records, "connections": server.connections}


def test_tls_streams_over_one_kept_connection(certificate: Path) -> None:
    got = _tls_case(certificate, False, [Send(bytes([b])) for b in chunked(*WHOLE)])
    assert [r["ending"]["status"] for r in got["records"]] == ["ok", "ok"]
    assert got["connections"] == 1
    assert got["records"][0]["counts"]["token_events"] == 2


def test_a_certificate_nobody_signed_is_refused_and_said(certificate: Path) -> None:
    got = _tls_case(certificate, True, [Send(chunked(*WHOLE))])
    ending = got["records"][0]["ending"]
    assert ending["error_kind"] == "tls"
    assert "certificate" in ending["error_text"].lower()


@pytest.mark.parametrize("way", ["fed", pytest.param("tap", marks=compiled)])
def test_a_chunked_response_cut_anywhere_comes_to_the_same(way: str) -> None:
    seed = secrets.randbelow(2**32)
    script = Path(__file__).with_name("exchange_cuts.py")
    done = subprocess.run(
        [sys.executable, str(script), "5000", str(seed), way], capture_output=True, check=False
    )
    assert done.stdout == b"0\n", (seed, done.stdout, done.stderr.decode())
