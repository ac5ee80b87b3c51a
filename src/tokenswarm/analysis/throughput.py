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
        self._pool(gaps, lengths, replies.model)
        events = np.maximum(lengths, 1)
        tokens = np.where(np.isnan(replies.output_tokens), lengths, replies.output_tokens)
        weight = np.repeat(tokens / events, events)
        self._place(np.repeat(replies.model, events), _arrivals(replies, gaps, lengths), weight)

    def output_tok_s(self, model: int | None = None) -> float | None:
        """Tokens per second over the run without drain; None when that has no length."""
        tokens = self.in_load.sum() if model is None else self.in_load[model]
        return float(tokens) / self.load_s if self.load_s > 0 else None

    def _pool(self, gaps: Ints, lengths: Ints, model: Ints) -> None:
        first = np.zeros(len(gaps), dtype=np.bool_)
        first[_starts(lengths)[lengths > 0]] = True
        owner = np.repeat(model, lengths)
        for i, pool in enumerate(self.itl):
            pool.add(gaps[(owner == i) & ~first])

    def _place(self, model: Ints, at_s: Floats, weight: Floats) -> None:
        known = ~np.isnan(at_s) & (at_s >= 0)
        model, at_s, weight = model[known], at_s[known], weight[known]
        second = np.minimum(at_s.astype(np.int64), self.seconds - 1)
        flat = np.bincount(
            model * self.seconds + second, weights=weight, minlength=self.per_second.size
        )
        self.per_second += flat.reshape(self.per_second.shape)
        loaded = at_s < self.load_s
        self.in_load += np.bincount(
            model[loaded], weights=weight[loaded], minlength=len(self.in_load)
        )


def _starts(lengths: Ints) -> Ints:
    return (
        np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        if len(lengths)
        else (np.zeros(0, dtype=np.int64))
    )


def _with_first(replies: Replies) -> tuple[Ints, Ints]:
    """Gaps with one entry an event: the first event's 0 is put in where the record left it out."""
    short = (replies.lengths == replies.token_events - 1) & ~np.isnan(replies.t_first_s)
    gaps = np.insert(replies.gaps_us, _starts(replies.lengths)[short], 0)
    return gaps, replies.lengths + short


def _arrivals(replies: Replies, gaps: Ints, lengths: Ints) -> Floats:
    """When each event arrived; one entry (its end) for a request without events."""
    since = np.cumsum(gaps, dtype=np.int64)
    starts = _starts(lengths)
    some = lengths > 0
    before = np.zeros(len(lengths), dtype=np.int64)
    before[some] = since[starts[some]] - gaps[starts[some]]
    times = np.repeat(replies.t_first_s, lengths) + (since - np.repeat(before, lengths)) / 1e6
    return np.insert(times, starts[~some], replies.t_end_s[~some])
