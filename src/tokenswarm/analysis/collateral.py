"""What the other models' streams lost while one came in, from their token arrivals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from tokenswarm.analysis.columns import Bools, Floats, Ints
from tokenswarm.analysis.figures import SwapEvent
from tokenswarm.analysis.percentiles import GapPool, nearest_rank
from tokenswarm.analysis.requests import Requests
from tokenswarm.analysis.strata import Strata
from tokenswarm.analysis.swaps import Found
from tokenswarm.analysis.throughput import Replies, TokenSeries

BIN_S = 0.05
SILENT_BINS = 5
"""No token of anybody for a quarter of a second: the GPU gives nothing."""


def ready_s(e: SwapEvent) -> float:
    """The end of [t0, t4], as strata see it: where t4 is not known, t5, else the last mark."""
    known = (e.t4_s, e.t5_s, e.t3_s, e.t2_s, e.t1_s, e.t0_s)
    return next(t for t in known if t is not None)


@dataclass(slots=True)
class _Lost:
    """Of one event: longest silence, tokens of others, their gaps by model."""

    stall_s: float | None
    tokens: float
    gaps_s: dict[int, list[Floats]]


class Collateral:
    """Adds up what streams lost to `events`, from any number of `Replies`."""

    def __init__(self, names: Sequence[str], events: Sequence[SwapEvent], duration_s: float):
        self._begin = np.array([e.t0_s for e in events])
        self._end = np.array([ready_s(e) for e in events])
        at = {name: i for i, name in enumerate(names)}
        self._model = np.array([at.get(e.model_in, -1) for e in events], dtype=np.int64)
        self._lost = [_Lost(None, 0.0, {}) for _ in events]
        self._calm = [GapPool() for _ in names] if events else []
        self._spoke = np.zeros(int(duration_s / BIN_S) + 2, dtype=np.bool_)

    def add(self, replies: Replies) -> None:
        """Count what `replies` show. Without events there is nothing to count."""
        if not self._lost:
            return
        r = _Streams.of(replies)
        paid = np.zeros(len(r.model), dtype=np.bool_)
        if not len(r.model):
            return
        near = (self._begin <= r.last_s.max()) & (self._end >= r.first_s.min())
        for k in np.flatnonzero(near).tolist():
            lost = self._lost[k]
            over = (r.first_s <= self._end[k]) & (r.last_s >= self._begin[k])
            paid |= over
            mine = np.flatnonzero(over & (r.model != self._model[k]))
            for m in np.unique(r.model[mine]):
                self._count(lost, k, int(m), r.take(mine[r.model[mine] == m]))
        self._quiet(r, paid)

    def _count(self, lost: _Lost, k: int, model: int, r: "_Streams") -> None:
        at, gap, weight, inner = r.events()
        lo, hi = self._begin[k], self._end[k]
        silent = np.minimum(at, hi) - np.maximum(at - gap, lo)
        over = inner & (silent > 0)
        if over.any():
            longest = float(gap[over].max())
            lost.stall_s = longest if lost.stall_s is None else max(lost.stall_s, longest)
            lost.gaps_s.setdefault(model, []).append(gap[over])
        lost.tokens += float(weight[(at >= lo) & (at <= hi)].sum())

    def _quiet(self, r: "_Streams", paid: Bools) -> None:
        bins = (r.times() * (1 / BIN_S)).astype(np.int64)
        self._spoke[np.clip(bins, 0, len(self._spoke) - 1, out=bins)] = True
        inner = np.ones(len(bins), dtype=np.bool_)
        inner[_starts(r.lengths)] = False
        for m in np.unique(r.model[~paid]):
            mine = np.repeat(~paid & (r.model == m), r.lengths)
            self._calm[int(m)].add(r.gaps_us[mine & inner])

    def itl_p95_shift_s(self, k: int) -> float | None:
        """The largest among the other models of P95 in [t0, t4] less P95 without any event."""
        shifts = []
        for model, gaps in self._lost[k].gaps_s.items():
            calm = self._calm[model].percentiles().p95
            now = nearest_rank(np.concatenate(gaps), 0.95)
            if calm is not None and now is not None:
                shifts.append(now - calm)
        return max(shifts, default=None)

    def stall_s(self, k: int) -> float | None:
        return self._lost[k].stall_s

    def tokens_lost(self, k: int, rate: Floats, load_s: float) -> float | None:
        """What the others would have given at their `rate` (tok/s by model, NaN: not known)
        less what they gave; None without a rate."""
        others = np.delete(rate, self._model[k]) if self._model[k] >= 0 else rate
        took = min(self._end[k], load_s) - self._begin[k]
        if np.isnan(others).any() or took <= 0:
            return None
        return float(max(0.0, others.sum() * took - self._lost[k].tokens))

    def calm_rate(self, tokens: TokenSeries) -> Floats:
        """tok/s of each model over the whole seconds under load that no event touches."""
        seconds = np.arange(min(tokens.seconds, int(tokens.load_s)))
        touched = np.zeros(len(seconds), dtype=np.bool_)
        for lo, hi in zip(self._begin, self._end, strict=True):
            touched |= (seconds + 1 > lo) & (seconds < hi)
        if touched.all():
            return np.full(len(tokens.per_second), np.nan)
        return np.asarray(tokens.per_second[:, : len(seconds)][:, ~touched].mean(axis=1))

    def tax_ratio(self, load_s: float) -> float | None:
        """Share of the time under load in which no token of anybody came for a quarter of a
        second or more, while some model was coming in."""
        if load_s <= 0:
            return None
        if not self._lost:
            return 0.0
        at = np.arange(len(self._spoke)) * BIN_S
        within = np.zeros(len(at), dtype=np.bool_)
        for lo, hi in zip(self._begin, self._end, strict=True):
            within |= (at >= lo) & (at < hi)
        silent = _runs(~self._spoke, SILENT_BINS) & within & (at < load_s)
        return float(min(1.0, np.count_nonzero(silent) * BIN_S / load_s))


def _runs(mask: Bools, least: int) -> Bools:
    """`mask` without runs of True shorter than `least`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    out = mask.copy()
    for a, b in zip(edges[::2], edges[1::2], strict=True):
        out[a:b] = b - a >= least
    return out


