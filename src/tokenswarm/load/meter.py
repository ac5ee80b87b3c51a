"""Counters of one model in one process, and the fixed-edge log histogram that merges by sum."""

import math
from typing import Any

from tokenswarm import native

LOWEST_S = 1e-4
RATIO = 1.05
BUCKETS = 400  # 1e-4 s * 1.05**400 is over 8 hours
_SCALE = 1.0 / math.log(RATIO)


class Histogram:
    """Counts of seconds in buckets whose edges grow by 5 %; exact enough for a live line only."""

    __slots__ = ("counts",)

    def __init__(self, counts: dict[int, int] | None = None) -> None:
        self.counts = counts or {}

    def add(self, seconds: float) -> None:
        """Count one value; below 0.1 ms falls into the first bucket."""
        bucket = 0 if seconds <= LOWEST_S else int(math.log(seconds / LOWEST_S) * _SCALE) + 1
        bucket = min(bucket, BUCKETS)
        self.counts[bucket] = self.counts.get(bucket, 0) + 1

    def merge(self, other: "Histogram") -> None:
        for bucket, n in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + n

    def percentile(self, p: float) -> float | None:
        """Upper edge in seconds of the bucket that holds the nearest rank; None when empty."""
        total = sum(self.counts.values())
        rank = math.ceil(p * total)
        for bucket in sorted(self.counts):
            rank -= self.counts[bucket]
            if rank <= 0:
                return LOWEST_S * RATIO**bucket
        return None


class ModelMeter:
    """Running totals of one model; `events` is written where bytes arrive."""

    __slots__ = (
        "_last",
        "done",
        "engine",
        "events",
        "failed",
        "model",
        "started",
        "target",
        "ttft",
    )

    def __init__(self, model: str, target: str, engine: str) -> None:
        self.model, self.target, self.engine = model, target, engine
        self.started = self.done = self.failed = 0
        self.events = native.Counter()
        self.ttft = Histogram()
        self._last = (0, 0, 0, 0)

    @property
    def token_events(self) -> int:
        """Token events that have arrived."""
        events: int = self.events.n
        return events

    def since_last(self) -> tuple[int, int, int, int]:
        """Token events, started, done and failed since the last call."""
        now = (self.token_events, self.started, self.done, self.failed)
        last, self._last = self._last, now
        return now[0] - last[0], now[1] - last[1], now[2] - last[2], now[3] - last[3]

    @property
    def in_flight(self) -> int:
        return self.started - self.done - self.failed

    def totals(self) -> dict[str, Any]:
        """Totals since the run's start, for the report to the master."""
        return {
            "started": self.started,
            "done": self.done,
            "failed": self.failed,
            "token_events": self.token_events,
            "ttft": dict(self.ttft.counts),
        }


class Totals:
    """Totals of all models over all workers: the last report of each worker, summed."""

    def __init__(self) -> None:
        self._last: dict[str, dict[str, dict[str, Any]]] = {}

    def report(self, worker: str, models: dict[str, dict[str, Any]]) -> None:
        self._last[worker] = models

    def sum(self, key: str) -> int:
        """Sum of `key` over workers and models."""
        return sum(m[key] for models in self._last.values() for m in models.values())

    def ttft(self) -> Histogram:
        merged = Histogram()
        for models in self._last.values():
            for m in models.values():
                merged.merge(Histogram({int(k): v for k, v in m["ttft"].items()}))
        return merged
