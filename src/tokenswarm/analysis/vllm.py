"""The figures of `vllm bench serve` from raw stamps, by its own formulas, which are not ours.

TTFT: sent to the first chunk with a choice, an empty or role-only one too (ours waits for a
token). ITL: pooled gaps between such chunks. E2EL: sent to the last of them. TPOT:
(E2EL - TTFT) / (n - 1) for n > 1. Throughput: tokens of successful requests over the time from the
first request sent to the last response's end, its drain included. Percentiles interpolate
linearly, std is the population's, failed requests count nowhere but in `failed`.

The chunk that brings only a finish reason is not stamped in our records: where a server sends one,
E2EL ends at the last token instead, and ITL lacks that gap. What counts as first chunk is our
first event, a ping among them.
"""

from dataclasses import dataclass

import msgspec
import numpy as np

from tokenswarm.analysis.columns import Bools, Floats, Ints

PERCENTILES = (50.0, 90.0, 95.0, 99.0)


class Spread(msgspec.Struct, frozen=True):
    """Milliseconds; all None without a value."""

    n: int
    mean: float | None = None
    median: float | None = None
    std: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None


class VllmFigures(msgspec.Struct, frozen=True):
    """`*_throughput` and the peak are per second; None when no request succeeded."""

    completed: int
    failed: int
    duration: float | None
    total_input_tokens: int
    total_output_tokens: int
    request_throughput: float | None
    output_throughput: float | None
    total_token_throughput: float | None
    max_output_tokens_per_s: int | None
    ttft_ms: Spread
    tpot_ms: Spread
    itl_ms: Spread
    e2el_ms: Spread


@dataclass(frozen=True, slots=True)
class Stamps:
    """Requests as they were stamped, run seconds, NaN where unknown. `gaps_us` holds
    `lengths[i]` gaps of request i after another, the first of them its first token's 0."""

    ok: Bools
    t_sent: Floats
    t_first_event: Floats
    t_first_token: Floats
    t_last_token: Floats
    t_end: Floats
    prompt_tokens: Floats
    output_tokens: Floats
    gaps_us: Ints
    lengths: Ints

    def only(self, where: Bools) -> "Stamps":
        """The requests of `where`."""
        rows = {name: getattr(self, name)[where] for name in _ROWS}
        return Stamps(**rows, gaps_us=self.gaps_us[np.repeat(where, self.lengths)])


_ROWS = ("ok", "t_sent", "t_first_event", "t_first_token", "t_last_token", "t_end",
         "prompt_tokens", "output_tokens", "lengths")  # fmt: skip


def vllm_figures(stamps: Stamps) -> VllmFigures:
    """What vllm bench would print of these requests."""
    ok = stamps.only(stamps.ok)
    first = np.fmin(ok.t_first_event, ok.t_first_token)
    ttft, e2el = first - ok.t_sent, ok.t_last_token - ok.t_sent
    n = ok.output_tokens
    several = n > 1
    span = float(np.nanmax(ok.t_end) - np.nanmin(ok.t_sent)) if len(ok.t_sent) else 0.0
    duration = span if span > 0 else None
    given, made = int(np.nansum(ok.prompt_tokens)), int(np.nansum(n))
    return VllmFigures(
        completed=len(ok.t_sent),
        failed=int(np.count_nonzero(~stamps.ok)),
        duration=duration,
        total_input_tokens=given,
        total_output_tokens=made,
        request_throughput=_per(len(ok.t_sent), duration),
        output_throughput=_per(made, duration),
        total_token_throughput=_per(given + made, duration),
        max_output_tokens_per_s=_peak(ok, first),
        ttft_ms=spread(ttft * 1e3),
        tpot_ms=spread((e2el - ttft)[several] / (n[several] - 1) * 1e3),
        itl_ms=spread(_gaps_ms(ok, first)),
        e2el_ms=spread(e2el * 1e3),
    )


def _per(count: int, duration: float | None) -> float | None:
    return None if duration is None else count / duration


def spread(values_ms: Floats) -> Spread:
    """Mean, linearly interpolated percentiles and population std of `values_ms` without NaN."""
    known = values_ms[~np.isnan(values_ms)]
    if not len(known):
        return Spread(0)
    median, p90, p95, p99 = (float(v) for v in np.percentile(known, PERCENTILES))
    return Spread(len(known), float(known.mean()), median, float(known.std()), p90, p95, p99)


def _starts(lengths: Ints) -> Ints:
    return np.cumsum(lengths) - lengths


def _gaps_ms(s: Stamps, first: Floats) -> Floats:
    """Gaps between chunks: between tokens, and from an earlier empty chunk to the first token."""
    inner = np.delete(s.gaps_us, _starts(s.lengths)[s.lengths > 0]) / 1e3
    empty = (s.t_first_token - first)[first < s.t_first_token] * 1e3
    return np.concatenate([inner, empty])


def _peak(s: Stamps, first: Floats) -> int | None:
    """Chunks in the fullest second, counted from the first request sent."""
    if not len(s.t_sent):
        return None
    at = _chunk_times(s)
    early = first[first < s.t_first_token]
    at = np.concatenate([at, early])
    second = (at[~np.isnan(at)] - np.nanmin(s.t_sent)).astype(np.int64)
    return int(np.bincount(np.maximum(second, 0)).max()) if len(second) else None


def _chunk_times(s: Stamps) -> Floats:
    """When each token arrived."""
    since = np.cumsum(s.gaps_us, dtype=np.int64)
    some = s.lengths > 0
    lengths = s.lengths[some]
    starts = _starts(lengths)
    before = since[starts] if len(starts) else since
    return np.repeat(s.t_first_token[some] - before / 1e6, lengths) + since / 1e6
