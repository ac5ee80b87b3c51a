"""A comparison's result: collected and judged."""

import time

import msgspec

from tokenswarm.compare.against import Beside, agreement, beside, study
from tokenswarm.compare.comparison import SCHEMA, Solution, solutions
from tokenswarm.compare.conduct import Comparison
from tokenswarm.compare.recommend import Recommendation, recommend
from tokenswarm.compare.traits import traits


class Against(msgspec.Struct, frozen=True):
    """Another study beside ours. `agrees`: by use, whether our recommendation is its own."""

    name: str
    figures: list[Beside]
    agrees: dict[str, bool]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """comparison.json. `finished`: False while solutions or loads are still to come."""

    schema: int
    name: str
    doc: str
    simulated: bool
    finished: bool
    started: str
    host: str
    gpus: list[str]
    tokenswarm: str
    seed: int
    order: list[str]
    solutions: list[Solution]
    recommendations: list[Recommendation]
    against: Against | None = None


def result(comparison: Comparison, other: str | None = None) -> Result:
    """What is known now. `other`: the study to put beside it, see `against.study`."""
    begin = comparison.journal.begin
    assert begin is not None
    matrix = comparison.matrix
    found = [
        msgspec.structs.replace(s, traits=traits(s))
        for s in solutions(matrix, comparison.journal, comparison.out)
    ]
    advice = recommend(found)
    known = None if other is None else study(other)
    return Result(
        schema=SCHEMA, name=matrix.name, doc=matrix.doc,
        simulated=any(s.simulated for s in found), finished=comparison.finished,
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begin.at_unix_s)),
        host=begin.host, gpus=comparison.gpus, tokenswarm=begin.tokenswarm, seed=begin.seed,
        order=begin.order, solutions=found, recommendations=advice,
        against=None if known is None else Against(
            known.name, beside(found, known), agreement(advice, known)
        ),
    )  # fmt: skip
