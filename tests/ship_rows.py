"""Rows for a database to lose: all different, their counts and sums known."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenswarm.store.schema import MEASUREMENTS, Kind, Measurement
from tokenswarm.store.spool import Writer

T0 = 1_790_000_000_000_000_000
STEP_NS = 1_000_003
"""Points of one measurement are over 1 ms apart, for databases that store milliseconds."""

RUN = "20261122t163015z-k3f9qa"
TEXTS = ('say "hi"', "a,b=c d", "back\\slash\\", "line\nbreak", "Grüße", "")
NUMBERS: tuple[Kind, ...] = ("int", "float")

# rows of each in a turn
MIX = {"tick": 9, "gpu": 6, "gpu_process": 4, "request": 1}
SOURCES = {"tick": "w0", "request": "w1", "gpu": "gpu-box", "gpu_process": "gpu-box"}


@dataclass
class Written:
    """What was written: rows of each measurement; values of each field, counted and summed.

    Floats are multiples of 1/8, so that sums are exact in any order.
    """

    rows: dict[str, int] = field(default_factory=dict)
    values: dict[tuple[str, str], tuple[int, float]] = field(default_factory=dict)

    @property
    def lines(self) -> int:
        return sum(self.rows.values())

    def take(self, m: Measurement, row: list[Any]) -> None:
        self.rows[m.name] = self.rows.get(m.name, 0) + 1
        for f, value in zip(m.fields, row[1 + len(m.tags) :], strict=True):
            if value is not None and not f.files_only:
                count, total = self.values.get((m.name, f.name), (0, 0))
                number = value if f.kind in NUMBERS else 0
                self.values[m.name, f.name] = (count + 1, total + number)


class Source:
    """Writes rows of all measurements in MIX into a spool, each a source's."""

    def __init__(self, spool: Path) -> None:
        self.written = Written()
        self._writers = {name: Writer(spool, name) for name in set(SOURCES.values())}

    def write(self, lines: int, frame_rows: int = 500) -> None:
        """So many rows, in frames."""
        pairs: dict[str, list[tuple[str, list[Any]]]] = {name: [] for name in self._writers}
        for name in _turns(lines):
            m = MEASUREMENTS[name]
            row = row_of(m, self.written.rows.get(name, 0))
            self.written.take(m, row)
            frame = pairs[SOURCES[name]]
            frame.append((name, row))
            if len(frame) == frame_rows:
                self._writers[SOURCES[name]].append(frame)
                frame.clear()
        for source, frame in pairs.items():
            if frame:
                self._writers[source].append(frame)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


def _turns(lines: int) -> Iterator[str]:
    turn = [name for name, n in MIX.items() for _ in range(n)]
    for i in range(lines):
        yield turn[i % len(turn)]


def row_of(m: Measurement, i: int) -> list[Any]:
    """The `i`-th row of `m`: no other has its time; some values are missing, never all."""
    tags = [RUN if tag == "run_id" else f"{tag}{i % 3}" for tag in m.tags]
    values = [
        None if (i + 3 * k) % 7 == 0 else _value(f.kind, i + k) for k, f in enumerate(m.fields)
    ]
    return [T0 + i * STEP_NS, *tags, *values]


def _value(kind: Kind, n: int) -> Any:
    match kind:
        case "int":
            return n % 10_007 - 5_000
        case "float":
            return (n % 10_009) / 8
        case "bool":
            return n % 2 == 0
        case "str":
            return f"{TEXTS[n % len(TEXTS)]}{n}"
        case "ints":
            return [n % 1000, 1]
