"""What sort of event it was: kind, cause, outcome, why the model was away, where it came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tokenswarm.analysis.coldstarts import Coldstart
from tokenswarm.analysis.requests import Requests
from tokenswarm.analysis.residency import CRASHED_S, Stay, crashed
from tokenswarm.analysis.slopes import COPY_STEPS, PCIE_BYTES_PER_S

PART_RATIO = 0.98
"""Less than this share of the whole is a part."""

PROCESSES = ("ollama", "llama-swap", "vllm", "sglang")
"""Engines that start a process for each model (Ollama since 0.30)."""
WAKING = ("llama-cpp",)
"""Engines that sleep and wake up by themselves; all others have to be told."""
AT_ONCE_S = 0.3
"""A server that spoke so shortly before its memory fell had not copied its weights away first."""
COLD_FACTOR = 1.4
"""A load that takes so much longer than its model's quickest was read from disk."""


@dataclass(frozen=True, slots=True)
class Told:
    """What engines said of their models at any time. `level`: how deep each (target, model) sleeps,
    where it was never another. `whole_bytes`: what a process of each model would hold as a whole,
    where it ever was there in part."""

    level: Mapping[tuple[str, str], int]
    whole_bytes: Mapping[str, int]


def told_of(stays: Sequence[Stay], sleeps: Mapping[tuple[str, str], int]) -> Told:
    """From the stays of all sides, and from the levels of all sleeps."""
    return Told(sleeps, _wholes(stays))


def kind_of(requests: Requests, c: Coldstart, told: Told) -> str:
    """process_cold, weights_cold, wake_l1, wake_l2 or reconfig. How deep it slept the engine said
    then, or whenever it said anything of this model; else it is level 1 unless its memory shows
    that the weights cannot have been copied away."""
    a, engine = c.arrival, str(requests.engine[c.trigger])
    if c.woke:
        level = (a.engine and a.engine.level) or told.level.get(c.key)
        if level is None:
            level = 2 if c.slept and _dropped(requests, c.slept) else 1
        return f"wake_l{level}"
    if c.own is not None:
        return "reconfig"
    if a.gpu:
        return "process_cold"
    return "process_cold" if engine in PROCESSES and not a.move else "weights_cold"


def _dropped(requests: Requests, slept: Stay) -> bool:
    """Whether its memory fell at once (within a few samples, faster than a bus) while it was
    still at work: at level 1 weights are copied first, or memory falls as they are.

    How fast memory comes back says nothing: at both levels it is mapped first.
    """
    if slept.low_s is None or slept.size_bytes is None:
        return False
    took, step = slept.low_s - slept.last_s, slept.end_s - slept.last_s
    if took >= COPY_STEPS * step or slept.size_bytes < PCIE_BYTES_PER_S * took:
        return False
    last = [
        requests.t_last[i[requests.t_first[i] <= slept.end_s]]
        for (_, model), i in requests.groups.items()
        if model == slept.model
    ]
    spoke = np.concatenate([np.zeros(0), *last])
    near = (spoke >= slept.last_s - AT_ONCE_S) & (spoke <= slept.low_s + AT_ONCE_S)
    return bool(near.any())


def cause_of(requests: Requests, c: Coldstart, left: str | None, displaced: Sequence[Stay]) -> str:
    """demand, reconfig, control where a model slept that nobody had displaced, or crash where
    the demand was for a model whose server had died.

    `displaced`: every stay that some event displaced.
    """
    if c.woke:
        told = str(requests.engine[c.trigger]) not in WAKING
        return "control" if told and c.slept and not _among(c.slept, displaced) else "demand"
    if c.own is not None:
        return "reconfig"
    return "crash" if left == "crash" else "demand"


def outcome_of(requests: Requests, c: Coldstart, told: Told) -> str:
    """ok, partial_offload, aborted (the client went away, or time was up) or error."""
    if c.t5_s is None and not (c.arrival.engine and _spoke(requests, c)):
        status = str(requests.status[c.trigger])
        return "aborted" if status in ("cut", "cancelled", "timeout") else "error"
    engine, gpu = c.arrival.engine, c.arrival.gpu
    if engine:
        return "partial_offload" if engine.partial else "ok"
    whole = told.whole_bytes.get(c.arrival.model)
    part = gpu and gpu.size_bytes and whole and gpu.size_bytes < PART_RATIO * whole
    return "partial_offload" if part else "ok"


def _wholes(stays: Sequence[Stay]) -> dict[str, int]:
    """What the GPU shows of a stay, and what the engine misses of it."""
    found: dict[str, int] = {}
    for e in stays:
        if e.side == "engine" and e.partial and e.whole_bytes and e.size_bytes:
            missing = e.whole_bytes - e.size_bytes
            for g in stays:
                if g.side == "gpu" and g.model == e.model and _meet(g, e) and g.size_bytes:
                    found[e.model] = max(found.get(e.model, 0), g.size_bytes + missing)
    return found


def _meet(a: Stay, b: Stay) -> bool:
    return a.start_s < b.end_s and b.start_s < a.end_s


def _spoke(requests: Requests, c: Coldstart) -> bool:
    """Whether the model, once there, gave somebody else what the trigger did not wait for."""
    stay = c.arrival.engine or c.arrival.gpu
    first = requests.t_first[requests.groups[c.key]]
    return stay is not None and bool(np.any((first >= c.t4_s) & (first <= stay.end_s)))


def left_because(requests: Requests, c: Coldstart, displaced: Sequence[Stay]) -> str | None:
    """Why the model was not there; None when it never had been, as far as anybody saw.

    `displaced`: every stay that some event displaced.
    """
    if c.woke:
        return "asleep"
    if c.own is not None:
        return "reconfig"
    if c.before is None:
        return None
    if _among(c.before, displaced):
        return "pressure"
    return "crash" if crashed(requests, c.before) else "idle"


def _among(stay: Stay, displaced: Sequence[Stay]) -> bool:
    return any(s.model == stay.model and _one_end(s, stay) for s in displaced)


def _one_end(a: Stay, b: Stay) -> bool:
    """Whether two sides' stays end together."""
    return a.last_s <= b.end_s + CRASHED_S and b.last_s <= a.end_s + CRASHED_S


def coldnesses(
    starts: Sequence[Coldstart],
    loads_s: Sequence[float | None],
    kinds: Sequence[str],
    read_ratio: Sequence[float | None],
) -> list[str | None]:
    """Where each event's weights came from; None: not known.

    `read_ratio`: bytes that the host read from disk meanwhile over bytes that came in. Without
    it the times of one model's loads are compared: the quickest was in the page cache if it was
    clearly quicker than another, and each as quick as it as well.
    """
    same: dict[tuple[str, str], list[float]] = {c.key: [] for c in starts}
    for c, load_s in zip(starts, loads_s, strict=True):
        if load_s is not None:
            same[c.key].append(load_s)
    return [
        _coldness(kinds[k], loads_s[k], same[c.key], read_ratio[k]) for k, c in enumerate(starts)
    ]


def _coldness(
    kind: str, load_s: float | None, same: Sequence[float], read: float | None
) -> str | None:
    if kind in ("wake_l1", "wake_l2"):
        return "host_ram"
    if read is not None:
        return "disk" if read >= 0.8 else "page_cache" if read <= 0.2 else "mixed"
    if load_s is None or len(same) < 2:
        return None
    return "disk" if load_s > COLD_FACTOR * min(same) else "page_cache"
