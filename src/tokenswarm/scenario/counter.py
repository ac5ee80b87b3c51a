"""Random numbers by counter: number `index` of a named stream, without any state.

SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014) at
position `index`. Whoever asks for an index gets the same number, in any order, on any worker.
"""

import hashlib

_MASK = 0xFFFFFFFFFFFFFFFF
_GOLDEN = 0x9E3779B97F4A7C15
_TO_UNIT = 2.0**-52


def stream(seed: int, label: str) -> int:
    """Return the key of the stream `label` of a seed: 64 bits."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{label}".encode(), digest_size=8).digest())


def draw(key: int, index: int) -> int:
    """Return number `index` of the stream `key`: 64 uniform bits."""
    z = (key + index * _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def uniform(key: int, index: int) -> float:
    """Return number `index` of the stream `key` in the open interval (0, 1)."""
    # 52 bits: with 53 the largest value plus one half would round to 1.0
    return ((draw(key, index) >> 12) + 0.5) * _TO_UNIT
