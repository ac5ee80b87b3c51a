"""The shipper: follows a spool into a database, at least once, until told to stop."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from tokenswarm.errors import SpoolError, UsageError
from tokenswarm.store import derived
from tokenswarm.store.cursor import Counts, Cursor, Place, add
from tokenswarm.store.frame import Frame, Pair
from tokenswarm.store.influx import Database
from tokenswarm.store.lines import encode
from tokenswarm.store.makers import ANALYSIS, LIVE
from tokenswarm.store.quarantine import Quarantine
from tokenswarm.store.rundir import RunDir
from tokenswarm.store.sender import GaveUpError, Patience, Piece, Pieces, Sender
from tokenswarm.store.settling import SETTLE_S, Settling, life_of
from tokenswarm.store.spool import follow, segments

POLL_S = 0.5
SAID_S = 5.0
KEPT_BYTES = 32 * 2**20
SETTLING_S = 1.5 * SETTLE_S  # it is not in vain to wait for that


class Status(msgspec.Struct, frozen=True):
    """Where shipping stands. `left_out`: rows that make no line, by measurement and reason.

    `lag_bytes` lie in the spool and are not acknowledged, the oldest of them for `lag_s` (None:
    not known, or nothing). `reason` is the trouble that there is now; `done`: all is there or in
    quarantine.
    """

    database: str
    read: int
    shipped: dict[str, int]
    quarantined: dict[str, int]
    left_out: dict[str, int]
    damaged_segments: int
    unreadable_frames: int
    lag_bytes: int
    lag_s: float | None
    batch_lines: int
    retries: int
    reason: str
    done: bool

    @property
    def complete(self) -> bool:
        """Every row that can be a point is one."""
        return self.done and not self.quarantined

    def line(self) -> str:
        """One line for a person."""
        shipped, quarantined, left_out = (
            sum(counts.values()) for counts in (self.shipped, self.quarantined, self.left_out)
        )
        lag = f", {self.lag_bytes} bytes behind" if self.lag_bytes else ""
        trouble = f"; {self.reason}" if self.reason else ""
        return (
            f"read {self.read}, shipped {shipped}, quarantined {quarantined}, "
            f"left out {left_out}{lag}{trouble}"
        )


def spool_of(path: Path) -> tuple[Path, RunDir | None]:
    """The spool that `path` names, a run directory or a spool. UsageError: neither."""
    run = RunDir(path)
    if run.spool.is_dir():
        return run.spool, run
    if path.is_dir():
        return path, None
    raise UsageError(f"{path}: no such folder; give a run directory or a spool")


class Shipper:
    """One spool on its way into one database.

    UsageError: another process ships it there.
    """

    def __init__(
        self,
        path: Path,
        database: Database,
        patience: Patience,
        said: Callable[[str], None] = lambda text: None,
        **sending: Any,
    ):
        self._spool, self._run = spool_of(path)
        self._database, self._patience, self._said = database, patience, said
        self._place = Place(self._spool, database)
        self._place.lock()
        self._cursor = self._place.read()
        self._position = self._cursor.position()
        self._quarantine = Quarantine(self._place.quarantine)
        self._sender = Sender(database, self._quarantine, patience, said=said, **sending)
        self._settling = Settling(partial(life_of, database))
        self._oldest_unix_ns: int | None = None
        self._said_s = time.monotonic()
        self._unkept = False
        self._done = False

    def run(self, *, follow: bool) -> Status:
        """Ship what is there now, or with `follow` until told to stop and what is there then.

        A run's derived rows come last, when they are there. Ends early, with `done` False, when
        the patience does. UsageError: the database denies us.
        """
        keep_freed_memory()
        try:
            self._settling.forgot()  # when the server was started, before anything is sent
            while True:
                last = self._patience.stopping or not follow
                with collector_at_rest():
                    whole = self._pass()
                if last and whole and self._derived() and self._settled():
                    break
                if not last:
                    self._patience.idle(POLL_S)
            self._done = True
        except GaveUpError as e:
            self._said(f"gave up: {e}")
        return self.status()

    def close(self) -> None:
        self._sender.close()
        self._place.unlock()

    def status(self) -> Status:
        counts = self._cursor.counts
        behind = _bytes(self._spool) - sum(self._cursor.offsets.values())
        oldest = self._oldest_unix_ns
        return Status(
            database=self._cursor.database,
            read=counts.read,
            shipped=dict(sorted(counts.shipped.items())),
            quarantined=dict(sorted(counts.quarantined.items())),
            left_out=dict(sorted(counts.left_out.items())),
            damaged_segments=len({(d.path, d.offset) for d in self._position.damages}),
            unreadable_frames=counts.unreadable_frames,
            lag_bytes=max(0, behind),
            lag_s=None if oldest is None else max(0.0, (time.time_ns() - oldest) / 1e9),
            batch_lines=self._sender.size,
            retries=self._sender.retries,
            reason=self._sender.reason,
            done=self._done,
        )

    def _pass(self) -> bool:
        """Ship what is in the spool now; False when some of it is to be sent again."""
        batch, counts = Pieces(), Counts()
        final = self._run is not None and derived.final(self._run)
        for frame in follow(self._spool, self._position):
            if final and frame.source == LIVE:
                continue  # what analysis made takes its place
            if self._oldest_unix_ns is None:
                self._oldest_unix_ns = frame.created_unix_ns
            _take(batch, frame, counts)
            if batch.count >= self._sender.size:
                if not self._flush(batch, counts):
                    return False
                batch, counts = Pieces(), Counts()
        return self._flush(batch, counts)

    def _derived(self) -> bool:
        """Ship what analysis made of a run, each measurement once for each time it was made.

        False when something is to be sent again.
        """
        for made in derived.found(self._run) if self._run else ():
            before = self._cursor.derived.get(made.measurement)
            earlier = before is not None or made.measurement in self._cursor.counts.shipped
            if before == made.digest or not (made.rows or earlier):
                continue
            if earlier:  # live rows and those of an earlier analysis may differ in tags and times
                self._sender.delete(made.measurement, made.run_id)
                self._cursor.counts.forget(made.measurement)
            self._begun(made.measurement)
            counts = Counts()
            for first_seq, pairs in made.pieces():
                batch = Pieces()
                batch.add(_piece(ANALYSIS, first_seq, pairs))
                counts.read += len(pairs)
                self._sender.send(batch, counts)
            add(self._cursor.counts, counts)
            self._cursor.derived[made.measurement] = made.digest
            self._settling.add(self._cursor)
            if not self._settle():
                return False
        return True

    def _begun(self, measurement: str) -> None:
        """From now on some of it may be there: whichever cursor is read next says so."""
        kept = self._place.read()
        for cursor in (self._cursor, kept, *self._settling.waiting):
            cursor.derived[measurement] = ""
        self._place.write(kept)

    def _flush(self, batch: Pieces, counts: Counts) -> bool:
        """Send, and only then move the cursor; False when some of it is to be sent again."""
        if batch.pieces:
            self._sender.send(batch, counts)
        if batch.pieces or counts.unreadable_frames:
            self._cursor.move(self._position)
            add(self._cursor.counts, counts)
            self._settling.add(self._cursor)
        self._oldest_unix_ns = None
        if time.monotonic() - self._said_s >= SAID_S:
            self._said_s = time.monotonic()
            self._said(self.status().line())
        return self._settle()

    def _settle(self) -> bool:
        """Write down how far everything is safe; False when the database has forgotten the rest."""
        if self._settling.forgot():
            damages = self._position.damages
            self._cursor = self._place.read()
            self._position = self._cursor.position()
            self._position.damages = damages
            self._said(f"{self._database.url} was started anew; sending what it may have forgotten")
            return False
        if (cursor := self._settling.safe()) is not None:
            self._keep(cursor)
        return True

    def _keep(self, cursor: Cursor) -> None:
        """A disk that is full for a while must not keep us from shipping: the next one tells
        more, and without any of them what is there is sent again."""
        try:
            self._place.write(cursor)
        except SpoolError as e:
            if not self._unkept:
                self._said(f"{e}; shipping goes on, another start sends this again")
            self._unkept = True
        else:
            self._unkept = False

    def _settled(self) -> bool:
        """Wait until the database has everything on its disk; False when it has forgotten some.

        GaveUpError: no time is left.
        """
        if self._settling.waiting:
            self._said(f"{self._database.url} has everything; waiting until it is on its disk")
        until = time.monotonic() + SETTLING_S
        while self._settling.waiting:
            if self._patience.left_s() <= 0 and (
                self._patience.hurried or time.monotonic() > until
            ):
                raise GaveUpError(f"{self._database.url}: it may not have the last on its disk yet")
            self._patience.pause(POLL_S)
            if not self._settle():
                return False
        return True


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """Rows hold no cycles; looking for some among so many lists costs a fifth of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def keep_freed_memory() -> None:
    """Have glibc keep what is freed for the next batch, up to 32 MiB, instead of giving it back:
    fresh pages for each batch's text cost a fifteenth of the time.

    It keeps twice the largest block that was freed so far. This one's pages are never touched;
    other C libraries do nothing.
    """
    bytes(KEPT_BYTES // 2)


def _piece(source: str, first_seq: int, pairs: list[Pair]) -> Piece:
    return Piece(source, first_seq, len(pairs), encode(pairs), lambda: pairs)


def _take(batch: Pieces, frame: Frame, counts: Counts) -> None:
    try:
        pairs = frame.rows()
    except SpoolError:
        counts.unreadable_frames += 1
        return
    counts.read += len(pairs)
    batch.add(Piece(frame.source, frame.first_seq, len(pairs), encode(pairs), frame.rows))


def _bytes(spool: Path) -> int:
    return sum(path.stat().st_size for paths in segments(spool).values() for path in paths)
