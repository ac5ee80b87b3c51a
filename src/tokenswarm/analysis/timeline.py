"""What happened when: series on one time axis for the report's charts, few enough to draw."""

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np

from tokenswarm.analysis.columns import Bools, Columns, Floats, Ints, floats, run_seconds, texts
from tokenswarm.analysis.correlate import Seconds, Superposed, seconds, superposed
from tokenswarm.analysis.percentiles import nearest_rank
from tokenswarm.analysis.requests import Requests
from tokenswarm.analysis.residency import HELD, Stay, memory_at
from tokenswarm.analysis.strata import Strata
from tokenswarm.analysis.swaps import Found
from tokenswarm.analysis.throughput import TokenSeries
from tokenswarm.analysis.vram import DeviceMemory

POINTS = 600
"""Points of a line; a screen shows no more."""
DOTS = 4000
"""Single requests drawn over all models."""
WINDOWS = 60
WINDOW_REQUESTS = 20
"""P95 is taken over at most so many windows, and fewer when they would hold fewer requests."""

Numbers = list[float | None]


class Dots(msgspec.Struct, frozen=True):
    """Single requests by t_sent: seconds, TTFT, E2E, index into STRATA. `of` is how many there
    were; the slowest and all that paid for a swap are always among those shown."""

    t_s: Numbers
    ttft_s: Numbers
    e2e_s: Numbers
    stratum: list[int]
    of: int


class Memory(msgspec.Struct, frozen=True):
    """One GPU: bytes in use, the part of each model whose processes are known."""

    name: str
    source: str
    total_bytes: int | None
    t_s: Numbers
    used_bytes: Numbers
    models: dict[str, Numbers]


class Span(msgspec.Struct, frozen=True):
    """One residency state of a model, from t0 to t1 (run seconds)."""

    t0_s: float
    t1_s: float
    state: str


class Timeline(msgspec.Struct, frozen=True):
    """Series by model name. `t_s` are the starts of bins of `bin_s`; windows likewise."""

    duration_s: float
    load_s: float
    bin_s: int
    t_s: Numbers
    tok_s: dict[str, Numbers]
    window_s: float
    window_t_s: Numbers
    ttft_p95_s: dict[str, Numbers]
    e2e_p95_s: dict[str, Numbers]
    window_n: dict[str, list[int]]
    dots: dict[str, Dots]
    memory: list[Memory]
    residency: dict[str, list[Span]]
    by_second: Seconds = Seconds()
    superposed: Superposed = Superposed()


