"""What servers answer, and which of them is found behind a URL."""

import gzip
import socket
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from tests.canned_server import Canned, Given, canned_server
from tests.services import free_port
from tokenswarm.errors import SpoolError, UsageError
from tokenswarm.store.influx import (
    REASON_CHARS,
    RETRY_AFTER_MAX_S,
    Answer,
    Api,
    Database,
    Endpoint,
    answered,
    connect,
    quoted,
)
from tokenswarm.store.quarantine import Quarantine, Refused, read
from tokenswarm.store.sender import gzipped

WRITTEN: Given = (204, b"")
PARTIAL = b'{"error":"partial write: field type conflict: input field \\"x\\" dropped=3"}'


@pytest.mark.parametrize(
    ("status", "body", "what"),
    [
        (204, b"", "written"),
        (200, b"<html>a captive portal</html>", "later"),  # only 204 is an acknowledgement
        (301, b"", "denied"),
        (400, b'{"error":"unable to parse"}', "refused"),
        (422, b'{"message":"beyond retention"}', "refused"),
        (401, b'{"error":"authorization failed"}', "denied"),
        (403, b"", "denied"),
        (404, b'{"message":"bucket not found"}', "denied"),
        (413, b"", "too_large"),
        (408, b"", "too_slow"),
        (504, b"", "too_slow"),
        (429, b"", "later"),
        (500, b"", "later"),
        (503, b"", "later"),
    ],
)
def test_a_status_means_one_thing(status: int, body: bytes, what: str) -> None:
    answer = answered(status, {}, body)
    assert answer.what == what
    assert what == "written" or answer.reason.startswith(f"HTTP {status}: ")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"error":"it is\\n  so"}', "HTTP 400: it is so"),
        (b'{"code":"invalid","message":"no such thing"}', "HTTP 400: no such thing"),
        (b"plain text", "HTTP 400: plain text"),
        (b"[1]", "HTTP 400: [1]"),
        (b"\xff\xfe", "HTTP 400: \ufffd\ufffd"),
        (b"", "HTTP 400: no reason given"),
        (b"x" * 10_000, "HTTP 400: " + "x" * REASON_CHARS),
    ],
)
def test_the_reason_is_what_the_server_says_and_bounded(body: bytes, reason: str) -> None:
    assert answered(400, {}, body).reason == reason


def test_the_number_of_dropped_points_is_read() -> None:
    assert answered(400, {}, PARTIAL).dropped == 3
    assert answered(400, {}, b'{"error":"partial write"}').dropped is None


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("-3", 0.0),
        ("nan", None),
        ("soon", None),
        ("1e9", RETRY_AFTER_MAX_S),
    ],
)
def test_retry_after_is_seconds(said: str, seconds: float | None) -> None:
    assert answered(503, {"Retry-After": said}, b"").retry_after_s == seconds


def test_retry_after_may_be_a_date() -> None:
    date = formatdate(time.time() + 100, usegmt=True)
    found = answered(503, {"Retry-After": date}, b"").retry_after_s
    assert found is not None
    assert 90 < found <= 100


