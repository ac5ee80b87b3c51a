"""Polls of one target: what it holds and how busy it is, as rows."""

import threading
import time
from collections.abc import Callable, Mapping

import msgspec

from tokenswarm.clock import Clock, slug
from tokenswarm.engines.control import Server
from tokenswarm.engines.news import Ear, News
from tokenswarm.engines.ollama import same_model
from tokenswarm.engines.probe import adapter, probe
from tokenswarm.engines.protocol import ANY, Adapter, LoadFigures, Residency
from tokenswarm.errors import TargetError
from tokenswarm.store.row import Monotonic
from tokenswarm.store.schema import ENGINE, RESIDENCY
from tokenswarm.telemetry.config import Config, Engine
from tokenswarm.telemetry.feed import Outbox
from tokenswarm.telemetry.row import Pair, row

HEARTBEAT_S = 1.0
AUTO = ("", "auto")


def timeout_s(interval_s: float) -> float:
    """A slow answer should not cost the next poll, but a busy server deserves some patience."""
    return min(2.0, max(0.3, 0.8 * interval_s))


class EngineFeed:
    """One target: what it holds and how busy it is, every `engine_interval_s` and, where the
    server tells of changes, at once."""

    def __init__(self, engine: Engine, config: Config, clock: Clock):
        self.name = f"engine-{engine.target}"
        self._target = engine.target
        self._interval_s = config.engine_interval_s
        self._poller = Poller(engine, config.run_id, clock, config.engine_interval_s)
        self._lock = threading.Lock()
        self._early: list[Pair] = []

    def run(self, stop: threading.Event, out: Outbox) -> None:
        ear = Ear(self._hear)
        try:
            for _ in out.ticks(self._interval_s, stop):
                with self._lock:
                    new, self._early = [*self._early, *self._poller.poll()], []
                out.put(new)
                for remark in self._poller.take_remarks():
                    out.note(f"target {self._target}: {remark}")
                ear.follow(*self._poller.news)
        finally:
            ear.close()

    def _hear(self) -> None:
        """Ask at once; the rows wait for the next tick."""
        with self._lock:
            self._early += self._poller.poll()


class Poller:
    """One target. Its state is what was last seen of each model, and when that was written.

    A server that was away may come back as another engine: it is fingerprinted anew. So is one
    whose engine the configuration does not say.
    """

    def __init__(self, config: Engine, run_id: str, clock: Clock, interval_s: float):
        self._config = config
        self._adapter: Adapter | None = None
        self._tags = {"run_id": run_id, "target": config.target, "engine": "none"}
        self._clock, self._timeout_s = clock, timeout_s(interval_s)
        self._stamp = Monotonic()
        self._residency = Seen(config.models, str.__eq__)
        self._remarks: list[str] = []
        self._told = False
        self._figured: tuple[str, ...] = ("none",)
        if config.engine not in AUTO:
            self._become(adapter(config.engine, config.headers, config.tls_verify))
        self._is_sure = self._adapter is not None

    @property
    def news(self) -> tuple[Server, News | None]:
        """Where the server tells changes, if it does."""
        c = self._config
        server = Server(c.url, self._timeout_s, c.headers, c.tls_verify)
        return server, None if self._adapter is None else self._adapter.news

    def take_remarks(self) -> list[str]:
        """What a person should know, since the last call."""
        taken, self._remarks = self._remarks, []
        return taken

    def poll(self) -> list[Pair]:
        """Rows of one poll. A failed one says only that it failed: nothing was seen, so nothing
        is said about residency, and the last state stays the last."""
        began = time.perf_counter()
        try:
            there = self._sure()
            held = there.residency(self._config.url, self._timeout_s)
            figures = there.figures(self._config.url, self._timeout_s)
        except TargetError as e:
            return self._failed(e, began)
        now = time.perf_counter()
        self._doubt(self._told and held is None)
        self._told = held is not None
        seen = [] if held is None else self._residency.look(held, now)
        return self._residency_rows(seen, now) + self._engine_rows(figures, now, began, ok=True)

    def _failed(self, error: TargetError, began: float) -> list[Pair]:
        now = time.perf_counter()
        is_busy = now - began >= self._timeout_s  # it is there, and does not answer in time
        self._doubt(not is_busy)
        if not is_busy:
            self._remarks.append(str(error))
        return self._engine_rows((), now, began, ok=False)

    def _doubt(self, is_odd: bool) -> None:
        """After an odd answer, or none: it may be another server from now on."""
        if is_odd:
            self._is_sure = False
            self._residency.restarted()

    def _sure(self) -> Adapter:
        """The adapter of what listens there now; TargetError when nobody can tell."""
        if self._is_sure and self._adapter is not None:
            return self._adapter
        if self._adapter is None or self._is_another(self._adapter):
            c = self._config
            found = probe(
                c.url, headers=c.headers, timeout_s=self._timeout_s, tls_verify=c.tls_verify
            )
            self._become(adapter(found.engine, c.headers, c.tls_verify))
        assert self._adapter is not None
        return self._adapter

    def _is_another(self, known: Adapter) -> bool:
        """False also while it does not say: what it was asked before, it can be asked again."""
        if known.engine == "openai":
            return False  # it was to be taken as just that, whatever it is
        try:
            found = known.fingerprint(self._config.url, self._timeout_s)
        except TargetError:
            return False
        self._is_sure = found is not None
        return found is None

    def _become(self, there: Adapter) -> None:
        if self._adapter is not None and there.engine != self._adapter.engine:
            self._remarks.append(f"it was {self._adapter.engine} and is {there.engine} now")
        self._adapter, self._is_sure, self._told = there, True, False
        self._tags["engine"] = there.engine
        self._residency.told_by(there.engine)
        self._figured = ("none",)

    def _residency_rows(self, seen: "list[Look]", now: float) -> list[Pair]:
        loading = any(look.held.state == "loading" for look in seen)
        return [
            row(
                RESIDENCY,
                self._stamp(self._clock.unix(now)),
                **self._tags,
                model=look.slug,
                state=look.held.state,
                vram_bytes=look.held.vram_bytes,
                size_bytes=look.held.size_bytes,
                context_length=look.held.context_length,
                sleep_level=look.held.sleep_level,
                expires_s=look.held.expires_s,
                swap_active=1 if loading else None,
                changed=look.changed,
            )
            for look in seen
        ]

    def _engine_rows(
        self, figures: tuple[LoadFigures, ...], now: float, began: float, *, ok: bool
    ) -> list[Pair]:
        """A row a model that has figures; those that had some keep their rows without."""
        by_model = {self._residency.slug(f.model): f for f in figures}
        if by_model:
            self._figured = tuple(by_model)
        nothing = LoadFigures(None)
        rows = []
        for model in self._figured:
            f = by_model.get(model, nothing)
            rows.append(
                row(
                    ENGINE,
                    self._stamp(self._clock.unix(now)),
                    **self._tags,
                    model=model,
                    running=f.running,
                    waiting=f.waiting,
                    kv_cache_ratio=f.kv_cache_ratio,
                    poll_s=now - began,
                    poll_ok=ok,
                )
            )
        return rows


