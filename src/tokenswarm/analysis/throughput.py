"""Output tokens by arrival: per second, and over the run without drain.

Every token event is placed at the moment when it arrived and weighs what the server says the
request's tokens come to (output_tokens / token events), so a reply of 64 tokens in 60 events
counts 64. Tokens of requests that failed later did arrive and count; a request that names
tokens but shows no event (a reply in one piece) has them at its end.
"""

from dataclasses import dataclass

import numpy as np

from tokenswarm.analysis.columns import Floats, Ints
from tokenswarm.analysis.percentiles import GapPool


@dataclass(frozen=True, slots=True)
class Replies:
    """Token gaps of some requests, laid end to end.

    `model` is an index into the series' models; `gaps_us` holds `lengths[i]` entries of request
    i after another; `t_end_s` stands in for t_first_s where a reply came in one piece.
    """

    model: Ints
    t_first_s: Floats
    t_end_s: Floats
    output_tokens: Floats
    token_events: Floats
    gaps_us: Ints
    lengths: Ints


class TokenSeries:
    """Adds up tokens by model and second from any number of `Replies`."""

    def __init__(self, models: int, duration_s: float, load_s: float):
        self.seconds = max(1, int(np.ceil(duration_s)))
        self.load_s = load_s
        self.per_second: Floats = np.zeros((models, self.seconds))
        self.in_load: Floats = np.zeros(models)
        self.itl = [GapPool() for _ in range(models)]

    def add(self, replies: Replies) -> None:
        """Count the tokens, and the gaps between them, of `replies`."""
        gaps, lengths = _with_first(replies)
        some = lengths > 0
        self._pool(gaps, lengths[some], replies.model[some])
        self._place_events(replies, gaps, lengths)
        # a reply in one piece has its tokens at its end
        tokens = np.nan_to_num(replies.output_tokens[~some])
        self._place(replies.model[~some], replies.t_end_s[~some], tokens)

    def output_tok_s(self, model: int | None = None) -> float | None:
        """Tokens per second over the run without drain; None when that has no length."""
        tokens = self.in_load.sum() if model is None else self.in_load[model]
        return float(tokens) / self.load_s if self.load_s > 0 else None

    def _pool(self, gaps: Ints, lengths: Ints, model: Ints) -> None:
        """Pool `gaps`, cut by `lengths` (no 0), without the first of each request."""
        inner = np.delete(gaps, _starts(lengths))
        for i, pool in enumerate(self.itl):
            mine = model == i
            if mine.all():
                pool.add(inner)
            elif mine.any():
                pool.add(inner[np.repeat(mine, lengths - 1)])

    def _place_events(self, replies: Replies, gaps: Ints, lengths: Ints) -> None:
        """Each event at its own moment, weighted so that a request comes to its server's count."""
        wanted = np.where(np.isnan(replies.output_tokens), lengths, replies.output_tokens)
        t_first = replies.t_first_s
        placed = (lengths > 0) & ~np.isnan(t_first)
        if not placed.all():
            gaps, lengths = gaps[np.repeat(placed, lengths)], lengths[placed]
            wanted, t_first = wanted[placed], t_first[placed]
        model, each = replies.model[placed], wanted / lengths
        if len(lengths):
            at_s = _arrivals(t_first, gaps, lengths)
            weight = None if np.all(each == 1) else np.repeat(each, lengths)
            self._place(np.repeat(model, lengths), at_s, weight)

    def _place(self, model: Ints, at_s: Floats, weight: Floats | None) -> None:
        """Add `weight` (1 each for None) at `at_s`; what is unknown or before t0 is left out."""
        known = at_s >= 0  # NaN is not
        if not known.all():
            model, at_s = model[known], at_s[known]
            weight = None if weight is None else weight[known]
        if not len(at_s):
            return
        cell = np.minimum(at_s, self.seconds - 1).astype(np.int64)
        cell += model * self.seconds
        flat = np.bincount(cell, weights=weight, minlength=self.per_second.size)
        flat = flat.reshape(self.per_second.shape)
        self.per_second += flat
        if at_s.max() < self.load_s:
            self.in_load += flat.sum(axis=1)
            return
        loaded = at_s < self.load_s
        weight = None if weight is None else weight[loaded]
        self.in_load += np.bincount(model[loaded], weights=weight, minlength=len(self.in_load))


def blocks(
    first_s: Floats, last_s: Floats, tokens: Floats, load_s: float, width_s: float
) -> Floats:
    """Tokens a second in equal blocks of time, each about `width_s`, from t0 to `load_s`.

    Requests bring `tokens` evenly from their first to their last: at their ends alone, streams in
    step would make all blocks alike, or leave every other one empty. NaN is left out.
    """
    n = int(load_s // width_s)
    if n < 1:
        return np.zeros(0)
    known = ~(np.isnan(tokens) | np.isnan(last_s))
    last, tokens = last_s[known], tokens[known]
    first = np.fmin(first_s[known], last)  # fmin: a reply in one piece names no first
    edges = np.linspace(0.0, load_s, n + 1)
    return np.asarray(np.diff(_arrived(first, last, tokens, edges)) * n / load_s)


def _arrived(first_s: Floats, last_s: Floats, tokens: Floats, edges_s: Floats) -> Floats:
    """How many tokens had arrived by each of `edges_s`."""
    spread = last_s - first_s > 1e-3
    rate = tokens[spread] / (last_s - first_s)[spread]
    begun = _since(first_s[spread], rate, edges_s)
    ended = _since(last_s[spread], rate, edges_s)
    order = np.argsort(last_s[~spread])
    whole = np.concatenate([[0.0], np.cumsum(tokens[~spread][order])])
    at = np.searchsorted(last_s[~spread][order], edges_s)
    return np.asarray(begun - ended + whole[at])


def _since(at_s: Floats, rate: Floats, edges_s: Floats) -> Floats:
    """What flows at each `rate` from `at_s` on comes to, all together, by each edge."""
    order = np.argsort(at_s)
    at_s, rate = at_s[order], rate[order]
    rates = np.concatenate([[0.0], np.cumsum(rate)])
    offsets = np.concatenate([[0.0], np.cumsum(rate * at_s)])
    n = np.searchsorted(at_s, edges_s)
    return np.asarray(rates[n] * edges_s - offsets[n])


def _starts(lengths: Ints) -> Ints:
    return (
        np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        if len(lengths)
        else (np.zeros(0, dtype=np.int64))
    )


def _with_first(replies: Replies) -> tuple[Ints, Ints]:
    """Gaps with one entry an event: the first event's 0 is put in where the record left it out."""
    short = (replies.lengths == replies.token_events - 1) & ~np.isnan(replies.t_first_s)
    if not short.any():
        return replies.gaps_us, replies.lengths
    gaps = np.insert(replies.gaps_us, _starts(replies.lengths)[short], 0)
    return gaps, replies.lengths + short


def _arrivals(t_first_s: Floats, gaps: Ints, lengths: Ints) -> Floats:
    """When each event arrived; `lengths` holds no 0."""
    since = np.cumsum(gaps, dtype=np.int64)
    starts = _starts(lengths)
    before = since[starts] - gaps[starts]
    # the first event's own gap counts: it is 0 where the record is right
    return since / 1e6 + np.repeat(t_first_s - before / 1e6, lengths)
