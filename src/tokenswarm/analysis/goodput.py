"""Goodput: requests that met every SLO of their model; errors stay in the denominator."""

import numpy as np

from tokenswarm.analysis.columns import Bools
from tokenswarm.analysis.requests import Requests


def goodput(
    requests: Requests, where: Bools, load_s: float, has_slo: bool
) -> tuple[float | None, float | None]:
    """(requests per second, share of all requests) within every SLO, among `where`.

    A request that failed is not good, whatever it was measured as. (None, None) without SLOs
    or without requests; the rate is None when the run without drain has no length.
    """
    judged = requests.slo_ok[where]
    if not len(judged) or not (has_slo or bool(np.any(~np.isnan(judged)))):
        return None, None
    good = int(np.count_nonzero((judged == 1) & requests.ok[where]))
    return (good / load_s if load_s > 0 else None), good / len(judged)
