"""The run's side of the link: takes an agent's frames into the run's spool, each once."""

import secrets
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenswarm.clock import SAME_CLOCK, Clock, Clocks, Exchange, Offset, machine, offset_of
from tokenswarm.errors import SpoolError, UsageError
from tokenswarm.scenario.urls import agent_address
from tokenswarm.store.frame import Frame, unpack
from tokenswarm.store.row import check_row
from tokenswarm.store.spool import Writer
from tokenswarm.telemetry.config import Agent, Config
from tokenswarm.telemetry.feed import Notes
from tokenswarm.telemetry.link import wire
from tokenswarm.telemetry.link.token import proof, same

CONNECT_S = 3.0
AGAIN_S = (0.1, 0.2, 0.5, 1.0)
DRAIN_S = 45.0
OPEN_S = 15.0  # opening a driver takes a while
LOOK_S = 0.2
MAX_SOURCES = 64
PINGS = 8
PING_GAP_S = 0.01
MEASURED = frozenset(
    ("gpu", "gpu_process", "engine", "residency", "container", "host", "agent")
)  # fmt: skip


class Names:
    """Sources of one spool: the same name is given out once, the next one gets a number."""

    def __init__(self, taken: Sequence[str] = ()):
        self._taken = set(taken)
        self._lock = threading.Lock()

    def __call__(self, wanted: str) -> str:
        with self._lock:
            name, number = wanted, 1
            while name in self._taken:
                number += 1
                name = f"{wanted}-{number}"
            self._taken.add(name)
            return name


def connect(agent: Agent) -> tuple[wire.Channel, wire.About]:
    """A connection to `agent`, both sides known to each other. LinkError; UsageError when there
    is no use in trying again."""
    host, port = agent_address(agent.address)
    try:
        connection = socket.create_connection((host, port), CONNECT_S)
    except OSError as e:
        raise wire.LinkError(f"cannot be reached: {e.strerror or e}") from None
    channel = wire.Channel(connection)
    try:
        return channel, _greet(channel, agent.token)
    except BaseException:
        channel.close()
        raise


def _greet(channel: wire.Channel, token: str | None) -> wire.About:
    nonce = secrets.token_bytes(wire.NONCE_BYTES)
    channel.send(wire.Hello(wire.PROTOCOL, nonce))
    asked = channel.want(wire.Challenge)
    if asked.protocol != wire.PROTOCOL:
        raise UsageError(f"speaks protocol {asked.protocol}, we speak {wire.PROTOCOL}")
    if asked.token and token is None:
        raise UsageError("asks for a token: set telemetry.agent_token_file or the environment's "
                         "TOKENSWARM_AGENT_TOKEN to the agent's")  # fmt: skip
    if token is not None and not asked.token:
        raise UsageError("asks for no token though there is one: start it with --token-file")
    channel.send(wire.Proof(proof(token, "subscriber", nonce, asked.nonce)))
    welcome = channel.want(wire.Welcome)
    if not same(welcome.mac, proof(token, "agent", nonce, asked.nonce)):
        raise UsageError("does not know the token that it asks for: it is not our agent")
    channel.max_bytes = wire.MAX_MESSAGE
    if welcome.about.schema != wire.schema_digest():
        raise UsageError(f"runs tokenswarm {welcome.about.version}, whose tables are others than "
                         "ours: install the same version on both sides")  # fmt: skip
    return welcome.about


def measure(channel: wire.Channel, clock: Clock) -> Offset:
    """What moves the other side's clock onto `clock`, by several pings."""
    exchanges = []
    for _ in range(PINGS):
        asked_ns = clock.unix(time.perf_counter())
        channel.send(wire.Ping(asked_ns))
        pong = channel.want(wire.Pong)
        back_ns = clock.unix(time.perf_counter())
        exchanges.append(Exchange(asked_ns, pong.received_ns, pong.answered_ns, back_ns))
        time.sleep(PING_GAP_S)
    return offset_of(exchanges)


