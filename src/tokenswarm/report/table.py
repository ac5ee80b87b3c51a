"""The per-model table as text cells: one source for terminal and page."""

from dataclasses import dataclass

from tokenswarm.analysis.figures import STRATA, ModelFigures, Percentiles, Stratum, Summary
from tokenswarm.report.units import count, rate, seconds, share

HEADINGS = (
    "requests", "ok", "tok/s", "n", "TTFT P50", "TTFT P95", "TTFT P99", "E2E P50", "E2E P95",
    "TPOT P50", "goodput", "cold out",
)  # fmt: skip
"""n is the number of requests that the TTFT percentiles are taken over; a figure over another
number says so beside it."""
STRATUM_WORDS = {
    "warm": "warm",
    "swap_trigger": "swap trigger",
    "swap_waiter": "swap waiter",
    "swap_collateral": "swap collateral",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line: a model, or (`stratum` set) the part of it that fell into one stratum."""

    model: str
    stratum: str | None
    cells: tuple[str, ...]


def rows(summary: Summary) -> list[Row]:
    """A line for each model, and one for each stratum that has requests unless all are warm."""
    lines = []
    for name, model in summary.models.items():
        lines.append(Row(name, None, _model(model)))
        if model.strata.get("warm", _EMPTY).requests != model.requests:
            lines += [
                Row(name, s, _stratum(model.strata[s], model.requests))
                for s in STRATA
                if s in model.strata and model.strata[s].requests
            ]
    return lines


_NONE = Percentiles(0)
_EMPTY = Stratum(0, 0, _NONE, _NONE, _NONE, _NONE, _NONE)


def _model(m: ModelFigures) -> tuple[str, ...]:
    return (
        count(m.requests),
        share(m.success_ratio),
        rate(m.output_tok_s),
        *_latencies(m.ttft_s, m.e2e_s, m.tpot_s),
        *_goodput(m),
    )


def _goodput(m: ModelFigures) -> tuple[str, str]:
    """With cold requests counted in, and the share with them left out."""
    if m.goodput_ratio is None:
        return "", ""
    out = m.goodput_cold_out_ratio
    return f"{rate(m.goodput_rps)}/s ({share(m.goodput_ratio)})", "" if out is None else share(out)


def _stratum(s: Stratum, of: int) -> tuple[str, ...]:
    ok = share(s.ok / s.requests) if s.requests else share(None)
    requests = f"{count(s.requests)} ({share(s.requests / of)})"
    return (requests, ok, "", *_latencies(s.ttft_s, s.e2e_s, s.tpot_s), "", "")


def _latencies(ttft: Percentiles, e2e: Percentiles, tpot: Percentiles) -> tuple[str, ...]:
    def cell(value: float | None, n: int) -> str:
        return seconds(value) if n in (ttft.n, 0) else f"{seconds(value)} (n {n})"

    return (
        count(ttft.n),
        *(seconds(v) for v in (ttft.p50, ttft.p95, ttft.p99)),
        cell(e2e.p50, e2e.n),
        cell(e2e.p95, e2e.n),
        cell(tpot.p50, tpot.n),
    )
