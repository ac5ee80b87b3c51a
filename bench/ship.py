"""Lines a second a core from the spool up to the socket, beside influxdb-client's Points."""

import argparse
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from bench.measure import CLIENT_CORE
from bench.server import BenchError, pinned
from tokenswarm.store.lines import encode
from tokenswarm.store.schema import MEASUREMENTS
from tokenswarm.store.spool import Writer

BUDGET_LINES_PER_S = 200_000
BUDGET_RATIO = 10.0
SLACK = 1.1  # over the budget by a tenth is noise
LINES = {"tokenswarm": 200_000, "points": 20_000}
FRAME_ROWS = 500
RUN_S = 300.0
T0_NS = 1_795_000_000_000_000_000


class Figures(msgspec.Struct, frozen=True):
    """One shipping: `us_per_line` is CPU time of the whole process after its imports."""

    lines: int
    cpu_s: float
    wall_s: float

    @property
    def us_per_line(self) -> float:
        return self.cpu_s * 1e6 / self.lines


def sample(i: int, rng: random.Random) -> list[Any]:
    """A row of the gpu measurement as a card gives it: about 400 bytes as a line."""
    total, reserved, used = 150_754_820_096, 628_424_704, rng.randrange(2**25) * 4096
    cells = {
        "time_ns": T0_NS + i * 50_000_000 + rng.randrange(100_000),
        "run_id": "20261122t163015z-k3f9qa", "host": "gpu-box", "gpu": "gpu-0",
        "vram_total_bytes": total, "vram_used_bytes": used, "vram_reserved_bytes": reserved,
        "vram_free_bytes": total - reserved - used, "util_ratio": rng.randrange(101) / 100,
        "mem_util_ratio": rng.randrange(101) / 100, "power_w": rng.randrange(700_000) / 1000,
        "energy_j": i * 25.0 + rng.randrange(25_000) / 1000,
        "sm_clock_hz": rng.randrange(345, 1980, 15) * 1_000_000, "mem_clock_hz": 2_619_000_000,
        "temperature_c": float(rng.randrange(30, 80)), "throttle_bits": 4, "source": "nvml",
    }  # fmt: skip
    return [cells.get(name) for name in MEASUREMENTS["gpu"].columns]


def write_spool(folder: Path, lines: int) -> Path:
    """A spool of one source with so many rows; the same rows each time."""
    rng = random.Random(7)
    with Writer(folder, "gpu-box") as writer:
        for first in range(0, lines, FRAME_ROWS):
            numbers = range(first, min(first + FRAME_ROWS, lines))
            writer.append([("gpu", sample(i, rng)) for i in numbers])
    return folder


@contextmanager
def sink() -> Iterator[str]:
    """A server that takes everything and answers 204; its URL. It runs in this process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended = threading.Event()
        thread = threading.Thread(target=_accept, args=(listener, ended), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        ended.set()
        socket.create_connection(listener.getsockname()).close()
        thread.join()


def _accept(listener: socket.socket, ended: threading.Event) -> None:
    while not ended.is_set():
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as stream:
            while (length := _head(stream)) is not None:
                stream.read(length)
                connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")


def _head(stream: Any) -> int | None:
    """The length of the body that follows; None at the end of the connection."""
    length = 0
    while (line := stream.readline()) not in (b"\r\n", b""):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return length if line else None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5, help="rounds, the order rotated")
    parser.add_argument("--quick", action="store_true", help="one round with a tenth of the lines")
    parser.add_argument("--json", type=Path, help="write every figure to this file")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the table, and say whether the budget holds: 0, or 1 when it does not."""
    rounds = 1 if arguments.quick else arguments.rounds
    share = 10 if arguments.quick else 1
    with tempfile.TemporaryDirectory(prefix="tokenswarm-bench-") as folder, sink() as url:
        spools = {w: write_spool(Path(folder) / w, n // share) for w, n in LINES.items()}
        before = os.getloadavg()[0]
        found = [measure_round(url, spools, i % 2 == 1) for i in range(rounds)]
    print(table(found))
    print(machine(before, os.getloadavg()[0]))
    over = exceeded(found)
    print("\n".join(over) or "within budget")
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.encode(found))
    return 1 if over else 0


def measure_round(url: str, spools: dict[str, Path], backwards: bool) -> dict[str, Figures]:
    """Every way once, each in a process of its own."""
    ways = sorted(spools, reverse=backwards)
    return {way: measure(way, url, spools[way]) for way in ways}


def measure(way: str, url: str, spool: Path) -> Figures:
    """Ship `spool` once; whoever shipped it before is forgotten."""
    for path in sorted((spool / "ship").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    argv = [sys.executable, "-m", "bench.ship_worker", way, url, str(spool)]
    with pinned(CLIENT_CORE):
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        said, trouble = process.communicate(timeout=RUN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        said, trouble = process.communicate()
    if process.returncode:
        raise BenchError(f"{way} ended with {process.returncode}: {trouble[-1000:].decode()}")
    return msgspec.json.decode(said, type=Figures)


def machine(before: float, after: float) -> str:
    """How busy the machine was: what else it did takes a share of caches and clock, hence CPU
    time too. One busy core is the measurement's own."""
    return (
        f"machine: {os.cpu_count()} cores, load average over a minute {before:.2f} before, "
        f"{after:.2f} after"
    )


def median_us(rounds: Sequence[dict[str, Figures]], way: str) -> float:
    return statistics.median(r[way].us_per_line for r in rounds)


def ratio(rounds: Sequence[dict[str, Figures]]) -> float:
    """How many times what we take the Points take; the median over rounds."""
    return statistics.median(r["points"].us_per_line / r["tokenswarm"].us_per_line for r in rounds)


def exceeded(rounds: Sequence[dict[str, Figures]]) -> list[str]:
    """A sentence for each budget that does not hold."""
    over = []
    lines_per_s, times = 1e6 / median_us(rounds, "tokenswarm"), ratio(rounds)
    if lines_per_s * SLACK < BUDGET_LINES_PER_S:
        over.append(f"OVER BUDGET: {lines_per_s:,.0f} lines/s a core, {BUDGET_LINES_PER_S:,} due")
    if times * SLACK < BUDGET_RATIO:
        over.append(f"OVER BUDGET: {times:.1f} x the Points' speed, {BUDGET_RATIO:g} x due")
    return over


def table(rounds: Sequence[dict[str, Figures]]) -> str:
    """A line for each way: CPU time per line over the rounds, and lines a second a core."""
    size = len(encode([("gpu", sample(1, random.Random(7)))]).text)
    lines = [
        f"spool -> line protocol -> gzip -> socket, {size} bytes a line, rounds: {len(rounds)}",
        f"{'':<12}{'us/line min':>12}{'median':>9}{'max':>9}{'lines/s a core':>16}",
    ]
    for way in LINES:
        each = sorted(r[way].us_per_line for r in rounds)
        middle = statistics.median(each)
        lines.append(
            f"{way:<12}{each[0]:>12.2f}{middle:>9.2f}{each[-1]:>9.2f}{1e6 / middle:>16,.0f}"
        )
    lines.append(f"tokenswarm is {ratio(rounds):.1f} x as fast")
    return "\n".join(lines)
