"""How far a spool has come into one database: a file that is replaced after each acknowledgement.

It lies at SPOOL/ship/DATABASE/cursor.json, with quarantine.jsonl beside it. A shipper that was
killed goes on from it: what it had sent since is sent again, and a point sent twice is one point.
"""

import errno
import fcntl
import hashlib
import os
from pathlib import Path

import msgspec

from tokenswarm.clock import slug
from tokenswarm.errors import SpoolError, UsageError
from tokenswarm.store.influx import Database
from tokenswarm.store.inventory import Ranges
from tokenswarm.store.spool import Position


class Counts(msgspec.Struct):
    """Rows that were read, the lines of them that the database has and the ones it refused, by
    measurement; rows that make no line, by measurement and reason; frames that hold no rows."""

    read: int = 0
    shipped: dict[str, int] = {}
    quarantined: dict[str, int] = {}
    left_out: dict[str, int] = {}
    unreadable_frames: int = 0

    def forget(self, measurement: str) -> None:
        """Its rows are to be sent anew, all of them."""
        self.read -= self.shipped.pop(measurement, 0) + self.quarantined.pop(measurement, 0)


class Seen(msgspec.Struct):
    """The numbers of one source that were acknowledged, as inventory.Ranges has them."""

    start: int
    spans: list[tuple[int, int]]


class Cursor(msgspec.Struct):
    """What is acknowledged: bytes of each segment, numbers of each source, and of each derived
    measurement the digest of its file (empty: begun)."""

    database: str
    schema: int = 1
    offsets: dict[str, int] = {}
    ended: list[str] = []
    seen: dict[str, Seen] = {}
    derived: dict[str, str] = {}
    counts: Counts = msgspec.field(default_factory=Counts)

    def position(self) -> Position:
        """Where to follow the spool from."""
        position = Position(dict(self.offsets), set(self.ended))
        for source, seen in self.seen.items():
            position.seen[source] = Ranges(seen.start)
            position.seen[source].spans = list(seen.spans)
        return position

    def move(self, position: Position) -> None:
        """Everything that `position` has passed is acknowledged."""
        self.offsets = dict(position.offsets)
        self.ended = sorted(position.ended)
        self.seen = {name: Seen(r.start, list(r.spans)) for name, r in position.seen.items()}


def add(to: Counts, more: Counts) -> None:
    """Count `more` in as well."""
    to.read += more.read
    to.unreadable_frames += more.unreadable_frames
    for name in ("shipped", "quarantined", "left_out"):
        counts: dict[str, int] = getattr(to, name)
        for key, n in getattr(more, name).items():
            counts[key] = counts.get(key, 0) + n


class Place:
    """The folder of one database's cursor and quarantine."""

    def __init__(self, spool: Path, database: Database):
        what = f"{database.base}\0{database.org}\0{database.name}"
        digest = hashlib.sha256(what.encode()).hexdigest()[:8]
        self.path = spool / "ship" / f"{slug(database.name)[:40]}-{digest}"
        self.cursor = self.path / "cursor.json"
        self.quarantine = self.path / "quarantine.jsonl"
        self._database = f"{database.base} {database.name}"
        self._lock: int | None = None

    def lock(self) -> None:
        """Be the only shipper here. UsageError: there is another; SpoolError: cannot write."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as e:
            raise SpoolError(f"{self.path}: cannot write here: {e.strerror}") from e
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            os.close(fd)
            raise UsageError(
                f"{self.path}: another process ships this spool to that database; wait for it"
            ) from e
        self._lock = fd

    def unlock(self) -> None:
        """Let another shipper in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def read(self) -> Cursor:
        """The cursor as it was left; a new one when there is none. SpoolError: it is damaged."""
        try:
            return msgspec.json.decode(self.cursor.read_bytes(), type=Cursor)
        except FileNotFoundError:
            return Cursor(self._database)
        except (OSError, msgspec.DecodeError) as e:
            raise SpoolError(
                f"{self.cursor}: not a cursor: {e}; remove it to ship everything once more "
                "(a point sent twice is one point)"
            ) from e

    def write(self, cursor: Cursor) -> None:
        """Replace the cursor in one step. SpoolError: the disk does not take it."""
        data = msgspec.json.encode(cursor)
        partial = self.cursor.with_suffix(".json.part")
        try:
            partial.write_bytes(data)
            partial.replace(self.cursor)
        except OSError as e:
            if e.errno != errno.ENOSPC or not self._overwritten(data):
                raise SpoolError(f"{self.cursor}: cannot write: {e.strerror}") from e

    def _overwritten(self, data: bytes) -> bool:
        """Whether `data` went where the cursor lies: a full disk has room there.

        Spools wait for the cursor before they let go of what was shipped and make room.
        """
        try:
            with self.cursor.open("r+b", buffering=0) as f:
                data = data.ljust(os.fstat(f.fileno()).st_size)
                return f.write(data) == len(data)
        except OSError:
            return False
