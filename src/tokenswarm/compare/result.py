"""A comparison's result: collected, judged, and written as JSON, Markdown and HTML."""

import time
from pathlib import Path

import msgspec

from tokenswarm.compare.against import Beside, agreement, beside, study
from tokenswarm.compare.comparison import SCHEMA, Solution, solutions
from tokenswarm.compare.conduct import Comparison
from tokenswarm.compare.recommend import Recommendation, recommend
from tokenswarm.compare.traits import traits
from tokenswarm.errors import SpoolError


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


def write(made: Result, folder: Path) -> list[Path]:
    """comparison.json, .md and .html in `folder`. SpoolError."""
    from tokenswarm.compare.page import html
    from tokenswarm.compare.show import markdown

    texts = {
        "comparison.json": msgspec.json.format(msgspec.json.encode(made), indent=1).decode(),
        "comparison.md": markdown(made),
        "comparison.html": html(made),
    }
    paths = []
    for name, text in texts.items():
        path = folder / name
        partial = path.with_name(f"{name}.part")
        try:
            partial.write_text(text, "utf-8")
            partial.replace(path)
        except OSError as e:
            raise SpoolError(f"{path}: cannot write: {e.strerror}") from e
        paths.append(path)
    return paths
