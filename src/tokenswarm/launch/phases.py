"""A server's log -> the phases of its start, and what its memory is for, as it says itself."""

import re
from typing import Any

import msgspec

GIB = 2**30
MIB = 2**20


class Phases(msgspec.Struct, frozen=True, omit_defaults=True):
    """Seconds by phase and bytes, None where the log does not say: weights read (`weights_s`),
    graphs captured, profile and KV cache (`init_s`: the whole engine's), weights and KV cache."""

    weights_s: float | None = None
    graphs_s: float | None = None
    init_s: float | None = None
    weights_bytes: int | None = None
    kv_bytes: int | None = None


_SECONDS = {
    "weights_s": (r"Loading weights took ([\d.]+) s", r"Load weight end\. elapsed=([\d.]+)"),
    "graphs_s": (r"Graph capturing finished in ([\d.]+) s",
                 r"Capture cuda graph end\. Time elapsed: ([\d.]+)"),
    "init_s": (r"init engine \(.*\) took ([\d.]+) s",),
}  # fmt: skip
_BYTES = {
    "weights_bytes": ((r"Model loading took ([\d.]+) GiB", GIB), (r"mem usage=([\d.]+) GB", GIB),
                      (r"model buffer size = +([\d.]+) MiB", MIB)),
    "kv_bytes": ((r"Available KV cache memory: ([\d.]+) GiB", GIB),
                 (r"\b[KV] size: ([\d.]+) GB", GIB), (r"KV buffer size = +([\d.]+) MiB", MIB)),
}  # fmt: skip


def phases(log: str) -> Phases:
    """Of the last start in `log`. llama.cpp and SGLang tell memory in parts, which add up."""
    found: dict[str, Any] = {name: _last(log, patterns) for name, patterns in _SECONDS.items()}
    found |= {name: _sum(log, patterns) for name, patterns in _BYTES.items()}
    return Phases(**found)


def _last(log: str, patterns: tuple[str, ...]) -> float | None:
    for pattern in patterns:
        if found := re.findall(pattern, log):
            return float(found[-1])
    return None


def _sum(log: str, patterns: tuple[tuple[str, int], ...]) -> int | None:
    for pattern, unit in patterns:
        if found := re.findall(pattern, log):
            return round(sum(map(float, found)) * unit)
    return None
