"""The shipper against a real InfluxDB 1.6.7: what arrives, what is refused, what it says."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hostile_proxy import Answer, hostile_proxy
from tests.running import finished, tokenswarm, until
from tests.schema_rows import tick
from tests.services import ADMIN, Influxd, free_port, influxd
from tokenswarm.store.cursor import Place
from tokenswarm.store.influx import Database
from tokenswarm.store.quarantine import read as quarantined
from tokenswarm.store.spool import Writer

pytestmark = pytest.mark.live

T0_NS = 1_795_000_000_000_000_000
DB = "tokenswarm"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influxd]:
    with influxd(tmp_path_factory.mktemp("influxd")) as started:
        yield started


@pytest.fixture
def db(server: Influxd, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database of the test's own, which the shipper makes."""
    name = request.node.name[:60]
    yield name
    server.query(f'drop database "{name}"')


def written(spool: Path, n: int, source: str = "w0", first: int = 0) -> Path:
    """Ticks `first` to `first + n - 1` of `source` in the spool, 1 ms apart."""
    with Writer(spool, source) as writer:
        for at in range(first, first + n, 100):
            numbers = range(at, min(at + 100, first + n))
            writer.append([tick(T0_NS + i * 1_000_000, source, i) for i in numbers])
    return spool


def ship(folder: Path, url: str, *options: object, spool: Path | None = None) -> dict[str, Any]:
    """`tokenswarm ship` to its end: its exit code as `code` beside its last status."""
    for name in ("stdout.txt", "stderr.txt"):
        (folder / name).unlink(missing_ok=True)
    path = spool or folder / "spool"
    command = tokenswarm("ship", path, "--influx-url", url, *options, cwd=folder)
    code = finished(command)
    return {"code": code, **last_word(folder)}


def last_word(folder: Path) -> dict[str, Any]:
    said = (folder / "stderr.txt").read_text()
    assert "Traceback" not in said, said
    lines = (folder / "stdout.txt").read_text().splitlines()
    status: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    return {**status, "stderr": said}


def verify(folder: Path, url: str, db: str) -> int:
    return finished(
        tokenswarm("verify", folder / "spool", "--influx-url", url, "--db", db, cwd=folder)
    )


def events(server: Influxd, db: str) -> list[Any]:
    return server.figures(db, "tick", 'count("token_events")', 'sum("token_events")')


def test_everything_arrives_once_however_often_it_is_shipped(
    server: Influxd, db: str, tmp_path: Path
) -> None:
    written(tmp_path / "spool", 1500, "w0")
    written(tmp_path / "spool", 500, "w1")
    first = ship(tmp_path, server.url, "--db", db)
    assert (first["code"], first["done"], first["shipped"]) == (0, True, {"tick": 2000})
    again = ship(tmp_path, server.url, "--db", db)
    assert (again["read"], again["shipped"], again["lag_bytes"]) == (2000, {"tick": 2000}, 0)
    assert events(server, db) == [2000, sum(range(1500)) + sum(range(500))]
    assert verify(tmp_path, server.url, db) == 0


def test_a_cursor_that_was_lost_costs_nothing_but_time(
    server: Influxd, db: str, tmp_path: Path
) -> None:
    spool = written(tmp_path / "spool", 300)
    ship(tmp_path, server.url, "--db", db)
    Place(spool, Database(server.url, db)).cursor.unlink()
    assert ship(tmp_path, server.url, "--db", db)["shipped"] == {"tick": 300}
    assert events(server, db) == [300, sum(range(300))]


def test_a_shipper_follows_until_it_is_told_to_stop(
    server: Influxd, db: str, tmp_path: Path
) -> None:
    spool = written(tmp_path / "spool", 100)
    command = tokenswarm(
        "ship", spool, "--influx-url", server.url, "--db", db, "--follow", cwd=tmp_path
    )
    until(lambda: db in server.get("/query", q="show databases").decode())
    until(lambda: events(server, db)[:1] == [100])
    written(spool, 100, first=100)
    until(lambda: events(server, db)[:1] == [200])
    written(spool, 50, "w1")
    command.send_signal(signal.SIGTERM)
    assert finished(command) == 0
    assert last_word(tmp_path)["shipped"] == {"tick": 250}


