"""Latency distributions as inline SVG: a panel a model and latency, a curve a stratum.

Drawn here and not by a script, so that it prints, needs no network and takes the page's colours.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokenswarm.analysis.distributions import SHARES, Curve, Distribution
from tokenswarm.report import units
from tokenswarm.report.table import STRATUM_WORDS

WIDTH, HEIGHT = 560, 180
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 8, 22
APART = 48
"""Labels of the time axis keep so much distance."""
LEAST_RATIO = 2.0
"""The time axis spans at least this factor: a narrow one would show noise as a spread."""


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: its stratum's class, SVG path and title."""

    name: str
    path: str
    title: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture; ticks are (position, label)."""

    model: str
    latency: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    words: str


def panels(found: Mapping[str, Distribution]) -> list[Panel]:
    """TTFT and E2E of every model that has any."""
    made = []
    for model, d in found.items():
        for latency, curves in (("TTFT", d.ttft_s), ("E2E", d.e2e_s)):
            if curves:
                made.append(_panel(model, latency, curves))
    return made


def _panel(model: str, latency: str, curves: Mapping[str, Curve]) -> Panel:
    low, high = _range(curves)
    y = [(share, _y(share), f"{share:.0%}".replace("%", " %")) for share in (0, 0.5, 0.95)]
    words = "; ".join(f"{STRATUM_WORDS[s]} {_middle(c)}" for s, c in curves.items())
    return Panel(
        model,
        latency,
        [_line(s, c, low, high) for s, c in curves.items()],
        [(_x(t, low, high), _label(t)) for t in ticks(low, high)],
        [(at, label) for _, at, label in y],
        words,
    )


def _middle(c: Curve) -> str:
    p50, p95 = c.values[SHARES.index(0.5)], c.values[_index(0.95)]
    return f"median {units.seconds(p50)}, P95 about {units.seconds(p95)} (n {c.n:,})"


def _index(share: float) -> int:
    return min(range(len(SHARES)), key=lambda i: (abs(SHARES[i] - share), -i))


def _range(curves: Mapping[str, Curve]) -> tuple[float, float]:
    values = [v for c in curves.values() for v in c.values if v > 0]
    low, high = min(values, default=0.01), max(values, default=1.0)
    if high < low * LEAST_RATIO:
        middle = math.sqrt(low * high)
        low, high = middle / math.sqrt(LEAST_RATIO), middle * math.sqrt(LEAST_RATIO)
    return low / 1.05, high * 1.05


def ticks(low: float, high: float) -> list[float]:
    """From two to about eight round values in [low, high], which spans at least a factor of 2."""
    decades = math.log10(high / low)
    steps: Sequence[float] = (1,) if decades > 2.6 else (1, 2, 5) if decades > 0.8 else _FINE
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    values = [k * 10.0**p for p in range(first, last + 1) for k in steps]
    kept: list[float] = []
    for v in values:
        if low <= v <= high and (not kept or _x(v, low, high) - _x(kept[-1], low, high) >= APART):
            kept.append(v)
    return kept


_FINE = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)


def _label(seconds: float) -> str:
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:,.0f} s"


def _x(value: float, low: float, high: float) -> float:
    share = math.log(max(value, low) / low) / math.log(high / low)
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _y(share: float) -> float:
    return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def _line(stratum: str, c: Curve, low: float, high: float) -> Line:
    """Steps, as an empirical distribution has; a single value is a step from 0 to 100 %."""
    path = [f"M{_x(c.values[0], low, high):g} {_y(0):g}"]
    for share, value in zip(SHARES, c.values, strict=True):
        path.append(f"H{_x(value, low, high):g}V{_y(share):g}")
    title = f"{STRATUM_WORDS[stratum]}: {_middle(c)}"
    return Line(stratum.removeprefix("swap_"), "".join(path), title)
