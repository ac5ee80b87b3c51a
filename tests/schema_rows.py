"""Rows of any measurement, as hypothesis makes them from the schema."""

from typing import Any

from hypothesis import strategies as st

from tokenswarm.store.schema import MEASUREMENTS, Kind, Measurement

Pair = tuple[str, list[Any]]

VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "int": st.integers(-(2**63), 2**63 - 1),
    "str": st.text(),
    "bool": st.booleans(),
    "ints": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5),
}
TAGS = st.text("abcdefghijklmnopqrstuvwxyz0123456789_-", min_size=1, max_size=12)
TIMES = st.integers(0, 2**63 - 1)


def row(m: Measurement) -> st.SearchStrategy[list[Any]]:
    """A row of `m`: every field may be missing."""
    fields = [st.none() | VALUES[f.kind] for f in m.fields]
    return st.tuples(TIMES, *([TAGS] * len(m.tags)), *fields).map(list)


def pairs(min_size: int = 1, max_size: int = 8) -> st.SearchStrategy[list[Pair]]:
    """`(measurement, row)` of several measurements, mixed."""
    one = st.sampled_from(list(MEASUREMENTS.values())).flatmap(
        lambda m: st.tuples(st.just(m.name), row(m))
    )
    return st.lists(one, min_size=min_size, max_size=max_size)


def tick(time_ns: int, worker: str = "w0", events: int | None = 1) -> Pair:
    """A small row to fill a spool with."""
    tags = ["20261122t163015z-k3f9qa", "tinyllama", "box", "ollama", worker]
    return "tick", [time_ns, *tags, events, 1, 0, None, 3, 1.0]


def mixed(kind: Kind) -> st.SearchStrategy[tuple[Kind, list[Any]]]:
    """A column of `kind` with values of other kinds, not-a-numbers and missing ones in it."""
    stray = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.just([1])
    )
    return st.tuples(st.just(kind), st.lists(VALUES[kind] | stray, min_size=1, max_size=6))
