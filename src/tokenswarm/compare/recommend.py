"""Which solution for which use, by written rules and with the figures that led to it."""

from collections.abc import Callable

import msgspec

from tokenswarm.compare.comparison import Solution
from tokenswarm.compare.value import Value
from tokenswarm.report import units

LEAST_SUCCESS = 0.99


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """`solutions`: the best, and those that cannot be told from it; empty: none qualifies.
    `figures`: of every solution in order, best first, then why the others do not qualify."""

    use: str
    rule: str
    solutions: list[str]
    figures: list[str]


Rank = Callable[[Solution], Value | None]


def recommend(found: list[Solution]) -> list[Recommendation]:
    """One recommendation for each use."""
    return [
        _best(
            "production throughput",
            "of the solutions that serve every model, with at least 99 % of requests good: the "
            "most tok/s over all models together",
            found, _throughput, _not_for_all, lambda v: f"{units.rate(v)} tok/s together",
            most=True,
        ),
        _best(
            "little memory",
            "of the solutions that serve every model, with at least 99 % of requests good: the "
            "least GPU memory with all models brought in",
            found, _memory, _not_for_all, lambda v: units.size(None if v is None else int(v)),
            most=False,
        ),
        _best(
            "single model",
            "of all solutions, with at least 99 % of requests good: the most tok/s on one model",
            found, _speed, _not_for_one, lambda v: f"{units.rate(v)} tok/s", most=True,
        ),
    ]  # fmt: skip


def _throughput(s: Solution) -> Value | None:
    load = s.together or (s.single if len(s.wanted) == 1 else None)
    return load.tok_s if load else None


def _memory(s: Solution) -> Value | None:
    return None if s.vram_total_bytes is None else Value(float(s.vram_total_bytes), 1)


def _speed(s: Solution) -> Value | None:
    return s.single.tok_s if s.single else None


def _not_for_all(s: Solution) -> str | None:
    if not s.serves_all:
        return f"serves {len(s.served)} of {len(s.wanted)} models"
    return _not_good(s)


def _not_for_one(s: Solution) -> str | None:
    return _not_good(s)


def _not_good(s: Solution) -> str | None:
    for load in (s.single, s.together):
        ratio = load.success.value if load else None
        if load and ratio is not None and (load.success.high or ratio) < LEAST_SUCCESS:
            return f"only {units.share(ratio)} of the requests of load {load.load} were good"
    return None


def _best(
    use: str, rule: str, found: list[Solution], rank: Rank, unfit: Callable[[Solution], str | None],
    say: Callable[[float | None], str], *, most: bool,
) -> Recommendation:  # fmt: skip
    fit, out = [], []
    for s in found:
        value, why = rank(s), unfit(s)
        if why is None and value is not None and value.value is not None:
            fit.append((value.value, s.name, value))
        else:
            out.append(f"{s.name}: {why or 'not measured'}")
    fit.sort(reverse=most)
    best = [name for _, name, value in fit if value.overlaps(fit[0][2]) or name == fit[0][1]]
    return Recommendation(
        use=use, rule=rule, solutions=best,
        figures=[f"{name}: {say(value)}" for value, name, _ in fit] + out,
    )  # fmt: skip
