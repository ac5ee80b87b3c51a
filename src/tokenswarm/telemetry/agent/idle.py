"""Between runs: samples go to the database as run `idle`, by a shipper process of their own."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from tokenswarm.store.cursor import Cursor
from tokenswarm.store.spool import Writer
from tokenswarm.telemetry.config import Config
from tokenswarm.telemetry.sampler import Sampler

IDLE = "idle"
LOOK_S = 0.5
END_S = 15.0
AGAIN_S = 5.0
SOURCES = 8  # that share the bound


class Idle:
    """Samples while `busy` says that no run is on. Each source's spool is bounded: what was
    shipped goes first, then the oldest. The shipper is started again when it dies."""

    def __init__(
        self, sampling: Config, folder: Path, influx_url: str, max_bytes: int,
        busy: Callable[[], bool],
    ):  # fmt: skip
        self._config = msgspec.structs.replace(sampling, run_id=IDLE, spool=str(folder))
        self._folder, self._max_bytes, self._busy = folder, max_bytes // SOURCES, busy
        self._argv = [sys.executable, "-m", "tokenswarm", "ship", str(folder), "--follow"]
        self._argv += ["--until-eof", "--quiet", "--drain", "5", "--influx-url", influx_url]
        self._sampler: Sampler | None = None
        self._shipper: subprocess.Popen[bytes] | None = None
        self._started_s = -AGAIN_S
        folder.mkdir(parents=True, exist_ok=True)

    def serve(self, stop: threading.Event) -> None:
        """Until `stop`; leaves neither threads nor processes behind."""
        try:
            while not stop.is_set():
                self._ship()
                self._sample(not self._busy())
                stop.wait(LOOK_S)
        finally:
            self._sample(False)
            self._end_shipper()

    def _sample(self, wanted: bool) -> None:
        if wanted and self._sampler is None:
            self._sampler = Sampler(self._config, open_writer=self._writer)
            self._sampler.start()
        elif not wanted and self._sampler is not None:
            self._sampler.stop()
            self._sampler = None

    def _writer(self, folder: Path, source: str) -> Writer:
        def shipped() -> int:
            return shipped_rows(folder, source)

        return Writer(folder, source, max_bytes=self._max_bytes, full="drop", shipped=shipped)

    def _ship(self) -> None:
        died = self._shipper is None or self._shipper.poll() is not None
        if died and self._shipper is not None and self._shipper.stdin is not None:
            self._shipper.stdin.close()
        if died and time.monotonic() - self._started_s >= AGAIN_S:
            self._started_s = time.monotonic()
            self._shipper = subprocess.Popen(
                self._argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
            )

    def _end_shipper(self) -> None:
        """Let it ship what is left, for a while; what it does not, the next one will."""
        if self._shipper is None:
            return
        try:
            self._shipper.communicate(timeout=END_S)  # the end of its stdin is its end
        except subprocess.TimeoutExpired:
            self._shipper.kill()
            self._shipper.communicate()


def shipped_rows(spool: Path, source: str) -> int:
    """The number of the first row of `source` that not every database of `spool` has; 0 when
    nothing ships it."""
    ends = []
    for path in spool.glob("ship/*/cursor.json"):
        try:
            seen = msgspec.json.decode(path.read_bytes(), type=Cursor).position().seen
        except (OSError, msgspec.DecodeError):
            return 0
        ends.append(max((end for _, end in seen[source].spans), default=0) if source in seen else 0)
    return min(ends, default=0)
