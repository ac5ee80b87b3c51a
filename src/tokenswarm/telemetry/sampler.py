"""The sampler process: a thread for the GPU, one for each target, rows into the run's spool.

It is told what to do on the first line of its standard input, samples until that input ends
(its parent ended, however that came about) or SIGTERM, and says on standard output what it reads
({"started": ...}) and, at the end, how many rows each source holds and what went wrong
({"ended": {SOURCE: ROWS}, "notes": [...]}).
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

from tokenswarm.clock import Clock
from tokenswarm.errors import SpoolError, TokenswarmError, UsageError
from tokenswarm.store.row import Monotonic
from tokenswarm.store.spool import Writer
from tokenswarm.telemetry.config import Config, Engine
from tokenswarm.telemetry.engine import Poller
from tokenswarm.telemetry.gpu import GpuReader, TelemetryGap, rows
from tokenswarm.telemetry.row import Pair
from tokenswarm.telemetry.ticks import Ticks

FLUSH_S = 0.2
MAX_LINE = 1 << 20
MAX_NOTES = 50


class Sampler:
    """Everything that samples in this process. `notes` tells what failed, each thing once."""

    def __init__(self, config: Config):
        self._config = config
        self._clock = Clock.anchored(config.t0_unix_ns, config.clock_offset_ns)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._failures: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.ended: dict[str, int] = {}

    @property
    def notes(self) -> list[str]:
        return [f"{text} ({n} times)" if n > 1 else text for text, n in self._failures.items()]

    def start(self) -> dict[str, Any]:
        """Start the threads; the value says what is read and into which sources."""
        reader, about = self._open_gpu()
        if reader is not None:
            self._spawn(f"gpu-{self._config.host}", partial(self._sample_gpu, reader))
        for engine in self._config.engines:
            self._spawn(f"engine-{engine.target}", partial(self._poll, engine))
        return {"gpu": about, "sources": [t.name for t in self._threads]}

    def stop(self) -> None:
        """Let every thread finish its tick and close its spool."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _spawn(self, source: str, body: Callable[[Writer], None]) -> None:
        thread = threading.Thread(target=self._guard, args=(source, body), name=source)
        self._threads.append(thread)
        thread.start()

    def _guard(self, source: str, body: Callable[[Writer], None]) -> None:
        """One source's whole life: what ends it early is a note and leaves the others alone."""
        try:
            with Writer(Path(self._config.spool), source) as writer:
                try:
                    body(writer)
                finally:
                    self.ended[source] = writer.next_seq
        except (TokenswarmError, OSError) as e:
            self._note(f"{source} ended early: {e}")
        except Exception as e:
            traceback.print_exc()
            self._note(f"{source} ended early: {type(e).__name__}")

    def _note(self, text: str) -> None:
        with self._lock:
            if text in self._failures or len(self._failures) < MAX_NOTES:
                self._failures[text] += 1

    def _open_gpu(self) -> tuple[GpuReader | None, dict[str, Any]]:
        try:
            reader = open_gpu(self._config)
        except UsageError as e:
            self._note(str(e))
            return None, {"kind": "none", "reason": str(e)}
        return reader, {"kind": self._config.gpu.source}

    def _sample_gpu(self, reader: GpuReader, writer: Writer) -> None:
        gpu, stamp = self._config.gpu, Monotonic()
        out = Outbox(writer)
        try:
            for _ in Ticks(gpu.interval_s, self._stop):
                began = time.perf_counter()
                try:
                    samples = reader.sample()
                except TelemetryGap as e:
                    self._note(str(e))
                    samples = []
                when_ns = self._clock.unix((began + time.perf_counter()) / 2)
                out.put(
                    rows(samples, when_ns, stamp, reader.kind, self._config.run_id,
                         self._config.host, self._config.slugs)
                )  # fmt: skip
        finally:
            reader.close()
            out.flush()

    def _poll(self, engine: Engine, writer: Writer) -> None:
        interval_s = self._config.engine_interval_s
        poller = Poller(engine, self._config.run_id, self._clock, interval_s)
        out = Outbox(writer, flush_s=0.0)
        for _ in Ticks(interval_s, self._stop):
            out.put(poller.poll())
        out.flush()


class Outbox:
    """Rows on their way to the spool, in frames at most `flush_s` apart. A full disk keeps them
    here, up to `MAX_ROWS`; from then on the spool's error ends the source."""

    MAX_ROWS = 100_000

    def __init__(self, writer: Writer, flush_s: float = FLUSH_S):
        self._writer, self._flush_s = writer, flush_s
        self._rows: list[Pair] = []
        self._flushed_s = time.perf_counter()

    def put(self, new: list[Pair]) -> None:
        self._rows += new
        # half a tick early rather than late
        if time.perf_counter() - self._flushed_s >= self._flush_s * 0.75:
            try:
                self.flush()
            except SpoolError:
                if len(self._rows) > self.MAX_ROWS:
                    raise

    def flush(self) -> None:
        self._flushed_s = time.perf_counter()
        if self._rows:
            self._writer.append(self._rows)
            self._rows = []


def open_gpu(config: Config) -> GpuReader | None:
    """The reader that `config` names; UsageError when it cannot be had."""
    gpu = config.gpu
    if gpu.source == "sim":
        from tokenswarm.telemetry.simulated import SimulatedGpu

        return SimulatedGpu(gpu.control_url or "")
    if gpu.source == "nvml":
        from tokenswarm.telemetry.nvml import Nvml
        from tokenswarm.telemetry.owner import Owners

        return Nvml(Owners(tuple(config.slugs)))
    return None


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
    _say({"started": sampler.start()})
    threading.Thread(target=_wait_for_end, args=(ended,), daemon=True).start()
    ended.wait()
    sampler.stop()
    _say({"ended": sampler.ended, "notes": sampler.notes})
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


def _say(message: dict[str, Any]) -> None:
    try:
        sys.stdout.write(msgspec.json.encode(message).decode() + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        pass  # the parent has gone; the spool holds what matters
