"""What sort of event it was: kind, cause, outcome, why the model was away, where it came from."""

from collections.abc import Mapping, Sequence

import numpy as np

from tokenswarm.analysis.coldstarts import Coldstart
from tokenswarm.analysis.requests import Requests
from tokenswarm.analysis.residency import CRASHED_S, Stay, crashed
from tokenswarm.analysis.slopes import COPY_STEPS, PCIE_BYTES_PER_S

Levels = Mapping[tuple[str, str], int]

PROCESSES = ("ollama", "llama-swap", "vllm", "sglang")
"""Engines that start a process for each model (Ollama since 0.30)."""
WAKING = ("llama-cpp",)
"""Engines that sleep and wake up by themselves; all others have to be told."""
AT_ONCE_S = 0.3
"""A server that spoke so shortly before its memory fell had not copied its weights away first."""
COLD_FACTOR = 1.4
"""A load that takes so much longer than its model's quickest was read from disk."""


def kind_of(requests: Requests, c: Coldstart, levels: Levels) -> str:
    """process_cold, weights_cold, wake_l1, wake_l2 or reconfig. How deep it slept the engine said
    then, or whenever it said anything of this model; else it is level 1 unless its memory shows
    that the weights cannot have been copied away."""
    a, engine = c.arrival, str(requests.engine[c.trigger])
    if c.woke:
        level = (a.engine and a.engine.level) or levels.get(c.key)
        if level is None:
            level = 2 if c.slept and _dropped(requests, c.slept) else 1
        return f"wake_l{level}"
    if c.own is not None:
        return "reconfig"
    if a.gpu:
        return "process_cold"
    return "process_cold" if engine in PROCESSES and not a.move else "weights_cold"


def levels_of(stays: Sequence[Stay]) -> Levels:
    """The level at which each (target, model) sleeps, where its engine never told another."""
    told: dict[tuple[str, str], set[int]] = {}
    for s in stays:
        if s.target is not None and s.level is not None:
            told.setdefault((s.target, s.model), set()).add(s.level)
    return {key: next(iter(levels)) for key, levels in told.items() if len(levels) == 1}


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


def outcome_of(requests: Requests, c: Coldstart) -> str:
    """ok, partial_offload, aborted (the client went away, or time was up) or error."""
    if c.t5_s is None:
        if c.arrival.engine and _spoke(requests, c):
            return "partial_offload" if c.arrival.engine.partial else "ok"
        status = str(requests.status[c.trigger])
        return "aborted" if status in ("cut", "cancelled", "timeout") else "error"
    return "partial_offload" if c.arrival.engine and c.arrival.engine.partial else "ok"


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
    out: list[str | None] = []
    for k, c in enumerate(starts):
        same = [s for d, s in zip(starts, loads_s, strict=True) if d.key == c.key and s is not None]
        out.append(_coldness(kinds[k], loads_s[k], same, read_ratio[k]))
    return out


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
