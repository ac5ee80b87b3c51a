"""From events to writes: one write an event, or cut, glued and decorated as knobs say."""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Protocol

from tokenswarm.sim.answer import Ending
from tokenswarm.sim.clock import now_s
from tokenswarm.sim.http import Reply
from tokenswarm.sim.knobs import Knobs

PIECE_GAP_S = 0.001  # between the pieces of one event, so that they arrive apart


class Channel(Protocol):
    """Where a stream's events go. Appends to the answer's `tokens_s` when a token event is
    handed to the socket as a whole."""

    def send(self, payload: bytes, tokens: int) -> None: ...
    def finish(self, ending: Ending, ended: Callable[[], None]) -> None:
        """No more events; `ended` is called when everything is written."""


def end_reply(reply: Reply, ending: Ending) -> None:
    """Finish, cut or reset."""
    {"finish": reply.finish, "cut": reply.cut, "reset": reply.reset}[ending]()


class Plain:
    """One write an event, at once."""

    def __init__(self, reply: Reply, tokens_s: list[float]):
        self._reply, self._stamp, self._write = reply, tokens_s.append, reply.send

    def send(self, payload: bytes, tokens: int) -> None:
        if tokens:
            self._stamp(now_s())
        if payload:
            self._write(payload)

    def finish(self, ending: Ending, ended: Callable[[], None]) -> None:
        end_reply(self._reply, ending)
        ended()


class Whole:
    """Of an answer that is not streamed: nothing is written, time passes."""

    def __init__(self, made_s: list[float]):
        self._made_s = made_s

    def send(self, payload: bytes, tokens: int) -> None:
        if tokens:
            self._made_s.append(now_s())

    def finish(self, ending: Ending, ended: Callable[[], None]) -> None:
        ended()


class Mangled:
    """Events with other line ends, comments between them, several or a part in a write."""

    def __init__(
        self, reply: Reply, tokens_s: list[float], knobs: Knobs, sse: bool, dice: random.Random
    ):
        self._reply, self._tokens_s, self._knobs, self._sse = reply, tokens_s, knobs, sse
        self._dice = dice
        self._group: list[bytes] = []
        self._group_tokens = 0
        self._pieces: deque[tuple[bytes, int]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._events = 0
        self._on_drained: Callable[[], None] | None = None

    def send(self, payload: bytes, tokens: int) -> None:
        if not payload:
            return
        self._group.append(self._decorated(payload))
        self._group_tokens += bool(tokens)
        if len(self._group) >= self._knobs.coalesce:
            self._flush_group()

    def finish(self, ending: Ending, ended: Callable[[], None]) -> None:
        def close() -> None:
            end_reply(self._reply, ending)
            ended()

        self._on_drained = close
        self._flush_group()
        if self._timer is None:
            self._write_next()

    def _decorated(self, payload: bytes) -> bytes:
        knobs, self._events = self._knobs, self._events + 1
        if self._sse and knobs.no_space_after_data and payload.startswith(b"data: "):
            payload = b"data:" + payload[6:]
        if self._sse and knobs.comments and self._events % knobs.comments == 0:
            payload = b": ping\n\n" + payload
        return payload.replace(b"\n", b"\r\n") if knobs.crlf else payload

    def _flush_group(self) -> None:
        if not self._group:
            return
        data, tokens = b"".join(self._group), self._group_tokens
        self._group, self._group_tokens = [], 0
        cuts = self._cuts(data)
        ends = [*cuts, len(data)]
        for start, end in zip([0, *cuts], ends, strict=True):
            self._pieces.append((data[start:end], tokens if end == len(data) else 0))
        if self._timer is None:
            self._write_next()

    def _cuts(self, data: bytes) -> list[int]:
        """Where the write of `data` is cut: after a multibyte character's first byte, or at
        random places."""
        cuts: set[int] = set()
        if self._knobs.split_utf8:
            wide = next((i for i, b in enumerate(data) if b >= 0xC0), None)
            cuts |= {wide + 1} if wide is not None else set()
        most = min(self._knobs.fragment, len(data)) - 1
        if most > 0:
            cuts |= set(self._dice.sample(range(1, len(data)), most))
        return sorted(cuts)

    def _write_next(self) -> None:
        self._timer = None
        if self._reply.closing:
            return
        if self._pieces:
            piece, tokens = self._pieces.popleft()
            self._tokens_s.extend([now_s()] * tokens)
            self._reply.send(piece)
        if self._pieces:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(PIECE_GAP_S, self._write_next)
        elif self._on_drained is not None:
            self._on_drained()
