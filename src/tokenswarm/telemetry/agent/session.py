"""One run on the agent's side: samples into a spool of its own until all of it is handed over."""

import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import msgspec

from tokenswarm.clock import NS, Clock
from tokenswarm.errors import SpoolError
from tokenswarm.store.frame import Frame
from tokenswarm.store.room import removed
from tokenswarm.store.spool import Position, Writer, follow, frames, inventory, segments
from tokenswarm.telemetry.config import Config
from tokenswarm.telemetry.sampler import Sampler

SEGMENT_BYTES = 1 << 20
CARD = "session.json"


class Card(msgspec.Struct, frozen=True):
    """What a later process has to know of a session that it finds on disk."""

    epoch: str


class Session:
    """Samples from `open` on until `stop`; its folder stays until `forget`.

    `epoch` names the spool: numbers of another epoch mean other rows. Threads: any, but one
    subscription at a time follows and acknowledges.
    """

    def __init__(self, folder: Path, config: Config, clock: Clock, epoch: str):
        self.folder, self.spool, self.epoch = folder, Path(config.spool), epoch
        self._handed_over: dict[str, int] = {}
        self._sampler = Sampler(config, clock, self._writer)
        self._stopping = threading.Lock()
        self.stopped = threading.Event()
        self.seen_s = time.monotonic()  # when a subscriber was there last
        self.gpu: dict[str, Any] = {}
        self.over = False
        self.subscription: object = None  # the one that may follow; another takes its place

    @classmethod
    def open(cls, folder: Path, config: Config, clock: Clock, have: dict[str, int]) -> Self:
        """Start to sample, or go on with what lies in `folder` from an agent that has died.

        What the subscriber has and the disk has lost would be numbered twice: then the epoch
        is another one.
        """
        card, remark = _card(folder), None
        if card is not None:
            lost = _lost(folder / "spool", have)
            remark = _remark(folder / "spool", lost)
            if lost:
                shutil.rmtree(folder)
        epoch = card.epoch if card and folder.exists() else secrets.token_hex(8)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CARD).write_bytes(msgspec.json.encode(Card(epoch)))
        spool = str(folder / "spool")
        session = cls(folder, msgspec.structs.replace(config, spool=spool), clock, epoch)
        if remark:
            session.note(remark)
        session.gpu = session._sampler.start()["gpu"]
        return session

    def note(self, text: str) -> None:
        self._sampler.note(text)

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each source, known once `stopped`."""
        return dict(self._sampler.ended)

    @property
    def notes(self) -> list[str]:
        return self._sampler.notes

    def stop(self) -> None:
        """End sampling; returns when every row is in the spool."""
        with self._stopping:
            if not self.stopped.is_set():
                self._sampler.stop()
                self.stopped.set()

    def frames(self, position: Position, have: dict[str, int]) -> Iterator[Frame]:
        """What was appended since the last call with `position` and is not in `have`."""
        for frame in follow(self.spool, position):
            if frame.end > have.get(frame.source, 0):
                yield frame

    def acknowledge(self, source: str, next_seq: int) -> None:
        """The subscriber holds every row of `source` before `next_seq`: they may go."""
        self._handed_over[source] = max(next_seq, self._handed_over.get(source, 0))

    def _writer(self, folder: Path, source: str) -> Writer:
        def handed_over() -> int:
            return self._handed_over.get(source, 0)

        # no bound here: what was not handed over is never dropped
        return Writer(folder, source, segment_bytes=SEGMENT_BYTES, full="drop", shipped=handed_over)

    def bytes(self) -> int:
        """What the session holds on disk."""
        return sum(p.stat().st_size for paths in segments(self.spool).values() for p in paths)

    def forget(self) -> None:
        """Stop and remove everything."""
        self.stop()
        self.over = True
        shutil.rmtree(self.folder, ignore_errors=True)


def _card(folder: Path) -> Card | None:
    try:
        return msgspec.json.decode((folder / CARD).read_bytes(), type=Card)
    except (OSError, msgspec.DecodeError):
        return None


def _lost(spool: Path, have: dict[str, int]) -> list[str]:
    """Sources of which the disk lacks what the subscriber has, or something behind that."""
    found = inventory(spool)
    lost = []
    for source, next_seq in have.items():
        last_seq = found[source].last_seq if source in found else None
        end = removed(spool, source).end_seq if last_seq is None else last_seq + 1
        gaps = found[source].gaps if source in found else []
        if next_seq > end or any(gap_end > next_seq for _, gap_end in gaps):
            lost.append(source)
    return lost


def _remark(spool: Path, lost: list[str]) -> str:
    """What a subscriber should know of an agent that was started again."""
    text = "the agent was started again during the run"
    try:
        last_ns = max(
            (f.created_unix_ns for ps in segments(spool).values() for f in frames(ps[-1], [])),
            default=None,
        )
    except (OSError, SpoolError):
        last_ns = None
    if last_ns is not None:
        text += f": nothing was sampled for {(time.time_ns() - last_ns) / NS:.1f} s"
    if lost:
        text += f"; its disk had lost rows of {', '.join(lost)} that were handed over already"
    return text