def test_two_shippers_of_one_spool_would_be_one_too_many(
    server: Influxd, db: str, tmp_path: Path
) -> None:
    spool = written(tmp_path / "spool", 100)
    place = Place(spool, Database(server.url, db))
    place.lock()
    refused = ship(tmp_path, server.url, "--db", db)
    place.unlock()
    assert refused["code"] == 2
    assert "another process ships this spool" in refused["stderr"]
    assert ship(tmp_path, server.url, "--db", db)["code"] == 0


@pytest.mark.parametrize("token", ["admin:wrong", "wrong", None])
def test_a_wrong_token_stops_the_shipper_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    monkeypatch.delenv("TOKENSWARM_INFLUX_TOKEN", raising=False)
    spool = written(tmp_path / "spool", 100)
    file = tmp_path / "token"
    options = ["--token-file", file] if token else []
    with influxd(tmp_path, auth=True) as server:
        server.create(DB)
        file.write_text(f"{token}\n")
        refused = ship(tmp_path, server.url, *options)
        assert refused["code"] == 2
        assert "HTTP 401" in refused["stderr"]
        assert "TOKENSWARM_INFLUX_TOKEN" in refused["stderr"]
        assert str(token) not in refused["stderr"]
        assert not Place(spool, Database(server.url, DB)).cursor.exists()
        assert events(server, DB) == []
        file.write_text(":".join(ADMIN))
        assert ship(tmp_path, server.url, "--token-file", file)["code"] == 0
        assert events(server, DB) == [100, sum(range(100))]


def test_a_token_comes_from_the_environment_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENSWARM_INFLUX_TOKEN", ":".join(ADMIN))
    written(tmp_path / "spool", 100)
    with influxd(tmp_path, auth=True) as server:
        assert ship(tmp_path, server.url)["code"] == 0
        assert verify(tmp_path, server.url, DB) == 0


def test_lines_that_conflict_go_to_quarantine_and_the_rest_goes_on(
    server: Influxd, db: str, tmp_path: Path
) -> None:
    """The database has one series' field with another type, in one shard of several."""
    server.create(db)
    day_ns, week_ns = 86_400 * 10**9, 7 * 86_400 * 10**9
    other = f"tick token_events=0.5 {T0_NS + 3 * week_ns}"
    server.write(db, other)
    spool = tmp_path / "spool"
    with Writer(spool, "w0") as writer:
        rows = [tick(T0_NS + i * 1_000_000, "w0", i) for i in range(700)]
        bad = [tick(T0_NS + 3 * week_ns + day_ns + i, "w0", i) for i in range(3)]
        writer.append([*rows[:300], bad[0], *rows[300:], bad[1]])
        writer.append([bad[2]])
    said = ship(tmp_path, server.url, "--db", db)
    assert (said["code"], said["done"]) == (1, True)
    assert (said["shipped"], said["quarantined"]) == ({"tick": 700}, {"tick": 3})
    kept = quarantined(Place(spool, Database(server.url, db)).quarantine)
    assert [(r.source, r.seq, r.measurement) for r in kept] == [
        ("w0", 300, "tick"), ("w0", 701, "tick"), ("w0", 702, "tick")
    ]  # fmt: skip
    assert all("field type conflict" in r.reason for r in kept)
    assert all(r.line.startswith("tick,run_id=") for r in kept)
    assert verify(tmp_path, server.url, db) == 0
    assert "quarantined" in (tmp_path / "stdout.txt").read_text()


