"""What samples, and how its rows get into a spool: a thread a feed, a source a feed."""

import threading
import time
from collections.abc import Iterator
from typing import Protocol

from tokenswarm.errors import SpoolError
from tokenswarm.store.spool import Writer
from tokenswarm.telemetry.health import Health
from tokenswarm.telemetry.row import Pair
from tokenswarm.telemetry.ticks import Ticks

FLUSH_S = 0.2


class Feed(Protocol):
    """Something that samples. `name` is its source in the spool, a slug such as `gpu-HOST`.

    `run` is called once, on a thread of its own, and returns soon after `stop` is set. It puts
    rows whose times strictly increase. A failure that may pass is for `out.note`, and sampling
    goes on; an exception ends this feed alone and is noted.
    """

    name: str

    def run(self, stop: threading.Event, out: "Outbox") -> None: ...


class Notes(Protocol):
    """Takes one remark for the manifest; the same text again is only counted."""

    def __call__(self, text: str) -> None: ...


class Outbox:
    """Rows of one feed on their way to its spool, in frames at most `flush_s` apart.

    A full disk keeps them here, up to `MAX_ROWS`; from then on the spool's error ends the feed.
    One thread uses it.
    """

    MAX_ROWS = 100_000
    FRAME_ROWS = 4096

    def __init__(
        self, writer: Writer, note: Notes, flush_s: float = FLUSH_S, health: Health | None = None
    ):
        self._writer, self._flush_s = writer, flush_s
        self._rows: list[Pair] = []
        self._flushed_s = time.perf_counter()
        self.note = note
        self.health = health or Health()

    def ticks(self, interval_s: float, stop: threading.Event) -> Iterator[None]:
        """Iterate once every `interval_s` until `stop`; what each look cost goes to `health`."""
        return self.health.watch(Ticks(interval_s, stop))

    def put(self, new: list[Pair]) -> None:
        """Take rows of one look; written at once when the last frame is `flush_s` ago."""
        self._rows += new
        self.health.rows += len(new)
        # half a tick early rather than late
        if time.perf_counter() - self._flushed_s >= self._flush_s * 0.75:
            try:
                self.flush()
            except SpoolError:
                if len(self._rows) > self.MAX_ROWS:
                    raise

    def flush(self) -> None:
        """Write what waits. SpoolError: it waits on."""
        self._flushed_s = time.perf_counter()
        while self._rows:
            self._writer.append(self._rows[: self.FRAME_ROWS])
            del self._rows[: self.FRAME_ROWS]
