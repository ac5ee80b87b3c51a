"""Figures of one run as a comparison shows them, with intervals where there are enough values."""

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from tokenswarm.analysis.bootstrap import enough, mean_draws, percentile_draws
from tokenswarm.analysis.columns import Floats, floats
from tokenswarm.analysis.compare import ALL, Side
from tokenswarm.analysis.figures import STRATA, Percentiles
from tokenswarm.analysis.percentiles import nearest_rank
from tokenswarm.analysis.throughput import blocks
from tokenswarm.analysis.vram import device_memories
from tokenswarm.compare.value import LoadFigures, Value
from tokenswarm.report.diff import side
from tokenswarm.store import parquet
from tokenswarm.store.rundir import RunDir

CONFIDENCE = 0.95
SEED = 20261128
BLOCKS = 1000
BLOCKS_WANTED, SHORTEST_S, LONGEST_S = 20, 1.0, 5.0
"""So many blocks of time a load is cut into for the interval of its throughput, and how long each
may be: what follows closely is not independent."""
TOKENS = ("t_first_token_s", "t_last_token_s", "output_tokens")
Z = 1.959964  # of 95 %


def figures_of(run: RunDir, about: LoadFigures) -> LoadFigures:
    """`about` with what was measured in `run`."""
    found = side(run)
    s = found.summary
    e2e = _pooled(found, "e2e_s")
    figures = list(s.models.values())
    return msgspec.structs.replace(
        about, verdict=s.verdict, requests=s.requests,
        success=share(sum(m.by_status.get("ok", 0) for m in figures), s.requests),
        tok_s=_tok_s(run, found), mean_e2e_s=mean(e2e), p95_e2e_s=percentile(e2e, 0.95),
        ttft_s=_spread(found, "ttft_s"),
        itl_s=figures[0].itl_s if len(figures) == 1 else _worst([m.itl_s for m in figures]),
        goodput_rps=_sum([m.goodput_rps for m in figures]),
        energy_j_per_token=_energy(run, s.load_s, s.output_tok_s),
        strata={k: sum(m.strata[k].requests for m in figures) for k in STRATA},
        cold_starts=s.cold_starts.count, swaps=s.swaps.count, swap_latency_s=s.swaps.latency_s,
    )  # fmt: skip


def mean(values: Floats) -> Value:
    """The mean with a bootstrap interval."""
    n = len(values)
    if not n:
        return Value()
    if not enough(n, 0.5):
        return Value(float(values.mean()), n)
    blocks = np.array([part.mean() for part in np.array_split(_mixed(values), min(n, BLOCKS))])
    low, high = _bounds(mean_draws(blocks, _rng()))
    return Value(float(values.mean()), n, low, high)


def percentile(values: Floats, p: float) -> Value:
    """A nearest-rank percentile of sorted values with a bootstrap interval."""
    n = len(values)
    if not enough(n, p):
        return Value(nearest_rank(values, p), n)
    low, high = _bounds(percentile_draws(values, p, _rng()))
    return Value(nearest_rank(values, p), n, low, high)


def share(hits: int, n: int) -> Value:
    """hits / n with Wilson's interval."""
    if not n:
        return Value()
    p, z2 = hits / n, Z * Z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    low = centre - half if hits else 0.0  # by rounding these two would miss what was seen
    high = centre + half if hits < n else 1.0
    return Value(p, n, low, high)


def median(values: Sequence[float | None]) -> Value:
    """The median of the known ones; low and high are the least and the largest of them."""
    known = sorted(v for v in values if v is not None)
    if not known:
        return Value()
    return Value(float(np.median(known)), len(known), known[0], known[-1])


def _pooled(found: Side, name: str) -> Floats:
    parts = [p.latencies[name] for (_, stratum), p in found.parts.items() if stratum == ALL]
    return np.sort(np.concatenate([np.zeros(0), *parts]))


def _spread(found: Side, name: str) -> Percentiles:
    values = _pooled(found, name)
    p50, p90, p95, p99, top = (nearest_rank(values, p) for p in (0.5, 0.9, 0.95, 0.99, 1.0))
    return Percentiles(len(values), p50, p90, p95, p99, top)


def _worst(spreads: Sequence[Percentiles]) -> Percentiles:
    """The model's with the largest P95: gaps of several models are not pooled afterwards."""
    return max(spreads, key=lambda s: s.p95 or 0.0)


def _tok_s(run: RunDir, found: Side) -> Value:
    """Over the load without drain; the interval by blocks of time."""
    value, load_s = found.summary.output_tok_s, found.summary.load_s or 0.0
    width_s = min(max(load_s / BLOCKS_WANTED, SHORTEST_S), LONGEST_S)
    if not enough(int(load_s // width_s), 0.5):
        return Value(value, int(load_s // width_s))
    columns = parquet.query(run, f"SELECT {', '.join(TOKENS)} FROM request")
    first_s, last_s, tokens = (floats(columns, name) for name in TOKENS)
    rates = blocks(first_s, last_s, tokens, load_s, width_s)
    low, high = _bounds(mean_draws(rates, _rng()))
    return Value(value, len(rates), low, high)


def _energy(run: RunDir, load_s: float | None, tok_s: float | None) -> float | None:
    """Joules a token, over the load without drain."""
    if not load_s or not tok_s:
        return None
    gpus = device_memories(parquet.read(run, "gpu"), run.read_manifest().t0_unix_ns)
    drawn = _sum([g.energy_j(0.0, load_s) for g in gpus])
    return None if drawn is None else drawn / (load_s * tok_s)


def _sum(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) if known else None


def _bounds(draws: Floats) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _mixed(values: Floats) -> Floats:
    return _rng().permutation(values)


def _rng() -> np.random.Generator:
    return np.random.default_rng(SEED)