def test_a_line_that_is_too_large_on_its_own_is_refused(
    server: Influxd, db: str, tmp_path: Path
) -> None:
    spool = written(tmp_path / "spool", 400)
    with hostile_proxy(server.url) as proxy:
        proxy.max_body_bytes = 1500
        said = ship(tmp_path, proxy.url, "--db", db)
        assert said["code"] == 0
        assert said["batch_lines"] < 400
        assert proxy.times(Answer, 413)
        written(spool, 1, first=400)
        proxy.max_body_bytes = 10
        said = ship(tmp_path, proxy.url, "--db", db)
    assert (said["code"], said["quarantined"]) == (1, {"tick": 1})
    assert events(server, db) == [400, sum(range(400))]


def test_a_refusal_that_does_not_come_again_costs_no_line(
    server: Influxd, db: str, tmp_path: Path
) -> None:
    """400 for a whole batch, its halves and a line: something on the way there is at fault."""
    written(tmp_path / "spool", 8)
    with hostile_proxy(server.url) as proxy:
        proxy.script += [Answer(400)] * 4
        said = ship(tmp_path, proxy.url, "--db", db, "--api", "v1")
    assert (said["code"], said["shipped"], said["quarantined"]) == (0, {"tick": 8}, {})


def test_a_server_that_asks_for_time_is_given_it(server: Influxd, db: str, tmp_path: Path) -> None:
    written(tmp_path / "spool", 8)
    with hostile_proxy(server.url) as proxy:
        proxy.script += [Answer(429, retry_after_s=2), Answer(503, retry_after_s=1)]
        began = time.monotonic()
        said = ship(tmp_path, proxy.url, "--db", db, "--api", "v1")
        assert time.monotonic() - began >= 3
    assert (said["code"], said["retries"]) == (0, 2)


def test_a_database_that_is_away_costs_nothing_but_time(tmp_path: Path) -> None:
    spool = written(tmp_path / "spool", 100)
    away = f"http://127.0.0.1:{free_port()}"
    said = ship(tmp_path, away, "--drain", 1)
    assert (said["code"], said["done"], said["shipped"]) == (1, False, {})
    assert "cannot reach it" in said["reason"]
    assert said["lag_bytes"] > 0
    assert not Place(spool, Database(away)).cursor.exists()


def test_rows_that_make_no_line_are_counted(server: Influxd, db: str, tmp_path: Path) -> None:
    name, row = tick(T0_NS)
    empty = [*row[:6], *[None] * (len(row) - 6)]
    with Writer(tmp_path / "spool", "w0") as writer:
        writer.append([(name, row), (name, empty), ("nonsense", [1]), (name, row[:3])])
    said = ship(tmp_path, server.url, "--db", db)
    assert (said["code"], said["read"], said["shipped"]) == (0, 4, {"tick": 1})
    assert said["left_out"] == {
        "tick: no field": 1,
        f"tick: 3 values, want {len(row)}": 1,
        "unknown measurement 'nonsense'": 1,
    }
    assert verify(tmp_path, server.url, db) == 0


@pytest.mark.parametrize("missing", ["a line", "a value", "a bit of a value"])
def test_verify_sees_what_is_missing(
    server: Influxd, db: str, tmp_path: Path, missing: str
) -> None:
    written(tmp_path / "spool", 100)
    ship(tmp_path, server.url, "--db", db)
    if missing == "a line":
        server.query(f'delete from "tick" where time = {T0_NS + 7_000_000}', db)
    elif missing == "a bit of a value":
        tags = "run_id=20261122t163015z-k3f9qa,model=tinyllama,target=box,engine=ollama,worker=w0"
        server.write(db, f"tick,{tags} token_events=8i {T0_NS + 7_000_000}")
    else:
        written(tmp_path / "spool", 1, first=100)
    assert verify(tmp_path, server.url, db) == 1
    said = (tmp_path / "stdout.txt").read_text()
    assert "NOT everything is there" in said
    wanted = {
        "a line": "token_events: 100 values, 99 found",
        "a value": "token_events: 101 values, 100 found",
        "a bit of a value": "token_events: they sum up to 4950, found 4951",
    }
    assert wanted[missing] in said
    assert "from w0" in said
