"""The compiled part of the hot path, where there is one.

`_native.c` is compiled at installation if the machine has a C compiler and Python's headers; it is
optional, and TOKENSWARM_NATIVE=0 leaves it out. The Python beside each use of it gives the same
results at about twice the CPU per token: `python -m bench hot_path` tells how much here.
"""

import os
from typing import Any


class PlainCounter:
    """A number that grows, `n`."""

    __slots__ = ("n",)

    def __init__(self) -> None:
        self.n = 0


Counter: Any = PlainCounter
Shape: Any = None
Tap: Any = None
look: Any = None

if os.environ.get("TOKENSWARM_NATIVE", "1") != "0":
    try:
        from tokenswarm import _native

        Counter, Shape, Tap, look = _native.Counter, _native.Shape, _native.Tap, _native.look
    except ImportError:  # nothing was compiled
        pass

NATIVE = look is not None
