"""report.html: one file that needs nothing else, neither network nor server."""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tokenswarm.analysis.definitions import DEFINITIONS
from tokenswarm.analysis.distributions import Distribution
from tokenswarm.analysis.figures import STRATA, Summary, SwapEvent
from tokenswarm.analysis.timeline import Timeline
from tokenswarm.report import sentences, spread, superposed, table, units

EVENTS_LISTED = 500
"""Cold starts listed and drawn, the costliest; more would make the page heavy. summary.json has
all."""


def render(
    summary: Summary, timeline: Timeline, distributions: Mapping[str, Distribution] | None = None
) -> str:
    """The page. Its figures are those of `summary`; the others only feed the charts."""
    events = _listed(summary.swaps.events)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            s=summary,
            t=timeline,
            events=_by_cost(events),
            panels=spread.panels(distributions or {}),
            svg=spread,
            since=superposed.panels(timeline.superposed),
            rows=table.rows(summary),
            bars=_bars(summary),
            tiles=_tiles(summary),
            data=_json(_chart_data(summary, timeline, events)),
        )
    )


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("tokenswarm.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {
        "asset": _asset,
        "say": sentences,
        "units": units,
        "headings": table.HEADINGS,
        "words": table.STRATUM_WORDS,
        "definitions": DEFINITIONS,
    }
    return made


def _asset(name: str) -> Markup:
    """A file of ours or uPlot's, as it is; never anything that a server said."""
    text = files("tokenswarm.report").joinpath("assets", name).read_text("utf-8")
    return Markup(text)


def _json(value: Any) -> Markup:
    """JSON that can stand inside a script element: nothing in it can end that element."""
    text = msgspec.json.encode(value).decode()
    return Markup(re.sub(r"[<>&\u2028\u2029]", lambda c: f"\\u{ord(c[0]):04x}", text))


def _chart_data(s: Summary, t: Timeline, events: list[SwapEvent]) -> dict[str, Any]:
    keys = ("model_in", "model_out", "displaced", "t0_s", "t1_s", "t3_s", "t4_s", "t5_s")
    return {
        "models": list(s.models),
        "strata": STRATA,
        "timeline": t,
        "events": [{k: getattr(e, k) for k in keys} for e in events],
    }


def _tiles(s: Summary) -> list[tuple[str, str, str]]:
    """(label, figure, what belongs to it) of the tiles on top."""
    same, other = s.swaps.waiters, s.swaps.collateral
    cold = units.many(s.cold_starts.count, "cold start")
    peaks = [(g.vram_used_max_bytes, g.vram_total_bytes) for g in s.gpu.values()]
    peak, total = max(peaks, default=(None, None), key=lambda p: p[0] or 0)
    lat = s.swaps.latency_s
    return [
        ("requests", units.count(s.requests), f"{units.share(s.success_ratio)} ok"),
        ("output tok/s", units.rate(s.output_tok_s), "by arrival, without drain"),
        ("swaps", units.count(s.swaps.count), f"among {cold}"),
        ("swap latency P95", units.seconds(lat.p95), f"median {units.seconds(lat.p50)}, n {lat.n}"),
        ("also waited", units.count(same + other), f"{same:,} same, {other:,} other model"),
        ("VRAM peak", units.size(peak), f"of {units.size(total)}" if total else "no GPU telemetry"),
    ]  # fmt: skip


def _bars(s: Summary) -> dict[str, list[tuple[str, float, str]]]:
    """For each model its strata as (name, percent of its requests, title)."""
    out: dict[str, list[tuple[str, float, str]]] = {}
    for name, m in s.models.items():
        out[name] = [
            (k, 100 * m.strata[k].requests / m.requests, f"{table.STRATUM_WORDS[k]}: {n:,}")
            for k in STRATA
            if m.requests and (n := m.strata[k].requests)
        ]
    return out


def cost(e: SwapEvent) -> float:
    """Request-seconds that an event took from those who waited; its own wait where that is all
    that is known."""
    return max(e.blocked_request_s or 0.0, e.latency_s or 0.0)


def _listed(events: list[SwapEvent]) -> list[SwapEvent]:
    """The costliest, by t0."""
    kept = sorted(events, key=cost, reverse=True)[:EVENTS_LISTED]
    return sorted(kept, key=lambda e: e.t0_s)


def _by_cost(events: list[SwapEvent]) -> list[dict[str, Any]]:
    """Lines of the swap table, costliest first; each knows its place among the events drawn."""
    order = sorted(range(len(events)), key=lambda i: (-cost(events[i]), i))
    return [_event(i, events[i]) for i in order]


def _event(index: int, e: SwapEvent) -> dict[str, Any]:
    """One line of the swap table."""
    return {
        "index": index,
        "e": e,
        "phases": _phases(e),
        "cost": units.seconds(cost(e)) if cost(e) else units.UNKNOWN,
        "out": "" if e.model_out == "none" else e.model_out,
        "outcome": "" if e.outcome == "ok" else e.outcome.replace("_", " "),
        "vram": f"{units.size(e.vram_trough_bytes)} to {units.size(e.vram_peak_bytes)}"
        if e.vram_peak_bytes is not None
        else units.UNKNOWN,
    }


PHASES = (("queue", "t1_s"), ("evict", "t3_s"), ("load", "t4_s"), ("first token", "t5_s"))
"""Each phase lasts from the mark before it that is known to its own."""


def _phases(e: SwapEvent) -> list[tuple[str, float, str]]:
    """Phases as (name, percent of latency, title); one that no side saw joins the next one."""
    if not e.latency_s:
        return []
    found, at = [], e.t0_s
    for name, mark in PHASES:
        until = getattr(e, mark)
        if name == "evict" and e.t1_s is None:
            name = "queue"  # nobody was seen to leave: it waited for its turn
        if until is not None and until >= at:
            title = f"{name} {units.seconds(until - at)}"
            found.append((name.replace(" ", "-"), 100 * (until - at) / e.latency_s, title))
            at = until
    return found
