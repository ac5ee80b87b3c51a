"""Two runs side by side: every figure of both, its difference, and whether that may be noise."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.random import Generator

from tokenswarm.analysis.bootstrap import (
    Histogram,
    Interval,
    count_draws,
    enough,
    interval,
    mean_draws,
    percentile_draws,
    share_draws,
)
from tokenswarm.analysis.columns import Floats
from tokenswarm.analysis.figures import STRATA, Summary
from tokenswarm.analysis.percentiles import nearest_rank

ALL = "all"
SEED = 20261122
POINTS = {"p50": 0.5, "p95": 0.95}
LATENCIES = ("ttft_s", "e2e_s", "tpot_s")


class Difference(msgspec.Struct, frozen=True):
    """One figure of both runs. `low` and `high` bound b - a; None where nothing bounds it.

    `says`: higher or lower (the interval leaves out 0), noise (it does not), too_few (too few
    values to tell), or nothing (a plain count, or a figure that one run lacks).
    """

    model: str
    stratum: str
    figure: str
    a: float | None
    b: float | None
    n_a: int
    n_b: int
    says: str
    low: float | None = None
    high: float | None = None
    better: bool | None = None


class Unlike(msgspec.Struct, frozen=True):
    """A fact in which the runs differ, so that their figures may differ because of it."""

    what: str
    a: str
    b: str


class Comparison(msgspec.Struct, frozen=True):
    run_a: str
    run_b: str
    confidence: float
    unlike: list[Unlike]
    differences: list[Difference]

    @property
    def judged(self) -> list[Difference]:
        """Those that have an interval."""
        return [d for d in self.differences if d.says in ("higher", "lower", "noise")]

    @property
    def real(self) -> list[Difference]:
        """Those that stand out of the noise."""
        return [d for d in self.differences if d.says in ("higher", "lower")]


@dataclass(frozen=True, slots=True)
class Part:
    """Requests of one model and stratum. `latencies` are sorted, of ok requests, by figure."""

    requests: int
    ok: int
    latencies: Mapping[str, Floats]
    itl: Mapping[str, float | None]
    gaps: Histogram | None


@dataclass(frozen=True, slots=True)
class Side:
    """One run: its summary, its parts by (model, stratum), output tokens by model and second."""

    summary: Summary
    parts: Mapping[tuple[str, str], Part]
    tokens: Mapping[str, Floats]


def compare(a: Side, b: Side, unlike: list[Unlike], confidence: float) -> Comparison:
    """Every figure of both runs; the same runs give the same intervals (seeded)."""
    rng = np.random.default_rng(SEED)
    judge = _Judge(confidence, rng)
    models = list(dict.fromkeys([*a.summary.models, *b.summary.models]))
    found = [d for m in models for d in _model(judge, m, a, b)]
    found += _swaps(judge, a.summary, b.summary)
    return Comparison(a.summary.run_id, b.summary.run_id, confidence, unlike, found)


Draw = Callable[[Generator], Floats]


@dataclass(frozen=True, slots=True)
class _Figure:
    """A figure of one run, over `n` values, and how to draw it anew (None: it cannot be)."""

    value: float | None
    n: int
    draw: Draw | None = None


_NOTHING = _Figure(None, 0)


@dataclass(frozen=True, slots=True)
class _Judge:
    confidence: float
    rng: Generator

    def __call__(
        self,
        model: str,
        stratum: str,
        figure: str,
        a: _Figure,
        b: _Figure,
        low_is_good: bool | None,
    ) -> Difference:
        bounds, says = self._says(a, b)
        better = None
        if low_is_good is not None and says in ("higher", "lower"):
            better = (says == "lower") == low_is_good
        return Difference(
            model, stratum, figure, a.value, b.value, a.n, b.n, says,
            bounds.low if bounds else None, bounds.high if bounds else None, better,
        )  # fmt: skip

    def _says(self, a: _Figure, b: _Figure) -> tuple[Interval | None, str]:
        if a.value is None or b.value is None:
            return None, "nothing"
        if a.draw is None or b.draw is None:
            return None, "too_few"
        bounds = interval(a.draw(self.rng), b.draw(self.rng), self.confidence)
        if bounds.low > 0:
            return bounds, "higher"
        return bounds, "lower" if bounds.high < 0 else "noise"


def _model(judge: _Judge, model: str, a: Side, b: Side) -> Iterator[Difference]:
    yield judge(model, ALL, "output_tok_s", _tokens(a, model), _tokens(b, model), False)
    for stratum in (ALL, *STRATA):
        pa, pb = a.parts.get((model, stratum)), b.parts.get((model, stratum))
        if pa or pb:
            yield from _part(judge, model, stratum, pa, pb)


def _part(
    judge: _Judge, model: str, stratum: str, a: Part | None, b: Part | None
) -> Iterator[Difference]:
    na, nb = (p.requests if p else 0 for p in (a, b))
    yield Difference(model, stratum, "requests", na, nb, na, nb, "nothing")
    yield judge(model, stratum, "success_ratio", _success(a), _success(b), False)
    for name in LATENCIES:
        for point, p in POINTS.items():
            fa, fb = (_percentile(x.latencies[name] if x else np.zeros(0), p) for x in (a, b))
            yield judge(model, stratum, f"{name}.{point}", fa, fb, True)
    for point in POINTS:
        yield judge(model, stratum, f"itl_s.{point}", _itl(a, point), _itl(b, point), True)


def _percentile(values: Floats, p: float) -> _Figure:
    """Of sorted `values` without NaN."""
    n = len(values)
    draw: Draw | None = (lambda rng: percentile_draws(values, p, rng)) if enough(n, p) else None
    return _Figure(nearest_rank(values, p), n, draw)


def _success(part: Part | None) -> _Figure:
    if part is None or not part.requests:
        return _NOTHING
    ok, n = part.ok, part.requests
    return _Figure(ok / n, n, (lambda rng: share_draws(ok, n, rng)) if enough(n, 0.5) else None)


def _itl(part: Part | None, point: str) -> _Figure:
    if part is None or part.gaps is None:
        return _NOTHING
    gaps, p = part.gaps, POINTS[point]
    draw: Draw | None = (lambda rng: gaps.draws(p, rng)) if enough(len(gaps.counts), p) else None
    return _Figure(part.itl[point], gaps.n, draw)


def _tokens(side: Side, model: str) -> _Figure:
    figures, blocks = side.summary.models.get(model), side.tokens.get(model)
    if figures is None or blocks is None:
        return _NOTHING
    n = len(blocks)
    return _Figure(
        figures.output_tok_s, n, (lambda rng: mean_draws(blocks, rng)) if enough(n, 0.5) else None
    )


def _swaps(judge: _Judge, a: Summary, b: Summary) -> Iterator[Difference]:
    for name in ("cold_starts", "swaps"):
        counts = [_events(s, name) for s in (a, b)]
        na, nb = map(len, counts)
        yield Difference("", ALL, f"{name}.count", na, nb, na, nb, "nothing")
        rates = [_per_minute(s, len(e)) for s, e in zip((a, b), counts, strict=True)]
        yield judge("", ALL, f"{name}.per_minute", rates[0], rates[1], True)
        for point, p in POINTS.items():
            fa, fb = (_percentile(e[~np.isnan(e)], p) for e in counts)
            yield judge("", ALL, f"{name}.latency_s.{point}", fa, fb, True)


def _events(s: Summary, name: str) -> Floats:
    """Latencies of cold starts, or of swaps among them, sorted; NaN where no token came."""
    chosen = [e for e in s.swaps.events if name == "cold_starts" or e.displaced]
    return np.sort(np.array([np.nan if e.latency_s is None else e.latency_s for e in chosen]))


def _per_minute(s: Summary, count: int) -> _Figure:
    minutes = (s.load_s or s.duration_s) / 60
    if minutes <= 0:
        return _NOTHING
    return _Figure(count / minutes, count, lambda rng: count_draws(count, minutes, rng))
