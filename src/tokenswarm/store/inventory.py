"""What lies in a spool: which sequence numbers were seen, which are missing, what is damaged."""

from dataclasses import dataclass, field

from tokenswarm.store.frame import Damage, Frame
from tokenswarm.store.room import Removed


class Ranges:
    """The sequence numbers seen, as sorted, disjoint `[first, end)`; those before `start` are not
    missed."""

    def __init__(self, start: int = 0) -> None:
        self.start = start
        self.spans: list[tuple[int, int]] = []

    def add(self, first: int, end: int) -> list[tuple[int, int]]:
        """Add `[first, end)` and return the parts of it that were new."""
        if self.spans and self.spans[-1][1] == first:
            self.spans[-1] = (self.spans[-1][0], end)
            return [(first, end)]
        new, at = [], first
        for a, b in self.spans:
            if at < a and at < end:
                new.append((at, min(a, end)))
            at = max(at, b)
        if at < end:
            new.append((at, end))
        self.spans = _joined(sorted(self.spans + new))
        return new

    def gaps(self) -> list[tuple[int, int]]:
        """The `[first, end)` missing between the start and the last number seen."""
        ends = [self.start, *(b for _, b in self.spans)]
        return [(end, a) for end, (a, _) in zip(ends, self.spans, strict=False) if end < a]


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for a, b in spans:
        if joined and joined[-1][1] == a:
            joined[-1] = (joined[-1][0], b)
        else:
            joined.append((a, b))
    return joined


@dataclass(slots=True)
class Inventory:
    """What was found of one source: rows counted once, gaps and damages named.

    `removed` is what a bounded spool has let go of: its rows are no gap.
    """

    segments: int = 0
    bytes: int = 0
    rows: int = 0
    repeated_rows: int = 0
    damages: list[Damage] = field(default_factory=list)
    seen: Ranges = field(default_factory=Ranges)
    removed: Removed = field(default_factory=Removed)

    @property
    def first_seq(self) -> int | None:
        return self.seen.spans[0][0] if self.seen.spans else None

    @property
    def last_seq(self) -> int | None:
        return self.seen.spans[-1][1] - 1 if self.seen.spans else None

    @property
    def gaps(self) -> list[tuple[int, int]]:
        """Missing sequence numbers, as `[first, end)`."""
        return self.seen.gaps()

    def add(self, frame: Frame) -> list[tuple[int, int]]:
        """Count a frame and return the spans of it that are new."""
        new = self.seen.add(frame.first_seq, frame.end)
        rows = sum(b - a for a, b in new)
        self.rows += rows
        self.repeated_rows += frame.count - rows
        return new
