"""Databases that take line protocol, and what their answers mean.

v1: `POST /write` of InfluxDB 1.x and VictoriaMetrics. v2: `POST /api/v2/write` of InfluxDB 2.x,
3 Core and VictoriaMetrics, through influxdb-client. Bodies come compressed; times are in ns.
"""

import email.utils
import json
import re
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, TimeoutError

from tokenswarm.errors import UsageError

Api = Literal["v1", "v2"]
What = Literal["written", "refused", "too_large", "too_slow", "later", "denied"]

REASON_CHARS = 300
RETRY_AFTER_MAX_S = 600.0
CONNECT_S = 5.0
BUILD = "/api/v1/status/buildinfo"
"""Only VictoriaMetrics answers here."""

_HEADERS = {"Content-Type": "text/plain; charset=utf-8", "Content-Encoding": "gzip"}


@dataclass(frozen=True, slots=True)
class Database:
    """Where points go: `name` is a v1 database or a v2 bucket. `token` is `USER:PASSWORD` for an
    InfluxDB 1.x with authentication. `api` None: the server tells."""

    url: str
    name: str = "tokenswarm"
    org: str = ""
    token: str | None = field(default=None, repr=False)
    api: Api | None = None

    def __post_init__(self) -> None:
        parsed = urllib3.util.parse_url(self.url)
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise UsageError(f"{self.url!r} is no InfluxDB URL; give one as http://127.0.0.1:8086")
        if parsed.auth:
            raise UsageError(
                "an InfluxDB URL must not hold a password; put USER:PASSWORD into a file for "
                "--token-file, or into TOKENSWARM_INFLUX_TOKEN"
            )

    @property
    def base(self) -> str:
        return self.url.rstrip("/")

    def headers(self) -> dict[str, str]:
        """What proves who we are, if anything does."""
        if not self.token:
            return {}
        if ":" in self.token:
            return urllib3.make_headers(basic_auth=self.token)
        return {"Authorization": f"Token {self.token}"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a batch. refused: something in it; too_large: halve it; too_slow: the same,
    and later; later: any other trouble that passes; denied: never as we ask now.

    `dropped` is how many points of a refused batch were not taken, if the server said it.
    """

    what: What
    reason: str = ""
    retry_after_s: float | None = None
    dropped: int | None = None


class Endpoint(Protocol):
    """One database that answers. Not for several threads at once."""

    api: Api

    def write(self, body: bytes, timeout_s: float) -> Answer:
        """Send gzipped lines and say what became of them; trouble is an answer as well."""

    def delete(self, measurement: str, run_id: str, timeout_s: float) -> Answer:
        """Delete the rows of one run; written: done."""

    def close(self) -> None:
        """Let go of the connections."""


def connect(database: Database, timeout_s: float = 10.0) -> "Endpoint | Answer":
    """The endpoint to write to, or why there is none now (`later`) or ever (`denied`)."""
    api = database.api
    if api is None:
        found = look(database, timeout_s)
        if isinstance(found, Answer):
            return found
        api = "v1" if found.startswith("1.") else "v2"
        if found.startswith("2.") and not database.org:
            return Answer(
                "denied", f"{database.url} is InfluxDB {found}, which wants an organisation; "
                "give --org or TOKENSWARM_INFLUX_ORG"
            )  # fmt: skip
    return V1(database) if api == "v1" else V2(database)


def look(database: Database, timeout_s: float = 10.0) -> str | Answer:
    """The version that the server tells, as `1.6.7`."""
    try:
        with _pool(timeout_s) as pool:
            for path in ("/ping", "/health"):
                reply = pool.request("GET", database.base + path, headers=database.headers())
                if version := _version(reply):
                    return version
            metrics = pool.request("GET", database.base + BUILD, headers=database.headers())
            if metrics.status == 200 and b'"success"' in metrics.data:
                return "1.x"  # VictoriaMetrics, which says nothing of InfluxDB and speaks as 1.x
    except HTTPError as e:
        return Answer("later", _trouble(e))
    if reply.status >= 500 or reply.status == 429:
        return Answer("later", f"HTTP {reply.status} from /health")
    return Answer(
        "denied", f"{database.url} does not say which InfluxDB it is; give --api v1 or --api v2"
    )


def _version(reply: urllib3.BaseHTTPResponse) -> str | None:
    said = reply.headers.get("X-Influxdb-Version")
    if said is None:
        try:
            said = json.loads(reply.data)["version"]
        except (ValueError, KeyError, TypeError):
            return None
    match = re.search(r"[0-9]+\.[0-9][0-9a-z.+~-]*", str(said)[:60])
    return match[0] if match else None


class V1:
    """`/write` of InfluxDB 1.x; makes its database when there is none yet."""

    api: Api = "v1"

    def __init__(self, database: Database):
        self._database = database
        self._pool = _pool()
        self._made = False

    def write(self, body: bytes, timeout_s: float) -> Answer:
        fields = {"db": self._database.name, "precision": "ns"}
        reply = self._post("/write", fields, timeout_s, body)
        if isinstance(reply, Answer):
            return reply
        answer = answered(reply.status, reply.headers, reply.data)
        if reply.status == 404 and b"database not found" in reply.data and not self._made:
            self._made = True
            return self._make_database(timeout_s) or self.write(body, timeout_s)
        return answer

    def delete(self, measurement: str, run_id: str, timeout_s: float) -> Answer:
        q = f"DELETE FROM {quoted(measurement)} WHERE \"run_id\" = '{run_id}'"
        reply = self._post("/query", {"db": self._database.name, "q": q}, timeout_s)
        if isinstance(reply, Answer):
            return reply
        if b'"databases"' in reply.data:  # what VictoriaMetrics says to every query
            return Answer("refused", "it takes no InfluxQL")
        if reply.status == 200 and b'"error"' in reply.data:
            return Answer("refused", _short(reply.data.decode(errors="replace")))
        if reply.status == 200:
            return Answer("written")
        answer = answered(reply.status, reply.headers, reply.data)
        return answer if answer.what == "later" else Answer("refused", answer.reason)

    def _make_database(self, timeout_s: float) -> Answer | None:
        q = f"CREATE DATABASE {quoted(self._database.name)}"
        reply = self._post("/query", {"q": q}, timeout_s)
        if isinstance(reply, Answer):
            self._made = False
            return reply
        return None

    def _post(
        self, path: str, fields: dict[str, str], timeout_s: float, body: bytes | None = None
    ) -> urllib3.BaseHTTPResponse | Answer:
        url = f"{self._database.base}{path}?{urllib.parse.urlencode(fields)}"
        headers = self._database.headers() | (_HEADERS if body else {})
        timeout = urllib3.Timeout(connect=min(CONNECT_S, timeout_s), read=timeout_s)
        try:
            return self._pool.request("POST", url, body=body, headers=headers, timeout=timeout)
        except HTTPError as e:
            return _failed(e)

    def close(self) -> None:
        self._pool.clear()


class V2:
    """`/api/v2/write` through influxdb-client."""

    api: Api = "v2"

    def __init__(self, database: Database):
        from influxdb_client import InfluxDBClient
        from influxdb_client.service.write_service import WriteService

        self._database = database
        self._client = InfluxDBClient(database.base, org=database.org)
        for name, value in database.headers().items():
            self._client.api_client.set_default_header(name, value)
        # its write_api would compress once more, at level 9, and hide the status
        self._service = WriteService(self._client.api_client)

    def write(self, body: bytes, timeout_s: float) -> Answer:
        from influxdb_client.rest import ApiException

        try:
            _, status, headers = self._service.post_write_with_http_info(
                self._database.org, self._database.name, body, precision="ns",
                content_encoding="gzip", content_type=_HEADERS["Content-Type"],
                _request_timeout=(min(CONNECT_S, timeout_s) * 1e3, timeout_s * 1e3),
            )  # fmt: skip
        except ApiException as e:
            if not e.status:
                return Answer("later", f"cannot reach it: {_short(e.reason)}")
            return answered(e.status, e.headers or {}, e.body)
        except HTTPError as e:
            return _failed(e)
        except ValueError:
            return Answer("later", "an answer that is no text")
        return answered(status, headers, b"")

    def delete(self, measurement: str, run_id: str, timeout_s: float) -> Answer:
        from influxdb_client.rest import ApiException

        predicate = f'_measurement="{measurement}" AND run_id="{run_id}"'
        try:
            self._client.delete_api().delete(
                "1970-01-01T00:00:00Z", "2200-01-01T00:00:00Z", predicate,
                self._database.name, self._database.org,
            )  # fmt: skip
        except ApiException as e:
            return Answer("refused", f"HTTP {e.status}: {_short(e.reason)}")
        except HTTPError as e:
            return _failed(e)
        return Answer("written")

    def close(self) -> None:
        self._client.close()


def quoted(name: str) -> str:
    """A name in InfluxQL."""
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def answered(status: int, headers: Any, body: bytes | str | None) -> Answer:
    """What an answer to a write means."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else body or ""
    reason = f"HTTP {status}: {_short(_said(text))}"
    if status == 204:
        return Answer("written")
    if status in (400, 422):
        dropped = re.search(r"dropped=([0-9]+)", text)
        return Answer("refused", reason, dropped=int(dropped[1]) if dropped else None)
    if status == 413:
        return Answer("too_large", reason)
    if status in (408, 504):
        return Answer("too_slow", reason, _retry_after_s(headers))
    if status in (401, 403, 404, 405) or 300 <= status < 400:
        return Answer("denied", reason)
    return Answer("later", reason, _retry_after_s(headers))


def _said(text: str) -> str:
    """The sentence in an error's body: `error` in 1.x, `message` in 2.x."""
    try:
        body = json.loads(text)
        return str(body.get("error") if "message" not in body else body["message"])
    except (ValueError, AttributeError):
        return text


def _short(text: object) -> str:
    return " ".join(str(text).split())[:REASON_CHARS] or "no reason given"


def _retry_after_s(headers: Any) -> float | None:
    """Retry-After: seconds or a date."""
    said = headers.get("Retry-After")
    if said is None:
        return None
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(said).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return min(max(seconds, 0.0), RETRY_AFTER_MAX_S) if seconds == seconds else None


def _failed(error: HTTPError) -> Answer:
    slow = isinstance(error, TimeoutError) and not isinstance(error, ConnectTimeoutError)
    return Answer("too_slow" if slow else "later", _trouble(error))


def _trouble(error: HTTPError) -> str:
    return f"cannot reach it: {_short(error)}"


def _pool(timeout_s: float | None = None) -> urllib3.PoolManager:
    return urllib3.PoolManager(
        retries=False, timeout=urllib3.Timeout(connect=CONNECT_S, read=timeout_s)
    )
