"""A worker's records on their way to the master's run directory: numbered, acknowledged frames.

A worker that shares the master's file system writes straight into the run directory. Any other
keeps its own spool and sends its frames as Locust messages; the master appends what it does not
have yet (by source and sequence number) and acknowledges; what is not acknowledged is sent again.
A message takes all frames of a quarter of a second, compressed, so that neither their number nor
their size holds up Locust's heartbeats.
"""

import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import gevent
import msgspec

from tokenswarm.errors import SpoolError
from tokenswarm.store.frame import Frame
from tokenswarm.store.spool import Position, Writer, follow, segments

BATCH = "tokenswarm-batch"
ACK = "tokenswarm-ack"
WINDOW_FRAMES = 16
RESEND_S = 5.0
LOOK_S = 0.25
ZLIB_LEVEL = 1


def shared(run_dir: str, nonce: str) -> bool:
    """The master's run directory is this host's too: its nonce is there."""
    try:
        return (Path(run_dir) / "spool" / ".nonce").read_text() == nonce
    except OSError:
        return False


class FrameSender:
    """Follows a worker's own spool and sends its frames until all are acknowledged."""

    def __init__(self, runner: Any, run_id: str, spool: Path, source: str) -> None:
        self._runner, self._run_id, self._source = runner, run_id, source
        self._spool, self._position = spool, Position()
        self._unacknowledged: dict[int, Frame] = {}
        self._sent_at = perf_counter()
        self.acknowledged = 0
        self._greenlet: Any = gevent.spawn(self._loop)

    def acknowledge(self, next_seq: int) -> None:
        """The master has every row before `next_seq`."""
        self.acknowledged = max(self.acknowledged, next_seq)
        for first_seq, frame in list(self._unacknowledged.items()):
            if frame.end <= self.acknowledged:
                del self._unacknowledged[first_seq]

    def finish(self, rows: int, timeout_s: float) -> bool:
        """Wait until `rows` rows are acknowledged; False when the time ran out before."""
        until = perf_counter() + timeout_s
        while self.acknowledged < rows and perf_counter() < until:
            gevent.sleep(0.02)
        self._greenlet.kill(block=False)
        return self.acknowledged >= rows

    def _loop(self) -> None:
        while True:
            new = list(islice(self._new(), WINDOW_FRAMES - len(self._unacknowledged)))
            self._send(new)
            if self._unacknowledged and perf_counter() - self._sent_at > RESEND_S:
                self._send([self._unacknowledged[seq] for seq in sorted(self._unacknowledged)])
            gevent.sleep(LOOK_S)

    def _new(self) -> Iterator[Frame]:
        """Frames as they are written, each held until it is acknowledged."""
        for frame in follow(self._spool, self._position, self._source):
            if frame.end <= self.acknowledged:
                continue
            self._unacknowledged[frame.first_seq] = frame
            yield frame

    def _send(self, frames: Sequence[Frame]) -> None:
        if not frames:
            return
        self._sent_at = perf_counter()
        packed = zlib.compress(msgspec.msgpack.encode([f.data for f in frames]), ZLIB_LEVEL)
        data = {"run_id": self._run_id, "source": self._source, "frames": packed}
        self._runner.send_message(BATCH, data)


class Rescue:
    """What workers that died left in a spool of this host, on its way to the master.

    A source without a living writer is taken over (locked), so that one worker sends it.
    """

    def __init__(self, runner: Any, run_id: str, spool: Path, own: str) -> None:
        self._runner, self._run_id, self._spool, self._own = runner, run_id, spool, own
        self._taken: dict[str, tuple[Writer, FrameSender]] = {}

    def look(self) -> None:
        """Take over what nobody writes any more."""
        for source in segments(self._spool):
            ended = self._mark(source).exists()
            if source == self._own or source in self._taken or ended:
                continue
            try:
                writer = Writer(self._spool, source)
            except SpoolError:
                continue  # alive, or in other hands
            sender = FrameSender(self._runner, self._run_id, self._spool, source)
            self._taken[source] = writer, sender

    def ended(self) -> None:
        """Our own source is complete and needs nobody."""
        self._mark(self._own).touch()

    def _mark(self, source: str) -> Path:
        return self._spool / f".{source}.ended"

    def acknowledge(self, source: str, next_seq: int) -> None:
        if source in self._taken:
            self._taken[source][1].acknowledge(next_seq)

    def finish(self, timeout_s: float) -> None:
        """Wait until the master has all of it, or the time is over."""
        for writer, sender in self._taken.values():
            sender.finish(writer.next_seq, timeout_s)
            writer.close()


class FrameReceiver:
    """The master's side: appends frames of every linked worker to the run's spool."""

    def __init__(self, runner: Any, run_id: str, spool: Path) -> None:
        self._runner, self._run_id, self._spool = runner, run_id, spool
        self._sources: dict[str, Writer] = {}

    def take(self, client_id: str, data: dict[str, Any]) -> None:
        """Append the frames that are not known yet, and acknowledge what is held so far."""
        if data["run_id"] != self._run_id:
            return
        source = data["source"]
        if source not in self._sources:
            self._sources[source] = Writer(self._spool, source)
        writer = self._sources[source]
        next_seq = writer.next_seq
        for frame in msgspec.msgpack.decode(zlib.decompress(data["frames"]), type=list[bytes]):
            next_seq = writer.append_frame(frame)
        self._runner.send_message(
            ACK, {"run_id": self._run_id, "source": source, "next_seq": next_seq}, client_id
        )

    @property
    def linked(self) -> list[str]:
        """Sources whose frames came over the link."""
        return sorted(self._sources)

    def close(self) -> None:
        for writer in self._sources.values():
            writer.close()
