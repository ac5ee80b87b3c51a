"""How latencies are spread, for curves: some quantiles of each model's strata."""

import msgspec
import numpy as np

from tokenswarm.analysis.columns import Floats
from tokenswarm.analysis.figures import STRATA
from tokenswarm.analysis.percentiles import rank
from tokenswarm.analysis.requests import Requests
from tokenswarm.analysis.strata import Strata

SHARES = (*(round(i / 50, 2) for i in range(50)), 0.985, 0.99, 0.995, 0.999, 1.0)
"""Shares of requests at which a curve has a point; more of them where tails are."""


class Curve(msgspec.Struct, frozen=True):
    """The value that a share SHARES[i] of `n` ok requests did not exceed, in seconds; the first
    is the smallest. Nearest rank, so P50, P90 and P99 are those of the tables."""

    n: int
    values: list[float]


class Distribution(msgspec.Struct, frozen=True):
    """One model: a curve for each stratum with ok requests."""

    ttft_s: dict[str, Curve]
    e2e_s: dict[str, Curve]


def distributions(requests: Requests, strata: Strata, names: list[str]) -> dict[str, Distribution]:
    """Curves by model."""
    out = {}
    for name in names:
        mine = np.asarray(requests.model == name, dtype=np.bool_) & requests.ok
        parts = {s: mine & np.asarray(strata.name == s, dtype=np.bool_) for s in STRATA}
        curves = [
            {s: c for s, where in parts.items() if (c := curve(values[where]))}
            for values in (requests.ttft, requests.e2e)
        ]
        out[name] = Distribution(*curves)
    return out


def curve(values: Floats) -> Curve | None:
    """The curve of `values` without NaN; None when nothing is left."""
    known = np.sort(values[~np.isnan(values)])
    n = len(known)
    return Curve(n, [float(known[rank(n, p)]) for p in SHARES]) if n else None