class Subscriber:
    """One agent for one run, on a thread of its own from `start` to `stop`.

    `rows` are its sources' row counts, `about` what the agent said last; both may be read once
    `stop` has returned. `here` is the name of this system's clock, None: not known.
    """

    def __init__(
        self, agent: Agent, config: Config, clock: Clock, names: Names, note: Notes,
        here: str | None = machine(), drain_s: float = DRAIN_S,
    ):  # fmt: skip
        self._agent, self._config, self._clock = agent, config, clock
        self._names, self._note, self._here = names, note, here
        self._epoch: str | None = None
        self._sources: dict[str, _Source] = {}  # of this epoch, by the agent's names
        self._writers: list[Writer] = []
        self._ended: wire.Ended | None = None
        self._drain_s = drain_s
        self._deadline_s: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"agent {agent.address}")
        self._sampled = threading.Event()
        self.about: wire.About | None = None
        self.gpu: dict[str, Any] = {}
        self.clocks: Clocks | None = None

    @property
    def name(self) -> str:
        """What it is called in the manifest."""
        return f"agent {self._agent.address}"

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each of its sources in the run's spool."""
        return {w.source: w.next_seq for w in self._writers}

    def start(self) -> None:
        self._thread.start()

    @property
    def sampled(self) -> bool:
        """Whether rows have come, or none will."""
        return self._sampled.is_set() or not self._thread.is_alive()

    def stop(self) -> None:
        """Have the agent end its sampling and fetch what is left, for as long as `drain_s`."""
        self._stop.set()

    def join(self) -> None:
        """Wait for the end that `stop` asked for."""
        self._thread.join()

    # -- its thread
    def _run(self) -> None:
        attempt = 0
        try:
            while True:
                try:
                    self._follow()
                    return
                except (wire.LinkError, UsageError, SpoolError) as e:
                    self._note(f"{self.name}: {e}")
                    if self._stop.is_set() and isinstance(e, UsageError | wire.RefusedError):
                        return  # it will not take us later
                pause_s = AGAIN_S[min(attempt, len(AGAIN_S) - 1)]
                attempt += 1
                if self._late():
                    return
                self._pause(pause_s)
        finally:
            for writer in self._writers:
                writer.close()

    def _pause(self, pause_s: float) -> None:
        """Wait, but when the end is asked for, not longer than one pause."""
        if self._stop.is_set():
            time.sleep(pause_s)
        else:
            self._stop.wait(pause_s)

    def _late(self) -> bool:
        """The time to drain is over: what has not come is lost to this run, and is said."""
        if not self._stop.is_set():
            return False
        if self._deadline_s is None:
            self._deadline_s = time.monotonic() + self._drain_s
        if time.monotonic() < self._deadline_s:
            return False
        self._note(f"{self.name}: its last rows could not be fetched within {self._drain_s:g} s")
        return True

    def _follow(self) -> None:
        """One connection, from greeting to the last row."""
        channel, about = connect(self._agent)
        with channel:
            self._meet(about)
            self._subscribe(channel, self._set_clock(channel, about))
            told_end = False
            while not self._complete():
                message = channel.receive(LOOK_S)
                if message is not None:
                    self._take(channel, message)
                if self._stop.is_set() and not told_end:
                    channel.send(wire.End())
                    told_end = True
                channel.keep()
                if self._late():
                    return
            self._set_clock(channel, about)
            channel.send(wire.Done())

    def _meet(self, about: wire.About) -> None:
        known, self.about = self.about, about
        if known is not None and known.process != about.process:
            self._ended = None  # it was said of other samplers

    def _set_clock(self, channel: wire.Channel, about: wire.About) -> Offset:
        """Measure the agent's clock, unless it is this system's own."""
        here = self._here is not None and self._here == about.machine
        offset = SAME_CLOCK if here else measure(channel, self._clock)
        now_s = self._clock.run_s(time.perf_counter())
        if self.clocks is None:
            self.clocks = Clocks(offset, now_s, offset, now_s)
        else:
            self.clocks = replace(self.clocks, last=offset, last_s=now_s)
        return offset

    def _subscribe(self, channel: wire.Channel, offset: Offset) -> None:
        config, gpu = self._config, self._agent.gpu
        ask = wire.Subscribe(
            run_id=config.run_id,
            t0_unix_ns=config.t0_unix_ns,
            offset_ns=offset.offset_ns,
            models=config.slugs,
            gpu_interval_s=config.gpu.interval_s if gpu else None,
            epoch=self._epoch,
            have={name: source.have for name, source in self._sources.items()},
        )
        channel.send(ask)
        answer = channel.want(wire.Subscribed, OPEN_S)
        if answer.epoch != self._epoch:
            if self._epoch is not None:
                self._note(f"{self.name}: its spool was lost: what it had not handed over is gone")
            self._epoch, self._sources = answer.epoch, {}
        self.gpu = answer.gpu

    def _take(self, channel: wire.Channel, message: wire.Message) -> None:
        match message:
            case wire.Frames(name, data):
                frame = unpack(name, data)
                _check(frame, self._config.run_id)
                channel.send(wire.Ack(name, self._source(name).append(frame, self._note)))
                self._sampled.set()
            case wire.Ended():
                self._ended = message
                for note in message.notes:
                    self._note(f"{self.name}: {note}")
            case wire.Beat():
                pass
            case wire.Refused(reason):
                raise wire.RefusedError(reason)
            case _:
                raise wire.LinkError(f"{type(message).__name__} is not for a subscriber")

    def _source(self, name: str) -> "_Source":
        if name not in self._sources:
            if len(self._writers) >= MAX_SOURCES:
                raise wire.LinkError(f"more than {MAX_SOURCES} sources")
            writer = Writer(Path(self._config.spool), self._names(name))
            self._writers.append(writer)
            self._sources[name] = _Source(writer)
        return self._sources[name]

    def _complete(self) -> bool:
        """The agent has ended, and everything that it had is here."""
        ended = self._ended
        return ended is not None and all(
            rows == 0 or (name in self._sources and self._sources[name].have >= rows)
            for name, rows in ended.rows.items()
        )


class _Source:
    """One source of an agent in the run's spool. Rows that the agent's disk lost leave no gap in
    ours: `shift` is how many they were."""

    def __init__(self, writer: Writer):
        self._writer, self._shift = writer, 0

    @property
    def have(self) -> int:
        """The agent's number that is expected next."""
        return self._writer.next_seq + self._shift

    def append(self, frame: Frame, note: Notes) -> int:
        """Take a frame unless it is known; the number expected next."""
        have = self.have
        if frame.first_seq > have:
            lost = frame.first_seq - have
            note(f"{self._writer.source}: the agent's disk lost {lost} rows")
            self._shift += lost
        if not self._shift:
            return self._writer.append_frame(frame.data)
        if frame.end > self.have:
            self._writer.append(frame.rows()[self.have - frame.first_seq :])
        return self.have


def _check(frame: Frame, run_id: str) -> None:
    """What comes over a link is data: rows of an agent's measurements, of this run. SpoolError."""
    for measurement, row in frame.rows():
        if measurement not in MEASURED:
            raise SpoolError(f"{frame.source}: rows of {measurement!r:.40} are not an agent's")
        check_row(measurement, row)
        if row[1] != run_id:
            raise SpoolError(f"{frame.source}: a row of run {row[1]!r:.40}, this is {run_id}")
