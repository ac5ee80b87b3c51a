"""What a database that keeps points in memory first has to outlive before they count as safe."""

import time
from pathlib import Path

import pytest

from tests.services import free_port, influxd, victoria
from tokenswarm.store import settling
from tokenswarm.store.cursor import Cursor
from tokenswarm.store.influx import Database
from tokenswarm.store.settling import DURABLE, Life, Settling, life_of


class Server:
    """What the server says of its start, to be changed by a test."""

    def __init__(self, life: Life | None) -> None:
        self.life = life

    def __call__(self) -> Life | None:
        return self.life


@pytest.fixture(autouse=True)
def _always_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "LOOK_S", 0.0)
    monkeypatch.setattr(settling, "SPACING_S", 0.0)


def cursor(read: int) -> Cursor:
    made = Cursor("somewhere")
    made.counts.read = read
    return made


def test_with_a_write_ahead_log_everything_acknowledged_is_safe_at_once() -> None:
    s = Settling(Server(DURABLE))
    s.add(cursor(1))
    s.add(cursor(2))
    assert not s.forgot()
    assert s.safe() == cursor(2)
    assert s.waiting == []
    assert s.safe() is None


def test_without_one_it_is_safe_when_it_has_outlived_the_time() -> None:
    s = Settling(Server("1"), settle_s=0.05)
    assert not s.forgot()
    s.add(cursor(1))
    assert not s.forgot()
    assert s.safe() is None
    time.sleep(0.06)
    s.add(cursor(2))
    assert s.safe() is None, "nobody has looked since"
    assert not s.forgot()
    assert s.safe() == cursor(1)
    assert s.waiting == [cursor(2)]


def test_another_start_means_that_what_waits_is_forgotten() -> None:
    server = Server("1")
    s = Settling(server, settle_s=0.0)
    assert not s.forgot()
    s.add(cursor(1))
    assert not s.forgot()
    assert s.safe() == cursor(1)
    s.add(cursor(2))
    server.life = "2"
    assert s.forgot()
    assert (s.safe(), s.waiting) == (None, [])
    assert not s.forgot()


def test_a_server_that_does_not_answer_makes_nothing_safe() -> None:
    server = Server(None)
    s = Settling(server, settle_s=0.0)
    assert not s.forgot()
    s.add(cursor(1))
    assert not s.forgot()
    assert s.safe() is None
    server.life = "1"  # it may have been another that acknowledged
    assert s.forgot()
    assert s.safe() is None


def test_a_server_that_takes_points_and_never_says_its_start_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settling, "UNASKED_S", 0.02)
    s = Settling(Server(None))
    s.add(cursor(1))
    assert not s.forgot()
    assert s.safe() is None
    time.sleep(0.03)
    s.add(cursor(2))
    assert not s.forgot()
    assert s.safe() == cursor(2)


def test_a_cursor_that_waits_is_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "SPACING_S", 100.0)
    s, moving = Settling(Server("1")), cursor(0)
    for n in range(50):
        moving.counts.read = n
        s.add(moving)
    moving.counts.read = -1
    assert [c.counts.read for c in s.waiting] == [0, 49], "few are kept, the last of all is"


@pytest.mark.live
def test_influxdb_forgets_nothing_and_victoriametrics_tells_its_start(tmp_path: Path) -> None:
    with influxd(tmp_path) as server:
        assert life_of(Database(server.url)) == DURABLE
    with victoria(tmp_path) as other:
        first = life_of(Database(other.url))
        assert first
        assert life_of(Database(other.url)) == first
        time.sleep(1)
        other.kill()
        assert life_of(Database(other.url)) is None
        other.start()
        assert life_of(Database(other.url)) not in (None, DURABLE, first)
    assert life_of(Database(f"http://127.0.0.1:{free_port()}")) is None
