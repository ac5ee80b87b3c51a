"""The link between an agent and a run: messages over TCP, each a length and msgpack.

    subscriber                         agent
    Hello(protocol, nonce)        ->
                                  <-   Challenge(protocol, nonce)
    Proof(mac)                    ->
                                  <-   Welcome(mac, about), or Refused(reason)
    Ping                          ->
                                  <-   Pong, several times: the offset of the clocks
    Subscribe(run_id, have ...)   ->
                                  <-   Subscribed(epoch, sources)
                                  <-   Frames(source, data): a frame of the agent's spool
    Ack(source, next_seq)         ->
    End                           ->
                                  <-   Ended(rows, notes), when all is sampled
    Done                          ->   everything is held: the agent forgets the run

Either side sends Beat when it has nothing to say; one that hears nothing for SILENCE_S gives the
connection up. The length is 4 bytes, big endian, of what follows it.
"""

import hashlib
import socket
import struct
import time
from typing import Any, Self, TypeVar

import msgspec

from tokenswarm.store.schema import MEASUREMENTS

PROTOCOL = 1
NONCE_BYTES = 32
MAX_GREETING = 4096  # before the other side has proved anything
MAX_MESSAGE = 16 << 20
BEAT_S = 1.0
SILENCE_S = 5.0
SEND_S = 5.0

_LENGTH = struct.Struct(">I")


class LinkError(Exception):
    """The connection cannot go on; another one may. The text says why."""


class RefusedError(LinkError):
    """The other side does not want us; asking again will not help."""


class _Message(msgspec.Struct, frozen=True, tag=True):
    pass


class Hello(_Message, frozen=True):
    protocol: int
    nonce: bytes


class Challenge(_Message, frozen=True):
    """`token`: whether the agent wants one proved."""

    protocol: int
    nonce: bytes
    token: bool


class Proof(_Message, frozen=True):
    mac: bytes


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says of itself. `process` differs after a restart, `machine` names the clock,
    `gpu` is the kind of its GPU source, `targets` those whose engines it polls."""

    host: str
    version: str
    schema: str
    process: str
    machine: str | None
    gpu: str
    feeds: list[str] = []
    targets: list[str] = []


class Welcome(_Message, frozen=True):
    mac: bytes
    about: About


class Refused(_Message, frozen=True):
    reason: str


class Ping(_Message, frozen=True):
    asked_ns: int


class Pong(_Message, frozen=True):
    asked_ns: int
    received_ns: int
    answered_ns: int


class Subscribe(_Message, frozen=True, kw_only=True):
    """Sample for a run, or go on. `offset_ns` moves the agent's clock onto the run's. `models`:
    the server's name -> slug. `gpu_interval_s` None: no GPU. `have`: sequence numbers expected
    next by source, of the agent's spool `epoch`."""

    run_id: str
    t0_unix_ns: int
    offset_ns: int
    models: dict[str, str] = {}
    gpu_interval_s: float | None = 0.05
    epoch: str | None = None
    have: dict[str, int] = {}


class Subscribed(_Message, frozen=True):
    """`epoch` names the spool that the numbers belong to: another one starts at 0."""

    epoch: str
    gpu: dict[str, Any]


class Frames(_Message, frozen=True):
    source: str
    data: bytes


class Ack(_Message, frozen=True):
    source: str
    next_seq: int


class End(_Message, frozen=True):
    pass


class Ended(_Message, frozen=True):
    rows: dict[str, int]
    notes: list[str]


class Done(_Message, frozen=True):
    pass


class Beat(_Message, frozen=True):
    pass


Message = (
    Hello | Challenge | Proof | Welcome | Refused | Ping | Pong | Subscribe | Subscribed
    | Frames | Ack | End | Ended | Done | Beat
)  # fmt: skip

M = TypeVar("M", bound=_Message)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


def schema_digest() -> str:
    """Differs where the tables differ: rows are lists in the schema's order."""
    columns = [(m.name, m.columns, [f.kind for f in m.fields]) for m in MEASUREMENTS.values()]
    return hashlib.sha256(repr(columns).encode()).hexdigest()[:16]


class Channel:
    """Messages over one connected socket, for one thread. Every method may raise LinkError."""

    def __init__(self, connection: socket.socket):
        self._socket = connection
        self._buffer = bytearray()
        self.max_bytes = MAX_GREETING
        self.heard_s = self.spoke_s = time.monotonic()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, message: Message) -> None:
        """Send all of it within SEND_S."""
        body = _encode(message)
        try:
            self._socket.settimeout(SEND_S)
            self._socket.sendall(_LENGTH.pack(len(body)) + body)
        except OSError as e:
            raise LinkError(f"cannot send: {e.strerror or e}") from None
        self.spoke_s = time.monotonic()

    def receive(self, timeout_s: float) -> Message | None:
        """The next message; None when none was complete within `timeout_s`."""
        until = time.monotonic() + timeout_s
        while (message := self._complete()) is None:
            left_s = until - time.monotonic()
            if left_s <= 0 or not self._read(left_s):
                return None
        return message

    def want(self, kind: type[M], timeout_s: float = SILENCE_S) -> M:
        """The next message, Beats left out, which must be of `kind`."""
        until = time.monotonic() + timeout_s
        while True:
            message = self.receive(max(0.0, until - time.monotonic()))
            if isinstance(message, kind):
                return message
            if isinstance(message, Refused):
                raise RefusedError(message.reason)
            if message is None:
                raise LinkError(f"no answer within {timeout_s:g} s")
            if not isinstance(message, Beat):
                raise LinkError(f"{type(message).__name__} where {kind.__name__} belongs")

    def keep(self) -> None:
        """Say that we are there when it is time to; LinkError when they were silent too long."""
        now = time.monotonic()
        if now - self.heard_s > SILENCE_S:
            raise LinkError(f"nothing heard for {SILENCE_S:g} s")
        if now - self.spoke_s > BEAT_S:
            self.send(Beat())

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _complete(self) -> Message | None:
        if len(self._buffer) < _LENGTH.size:
            return None
        length = _LENGTH.unpack_from(self._buffer)[0]
        if length > self.max_bytes:
            raise LinkError(f"a message of {length} bytes, at most {self.max_bytes} are taken")
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        try:
            message: Message = _decode(body)
        except msgspec.MsgspecError as e:
            raise LinkError(f"not a message: {e}") from None
        return message

    def _read(self, timeout_s: float) -> bool:
        """Take what has come; False when nothing has in time."""
        try:
            self._socket.settimeout(timeout_s)
            part = self._socket.recv(1 << 16)
        except TimeoutError:
            return False
        except OSError as e:
            raise LinkError(f"cut: {e.strerror or e}") from None
        if not part:
            raise LinkError("the other side hung up")
        self._buffer += part
        self.heard_s = time.monotonic()
        return True
