"""Goodput: requests that met every SLO of their model; errors stay in the denominator."""

import numpy as np

from tokenswarm.analysis.columns import Bools
from tokenswarm.analysis.requests import Requests


def goodput(
    requests: Requests, where: Bools, load_s: float, has_slo: bool
) -> tuple[float | None, float | None]:
    """(requests per second, share of all requests) within every SLO, among `where`.

    A request that failed is not good, whatever it was measured as. (None, None) without SLOs,
    without requests, or when requests ended ok and none was judged; the rate is None when the
    run without drain has no length.
    """
    judged, ok = requests.slo_ok[where], requests.ok[where]
    known = bool(np.any(~np.isnan(judged))) or (has_slo and not ok.any())
    if not len(judged) or not known:
        return None, None
    good = int(np.count_nonzero((judged == 1) & ok))
    return (good / load_s if load_s > 0 else None), good / len(judged)
