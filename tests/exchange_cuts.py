"""Feeds chunked responses to an Exchange in random pieces; run in a process of its own.

argv: number of cuts, seed, and `tap` where the pieces shall come over a socket that the compiled
tap reads. Prints the number of differences to the response fed whole.
"""

from locust import User  # noqa: F401  (patches first)

import itertools
import random
import select
import socket
import sys

from gevent.monkey import get_original

from tokenswarm import native
from tokenswarm.load.exchange import Exchange, Timeouts
from tokenswarm.load.meter import ModelMeter
from tokenswarm.wire.reader import open_reader

_epoll = get_original("select", "epoll")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
FINISH = (
    b'data: {"id":"x","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
)
# texts that look like HTTP: sizes, line ends, an end of message
TEXTS = ["hi", "", "0\\r\\n\\r\\n", "5", "a" * 300, 'say \\"so\\"', "\u2028", "1\\r\\nx\\r\\n"]


def event(text: str) -> bytes:
    return b'data: {"id":"x","model":"m","choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (
        text.encode()
    )


def pieces(rng: random.Random) -> list[bytes]:
    """Chunks of a response, a third of them written in an unusual way."""
    bodies = [event(rng.choice(TEXTS)) for _ in range(rng.randint(1, 12))] + [FINISH]
    if rng.random() < 0.3:  # events that do not end where chunks do
        joined = b"".join(bodies)
        bodies = [joined[i : i + 50] for i in range(0, len(joined), 50)]
    chunks = [_chunk(body, rng.random()) for body in bodies]
    return [HEAD, *chunks, b"0\r\n\r\n" if rng.random() < 0.9 else b"0\r\nTrailer: x\r\n\r\n"]


def _chunk(body: bytes, kind: float) -> bytes:
    size = b"%x" % len(body)
    if kind < 0.1:
        size = b"%X;name=value" % len(body)
    elif kind < 0.2:
        size = b"000%x" % len(body)
    return size + b"\r\n" + body + b"\r\n"


def recut(parts: list[bytes], rng: random.Random) -> list[bytes]:
    """The same bytes, cut elsewhere; often at the chunks' own borders, as servers write."""
    whole = b"".join(parts)
    borders = set()
    at = 0
    for part in parts:
        at += len(part)
        if rng.random() < 0.8:
            borders.add(at)
    borders |= {rng.randrange(1, len(whole)) for _ in range(rng.choice([0, 0, 1, 2, 20]))}
    cuts = [0, *sorted(borders - {len(whole)}), len(whole)]
    return [whole[a:b] for a, b in itertools.pairwise(cuts)]


def play(parts: list[bytes], tap: bool = False) -> tuple[object, ...]:
    """What a response comes to, fed in `parts`."""
    reader = open_reader("openai", "chat", True, asked_model="m")
    meter = ModelMeter("m", "t", "e")
    exchange = Exchange(lambda: None, reader, meter, Timeouts())
    if tap:
        send(parts, exchange)
    else:
        for number, part in enumerate(parts):
            exchange.received(float(number), part)
    exchange.untap()
    ending = reader.ended(exchange.complete)
    fault = exchange.fault.kind if exchange.fault else None
    alive = exchange.keeps_alive()
    assert reader.counts.token_events == meter.token_events
    return exchange.complete, fault, alive, reader.counts, ending.status, ending.error_kind


def send(parts: list[bytes], exchange: Exchange) -> None:
    """Send `parts` over a socket, each read by a look of its own."""
    ours, theirs = socket.socketpair()
    with ours, theirs, _epoll() as epoll:
        epoll.register(ours.fileno(), select.EPOLLIN)
        waiting = {ours.fileno(): exchange.tap(ours.fileno(), sys.exit)}
        for part in parts:
            theirs.sendall(part)
            native.look(epoll.fileno(), waiting)


def main() -> None:
    n, seed, tap = int(sys.argv[1]), int(sys.argv[2]), "tap" in sys.argv[3:]
    rng = random.Random(seed)
    different = 0
    for _ in range(n):
        parts = pieces(rng)
        different += play([b"".join(parts)]) != play(recut(parts, rng), tap)
    print(different)


main()