@dataclass(frozen=True, slots=True)
class _Streams:
    """Streams with token events: one entry a stream, `gaps_us` laid end to end."""

    model: Ints
    first_s: Floats
    last_s: Floats
    each: Floats
    gaps_us: Ints
    lengths: Ints

    @classmethod
    def of(cls, r: Replies) -> "_Streams":
        """Those of `r` that show when their tokens came; the first gap of each is 0."""
        shown = (r.lengths > 0) & ~np.isnan(r.t_first_s)
        gaps, lengths = r.gaps_us[np.repeat(shown, r.lengths)], r.lengths[shown]
        total = np.add.reduceat(gaps, _starts(lengths)) if len(lengths) else np.zeros(0, np.int64)
        first = r.t_first_s[shown]
        wanted = np.where(np.isnan(r.output_tokens), r.lengths, r.output_tokens)[shown]
        return cls(r.model[shown], first, first + total / 1e6, wanted / lengths, gaps, lengths)

    def take(self, rows: Ints) -> "_Streams":
        starts = _starts(self.lengths)[rows]
        lengths = self.lengths[rows]
        inside = np.arange(int(lengths.sum())) - np.repeat(_starts(lengths), lengths)
        gaps = self.gaps_us[np.repeat(starts, lengths) + inside]
        return _Streams(
            self.model[rows], self.first_s[rows], self.last_s[rows], self.each[rows], gaps, lengths
        )

    def times(self) -> Floats:
        """When each token event came."""
        starts = _starts(self.lengths)
        since = np.cumsum(self.gaps_us, dtype=np.int64)
        before = since[starts] if len(starts) else since
        at = since / 1e6
        at += np.repeat(self.first_s - before / 1e6, self.lengths)
        return at

    def events(self) -> tuple[Floats, Floats, Floats, Bools]:
        """When each token event came, the gap before it, what it weighs, and whether there is a
        gap before it at all (not before the first)."""
        at = self.times()
        inner = np.ones(len(at), dtype=np.bool_)
        inner[_starts(self.lengths)] = False
        return at, self.gaps_us / 1e6, np.repeat(self.each, self.lengths), inner


def _starts(lengths: Ints) -> Ints:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])[:-1]


def with_collateral(
    found: Found, lost: Collateral, requests: Requests, tokens: TokenSeries
) -> list[SwapEvent]:
    """The events of `found` with what they cost the others."""
    events, split = found.events, found.strata
    rate = lost.calm_rate(tokens) if events else np.zeros(0)
    usual = _usual_p95_s(requests, split) if events else {}
    return [
        msgspec.structs.replace(
            e,
            blocked_request_s=blocked_request_s(e, k, requests, split),
            stall_max_s=lost.stall_s(k),
            itl_p95_shift_s=lost.itl_p95_shift_s(k),
            ttft_p95_shift_s=ttft_p95_shift_s(e, requests, usual),
            tokens_lost=lost.tokens_lost(k, rate, tokens.load_s),
        )
        for k, e in enumerate(events)
    ]


def blocked_request_s(e: SwapEvent, k: int, requests: Requests, split: Strata) -> float:
    """Seconds of waiting for the first token in [t0, t4], over all that paid for event `k`; of
    collateral whose stream stood still, the longest stall."""
    paid = np.flatnonzero(split.event == k)
    until = np.minimum(np.nan_to_num(requests.waited_until[paid], nan=np.inf), ready_s(e))
    waited = np.maximum(0.0, until - np.maximum(requests.t_sent[paid], e.t0_s))
    stall = np.minimum(np.nan_to_num(requests.stall[paid]), ready_s(e) - e.t0_s)
    collateral = np.asarray(split.name[paid] == "swap_collateral", dtype=np.bool_)
    return float(np.nansum(np.where(collateral, np.maximum(waited, stall), waited)))


def _usual_p95_s(requests: Requests, split: Strata) -> dict[tuple[str, str], float]:
    """P95 TTFT over the warm ok requests of each (target, model) that has any."""
    warm = requests.ok & np.asarray(split.name == "warm", dtype=np.bool_)
    found = {k: nearest_rank(requests.ttft[i[warm[i]]], 0.95) for k, i in requests.groups.items()}
    return {key: p95 for key, p95 in found.items() if p95 is not None}


def ttft_p95_shift_s(
    e: SwapEvent, requests: Requests, usual: Mapping[tuple[str, str], float]
) -> float | None:
    """The largest among the other models of P95 TTFT of requests that overlap [t0, t4], less
    P95 of their warm ones."""
    over = requests.ok & (requests.t_sent <= ready_s(e)) & (requests.t_end >= e.t0_s)
    rows = np.flatnonzero(over)
    shifts = []
    for (target, model), warm_s in usual.items():
        if (target, model) != (e.target, e.model_in):
            mine = (requests.model[rows] == model) & (requests.target[rows] == target)
            now = nearest_rank(requests.ttft[rows[np.asarray(mine, dtype=np.bool_)]], 0.95)
            if now is not None:
                shifts.append(now - warm_s)
    return max(shifts, default=None)
