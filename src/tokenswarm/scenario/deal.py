"""Who sends which request: the one global sequence, dealt out by index, dealt anew on the way."""

from collections.abc import Iterable, Sequence

import msgspec


class Deal(msgspec.Struct, frozen=True):
    """From request `first` on, the worker (Locust's client id) of rank r of n takes
    first + r, first + r + n, ... until the next deal's first."""

    first: int
    ranks: dict[str, int]


class Share(msgspec.Struct, frozen=True):
    """One worker's part of a deal; `of` 0: it has none."""

    first: int
    rank: int
    of: int


def deal(first: int, workers: Iterable[str]) -> Deal:
    """Deal everything from `first` on to `workers`, in their order."""
    return Deal(first, {worker: rank for rank, worker in enumerate(workers)})


def shares(deals: Sequence[Deal], worker: str) -> tuple[Share, ...]:
    """The parts of `worker`."""
    return tuple(
        Share(d.first, d.ranks.get(worker, 0), len(d.ranks) if worker in d.ranks else 0)
        for d in deals
    )


def following(own: Sequence[Share], after: int) -> int | None:
    """The first request after number `after` that these shares hold; None: there is none."""
    for place, share in enumerate(own):
        if not share.of:
            continue
        start = max(after + 1, share.first)
        index = start + (share.rank - (start - share.first)) % share.of
        if place + 1 == len(own) or index < own[place + 1].first:
            return index
    return None


def held(own: Sequence[Share], first: int, end: int) -> int:
    """How many of the requests first, ..., end - 1 these shares hold."""
    count, index = 0, following(own, first - 1)
    while index is not None and index < end:
        count, index = count + 1, following(own, index)
    return count
