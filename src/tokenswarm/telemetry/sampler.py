"""Everything that samples in one process: a thread and a source for each feed.

As a program it is the sampler process of a run: told what to do on the first line of its
standard input, it samples until that input ends (its parent ended, however that came about) or
SIGTERM. On standard output it says what it reads ({"started": ...}), once everything has been
looked at or `FIRST_LOOKS_S` are over, and at the end how many rows each source holds and what
went wrong ({"ended": {SOURCE: ROWS}, "notes": [...]}).
"""

import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from tokenswarm.clock import Clock, Clocks
from tokenswarm.errors import TokenswarmError, UsageError
from tokenswarm.store.spool import Writer
from tokenswarm.telemetry.config import Config
from tokenswarm.telemetry.feed import Feed, Outbox
from tokenswarm.telemetry.feeds import GpuFeed, HealthFeed, feeds
from tokenswarm.telemetry.health import Health
from tokenswarm.telemetry.link.subscriber import Names, Subscriber

MAX_LINE = 1 << 20
MAX_NOTES = 50
FIRST_LOOKS_S = 3.0

OpenWriter = Callable[[Path, str], Writer]


class Remarks:
    """What went wrong, each thing once and counted; any thread may add."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, text: str) -> None:
        with self._lock:
            if text in self._counts or len(self._counts) < MAX_NOTES:
                self._counts[text] += 1

    def texts(self) -> list[str]:
        with self._lock:
            return [f"{text} ({n} times)" if n > 1 else text for text, n in self._counts.items()]


class AgentsWord(msgspec.Struct, frozen=True):
    """What an agent gave to a run: sources in the run's spool, its GPUs, how its clock stood."""

    sources: list[str]
    gpu: dict[str, Any]
    clocks: Clocks | None


class LastWord(msgspec.Struct, frozen=True):
    """What a sampler says at its end: rows of each source, what went wrong, the GPUs that it read
    itself, what agents gave."""

    ended: dict[str, int]
    notes: list[str]
    gpu: dict[str, Any] = {}
    agents: dict[str, AgentsWord] = {}


class Sampler:
    """Runs the feeds of `config`. `ended` holds the rows of each source that has ended."""

    def __init__(
        self, config: Config, clock: Clock | None = None, open_writer: OpenWriter = Writer
    ):
        self._config, self._open_writer = config, open_writer
        self.run_id = config.run_id
        self._clock = clock or Clock.anchored(config.t0_unix_ns, config.clock_offset_ns)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._healths: dict[str, Health] = {}
        self.note = Remarks()
        self.subscribers: list[Subscriber] = []
        self.ended: dict[str, int] = {}
        self.gpu: dict[str, Any] = {}  # what its reader says of itself

    @property
    def notes(self) -> list[str]:
        return self.note.texts()

    @property
    def sources(self) -> list[str]:
        return [t.name for t in self._threads]

    def start(self) -> dict[str, Any]:
        """Start the threads; the value says what is read and into which sources."""
        found, self.gpu = feeds(self._config, self._clock, self.note)
        for feed in found:
            self.spawn(feed)
        self._subscribe()
        if self._config.health and found:
            self.spawn(HealthFeed(self._healths, self._config, self._clock))
        return {"gpu": self.gpu, "sources": self.sources}

    def wait_for_looks(self, stop: threading.Event, within_s: float = FIRST_LOOKS_S) -> None:
        """Until every feed has looked once and every agent's rows have come, or the time is over
        (a server that hangs), or `stop` is set."""
        until = time.monotonic() + within_s
        while not self._looked() and time.monotonic() < until:
            if stop.wait(0.01):
                return

    def _looked(self) -> bool:
        alive = {t.name for t in self._threads if t.is_alive()}
        waiting = [n for n, h in self._healths.items() if n in alive and not h.looked.is_set()]
        return not waiting and all(s.sampled for s in self.subscribers)

    def last_word(self) -> LastWord:
        """What to tell after `stop`."""
        agents = {s.name: AgentsWord(list(s.rows), s.gpu, s.clocks) for s in self.subscribers}
        return LastWord(self.ended, self.notes, self.gpu, agents)

    def spawn(self, feed: Feed) -> None:
        """Give `feed` a thread and a source."""
        health = Health()
        if not isinstance(feed, HealthFeed):
            self._healths[feed.name] = health
        if isinstance(feed, GpuFeed):
            self._healths |= feed.healths
        self._spawn(feed.name, partial(self._feed, feed, health))

    def stop(self) -> None:
        """Let every thread finish its look and close its spool."""
        self._stop.set()
        for subscriber in self.subscribers:
            subscriber.stop()
        for thread in self._threads:
            thread.join()
        for subscriber in self.subscribers:
            subscriber.join()
            self.ended |= subscriber.rows

    def _subscribe(self) -> None:
        """Have the agents' rows beside our own; sources that would be called alike are not."""
        names = Names([*self.sources, f"agent-{self._config.host}"])
        self.subscribers = [
            Subscriber(agent, self._config, self._clock, names, self.note)
            for agent in self._config.agents
        ]
        for subscriber in self.subscribers:
            subscriber.start()

    def _spawn(self, source: str, body: Callable[[Writer], None]) -> None:
        thread = threading.Thread(target=self._guard, args=(source, body), name=source)
        self._threads.append(thread)
        thread.start()

    def _guard(self, source: str, body: Callable[[Writer], None]) -> None:
        """One source's whole life: what ends it early is a note and leaves the others alone."""
        try:
            with self._open_writer(Path(self._config.spool), source) as writer:
                try:
                    body(writer)
                finally:
                    self.ended[source] = writer.next_seq
        except (TokenswarmError, OSError) as e:
            self.note(f"{source} ended early: {e}")
        except Exception as e:
            traceback.print_exc()
            self.note(f"{source} ended early: {type(e).__name__}")

    def _feed(self, feed: Feed, health: Health, writer: Writer) -> None:
        out = Outbox(writer, self.note, health=health)
        try:
            feed.run(self._stop, out)
        finally:
            out.flush()


def main() -> int:
    """Sample until standard input ends or SIGTERM; the exit code."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-c is for the parent, which then ends us
    try:
        line = _first_line()
        sampler = Sampler(msgspec.json.decode(line, type=Config))
    except (msgspec.DecodeError, UsageError) as e:
        sys.stderr.write(f"tokenswarm telemetry: no usable configuration on stdin: {e}\n")
        return UsageError.exit_code
    started = sampler.start()
    threading.Thread(target=_wait_for_end, args=(ended,), daemon=True).start()
    sampler.wait_for_looks(ended)
    _say({"started": started})
    ended.wait()
    sampler.stop()
    _say(sampler.last_word())
    return 0


def _first_line() -> bytes:
    """Read from the descriptor itself: a thread goes on reading it later, until it ends."""
    text = b""
    while b"\n" not in text and len(text) < MAX_LINE:
        part = os.read(0, 65536)
        if not part:
            break
        text += part
    return text.partition(b"\n")[0]


def _wait_for_end(ended: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    ended.set()


def _say(message: dict[str, Any] | LastWord) -> None:
    try:
        sys.stdout.write(msgspec.json.encode(message).decode() + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        pass  # the parent has gone; the spool holds what matters
