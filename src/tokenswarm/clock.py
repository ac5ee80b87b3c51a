"""The one time line: one wall-clock anchor a process, perf_counter for everything else."""

import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Clock:
    """Turn `perf_counter()` seconds of this process into wall-clock nanoseconds and run seconds.

    `unix_ns` is the wall clock at the moment when `perf_counter()` was `perf_s`. `t0_unix_ns` is
    the start of the run (minted by the master); run seconds count from it.
    """

    unix_ns: int
    perf_s: float
    t0_unix_ns: int

    @classmethod
    def anchored(cls, t0_unix_ns: int | None = None, offset_ns: int = 0) -> "Clock":
        """Anchor now. `offset_ns` moves this process's wall clock onto the master's."""
        before = time.perf_counter()
        unix_ns = time.time_ns() + offset_ns
        perf_s = (before + time.perf_counter()) / 2
        return cls(unix_ns, perf_s, unix_ns if t0_unix_ns is None else t0_unix_ns)

    def unix(self, perf_s: float) -> int:
        """Wall clock in ns at `perf_s`."""
        return self.unix_ns + round((perf_s - self.perf_s) * NS)

    def run_s(self, perf_s: float) -> float:
        """Seconds since the run's t0 at `perf_s`."""
        return (self.unix_ns - self.t0_unix_ns) / NS + (perf_s - self.perf_s)

    def perf(self, run_s: float) -> float:
        """`perf_counter()` value at `run_s` seconds after t0."""
        return run_s - (self.unix_ns - self.t0_unix_ns) / NS + self.perf_s


_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"


def new_run_id(unix_ns: int) -> str:
    """Mint a run id such as `20261122t163015z-k3f9qa`: sortable, lower case, a safe file name."""
    stamp = time.strftime("%Y%m%dt%H%M%Sz", time.gmtime(unix_ns / NS))
    return f"{stamp}-{''.join(secrets.choice(_ALPHABET) for _ in range(6))}"


RUN_ID = re.compile(r"[0-9]{8}t[0-9]{6}z-[a-z0-9]{6}")


def slug(text: str) -> str:
    """`text` as a tag value: `[a-z0-9_-]`, `none` when nothing is left."""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-") or "none"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question about the time and its answer, in ns: we ask, they get it, they answer, we
    get it. The outer two are by our clock, the inner two by theirs."""

    asked_ns: int
    received_ns: int
    answered_ns: int
    back_ns: int

    @property
    def round_trip_ns(self) -> int:
        """Time on the way, both ways, without their pause between question and answer."""
        return (self.back_ns - self.asked_ns) - (self.answered_ns - self.received_ns)

    @property
    def offset_ns(self) -> int:
        """Our clock minus theirs, if both ways take as long (RFC 5905, section 8, other sign)."""
        there, back = self.received_ns - self.asked_ns, self.answered_ns - self.back_ns
        return -(there + back) // 2


@dataclass(frozen=True, slots=True)
class Offset:
    """What has to be added to another process's wall clock to move it onto ours. Whatever the
    ways took, the truth is at most `uncertainty_ns` away."""

    offset_ns: int
    uncertainty_ns: int


SAME_CLOCK = Offset(0, 0)


@dataclass(frozen=True, slots=True)
class Clocks:
    """How another process's clock stood to ours at first, when it was moved onto ours, and at
    last; both with their times in seconds of the run."""

    first: Offset
    first_s: float
    last: Offset
    last_s: float


def offset_of(exchanges: Sequence[Exchange]) -> Offset:
    """The offset by the exchange with the shortest round trip, of which there is at least one."""
    best = min(exchanges, key=lambda e: e.round_trip_ns)
    return Offset(best.offset_ns, max(0, best.round_trip_ns + 1) // 2)


def machine() -> str | None:
    """The same text in all processes that share this system's clock, containers included; None
    where the system does not tell (Linux does)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
