"""The agent: listens, lets subscribers in, and samples for each run that one of them names.

Several subscribers and several runs at a time. What it samples waits in a spool on its disk until
a subscriber has acknowledged it, also while the link or the agent itself is down.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from tokenswarm import __version__
from tokenswarm.clock import RUN_ID, Clock, machine
from tokenswarm.errors import TokenswarmError, UsageError
from tokenswarm.telemetry.agent.config import Place
from tokenswarm.telemetry.agent.session import Session
from tokenswarm.telemetry.agent.subscription import Subscription, greet, refuse
from tokenswarm.telemetry.config import Config, Gpu
from tokenswarm.telemetry.link import wire

MAX_CONNECTIONS = 32
MAX_SESSIONS = 16
LOOK_S = 1.0
FORGET_S = 7 * 86400.0


class Agent:
    """Serves one place from `start` to `stop`. `sampling` is what each run is sampled by.

    `clock` makes each connection's clock, `here` names this system's: a test may set them wrong.
    """

    def __init__(
        self, place: Place, sampling: Config, folder: Path, *, keep_s: float = 600.0,
        max_bytes: int = 512 << 20, clock: Callable[[], Clock] = Clock.anchored,
        here: str | None = machine(),
    ):  # fmt: skip
        self.place, self._sampling, self._folder = place, sampling, folder
        self._keep_s, self._max_bytes = keep_s, max_bytes
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._stop = threading.Event()
        self._listener: socket.socket | None = None
        self._locked: int | None = None
        self.about = wire.About(
            host=sampling.host,
            version=__version__,
            schema=wire.schema_digest(),
            process=secrets.token_hex(8),
            machine=here,
            gpu=sampling.gpu.source,
            feeds=_feeds(sampling),
            targets=[e.target for e in sampling.engines],
        )

    @property
    def port(self) -> int:
        """Where it listens; any free one was taken when the place says 0."""
        assert self._listener is not None
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def busy(self) -> bool:
        """A run is being sampled."""
        with self._lock:
            return any(not s.stopped.is_set() for s in self._sessions.values())

    def start(self) -> None:
        """Listen. UsageError: the address or the folder cannot be had."""
        self._locked = _lock(self._folder)
        try:
            self._listener = _listen(self.place)
        except UsageError:
            os.close(self._locked)
            raise
        self._spawn("accept", self._accept)
        self._spawn("look-after", self._look_after)

    def stop(self) -> None:
        """Hang up and end all sampling; what nobody has fetched stays on disk."""
        self._stop.set()
        assert self._listener is not None
        assert self._locked is not None
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._listener.close()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for session in self._sessions.values():
            session.stop()
        os.close(self._locked)

    def _spawn(self, name: str, body: object, *arguments: object) -> None:
        thread = threading.Thread(target=body, args=arguments, name=name)  # type: ignore[arg-type]
        self._threads = [t for t in self._threads if t.is_alive()] + [thread]
        thread.start()

    # -- connections
    def _accept(self) -> None:
        assert self._listener is not None
        while not self._stop.is_set():
            try:
                connection, peer = self._listener.accept()
            except OSError:
                self._stop.wait(0.05)  # out of descriptors, or stopped
                continue
            with self._lock:
                self._connections.add(connection)
            self._spawn(f"peer-{peer[0]}", self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        """One connection's whole life. Whatever ends it leaves the others and the runs alone."""
        try:
            channel = wire.Channel(connection)
            if len(self._connections) > MAX_CONNECTIONS:
                refuse(channel, f"the agent has {MAX_CONNECTIONS} connections already")
            greet(channel, self.place.token, self.about)
            clock = self._clock()  # anchored anew: an agent lives long, and clocks are set
            Subscription(channel, clock, partial(self._open, clock)).run()
        except TokenswarmError as e:
            with contextlib.suppress(wire.LinkError):
                refuse(channel, str(e))
        except (wire.LinkError, OSError) as e:
            if not self._stop.is_set():
                self._say(f"connection ended: {e}")
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()

    # -- sessions
    def _open(self, clock: Clock, ask: wire.Subscribe) -> Session:
        """The session of the run that is asked for: a new one, one that goes on, or one found on
        disk. UsageError: it cannot be had."""
        if not RUN_ID.fullmatch(ask.run_id):
            raise UsageError(f"{ask.run_id[:80]!r} is no run id")
        with self._lock:
            session = self._sessions.get(ask.run_id)
            if session is None or session.over:
                going = sum(not s.stopped.is_set() for s in self._sessions.values())
                if going >= MAX_SESSIONS:
                    raise UsageError(f"the agent samples for {going} runs already")
                folder = self._folder / "runs" / ask.run_id
                moved = Clock(clock.unix_ns + ask.offset_ns, clock.perf_s, ask.t0_unix_ns)
                session = Session.open(folder, self._config(ask), moved, ask.have)
                self._sessions[ask.run_id] = session
                self._say(f"samples for run {ask.run_id}")
            return session

    def _config(self, ask: wire.Subscribe) -> Config:
        gpu = self._sampling.gpu
        if ask.gpu_interval_s is None:
            gpu = Gpu()
        else:
            gpu = msgspec.structs.replace(gpu, interval_s=max(0.01, ask.gpu_interval_s))
        engines = [msgspec.structs.replace(e, models=ask.models) for e in self._sampling.engines]
        return msgspec.structs.replace(
            self._sampling, run_id=ask.run_id, t0_unix_ns=ask.t0_unix_ns, gpu=gpu,
            engines=engines, models=self._sampling.models | ask.models,
        )  # fmt: skip

    # -- looking after
    def _look_after(self) -> None:
        while not self._stop.wait(LOOK_S):
            with self._lock:
                sessions = dict(self._sessions)
            for run_id, session in sessions.items():
                self._bound(run_id, session)
            _purge(self._folder / "runs", set(sessions))

    def _bound(self, run_id: str, session: Session) -> None:
        """A run that nobody fetches is not sampled for ever."""
        alone_s = time.monotonic() - session.seen_s
        if session.over or alone_s > FORGET_S:
            session.forget()
            with self._lock:
                self._sessions.pop(run_id, None)
        elif session.stopped.is_set():
            return
        elif alone_s > self._keep_s:
            session.note(f"nobody was there for {alone_s:.0f} s: sampling ended")
            session.stop()
        elif session.bytes() > self._max_bytes:
            session.note(f"the agent's spool is full ({self._max_bytes} bytes): sampling ended")
            session.stop()

    def _say(self, text: str) -> None:
        sys.stderr.write(f"tokenswarm agent {self.about.host}: {text}\n")


def _feeds(config: Config) -> list[str]:
    there = {
        "gpu": config.gpu.source != "none",
        "host": config.host_figures is not None,
        "container": config.containers is not None,
        "engine": bool(config.engines),
    }
    return [name for name, yes in there.items() if yes]


def _listen(place: Place) -> socket.socket:
    try:
        family = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((place.host, place.port), family=family)
    except OSError as e:
        raise UsageError(
            f"{place}: cannot listen there: {e.strerror}; end what does, or name another address "
            "with --listen HOST:PORT"
        ) from None


def _lock(folder: Path) -> int:
    """One agent a folder, for as long as its process lives."""
    try:
        (folder / "runs").mkdir(parents=True, exist_ok=True)
        fd = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise UsageError(
            f"{folder}: cannot write here: {e.strerror}; name another --spool"
        ) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise UsageError(
            f"{folder}: another agent works here; end it or name another --spool"
        ) from None
    return fd


def _purge(runs: Path, kept: set[str]) -> None:
    """Remove what an earlier agent left and nobody came for."""
    for folder in runs.iterdir():
        if folder.name not in kept and time.time() - folder.stat().st_mtime > FORGET_S:
            shutil.rmtree(folder, ignore_errors=True)
