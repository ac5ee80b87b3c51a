"""The compiled part of the hot path: the same results as the Python beside it, and true stamps."""

import os
import random
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.compiled import compiled
from tests.wire_streams import chat_line, chunk, ndjson, sse
from tokenswarm import native
from tokenswarm.wire import shape

pytestmark = compiled

SO_TIMESTAMPNS = 35
TEXTS = ["a", "", " longer text", "é🙂", '"', "\\", "\n", "\u0001", "0\r\n\r\n"]
TOKEN = sse(chunk({"content": "a"}))


def learned(block: bytes, text: str, least: int) -> shape.Shape:
    found = shape.learn(block, "content", text, least)
    assert found is not None
    return found


def damaged(data: bytes, dice: random.Random) -> bytes:
    body = bytearray(data)
    for _ in range(dice.choice([0, 0, 1, 2])):
        place = dice.randrange(len(body) + 1)
        body[place : place + dice.randint(0, 2)] = dice.choice(
            [b'"', b"\\", b"\\u00", b"\\u00e9", b"\n", b"\r", b"\x00", b"\xff", b"x", b""]
        )
    return bytes(body)


@pytest.mark.parametrize("api", ["openai", "ollama"])
def test_a_compiled_shape_counts_what_the_python_one_counts(
    api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = random.Random(5)

    def event(text: str, n: int) -> bytes:
        return ndjson(chat_line(text, n)) if api == "ollama" else sse(chunk({"content": text}))

    for least in (0, 1):
        block = event("a", 1)
        ours = learned(block, "a", least)
        with monkeypatch.context() as without:
            without.setattr(native, "NATIVE", False)
            plain = learned(block, "a", least)
        assert isinstance(ours, native.Shape)
        assert not isinstance(plain, native.Shape)
        for _ in range(4000):
            run = [event(dice.choice(TEXTS), n) for n in range(dice.randint(0, 4))]
            data = damaged(b"".join(run), dice)
            assert ours(data) == plain(data), data


class Ends:
    """A TCP connection on loopback, its near end tapped; what the tap hands on is kept."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.near, self.far = near, far
        self.times: list[float] = []
        self.counter: Any = native.Counter()
        self.handed: list[tuple[float, bytes]] = []
        self.closed = 0
        self.errors: list[int] = []
        self.epoll = select.epoll()
        self.epoll.register(near.fileno(), select.EPOLLIN)
        self.tap: Any = native.Tap(
            near.fileno(), self.times, self.counter,
            lambda now, data: self.handed.append((now, data)), self._close, self.errors.append,
        )  # fmt: skip

    def _close(self) -> None:
        self.closed += 1

    def look(self) -> None:
        """Wait for something to read, and read it once."""
        assert select.select([self.near], [], [], 10.0)[0]
        native.look(self.epoll.fileno(), {self.near.fileno(): self.tap})


@contextmanager
def tapped() -> Iterator[Ends]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    near.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    with near, far:
        ends = Ends(near, far)
        with ends.epoll:
            yield ends


def http_chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


def test_chunks_of_the_shape_are_taken_and_the_rest_is_handed_on() -> None:
    other = b": ping\n\n"
    with tapped() as ends:
        ends.tap.shape = learned(TOKEN, "a", 0)
        ends.far.sendall(http_chunk(TOKEN) + http_chunk(TOKEN * 2) + http_chunk(other))
        ends.look()
        assert (len(ends.times), ends.counter.n) == (3, 3)
        assert ends.tap.bytes == 3 * len(TOKEN)
        assert [data for _, data in ends.handed] == [http_chunk(other)]


@pytest.mark.parametrize(
    "rest",
    [
        http_chunk(TOKEN)[:-1],  # its end is still to come
        http_chunk(TOKEN[:-1]),  # half an event
        http_chunk(TOKEN + b": ping\n\n"),  # more than events of the shape
        b"0\r\n\r\n",  # the end of the message
        b"%x;name=value\r\n%b\r\n" % (len(TOKEN), TOKEN),  # an extension
        b"00000000%x\r\n%b\r\n" % (len(TOKEN), TOKEN),  # a size longer than is read here
        b"zz\r\n",
    ],
)
def test_a_chunk_that_is_not_plainly_of_the_shape_is_not_touched(rest: bytes) -> None:
    with tapped() as ends:
        ends.tap.shape = learned(TOKEN, "a", 0)
        ends.far.sendall(http_chunk(TOKEN) + rest)
        ends.look()
        assert len(ends.times) == ends.counter.n == 1
        assert [data for _, data in ends.handed] == [rest]


def test_without_a_shape_everything_is_handed_on() -> None:
    with tapped() as ends:
        ends.far.sendall(http_chunk(TOKEN))
        ends.look()
        assert [data for _, data in ends.handed] == [http_chunk(TOKEN)]
        assert ends.times == []


def test_the_stamp_is_when_the_kernel_had_the_bytes_and_not_when_they_were_read() -> None:
    with tapped() as ends:
        ends.tap.shape = learned(TOKEN, "a", 0)
        before = time.perf_counter()
        ends.far.sendall(http_chunk(TOKEN))
        after = time.perf_counter()
        time.sleep(0.2)
        ends.look()
        # a millisecond for the two clocks that are compared; loopback delivers while it sends
        assert before - 0.001 <= ends.times[0] <= after + 0.001
        assert ends.tap.last_s == ends.times[0]


def test_where_the_kernel_has_no_stamp_it_is_the_moment_of_the_look() -> None:
    with tapped() as ends:
        ends.near.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 0)
        ends.tap.shape = learned(TOKEN, "a", 0)
        ends.far.sendall(http_chunk(TOKEN))
        time.sleep(0.1)
        before = time.perf_counter()
        ends.look()
        assert before <= ends.times[0] <= time.perf_counter()


def test_the_end_and_a_reset_are_told_apart() -> None:
    with tapped() as ends:
        ends.far.close()
        ends.look()
        assert (ends.closed, ends.errors) == (1, [])
    with tapped() as ends:
        ends.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ends.far.close()
        ends.look()
        assert (ends.closed, [os.strerror(e) for e in ends.errors]) == (
            0, ["Connection reset by peer"],
        )  # fmt: skip


def test_a_fault_of_the_receiver_gets_out_and_loses_no_other_socket() -> None:
    with tapped() as broken, tapped() as sound, select.epoll() as epoll:

        def fail(now: float, data: bytes) -> None:
            raise RuntimeError("a fault of ours")

        near = broken.near.fileno()
        tap = native.Tap(near, [], native.Counter(), fail, broken._close, broken.errors.append)
        waiting = {near: tap, sound.near.fileno(): sound.tap}
        for fd in waiting:
            epoll.register(fd, select.EPOLLIN)
        broken.far.sendall(b"x")
        sound.far.sendall(b"y")
        for ends in (broken, sound):
            assert select.select([ends.near], [], [], 10.0)[0]
        with pytest.raises(RuntimeError, match="a fault of ours"):
            native.look(epoll.fileno(), waiting)
        native.look(epoll.fileno(), {sound.near.fileno(): sound.tap})
        assert [data for _, data in sound.handed] == [b"y"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: native.Shape("head", b"a", b"b", 0), "lead must be bytes"),
        (lambda: native.Shape(None, b"", b"b", 0), "needs a head and a tail"),
        (lambda: native.look(0, []), "look"),
    ],
)
def test_wrong_arguments_are_named(wrong: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        wrong()


def test_it_can_be_left_out() -> None:
    code = "from tokenswarm import native; print(native.NATIVE, native.Counter.__name__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TOKENSWARM_NATIVE": "0"}, capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout == b"False PlainCounter\n"
