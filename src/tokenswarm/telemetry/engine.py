"""Polls of one target: what it holds and how busy it is, as rows."""

import time
from collections.abc import Callable, Mapping

import msgspec

from tokenswarm.clock import Clock, slug
from tokenswarm.engines.ollama import same_model
from tokenswarm.engines.probe import adapter
from tokenswarm.engines.protocol import LoadFigures, Residency
from tokenswarm.errors import TargetError
from tokenswarm.store.row import Monotonic
from tokenswarm.store.schema import ENGINE, RESIDENCY
from tokenswarm.telemetry.config import Engine
from tokenswarm.telemetry.row import Pair, row

HEARTBEAT_S = 1.0


def timeout_s(interval_s: float) -> float:
    """A slow answer should not cost the next poll, but a busy server deserves some patience."""
    return min(2.0, max(0.3, 0.8 * interval_s))


class Poller:
    """One target. Its state is what was last seen of each model, and when that was written."""

    def __init__(self, config: Engine, run_id: str, clock: Clock, interval_s: float):
        self._config = config
        self._adapter = adapter(config.engine, config.headers, config.tls_verify)
        self._tags = {"run_id": run_id, "target": config.target, "engine": config.engine}
        self._clock, self._timeout_s = clock, timeout_s(interval_s)
        self._stamp = Monotonic()
        self._residency = Seen(config.models, _same(config.engine))
        self._figured: tuple[str, ...] = ("none",)

    def poll(self) -> list[Pair]:
        """Rows of one poll. A failed one says only that it failed: nothing was seen, so nothing
        is said about residency, and the last state stays the last."""
        began = time.perf_counter()
        try:
            held = self._adapter.residency(self._config.url, self._timeout_s)
            figures = self._adapter.figures(self._config.url, self._timeout_s)
        except TargetError:
            return self._engine_rows((), time.perf_counter(), began, ok=False)
        now = time.perf_counter()
        seen = [] if held is None else self._residency.look(held, now)
        return self._residency_rows(seen, now) + self._engine_rows(figures, now, began, ok=True)

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
        self._last: dict[str, Residency] = {}
        self._written_s: dict[str, float] = {}

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
            found = (r for r in held if self._same(name, r.model))
            residency = next(found, None) or Residency(name, "absent")
            last = self._last.get(model)
            changed = last is not None and last.state != residency.state
            due = now_s - self._written_s.get(model, -HEARTBEAT_S) >= HEARTBEAT_S * 0.95
            if changed or due or _size(last) != _size(residency):
                out.append(Look(model, residency, changed))
                self._written_s[model] = now_s
            self._last[model] = residency
        return out


def _size(residency: Residency | None) -> tuple[int | None, int | None] | None:
    return None if residency is None else (residency.vram_bytes, residency.context_length)


def _same(engine: str) -> Callable[[str, str], bool]:
    return same_model if engine == "ollama" else str.__eq__
