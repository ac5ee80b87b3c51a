"""A figure with its interval, and the figures of one load."""

import msgspec

from tokenswarm.analysis.figures import Percentiles


class Value(msgspec.Struct, frozen=True):
    """A figure over `n` values; [low, high] bounds it with 95 %, None where nothing does."""

    value: float | None = None
    n: int = 0
    low: float | None = None
    high: float | None = None

    def overlaps(self, other: "Value") -> bool:
        """Whether both may be the same, as far as their intervals tell."""
        if None in (self.low, self.high, other.low, other.high):
            return False
        return self.low <= other.high and other.low <= self.high  # type: ignore[operator]


class LoadFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One load of one solution. Latencies in seconds over every model together; `tok_s`: output
    tokens a second; `strata`: requests by stratum; `failure`: why there are no figures."""

    load: str
    models: list[str]
    users: int
    output_tokens: float
    single: bool = False
    failure: str | None = None
    run_dir: str = ""
    verdict: str = ""
    requests: int = 0
    success: Value = Value()
    tok_s: Value = Value()
    mean_e2e_s: Value = Value()
    p95_e2e_s: Value = Value()
    ttft_s: Percentiles = Percentiles(0)
    itl_s: Percentiles = Percentiles(0)
    goodput_rps: float | None = None
    energy_j_per_token: float | None = None
    strata: dict[str, int] = {}
    cold_starts: int = 0
    swaps: int = 0
    swap_latency_s: Percentiles = Percentiles(0)
