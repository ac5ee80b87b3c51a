"""The feeds of this host: GPU, host, engines, containers, and the health of them all."""

import threading
import time
from collections.abc import Mapping
from typing import Any

from tokenswarm.clock import Clock
from tokenswarm.errors import UsageError
from tokenswarm.store.row import Monotonic
from tokenswarm.telemetry.config import Config
from tokenswarm.telemetry.engine import EngineFeed
from tokenswarm.telemetry.feed import Feed, Notes, Outbox
from tokenswarm.telemetry.gpu import GpuReader, TelemetryGap, rows
from tokenswarm.telemetry.health import Health
from tokenswarm.telemetry.open import open_gpu
from tokenswarm.telemetry.owners.owner import owners_of
from tokenswarm.telemetry.ticks import Ticks

HEALTH_S = 1.0


def feeds(config: Config, clock: Clock, note: Notes) -> tuple[list[Feed], dict[str, Any]]:
    """What `config` names, ready to run, and what is known of the GPU.

    What cannot be had is noted and left out; the rest goes on.
    """
    reader, about = _gpu(config, note)
    found: list[Feed] = [] if reader is None else [GpuFeed(reader, config, clock)]
    if config.host_figures is not None:
        from tokenswarm.telemetry.host import HostFeed

        found.append(HostFeed(config.host_figures.interval_s, config.run_id, config.host, clock))
    if config.containers is not None:
        from tokenswarm.telemetry.docker.events import ContainerFeed

        found.append(ContainerFeed(config.containers, config.run_id, config.host, clock))
    found += [EngineFeed(engine, config, clock) for engine in config.engines]
    return found, about


def _gpu(config: Config, note: Notes) -> tuple[GpuReader | None, dict[str, Any]]:
    try:
        reader = open_gpu(config.gpu, tuple(config.slugs), owners_of(config))
    except UsageError as e:
        note(str(e))
        return None, {"kind": "none", "reason": str(e)}
    return reader, {"kind": config.gpu.source, **(reader.about() if reader else {})}


class GpuFeed:
    """All GPUs of one reader, which is closed at the end. `healths`: of the reader's own threads,
    by what they are called in measurement `agent`."""

    def __init__(self, reader: GpuReader, config: Config, clock: Clock):
        self.name = f"gpu-{config.host}"
        self._reader, self._clock = reader, clock
        self._interval_s = config.gpu.interval_s
        self._run_id, self._host = config.run_id, config.host
        self._slugs: Mapping[str, str] = config.slugs
        self.healths = {f"{self.name}-{of}": health for of, health in reader.healths.items()}

    def run(self, stop: threading.Event, out: Outbox) -> None:
        reader, stamp = self._reader, Monotonic()
        try:
            for _ in out.ticks(self._interval_s, stop):
                began = time.perf_counter()
                try:
                    samples = reader.sample()
                except TelemetryGap as e:
                    out.note(str(e))
                    samples = []
                when_ns = self._clock.unix((began + time.perf_counter()) / 2)
                out.put(
                    rows(samples, when_ns, stamp, reader.kind, self._run_id, self._host,
                         self._slugs)
                )  # fmt: skip
        finally:
            reader.close()


class HealthFeed:
    """The health of the other feeds, a row a second each and one more at the end."""

    def __init__(self, healths: Mapping[str, Health], config: Config, clock: Clock):
        self.name = f"agent-{config.host}"
        self._healths, self._config, self._clock = healths, config, clock
        self._stamp = Monotonic()

    def run(self, stop: threading.Event, out: Outbox) -> None:
        ticks = iter(Ticks(HEALTH_S, stop))
        next(ticks)  # at the start there is nothing to say
        for _ in ticks:
            out.put(self._rows())
        out.put(self._rows())

    def _rows(self) -> list[Any]:
        run_id, host, now = self._config.run_id, self._config.host, time.perf_counter()
        return [
            health.row(self._stamp(self._clock.unix(now)), run_id, host, source)
            for source, health in dict(self._healths).items()
        ]