def timeline(
    names: Sequence[str],
    requests: Requests,
    swaps: Found,
    tokens: TokenSeries,
    memories: Sequence[DeviceMemory],
    processes: Columns,
    residency: Columns,
    stays: Sequence[Stay],
    duration_s: float,
    t0_unix_ns: int,
) -> Timeline:
    """Build the series of a run of `names`."""
    bin_s = max(1, int(np.ceil(tokens.seconds / POINTS)))
    windows = min(WINDOWS, max(6, len(requests) // WINDOW_REQUESTS))
    window_s = max(1.0, duration_s / windows)
    edges = np.arange(0, max(duration_s, window_s), window_s)
    masks = [np.asarray(requests.model == n, dtype=np.bool_) for n in names]
    share = [int(DOTS * m.sum() / max(1, len(requests))) for m in masks]
    found = spans(residency, stays, duration_s, t0_unix_ns)
    return Timeline(
        duration_s=duration_s,
        load_s=tokens.load_s,
        bin_s=bin_s,
        t_s=_numbers(np.arange(0, tokens.seconds, bin_s, dtype=np.float64)),
        tok_s={n: _rates(tokens.per_second[i], bin_s, duration_s) for i, n in enumerate(names)},
        window_s=window_s,
        window_t_s=_numbers(edges),
        ttft_p95_s=_p95s(names, masks, requests, requests.ttft, edges),
        e2e_p95_s=_p95s(names, masks, requests, requests.e2e, edges),
        window_n={
            n: _window_counts(requests, m & requests.ok, edges)
            for n, m in zip(names, masks, strict=True)
        },
        dots={
            n: dots(requests, swaps.strata, m, max(200, s))
            for n, m, s in zip(names, masks, share, strict=True)
        },
        memory=[memory(m, processes, t0_unix_ns) for m in memories],
        residency={n: found[n] for n in names if n in found},
        by_second=seconds(requests, tokens, memories, swaps.events),
        superposed=superposed(swaps.events, memories),
    )


def _numbers(values: Floats, digits: int = 4) -> Numbers:
    """For JSON: rounded (a tenth of a millisecond; no figure is read off a chart), None for NaN."""
    return [None if np.isnan(v) else round(float(v), digits) for v in values]


def _rates(per_second: Floats, bin_s: int, duration_s: float) -> Numbers:
    """Tokens per second in each bin; the last one is as short as the run leaves it."""
    starts = np.arange(0, len(per_second), bin_s)
    lengths = np.minimum(starts + bin_s, max(duration_s, starts[-1] + 1e-3)) - starts
    return _numbers(np.add.reduceat(per_second, starts) / np.maximum(lengths, 1e-3), 2)


def _window(requests: Requests, where: Bools, edges: Floats) -> Ints:
    """Which window each request of `where` was sent in (-1: none)."""
    sent = np.where(where, requests.t_sent, np.nan)
    return np.where(np.isnan(sent), -1, np.searchsorted(edges, sent, side="right") - 1)


def _window_counts(requests: Requests, where: Bools, edges: Floats) -> list[int]:
    windows = _window(requests, where, edges)
    return [int(n) for n in np.bincount(windows[windows >= 0], minlength=len(edges))]


def _p95s(
    names: Sequence[str], masks: list[Bools], requests: Requests, values: Floats, edges: Floats
) -> dict[str, Numbers]:
    out: dict[str, Numbers] = {}
    for name, mask in zip(names, masks, strict=True):
        window = _window(requests, mask & requests.ok, edges)
        order = np.argsort(window, kind="stable")
        bounds = np.searchsorted(window[order], np.arange(len(edges) + 1))
        p95 = [nearest_rank(values[order[a:b]], 0.95) for a, b in pairwise(bounds)]
        out[name] = [None if v is None else round(v, 4) for v in p95]
    return out


def dots(requests: Requests, strata: Strata, mask: Bools, most: int) -> Dots:
    """At most about `most` of the ok requests in `mask`: those that paid for a swap first, then
    the slowest, then evenly by time."""
    mine = np.flatnonzero(mask & requests.ok)
    kept = mine
    if len(mine) > most:
        warm = strata.name[mine] == "warm"
        paid = mine[~warm][: most // 2]
        slow = mine[np.argsort(-np.nan_to_num(requests.e2e[mine]), kind="stable")][: most // 8]
        left = max(1, most - len(paid) - len(slow))
        even = mine[np.linspace(0, len(mine) - 1, left).astype(np.int64)]
        kept = np.unique(np.concatenate([paid, slow, even]))
    code = {"warm": 0, "swap_trigger": 1, "swap_waiter": 2, "swap_collateral": 3}
    return Dots(
        t_s=_numbers(requests.t_sent[kept], 3),
        ttft_s=_numbers(requests.ttft[kept]),
        e2e_s=_numbers(requests.e2e[kept]),
        stratum=[code[s] for s in strata.name[kept]],
        of=len(mine),
    )


def memory(m: DeviceMemory, processes: Columns, t0_unix_ns: int) -> Memory:
    """One GPU at no more than 2 x POINTS moments: the lowest and highest sample of each piece."""
    kept = _extremes(m.used, POINTS)
    at = m.at_s[kept]
    total = m.total[~np.isnan(m.total)]
    return Memory(
        name=m.name,
        source=m.source,
        total_bytes=int(total.max()) if len(total) else None,
        t_s=_numbers(at, 3),
        used_bytes=_numbers(m.used[kept], 0),
        models=_by_model(m, processes, t0_unix_ns, at),
    )


def _extremes(values: Floats, pieces: int) -> Ints:
    """Indices of the lowest and highest of each of `pieces` runs of `values`, in order."""
    if len(values) <= 2 * pieces:
        return np.arange(len(values))
    kept = []
    for part in np.array_split(np.arange(len(values)), pieces):
        known = part[~np.isnan(values[part])]
        if len(known):
            kept += [known[np.argmin(values[known])], known[np.argmax(values[known])]]
    return np.unique(np.array(kept, dtype=np.int64))


def _by_model(
    m: DeviceMemory, processes: Columns, t0_unix_ns: int, at: Floats
) -> dict[str, Numbers]:
    """Memory of each model's processes at `at`. A process that a sample does not show holds 0;
    a GPU whose processes are never shown has no models here."""
    here = (texts(processes, "host") == m.host) & (texts(processes, "gpu") == m.gpu)
    model, pid = texts(processes, "model"), floats(processes, "pid")
    when, used = run_seconds(processes, t0_unix_ns), floats(processes, "vram_used_bytes")
    out: dict[str, Numbers] = {}
    for name in sorted(set(model[here]) - {"none"}):
        rows = np.asarray(here & (model == name), dtype=np.bool_)
        held = [
            memory_at(at, when[mine], used[mine])
            for mine in (rows & (pid == p) for p in np.unique(pid[rows]))
        ]
        out[name] = _numbers(np.sum(held, axis=0), 0)
    return out


def spans(
    residency: Columns, stays: Sequence[Stay], duration_s: float, t0_unix_ns: int
) -> dict[str, list[Span]]:
    """Residency of each model as the engine says, or as its processes show where no engine does."""
    model, state = texts(residency, "model"), texts(residency, "state")
    at = run_seconds(residency, t0_unix_ns)
    out: dict[str, list[Span]] = {}
    for name in sorted(set(model)):
        rows = np.flatnonzero(model == name)
        rows = rows[np.argsort(at[rows], kind="stable")]
        out[name] = _states(at[rows], [str(s) for s in state[rows]], duration_s)
    for stay in stays:
        if stay.side == "gpu" and stay.model not in set(model):
            end = min(stay.end_s, duration_s)
            out.setdefault(stay.model, []).append(Span(round(stay.start_s, 3), end, HELD[0]))
    return out


def _states(at: Floats, states: list[str], duration_s: float) -> list[Span]:
    found: list[Span] = []
    for i, state in enumerate(states):
        if state == "absent" or (i and states[i - 1] == state):
            continue
        after = next((k for k in range(i + 1, len(states)) if states[k] != state), None)
        end = duration_s if after is None else float(at[after])
        found.append(Span(round(float(at[i]), 3), round(end, 3), state))
    return found
