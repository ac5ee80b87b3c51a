"""What is usual for one model when it is warm: the yardstick of penalty and re-warming."""

from dataclasses import dataclass

import numpy as np

from tokenswarm.analysis.columns import Bools, Floats, Ints
from tokenswarm.analysis.percentiles import nearest_rank
from tokenswarm.analysis.requests import Requests

REWARMED = 5
"""t6: the first of so many requests in a row with TTFT <= 1.5 x the warm median."""
REWARM_FACTOR = 1.5
BUCKET_LEAST = 5
"""A prompt bucket with fewer warm requests says nothing; the model's median stands in."""


@dataclass(frozen=True, slots=True)
class Usual:
    """One model when warm: median TTFT (None without warm ok requests), the same by prompt
    bucket, P99 and median wait for the first token, and when it was warm again after any
    moment: `sent_s` of the first of each five quick requests in a row, `first_s` their first
    tokens."""

    ttft_s: float | None
    by_bucket: dict[int, float]
    wait_p99_s: float | None
    wait_s: float | None
    sent_s: Floats
    first_s: Floats

    def rewarmed(self, from_s: float) -> float | None:
        """t6: first token of the first of five requests in a row, sent from `from_s` on, that
        are as quick as warm ones."""
        i = int(np.searchsorted(self.sent_s, from_s))
        return float(self.first_s[i]) if i < len(self.sent_s) else None

    def ttft_of(self, prompt_tokens: float) -> float | None:
        """The warm median TTFT of prompts of about this length."""
        return self.by_bucket.get(int(bucket(np.array([prompt_tokens]))[0]), self.ttft_s)


def bucket(prompt_tokens: Floats) -> Ints:
    """Prompts of one power of two belong together; -1 where the length is unknown."""
    known = np.maximum(np.nan_to_num(prompt_tokens, nan=1.0), 1.0)
    powers = np.floor(np.log2(known)).astype(np.int64)
    return np.where(np.isnan(prompt_tokens), -1, powers)


def usual(requests: Requests, mine: Ints, warm: Bools) -> Usual:
    """What is usual for the requests `mine` of one model, of which `warm` (all) are warm."""
    calm = mine[warm[mine]]
    ttft = nearest_rank(requests.ttft[calm], 0.5)
    quick = requests.ttft[mine] <= REWARM_FACTOR * (np.nan if ttft is None else ttft)
    row = np.zeros(0, dtype=np.int64)
    if len(quick) >= REWARMED:
        view = np.lib.stride_tricks.sliding_window_view(quick, REWARMED)
        row = mine[np.flatnonzero(view.all(axis=1))]
    p99 = nearest_rank(requests.wait[calm], 0.99)
    medians = _medians(requests, calm)
    wait = nearest_rank(requests.wait[calm], 0.5)
    return Usual(ttft, medians, p99, wait, requests.t_sent[row], requests.t_first[row])


def _medians(requests: Requests, calm: Ints) -> dict[int, float]:
    buckets = bucket(requests.prompt_tokens[calm])
    found = {}
    for b in np.unique(buckets):
        ttft = requests.ttft[calm[buckets == b]]
        median = nearest_rank(ttft, 0.5)
        if median is not None and np.count_nonzero(~np.isnan(ttft)) >= BUCKET_LEAST:
            found[int(b)] = median
    return found
