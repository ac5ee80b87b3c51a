"""One line of live progress on stderr."""

import sys
from collections import deque
from pathlib import Path
from time import perf_counter
from typing import Any

import gevent

from tokenswarm.load.meter import Totals
from tokenswarm.store.schema import GPU
from tokenswarm.store.spool import Position, follow

WINDOW_S = 5.0
USED = GPU.columns.index("vram_used_bytes")
TOTAL = GPU.columns.index("vram_total_bytes")


class LiveLine:
    """Prints totals of all workers once a second; redraws on a terminal, every 10 s elsewhere."""

    def __init__(self, totals: Totals, spool: Path, gpu_source: str | None) -> None:
        self._totals, self._spool, self._gpu_source = totals, spool, gpu_source
        self._position = Position()
        self._began = perf_counter()
        self._tokens: deque[tuple[float, int]] = deque([(self._began, 0)])
        self._vram: tuple[int, int] | None = None
        self._tty = sys.stderr.isatty()
        self._greenlet: Any = gevent.spawn(self._loop)

    def close(self) -> None:
        """Print the last state and a line end."""
        self._greenlet.kill(block=False)
        self._print(self.text())
        if self._tty:
            sys.stderr.write("\n")

    def text(self) -> str:
        """The line: elapsed, sent, ok, failed, in flight, TTFT P50/P95, tok/s, VRAM."""
        t = self._totals
        sent, ok, failed = t.sum("started"), t.sum("done"), t.sum("failed")
        elapsed = int(perf_counter() - self._began)
        parts = [
            f"{elapsed // 60:02d}:{elapsed % 60:02d}",
            f"sent {sent}",
            f"ok {ok}",
            f"failed {failed}",
            f"in flight {sent - ok - failed}",
            self._ttft(),
            f"{self._rate():.0f} tok/s",
        ]
        if self._look_at_gpu():
            used, total = self._vram or (0, 0)
            parts.append(f"VRAM {used / 1e9:.1f}/{total / 1e9:.1f} GB")
        return "  ".join(parts)

    def _ttft(self) -> str:
        histogram = self._totals.ttft()
        p50, p95 = histogram.percentile(0.5), histogram.percentile(0.95)
        if p50 is None or p95 is None:
            return "TTFT -"
        return f"TTFT p50 {p50:.3g} s p95 {p95:.3g} s"

    def _rate(self) -> float:
        """Token events a second over the last few seconds."""
        now = perf_counter()
        self._tokens.append((now, self._totals.sum("token_events")))
        while len(self._tokens) > 2 and now - self._tokens[1][0] > WINDOW_S:
            self._tokens.popleft()
        then, tokens = self._tokens[0]
        return (self._tokens[-1][1] - tokens) / max(now - then, 1e-9)

    def _look_at_gpu(self) -> bool:
        """Take the latest GPU sample from the sampler's spool; False while there is none."""
        if self._gpu_source is None:
            return False
        frames = list(follow(self._spool, self._position, self._gpu_source))
        for measurement, row in frames[-1].rows() if frames else []:
            if measurement == "gpu" and row[USED] is not None:
                self._vram = (row[USED], row[TOTAL])
        return self._vram is not None

    def _loop(self) -> None:
        seconds = 0
        while True:
            gevent.sleep(1.0)
            seconds += 1
            if self._tty or seconds % 10 == 0:
                self._print(self.text())

    def _print(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}" if self._tty else f"{text}\n")
        sys.stderr.flush()
