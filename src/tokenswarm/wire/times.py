"""Figures of one request that derive from its stamps. Pure; definitions in docs/metrics.md."""

from math import ceil
from operator import sub

import msgspec

from tokenswarm.wire.record import Stamps

_US = 1_000_000


class Derived(msgspec.Struct, frozen=True):
    """Seconds, None when undefined. `gaps_us`: microseconds between token events, the first is
    0; their sum is the time from the first to the last event to 1 us, and the ITL figures and
    the longest stall are theirs (nearest rank, ceil(p*n))."""

    ttft_s: float | None
    ttft_user_s: float | None
    e2e_s: float | None
    tpot_s: float | None
    itl_p50_s: float | None
    itl_p95_s: float | None
    itl_p99_s: float | None
    max_stall_s: float | None
    gaps_us: list[int]


def derive(stamps: Stamps, token_times: list[float], output_tokens: int | None) -> Derived:
    """Derive all figures of a request.

    E2E ends with the last token, with the response where there are no token events. TPOT needs
    two tokens by `output_tokens` (token events when None) and two events: all tokens in one
    chunk have no pace.
    """
    first, last, sent = stamps.first_token, stamps.last_token, stamps.sent
    gaps_us = _gaps_us(token_times)
    itl = sorted(gaps_us[1:])
    return Derived(
        ttft_s=_span(sent, first),
        ttft_user_s=_span(stamps.intended, first),
        e2e_s=_span(sent, stamps.end if last is None else last),
        tpot_s=_tpot(first, last, len(token_times), output_tokens),
        itl_p50_s=_nearest_rank(itl, 0.50),
        itl_p95_s=_nearest_rank(itl, 0.95),
        itl_p99_s=_nearest_rank(itl, 0.99),
        max_stall_s=itl[-1] / _US if itl else None,
        gaps_us=gaps_us,
    )


def _span(start: float | None, stop: float | None) -> float | None:
    return None if start is None or stop is None else stop - start


def _gaps_us(token_times: list[float]) -> list[int]:
    """Differences of rounded offsets, not rounded differences: errors do not add up."""
    if not token_times:
        return []
    first = token_times[0]
    offsets = [int((t - first) * 1e6 + 0.5) for t in token_times]
    return [0, *map(sub, offsets[1:], offsets)]


def _tpot(
    first: float | None, last: float | None, events: int, output_tokens: int | None
) -> float | None:
    tokens = events if output_tokens is None else output_tokens
    if first is None or last is None or tokens < 2 or events < 2:
        return None
    return (last - first) / (tokens - 1)


def _nearest_rank(ordered_us: list[int], p: float) -> float | None:
    if not ordered_us:
        return None
    return ordered_us[ceil(p * len(ordered_us)) - 1] / _US
