"""Rows into a database, whatever it takes: batches that fit, patience, and quarantine."""

import random
import re
import time
import zlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from isal import isal_zlib

from tokenswarm.errors import UsageError
from tokenswarm.store.cursor import Counts
from tokenswarm.store.frame import Pair
from tokenswarm.store.influx import Answer, Database, Endpoint, connect
from tokenswarm.store.lines import Encoded, encode
from tokenswarm.store.quarantine import Quarantine, Refused
from tokenswarm.store.schema import MEASUREMENTS

BATCH_LINES = 5_000
BACKOFF_S = 0.5
BACKOFF_MAX_S = 30.0
SLICE_S = 0.1
GZIP_LEVEL = 1

_CONFLICT = re.compile(
    r'input field \\?"(?P<field>[^"\\]+)\\?" on measurement \\?"(?P<measurement>[^"\\]+)\\?"'
)


class GaveUpError(Exception):
    """The time is over and rows are left; the text says what the database said last."""


class Patience:
    """How long to go on trying: with `follow` for good, and after `stop` (or without `follow`)
    for `drain_s` in vain, that is without a batch written.

    `stop` may come from anywhere, a signal handler too: hence no lock is in here.
    """

    def __init__(self, drain_s: float, *, follow: bool):
        self.drain_s, self._follow = drain_s, follow
        self.stopping = self.hurried = False
        self._since_s = time.monotonic()

    def stop(self) -> None:
        """Send what is there and end; asked a second time, end at once."""
        if self.stopping:
            self.drain_s, self.hurried = 0.0, True
        self._since_s = time.monotonic()
        self.stopping = True

    def progressed(self) -> None:
        """A batch was written."""
        self._since_s = time.monotonic()

    def left_s(self) -> float:
        """Seconds that are left, never below 0."""
        if self._follow and not self.stopping:
            return float("inf")
        return max(0.0, self._since_s + self.drain_s - time.monotonic())

    def idle(self, seconds: float) -> None:
        """Wait for more rows, or until asked to stop."""
        end = time.monotonic() + seconds
        while not self.stopping and (wait := end - time.monotonic()) > 0:
            time.sleep(min(wait, SLICE_S))

    def pause(self, seconds: float) -> None:
        """Wait before the next try, no longer than there is time."""
        end = time.monotonic() + seconds
        while (wait := min(end - time.monotonic(), self.left_s())) > 0:
            time.sleep(min(wait, SLICE_S))


