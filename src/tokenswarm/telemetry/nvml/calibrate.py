"""What asking NVML costs on this host: each call alone, and both tiers at work.

`python -m tokenswarm.telemetry.nvml.calibrate [--seconds S] [--hz HZ] [--pcie]` prints it as
Markdown.
"""

import argparse
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from tokenswarm.errors import UsageError
from tokenswarm.store.row import Monotonic
from tokenswarm.store.schema import GPU
from tokenswarm.store.spool import Writer
from tokenswarm.telemetry.feed import FLUSH_S
from tokenswarm.telemetry.gpu import GpuSample, TelemetryGap, rows
from tokenswarm.telemetry.nvml.cost import Cost
from tokenswarm.telemetry.nvml.reader import Nvml
from tokenswarm.telemetry.nvml.slow import SLOW_S
from tokenswarm.telemetry.owners.owner import Owners
from tokenswarm.telemetry.row import Pair
from tokenswarm.telemetry.ticks import Pace, Ticks


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """Both tiers over a stretch of time: sampling as a run does it, spool included."""

    seconds: float
    fast: Pace
    slow: Pace
    process_cpu_ratio: float
    rows: int


def work(nvml: Nvml, hz: float, seconds: float) -> Work:
    """Sample for a while on this thread, into a spool that is thrown away."""
    stop = threading.Event()
    ticks = Ticks(1 / hz, stop)
    nvml.slow_pace()
    began, cpu_s = time.perf_counter(), time.process_time()
    with TemporaryDirectory() as folder, Writer(Path(folder), "calibration") as spool:
        out = _Out(spool)
        for _ in ticks:
            out.put(_look(nvml, out.stamp))
            if time.perf_counter() - began >= seconds:
                stop.set()
        rows_written = spool.next_seq
    passed = time.perf_counter() - began
    return Work(
        seconds=passed,
        fast=ticks.pace(),
        slow=nvml.slow_pace(),
        process_cpu_ratio=(time.process_time() - cpu_s) / passed,
        rows=rows_written,
    )


class _Out:
    """Rows into the spool, in frames as far apart as a run's."""

    def __init__(self, spool: Writer):
        self._spool, self._rows, self._flushed_s = spool, list[Pair](), time.perf_counter()
        self.stamp = Monotonic()

    def put(self, rows: list[Pair]) -> None:
        self._rows += rows
        now = time.perf_counter()
        if now - self._flushed_s >= FLUSH_S * 0.75:
            self._spool.append(self._rows)
            self._rows, self._flushed_s = [], now


def _look(nvml: Nvml, stamp: Monotonic) -> list[Pair]:
    try:
        samples = nvml.sample()
    except TelemetryGap:
        samples = []
    return rows(samples, time.time_ns(), stamp, nvml.kind, "calibration", "here", {})


def table(head: tuple[str, ...], lines: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    rule = tuple("---" for _ in head)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def costs_table(costs: tuple[Cost, ...]) -> str:
    return table(
        ("call", "tier", "calls", "median", "max"),
        [(c.call, c.tier, str(c.calls), _us(c.median_s), _us(c.max_s)) for c in costs],
    )


def work_table(done: Work) -> str:
    lines: list[tuple[str, Callable[[Pace], str]]] = [
        ("interval wanted", lambda p: _ms(p.interval_s)),
        ("interval P99", lambda p: _ms(p.interval_p99_s)),
        ("interval max", lambda p: _ms(p.interval_max_s)),
        ("samples", lambda p: str(p.samples)),
        ("missed", lambda p: str(p.missed)),
        ("cost of a sample, mean", lambda p: _ms(p.cost_mean_s)),
        ("cost of a sample, max", lambda p: _ms(p.cost_max_s)),
        ("CPU of the thread, share of a core", lambda p: _percent(p.cpu_ratio)),
    ]
    return table(
        ("", "fast tier", "slow tier"),
        [(name, show(done.fast), show(done.slow)) for name, show in lines],
    )


def _us(seconds: float | None) -> str:
    return "absent" if seconds is None else f"{seconds * 1e6:,.1f} us"


def _ms(seconds: float | None) -> str:
    return "none" if seconds is None else f"{seconds * 1e3:,.3f} ms"


def _percent(ratio: float | None) -> str:
    return "none" if ratio is None else f"{ratio * 100:.2f} %"


def main() -> int:
    """Print the table, and with --seconds what sampling costs; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tokenswarm.telemetry.nvml.calibrate")
    parser.add_argument("--seconds", type=float, default=0.0, help="sample for so long, too")
    parser.add_argument("--hz", type=float, default=20.0, help="samples a second (default: 20)")
    parser.add_argument("--pcie", action="store_true", help="PCIe throughput, too (blocks)")
    parser.add_argument("--model", action="append", default=[], help="name processes by model")
    asked = parser.parse_args()
    try:
        nvml = Nvml(Owners(tuple(asked.model)), pcie=asked.pcie)
    except UsageError as e:
        sys.stderr.write(f"{e}\n")
        return UsageError.exit_code
    try:
        _print(nvml, asked.hz, asked.seconds)
    finally:
        nvml.close()
    return 0


def _print(nvml: Nvml, hz: float, seconds: float) -> None:
    about = nvml.about()
    print(f"Driver {about['driver']}, NVML {about['nvml']}, Python {sys.version.split()[0]}.\n")
    print(costs_table(nvml.costs))
    if seconds > 0:
        done = work(nvml, hz, seconds)
        print(f"\n{hz:g} Hz for {done.seconds:.1f} s, {done.rows} rows; ", end="")
        print(f"whole process {_percent(done.process_cpu_ratio)} of a core.\n")
        print(work_table(done))
    samples = full_look(nvml)
    print("\n" + figures_table(samples))
    print("\n" + processes_table(samples))
    about = nvml.about()
    for gpu in about["gpus"]:
        lacks = ", ".join(gpu["absent"]) or "nothing"
        print(f"\nGPU {gpu['gpu']} ({gpu['name']}) lacks: {lacks}.")
    if about["slow_failure"]:
        print(f"\nThe slow tier failed: {about['slow_failure']}.")


def full_look(nvml: Nvml) -> list[GpuSample]:
    """A look with slow figures; without, when none came within two readings."""
    until = time.perf_counter() + 2 * SLOW_S
    while True:
        samples = nvml.sample()
        slow = all(s.temperature_c is not None for s in samples if not s.label)
        if slow or time.perf_counter() > until:
            return samples
        time.sleep(0.01)


def figures_table(samples: list[GpuSample]) -> str:
    """What each GPU shows at this moment."""
    names = [f.name for f in GPU.fields if f.name != "source"]
    return table(
        ("figure", *(f"GPU {s.tag}" for s in samples)),
        [(name, *(str(getattr(s, name)) for s in samples)) for name in names],
    )


def processes_table(samples: list[GpuSample]) -> str:
    """Who holds memory at this moment."""
    lines = [
        (s.tag, str(p.pid), p.model or "none", p.container or "none", _mib(p.vram_used_bytes))
        for s in samples
        for p in s.processes
    ]
    return table(("GPU", "pid", "model", "container", "memory"), lines)


def _mib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**20:,.0f} MiB"


if __name__ == "__main__":
    sys.exit(main())
