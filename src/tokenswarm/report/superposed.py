"""Cold starts laid over each other on seconds since demand, as inline SVG: a panel a model.

Each line is the device memory of one event; the thick one is their median. A dot is the first
token of the request that brought the model in.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenswarm.analysis.correlate import Superposed, Trace
from tokenswarm.report import units

WIDTH, HEIGHT = 560, 180
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 8, 22
GIB = 2**30
TICKS = 6
"""About so many labels an axis."""
Scale = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Panel:
    """One model coming in: SVG paths and dots; ticks are (position, label)."""

    model: str
    traces: list[str]
    median: str
    dots: list[tuple[float, float]]
    demand: float
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    words: str


def panels(found: Superposed) -> list[Panel]:
    """A panel for each model that came in while memory was sampled, by name."""
    models = sorted({t.model_in for t in found.traces if any(_known(t))})
    mine = {m: [t for t in found.traces if t.model_in == m and any(_known(t))] for m in models}
    seen = [v / GIB for traces in mine.values() for t in traces for v in _known(t)]
    return [_panel(m, found.t_s, traces, _range(seen)) for m, traces in mine.items()]


def _range(gib: Sequence[float]) -> tuple[float, float]:
    """What the memory axis spans, the same in each panel; not from 0: changes are the matter."""
    low, high = min(gib), max(gib)
    room = max(0.05 * (high - low), 0.01 * high, 0.01)
    return max(0.0, low - room), high + room


def _known(t: Trace) -> list[float]:
    return [float(v) for v in t.vram_used_bytes if v is not None]


def _panel(
    model: str, t_s: Sequence[float], traces: Sequence[Trace], gib: tuple[float, float]
) -> Panel:
    low_s, high_s = t_s[0], t_s[-1]
    low, high = gib

    def x(at_s: float) -> float:
        return round(LEFT + (at_s - low_s) / (high_s - low_s) * (WIDTH - LEFT - RIGHT), 1)

    def y(used: float) -> float:
        share = (used - low) / (high - low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    middle = _median(traces)
    return Panel(
        model,
        [_path(t_s, t.vram_used_bytes, x, y) for t in traces],
        _path(t_s, middle, x, y) if len(traces) > 1 else "",
        [(x(t.t5_s), y(v / GIB)) for t in traces if (v := _at(t, t_s)) is not None and t.t5_s],
        x(0.0),
        [(x(s), f"{s:g} s") for s in round_values(low_s, high_s)],
        [(y(g), f"{g:g}") for g in round_values(low, high)],
        _words(model, traces),
    )


def _words(model: str, traces: Sequence[Trace]) -> str:
    n = len(traces)
    waits = sorted(t.t5_s for t in traces if t.t5_s is not None)
    times = "once" if n == 1 else f"{n} times"
    if not waits:
        return f"{model} came in {times}; no first token is known"
    return f"{model} came in {times}; first token after {units.seconds(statistics.median(waits))}"


def _median(traces: Sequence[Trace]) -> list[float | None]:
    columns = zip(*(t.vram_used_bytes for t in traces), strict=True)
    known = ([float(v) for v in column if v is not None] for column in columns)
    return [statistics.median(values) if values else None for values in known]


def _at(t: Trace, t_s: Sequence[float]) -> float | None:
    """Memory at the first token, None where that is outside of what is drawn."""
    first = t.t5_s
    if first is None or not t_s[0] <= first <= t_s[-1]:
        return None
    place = min(range(len(t_s)), key=lambda i: abs(t_s[i] - first))
    value = t.vram_used_bytes[place]
    return None if value is None else float(value)


def _path(t_s: Sequence[float], values: Sequence[float | None], x: Scale, y: Scale) -> str:
    """A line through the known values; a gap stays a gap."""
    path, move = [], True
    for at_s, value in zip(t_s, values, strict=True):
        if value is None:
            move = True
            continue
        path.append(f"{'M' if move else 'L'}{x(at_s):g} {y(value / GIB):g}")
        move = False
    return "".join(path)


def round_values(low: float, high: float) -> list[float]:
    """About TICKS round values in [low, high]."""
    raw = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(k * power for k in (1, 2, 5, 10) if k * power >= raw)
    first = math.ceil(low / step)
    return [round(k * step, 9) for k in range(first, math.floor(high / step) + 1)]