@dataclass(slots=True)
class Batch:
    """Rows to send, with where each run of them came from: (index here, source, seq)."""

    pairs: list[Pair] = field(default_factory=list)
    origins: list[tuple[int, str, int]] = field(default_factory=list)

    def add(self, source: str, first_seq: int, pairs: list[Pair]) -> None:
        self.origins.append((len(self.pairs), source, first_seq))
        self.pairs += pairs

    def origin(self, index: int) -> tuple[str, int]:
        """Source and number of a row."""
        at, source, seq = self.origins[bisect_right(self.origins, index, key=lambda o: o[0]) - 1]
        return source, seq + index - at

    def part(self, lo: int, hi: int, behind: Callable[[Pair], bool]) -> int | None:
        """Put the rows of `lo` to `hi` that are `behind` after the others; where they begin.

        None when that parts nothing.
        """
        order = sorted(range(lo, hi), key=lambda i: behind(self.pairs[i]))
        middle = hi - sum(behind(pair) for pair in self.pairs[lo:hi])
        if middle in (lo, hi):
            return None
        moved = [(at, *self.origin(i)) for at, i in enumerate(order, lo)]
        after = [(hi, *self.origin(hi))] if hi < len(self.pairs) else []
        self.origins = [
            *(o for o in self.origins if o[0] < lo), *moved, *after,
            *(o for o in self.origins if o[0] > hi),
        ]  # fmt: skip
        self.pairs[lo:hi] = [self.pairs[i] for i in order]
        return middle


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of one source from `first_seq` on, as lines; `rows` gives the rows themselves again."""

    source: str
    first_seq: int
    count: int
    encoded: Encoded
    rows: Callable[[], list[Pair]]


@dataclass(slots=True)
class Pieces:
    """What is to be sent together. Rows become lines while they are in the processor's cache, and
    are looked at again only when the database has something against a line."""

    pieces: list[Piece] = field(default_factory=list)
    count: int = 0

    def add(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self.count += piece.count

    def batch(self) -> Batch:
        """The rows."""
        batch = Batch()
        for p in self.pieces:
            batch.add(p.source, p.first_seq, p.rows())
        return batch


class Sender:
    """Sends batches to one database; `size` is how many rows are in one now: half as many when the
    database finds it too large or takes too long, more again while all goes well."""

    def __init__(
        self,
        database: Database,
        quarantine: Quarantine,
        patience: Patience,
        *,
        batch_lines: int = BATCH_LINES,
        timeout_s: float = 30.0,
        said: Callable[[str], None] = lambda text: None,
    ):
        self.size, self._most = batch_lines, 2 * batch_lines
        self.retries = 0
        self.reason = ""  # of the trouble that there is now
        self._database, self._quarantine, self._patience = database, quarantine, patience
        self._timeout_s, self._said = timeout_s, said
        self._failures = 0
        self._endpoint: Endpoint | None = None

    def send(self, pieces: Pieces, counts: Counts) -> None:
        """Bring every row there or into quarantine; counted in `counts`.

        GaveUpError: no time is left. UsageError: the database will not have us (a wrong token).
        SpoolError: too many refused lines. In all three cases the batch is to be sent again.
        """
        part = Pieces()
        for piece in pieces.pieces:
            if part.pieces and part.count + piece.count > self.size:
                self._send_part(part, counts)
                part = Pieces()
            part.add(piece)
        self._send_part(part, counts)

    def _send_part(self, part: Pieces, counts: Counts) -> None:
        """Send all of it at once, and row by row when that is too much or not taken."""
        answer = None
        if part.count <= self.size:
            encoded = [piece.encoded for piece in part.pieces]
            answer = self._ask(encoded)
            if answer.what == "written":
                for each in encoded:
                    _count(counts, each)
                return
        batch = part.batch()
        ranges = [(0, len(batch.pairs))]
        while ranges:
            lo, hi = ranges.pop()
            if answer is None and hi - lo > self.size:
                ranges.append((lo + self.size, hi))
                hi = lo + self.size
            ranges += reversed(self._deliver(batch, lo, hi, counts, answer))
            answer = None

    def delete(self, measurement: str, run_id: str) -> None:
        """Delete a run's rows of `measurement`, as far as the database can; what it cannot is
        said. GaveUpError, UsageError: as `send`."""
        answer = self._until(lambda e, timeout_s: e.delete(measurement, run_id, timeout_s))
        if answer.what != "written":
            self._said(f"rows of {measurement} from an earlier analysis may stay: {answer.reason}")

    def close(self) -> None:
        if self._endpoint is not None:
            self._endpoint.close()
            self._endpoint = None

    def _ask(self, encoded: Sequence[Encoded]) -> Answer:
        """Send these lines, once; nothing to send is written already."""
        if not any(each.lines for each in encoded):
            return Answer("written")
        answer = self._write(gzipped(*(each.text for each in encoded)))
        if answer.what == "written":
            self.size = min(self._most, self.size * 5 // 4 + 1)
        return answer

    def _deliver(
        self, batch: Batch, lo: int, hi: int, counts: Counts, answer: Answer | None
    ) -> list[tuple[int, int]]:
        """Send rows `lo` to `hi`, unless there is an `answer` already; what is to be sent again,
        in smaller batches."""
        encoded = encode(batch.pairs[lo:hi])
        answer = answer or self._ask([encoded])
        if answer.what == "written":
            _count(counts, encoded)
            return []
        if answer.what == "refused" and answer.dropped == encoded.lines.total():
            self._refuse(batch, lo, hi, answer.reason, counts)
            return []
        if answer.what in ("too_large", "too_slow"):
            self.size = max(1, (hi - lo) // 2)
        if answer.what == "too_slow":
            self._wait(answer)
        if hi - lo > 1:
            middle = _conflicting(batch, lo, hi, answer) or (lo + hi) // 2
            return [(lo, middle), (middle, hi)]
        if answer.what == "too_slow":
            return [(lo, hi)]
        # a line on its own is asked about twice: what refused it may have been on the way there
        again = self._write(gzipped(encoded.text))
        if again.what == "written":
            _count(counts, encoded)
        elif again.what in ("refused", "too_large"):
            self._refuse(batch, lo, hi, again.reason, counts)
        else:
            return [(lo, hi)]
        return []

    def _write(self, body: bytes) -> Answer:
        """What the database says to `body` once it says something about it."""
        return self._until(lambda endpoint, timeout_s: endpoint.write(body, timeout_s))

    def _until(self, ask: Callable[[Endpoint, float], Answer]) -> Answer:
        """An answer that is no trouble of the moment."""
        while True:
            answer = self._try(ask)
            if answer.what == "denied":
                raise UsageError(_denied(self._database, answer))
            if answer.what != "later":
                if answer.what != "too_slow":
                    self._failures, self.reason = 0, ""
                    self._patience.progressed()
                return answer
            self._wait(answer)

    def _try(self, ask: Callable[[Endpoint, float], Answer]) -> Answer:
        if self._endpoint is None:
            found = connect(self._database)
            if isinstance(found, Answer):
                return found
            self._endpoint = found
        timeout_s = min(self._timeout_s, max(1.0, self._patience.left_s()))
        return ask(self._endpoint, timeout_s)

    def _wait(self, answer: Answer) -> None:
        """Back off with full jitter: many shippers must not come back at the same moment."""
        if self.reason != answer.reason:
            self.reason = answer.reason
            self._said(f"{self._database.url}: {answer.reason}; trying again")
        if self._patience.left_s() <= 0:
            raise GaveUpError(f"{self._database.url}: {answer.reason}")
        ceiling = min(BACKOFF_MAX_S, BACKOFF_S * 2 ** min(self._failures, 16))
        self._failures += 1
        self.retries += 1
        self._patience.pause(max(random.uniform(0, ceiling), answer.retry_after_s or 0.0))

    def _refuse(self, batch: Batch, lo: int, hi: int, reason: str, counts: Counts) -> None:
        for i in range(lo, hi):
            measurement, _ = batch.pairs[i]
            encoded = encode([batch.pairs[i]])
            if not encoded.lines:
                _count(counts, encoded)
                continue
            source, seq = batch.origin(i)
            line = encoded.text.decode().rstrip("\n")
            self._quarantine.add(Refused(source, seq, measurement, reason, line, time.time_ns()))
            counts.quarantined[measurement] = counts.quarantined.get(measurement, 0) + 1


def _conflicting(batch: Batch, lo: int, hi: int, answer: Answer) -> int | None:
    """Where the rows with the field that the database has with another type begin, now that they
    are behind the others: one more answer settles them all."""
    said = _CONFLICT.search(answer.reason) if answer.what == "refused" else None
    m = MEASUREMENTS.get(said["measurement"]) if said else None
    if said is None or m is None or said["field"] not in m.columns:
        return None
    name, column = m.name, m.columns.index(said["field"])

    def conflicts(pair: Pair) -> bool:
        return pair[0] == name and len(pair[1]) > column and pair[1][column] is not None

    return batch.part(lo, hi, conflicts)


def gzipped(*texts: bytes) -> bytes:
    """`texts`, one behind the other, as one gzip at level 1: isal takes a third of zlib's time at
    the same size. To join them first would take half as long again."""
    stream = isal_zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 31)
    return b"".join([*map(stream.compress, texts), stream.flush()])


def _count(counts: Counts, encoded: Encoded) -> None:
    for name, n in encoded.lines.items():
        counts.shipped[name] = counts.shipped.get(name, 0) + n
    for why, n in encoded.left_out.items():
        counts.left_out[why] = counts.left_out.get(why, 0) + n


def _denied(database: Database, answer: Answer) -> str:
    if answer.reason.startswith(("HTTP 401", "HTTP 403")):
        way = "check the token (--token-file or TOKENSWARM_INFLUX_TOKEN) and what it may write"
    elif answer.reason.startswith("HTTP"):
        way = f"check the URL, the database or bucket {database.name!r} and --api"
    else:
        return answer.reason
    return f"{database.url} does not take our lines: {answer.reason}; {way}; nothing is lost"
