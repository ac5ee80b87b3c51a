"""Servers that tell of changes by themselves are heard, whatever becomes of the stream."""

import threading
from collections.abc import Iterator

import pytest

from tests.news_server import Teller, news_server
from tests.running import until
from tokenswarm.engines import news
from tokenswarm.engines.control import Server
from tokenswarm.engines.news import Ear, News

NEWS = News("/api/events", b"modelStatus")
TOLD = 'data:{"type":"modelStatus","data":"{}"}'


class Counting:
    """How often it was called."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def teller() -> Iterator[Teller]:
    with news_server("/api/events") as teller:
        yield teller


@pytest.fixture
def heard() -> Counting:
    return Counting()


@pytest.fixture
def ear(heard: Counting) -> Iterator[Ear]:
    ear = Ear(heard)
    yield ear
    ear.close()
    assert not [t for t in threading.enumerate() if t.name == "news"]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news, "AGAIN_S", 0.05)


def test_a_change_is_heard_and_other_events_are_not(
    teller: Teller, ear: Ear, heard: Counting
) -> None:
    ear.follow(Server(teller.url, 5.0, {"Authorization": "Bearer k"}), NEWS)
    until(lambda: teller.listening == 1)
    teller.tell('data:{"type":"logData","data":"loading"}')
    teller.tell(TOLD)
    until(lambda: heard.count == 1)
    teller.tell(TOLD)
    until(lambda: heard.count == 2)
    assert teller.headers[0]["Authorization"] == "Bearer k"


def test_following_the_same_server_again_changes_nothing(teller: Teller, ear: Ear) -> None:
    for _ in range(3):
        ear.follow(Server(teller.url, 5.0), NEWS)
        until(lambda: teller.listening == 1)
    assert teller.calls == 1


def test_a_server_that_hangs_up_is_called_again(teller: Teller, ear: Ear, heard: Counting) -> None:
    ear.follow(Server(teller.url, 5.0), NEWS)
    until(lambda: teller.listening == 1)
    teller.hang_up()
    until(lambda: teller.calls == 2 and teller.listening == 1)
    teller.tell(TOLD)
    until(lambda: heard.count == 1)


@pytest.mark.parametrize(("status", "again"), [(404, False), (400, False), (503, True)])
def test_a_server_without_news_is_left_alone_and_one_that_is_not_ready_is_not(
    teller: Teller, ear: Ear, heard: Counting, status: int, again: bool
) -> None:
    teller.status = status
    ear.follow(Server(teller.url, 5.0), NEWS)
    if again:
        until(lambda: teller.calls >= 2)
    else:
        until(lambda: not [t for t in threading.enumerate() if t.name == "news"])
        assert teller.calls == 1
    assert heard.count == 0


def test_a_server_that_is_down_is_called_until_it_is_up_or_nobody_wants_it(heard: Counting) -> None:
    with news_server("/api/events") as teller:
        url = teller.url
    ear = Ear(heard)
    ear.follow(Server(url, 1.0), NEWS)
    ear.follow(Server(url, 1.0), None)  # the engine that is there now has no news
    assert not [t for t in threading.enumerate() if t.name == "news"]
    ear.close()


def test_a_line_without_end_is_taken_in_pieces(teller: Teller, ear: Ear, heard: Counting) -> None:
    ear.follow(Server(teller.url, 5.0), NEWS)
    until(lambda: teller.listening == 1)
    teller.tell("x" * (3 * news.MAX_LINE))
    until(lambda: teller.listening == 1)
    teller.tell(TOLD)
    until(lambda: heard.count == 1)
