"""One connection to an agent, the agent's side: who are you, what time is it, here are the rows."""

import secrets
import threading
import time
from collections.abc import Callable, Iterator

from tokenswarm.clock import Clock
from tokenswarm.store.frame import Frame
from tokenswarm.store.spool import Position
from tokenswarm.telemetry.agent.session import Session
from tokenswarm.telemetry.link import wire
from tokenswarm.telemetry.link.token import proof, same

GREET_S = 5.0
LOOK_S = 0.25
WINDOW_FRAMES = 64


def greet(channel: wire.Channel, token: str | None, about: wire.About) -> None:
    """Let in who speaks our protocol and knows the token. LinkError after saying why not."""
    hello = channel.want(wire.Hello, GREET_S)
    if hello.protocol != wire.PROTOCOL:
        refuse(channel, f"the agent speaks protocol {wire.PROTOCOL}, not {hello.protocol}: "
                        f"install tokenswarm {about.version} on both sides")  # fmt: skip
    if len(hello.nonce) != wire.NONCE_BYTES:
        refuse(channel, f"a nonce of {len(hello.nonce)} bytes")
    nonce = secrets.token_bytes(wire.NONCE_BYTES)
    channel.send(wire.Challenge(wire.PROTOCOL, nonce, token is not None))
    given = channel.want(wire.Proof, GREET_S).mac
    if not same(given, proof(token, "subscriber", hello.nonce, nonce)) and token is not None:
        refuse(channel, "the token is missing" if not given else "the token is another one")
    channel.max_bytes = wire.MAX_MESSAGE
    channel.send(wire.Welcome(proof(token, "agent", hello.nonce, nonce), about))


def refuse(channel: wire.Channel, reason: str) -> None:
    """Say it and give the connection up."""
    channel.send(wire.Refused(reason))
    raise wire.LinkError(reason)


class Subscription:
    """Serves one subscriber until it has everything, hangs up, or another one takes its place."""

    def __init__(
        self, channel: wire.Channel, clock: Clock, open_session: Callable[[wire.Subscribe], Session]
    ):
        self._channel, self._clock, self._open = channel, clock, open_session
        self._session: Session | None = None
        self._position = Position()
        self._new: Iterator[Frame] = iter(())
        self._acknowledged: dict[str, int] = {}
        self._sent: dict[str, int] = {}
        self._in_flight: list[tuple[str, int]] = []  # source and end of frames sent
        self._ending: threading.Thread | None = None
        self._told = False
        self._full = False  # the window held something back

    def run(self) -> None:
        """LinkError when the connection is cut."""
        while self._session is None or not self._session.over:
            message = self._channel.receive(0.0 if self._behind() else LOOK_S)
            while message is not None:
                self._take(message)
                message = self._channel.receive(0.0)
            self._channel.keep()
            if self._session is not None:
                self._serve(self._session)

    def _behind(self) -> bool:
        """More can be sent at once."""
        return self._full and len(self._in_flight) < WINDOW_FRAMES

    def _take(self, message: wire.Message) -> None:
        match message:
            case wire.Ping(asked_ns):
                now = self._clock.unix(time.perf_counter())
                answered = self._clock.unix(time.perf_counter())
                self._channel.send(wire.Pong(asked_ns, now, answered))
            case wire.Subscribe():
                self._begin(message)
            case wire.Ack(source, next_seq):
                self._acknowledge(source, next_seq)
            case wire.End():
                self._end()
            case wire.Done() if self._session is not None and self._told:
                self._session.forget()
            case wire.Beat():
                pass
            case _:
                raise wire.LinkError(f"{type(message).__name__} is not for an agent")

    def _begin(self, ask: wire.Subscribe) -> None:
        session = self._session = self._open(ask)
        session.subscription = self
        if session.epoch == ask.epoch:
            self._acknowledged = dict(ask.have)
        self._channel.send(wire.Subscribed(session.epoch, session.gpu))

    def _serve(self, session: Session) -> None:
        if session.subscription is not self:
            raise wire.LinkError("another connection has taken the run over")
        session.seen_s = time.monotonic()
        stopped = session.stopped.is_set()
        self._send(session)
        if stopped and self._ending and not self._full and not self._told:
            self._told = True
            self._channel.send(wire.Ended(session.rows, session.notes))

    def _send(self, session: Session) -> None:
        """Send what is new, as far as the window goes; `_full` tells that there was more."""
        self._full = True
        while len(self._in_flight) < WINDOW_FRAMES:
            frame = next(self._new, None)
            if frame is None:
                self._new = session.frames(self._position, self._acknowledged)
                frame = next(self._new, None)
            if frame is None:
                self._full = False
                return
            self._channel.send(wire.Frames(frame.source, frame.data))
            self._in_flight.append((frame.source, frame.end))

    def _acknowledge(self, source: str, next_seq: int) -> None:
        self._in_flight = [(s, e) for s, e in self._in_flight if s != source or e > next_seq]
        if self._session is not None:
            self._session.acknowledge(source, next_seq)

    def _end(self) -> None:
        """Stopping takes a while: the connection lives on meanwhile."""
        if self._session is not None and self._ending is None:
            self._ending = threading.Thread(target=self._session.stop, name="session-end")
            self._ending.start()