@pytest.mark.parametrize(
    "url", ["influx:8086", "ftp://box", "http://", "http://user:secret@box:8086", ""]
)
def test_a_url_that_is_none_is_refused_and_its_password_not_shown(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        Database(url)
    assert "secret" not in str(refused.value)


def test_a_token_is_not_shown() -> None:
    assert "hidden" not in repr(Database("http://box:8086", token="hidden"))


@pytest.mark.parametrize(
    ("token", "header"),
    [(None, {}), ("abc", {"Authorization": "Token abc"}), ("u:p", {"authorization": "Basic dTpw"})],
)
def test_a_token_with_a_colon_is_name_and_password(
    token: str | None, header: dict[str, str]
) -> None:
    assert Database("http://box:8086", token=token).headers() == header


@pytest.mark.parametrize(
    ("version", "health", "api"),
    [
        ("1.6.7~rc0", b"", "v1"),
        ("1.8.10", b"", "v1"),
        ("v2.7.12", b"", "v2"),
        ("3.11.2", b"", "v2"),
        (None, b'{"name":"influxdb","version":"v2.9.1"}', "v2"),
        (None, b'{"name":"influxdb","version":"1.12.4"}', "v1"),
    ],
)
def test_the_server_tells_which_api_it_has(version: str | None, health: bytes, api: Api) -> None:
    answers: dict[str, Given] = {"/ping": WRITTEN, "/health": health}
    headers = {"X-Influxdb-Version": version} if version else {}
    with canned_server(answers, None, **headers) as s:
        found = connect(Database(s.url, org="ours"))
    assert not isinstance(found, Answer)
    found.close()
    assert found.api == api


def test_victoria_metrics_is_written_to_as_1_x() -> None:
    answers: dict[str, Given] = {
        "/ping": WRITTEN, "/health": b"OK", "/api/v1/status/buildinfo": {"status": "success"}
    }  # fmt: skip
    with canned_server(answers) as server:
        found = connect(Database(server.url))
    assert not isinstance(found, Answer)
    found.close()
    assert found.api == "v1"


@pytest.mark.parametrize(
    ("answers", "what", "reason"),
    [
        ({"/ping": (200, b"hello"), "/health": (200, b"OK")}, "denied", "--api v1 or --api v2"),
        ({"/ping": (503, b""), "/health": (503, b"")}, "later", "HTTP 503"),
        ({"/ping": WRITTEN, "/health": b'{"version":"v2.7.1"}'}, "denied", "organisation"),
    ],
)
def test_what_cannot_be_written_to_is_said(
    answers: dict[str, Given], what: str, reason: str
) -> None:
    with canned_server(answers) as server:
        found = connect(Database(server.url))
    assert isinstance(found, Answer)
    assert found.what == what
    assert reason in found.reason


def test_a_server_that_is_away_may_come_back() -> None:
    found = connect(Database(f"http://127.0.0.1:{free_port()}"))
    assert isinstance(found, Answer)
    assert found.what == "later"


def endpoint(server: Canned, api: Api) -> Endpoint:
    found = connect(Database(server.url, "box", "ours", "token", api))
    assert not isinstance(found, Answer)
    return found


PATHS: dict[Api, str] = {
    "v1": "/write?db=box&precision=ns",
    "v2": "/api/v2/write?org=ours&bucket=box&precision=ns",
}


@pytest.mark.parametrize("api", PATHS)
def test_a_write_carries_gzip_and_the_token(api: Api) -> None:
    with canned_server({PATHS[api]: WRITTEN}) as server:
        target = endpoint(server, api)
        assert target.write(gzipped(b"tick x=1i 17\n"), 5.0) == Answer("written")
        target.close()
    ((path, sent, body),) = server.seen
    headers = {name.lower(): value for name, value in sent.items()}
    assert path == PATHS[api]
    assert headers["authorization"] == "Token token"
    assert headers["content-encoding"] == "gzip"
    assert gzip.decompress(body) == b"tick x=1i 17\n"


@pytest.mark.parametrize("api", PATHS)
@pytest.mark.parametrize(
    ("status", "what"), [(400, "refused"), (401, "denied"), (413, "too_large"), (429, "later")]
)
def test_both_apis_say_what_became_of_a_write(api: Api, status: int, what: str) -> None:
    with canned_server({PATHS[api]: (status, PARTIAL)}, None, **{"Retry-After": "7"}) as server:
        target = endpoint(server, api)
        answer = target.write(gzipped(b"tick x=1i 17\n"), 5.0)
        target.close()
    assert answer.what == what
    assert "field type conflict" in answer.reason
    assert answer.dropped == (3 if what == "refused" else None)
    assert answer.retry_after_s == (7.0 if what == "later" else None)


@pytest.mark.parametrize("api", PATHS)
def test_an_answer_that_does_not_come_is_too_slow(api: Api) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        found = connect(Database(url, api=api))
        assert not isinstance(found, Answer)
        assert found.write(gzipped(b"x"), 0.1).what == "too_slow"
        found.close()


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ((200, b'{"results":[{"statement_id":0}]}'), "written"),
        ((200, b'{"results":[{"statement_id":0,"error":"no"}]}'), "refused"),
        ((200, b'{"results":[{"series":[{"name":"databases","values":[]}]}]}'), "refused"),
        ((403, b""), "refused"),
        ((503, b""), "later"),
    ],
)
def test_a_deletion_that_did_not_happen_is_known(given: Given, what: str) -> None:
    path = "/query?db=box&q=DELETE+FROM+%22swap%22+WHERE+%22run_id%22+%3D+%27r%27"
    with canned_server({path: given}) as server:
        target = endpoint(server, "v1")
        assert target.delete("swap", "r", 5.0).what == what
        target.close()


def test_a_name_cannot_leave_its_quotes() -> None:
    assert quoted('a"; drop database x; --\\') == '"a\\"; drop database x; --\\\\"'


def refused(seq: int) -> Refused:
    return Refused("w0", seq, "tick", "HTTP 400: so", f"tick x={seq}i {seq}", 1)


def test_quarantine_keeps_each_row_once_over_any_number_of_lives(tmp_path: Path) -> None:
    path = tmp_path / "ship" / "quarantine.jsonl"
    for _ in range(2):
        quarantine = Quarantine(path)
        quarantine.add(refused(1))
        quarantine.add(refused(2))
    assert read(path) == [refused(1), refused(2)]


def test_a_line_cut_short_by_a_kill_costs_no_other_line(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    Quarantine(path).add(refused(1))
    with path.open("ab") as f:
        f.write(b'\n{"source":"w0","se')
    Quarantine(path).add(refused(3))
    assert read(path) == [refused(1), refused(3)]


def test_quarantine_is_bounded_and_says_why(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", max_lines=2)
    quarantine.add(refused(1))
    quarantine.add(refused(2))
    with pytest.raises(SpoolError, match="2 lines were refused, the last because: HTTP 400: so"):
        quarantine.add(refused(3))
    assert len(read(quarantine.path)) == 2