class Look(msgspec.Struct, frozen=True):
    """One model at one look that is worth a row."""

    slug: str
    held: Residency
    changed: bool


class Seen:
    """What was last seen of each model of the scenario, to tell news and heartbeats apart."""

    def __init__(self, models: Mapping[str, str], same: Callable[[str, str], bool]):
        self._models, self._same = models, same
        self._sleeps_when_unready = self._was_ready = False
        self._last: dict[str, Residency] = {}
        self._written_s: dict[str, float] = {}

    def told_by(self, engine: str) -> None:
        """Which engine's words come from now on. What was last seen stays: a change from one
        engine to another is one."""
        self._same = same_model if engine == "ollama" else str.__eq__
        self._sleeps_when_unready = engine == "sglang"

    def slug(self, model: str | None) -> str:
        """The scenario's slug of a server's model name; `none` for None."""
        if model is None:
            return "none"
        known = (s for name, s in self._models.items() if self._same(name, model))
        return next(known, None) or slug(model)

    def look(self, held: tuple[Residency, ...], now_s: float) -> list[Look]:
        """The models that differ from the look before, or whose heartbeat is due. One that the
        server does not list is absent. The first look is no change."""
        out = []
        for name, model in self._models.items():
            found = (r for r in held if r.model == ANY or self._same(name, r.model))
            last = self._last.get(model)
            residency = self._slept(next(found, None) or Residency(name, "absent"))
            changed = last is not None and last.state != residency.state
            due = now_s - self._written_s.get(model, -HEARTBEAT_S) >= HEARTBEAT_S * 0.95
            if changed or due or _size(last) != _size(residency):
                out.append(Look(model, residency, changed))
                self._written_s[model] = now_s
            self._last[model] = residency
        return out

    def restarted(self) -> None:
        """It was away: what it does not have ready from now on, it loads."""
        self._was_ready = False

    def _slept(self, found: Residency) -> Residency:
        """SGLang says that it is not ready both at its start and when its memory was released; it
        was ready before the latter."""
        if found.state == "resident":
            self._was_ready = True
        sleeps = found.state == "loading" and self._sleeps_when_unready and self._was_ready
        return msgspec.structs.replace(found, state="asleep") if sleeps else found


def _size(residency: Residency | None) -> tuple[int | None, int | None, int | None] | None:
    r = residency
    return None if r is None else (r.vram_bytes, r.context_length, r.sleep_level)
