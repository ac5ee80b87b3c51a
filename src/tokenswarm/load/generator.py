"""One process's part of a run: what it sends, counts and records between start and drain."""

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import gevent
from gevent.event import Event

from tokenswarm.clock import SAME_CLOCK, Clock, Offset
from tokenswarm.engines.probe import adapter
from tokenswarm.load.client import REAPER
from tokenswarm.load.health import Health
from tokenswarm.load.meter import ModelMeter
from tokenswarm.load.pace import Pace, Seat
from tokenswarm.load.recorder import Recorder
from tokenswarm.load.start import RunStart
from tokenswarm.load.target import Route
from tokenswarm.scenario.deal import Share
from tokenswarm.scenario.load import from_dict
from tokenswarm.scenario.model import Model, Scenario, Slo, Target
from tokenswarm.scenario.plan import Plan
from tokenswarm.wire.record import Phase, RequestRecord
from tokenswarm.wire.row import request_row
from tokenswarm.wire.slo import met

CUT_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class Drained:
    """What a process says at the end: its source, the rows it wrote and what it lost."""

    source: str
    rows: int
    dropped: int
    cut: int


class Generator:
    """The state of one run in one process. Users ask it for requests and hand it records."""

    def __init__(
        self, start: RunStart, spool: Path, worker: str, own: Sequence[Share],
        offset: Offset = SAME_CLOCK,
    ) -> None:  # fmt: skip
        self.start = start
        self.worker = worker
        self.clock = Clock.anchored(start.t0_unix_ns, offset.offset_ns)
        self.offset = offset
        self.recorder = Recorder(spool, worker)
        self.health = Health()
        self.meters: dict[tuple[str, str], ModelMeter] = {}
        self.scenario: Scenario | None = None
        self.models: dict[str, Model] = {}
        self.routes: dict[str, Route] = {}
        self.pace: Pace | None = None
        self.stopped = False
        self.users = 0
        self._seats: set[int] = set()
        self.resumed = Event()
        self.resumed.set()  # cleared: the master is lost, nothing new is sent
        self._requests = 0
        self._ticker: Any = gevent.spawn(self._tick_loop)
        if start.scenario is not None:
            self._follow(from_dict(start.scenario), own)

    def _follow(self, scenario: Scenario, own: Sequence[Share]) -> None:
        self.scenario = scenario
        self.models = {m.name: m for m in scenario.models}
        for name, target in scenario.targets.items():
            info = self.start.engines[name]
            self.routes[name] = Route.to(name, target, info.engine, info.knobs)
        plan = Plan(scenario, self.start.vocabularies)
        self.pace = Pace(scenario, plan, self.clock, own)
        for model in scenario.models:
            self.meter(model.name, model.target, self.routes[model.target].engine)

    def route(self, name: str, target: Target, engine: str) -> Route:
        """The route to a target that no scenario named (users of a locustfile's own)."""
        if name not in self.routes:
            self.routes[name] = Route.to(name, target, engine, adapter(engine).knobs)
        return self.routes[name]

    def meter(self, model: str, target: str, engine: str) -> ModelMeter:
        """The counters of a model on a target."""
        key = (model, target)
        if key not in self.meters:
            self.meters[key] = ModelMeter(model, target, engine)
        return self.meters[key]

    def new_id(self) -> str:
        """An id for the next request, unique in the run."""
        self._requests += 1
        return f"{self.worker}-{self._requests}"

    def wait_for_t0(self) -> None:
        """Sleep until the run's clock is at 0."""
        wait_s = self.clock.perf(0.0) - perf_counter()
        if wait_s > 0:
            gevent.sleep(wait_s)

    def phase(self, sent: float | None) -> Phase:
        """The phase a request belongs to, by when it was sent (perf_counter seconds)."""
        if self.scenario is None or sent is None:
            return "steady"
        sent_s, pace = self.clock.run_s(sent), self.pace
        if sent_s < self.scenario.warmup_s:
            return "warmup"
        if pace is not None and pace.drained(sent_s):
            return "drain"
        ramping = pace is not None and pace.level is not None and pace.level.ramping(sent_s)
        return "ramp" if ramping else "steady"

    def pause(self) -> None:
        """Send nothing new until `resume`."""
        self.resumed.clear()
        if self.pace is not None:
            self.pace.pause()

    def resume(self) -> None:
        self.resumed.set()
        if self.pace is not None:
            self.pace.resume()

    def sit(self) -> Seat:
        """A place for a user that begins: the lowest number that is free."""
        self.users += 1
        number = next(n for n in count() if n not in self._seats)
        self._seats.add(number)
        return Seat(number)

    def leave(self, seat: Seat) -> None:
        """Its user has ended."""
        self.users -= 1
        self._seats.discard(seat.number)

    def record(self, record: RequestRecord, slo: Slo | None) -> None:
        """Put a finished request's row on its way to the spool."""
        ended_at = record.stamps.end if record.stamps.end is not None else perf_counter()
        time_ns = self.recorder.moment(self.clock.unix(ended_at))
        run_id = self.start.run_id
        record.slo_ok = met(slo, record)
        stamps = record.stamps
        if stamps.sent is not None and stamps.intended is not None:
            self.health.sent(stamps.sent - stamps.intended - (stamps.connect_s or 0.0))
        row = request_row(record, self.clock, run_id, self.worker, time_ns)
        self.recorder.put("request", row)

    def stop(self) -> None:
        """No new requests from now on; those in flight go on."""
        self.stopped = True
        if self.pace is not None:
            self.pace.stop()
        self.resumed.set()

    @property
    def exhausted(self) -> bool:
        """Every request of this process's share was sent and has ended."""
        return self.pace is not None and self.pace.exhausted and self.in_flight == 0

    @staticmethod
    def wall_s() -> float:
        """Wall clock in seconds, to compare with Locust's heartbeats only."""
        return time.time()

    @property
    def in_flight(self) -> int:
        """Requests sent and not ended."""
        return sum(m.in_flight for m in self.meters.values())

    def drain(self, timeout_s: float) -> Drained:
        """Wait for the requests in flight, cut what is left after `timeout_s`, close the spool."""
        self.stop()
        cut = 0
        if not self._wait_idle(timeout_s):
            cut = REAPER.cut()
            self._wait_idle(CUT_GRACE_S)
        self._ticker.kill()
        self.health.close()
        self._tick(1.0)
        self.recorder.close()
        gc.unfreeze()
        return Drained(self.worker, self.recorder.written, self.recorder.dropped, cut)

    def totals(self) -> dict[str, dict[str, Any]]:
        """Running totals by model, for the report to the master."""
        return {f"{model}@{target}": m.totals() for (model, target), m in self.meters.items()}

    def _wait_idle(self, timeout_s: float) -> bool:
        until = perf_counter() + timeout_s
        while self.in_flight and perf_counter() < until:
            gevent.sleep(0.02)
        return self.in_flight == 0

    # -- once a second
    def _tick_loop(self) -> None:
        # a full collection walks everything that was ever imported and holds up the hub for tens
        # of milliseconds: what is there before the load is no garbage
        gc.collect()
        gc.freeze()
        self.wait_for_t0()
        self.health.second()  # what came before t0 is set-up, not load
        last = perf_counter()
        while True:
            gevent.sleep(1.0 - self.clock.run_s(perf_counter()) % 1.0)
            now = perf_counter()
            self._tick(now - last)
            last = now

    def _tick(self, interval_s: float) -> None:
        unix_ns = self.clock.unix(perf_counter())
        for meter in self.meters.values():
            self._put_tick(meter, unix_ns, interval_s)
        figures = self.health.second()
        self.recorder.put(
            "generator",
            [
                self.recorder.moment(unix_ns),
                self.start.run_id,
                self.worker,
                figures["loop_lag_s"],
                figures["late_starts"],
                figures["late_max_s"],
                figures["cpu_ratio"],
                figures["rss_bytes"],
                self.users,
                self.recorder.written,
                self.recorder.waiting,
                self.recorder.dropped,
                figures["cpu_wait_ratio"],
                figures["send_lag_p99_s"],
                figures["open_files"],
            ],
        )

    def _put_tick(self, meter: ModelMeter, unix_ns: int, interval_s: float) -> None:
        tokens, started, done, failed = meter.since_last()
        self.recorder.put(
            "tick",
            [
                self.recorder.moment(unix_ns),
                self.start.run_id,
                meter.model,
                meter.target,
                meter.engine,
                self.worker,
                tokens,
                started,
                done,
                failed,
                meter.in_flight,
                interval_s,
            ],
        )
