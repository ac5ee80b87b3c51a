"""Figures of an earlier study beside ours."""

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import msgspec
import yaml

from tokenswarm.compare.comparison import Solution
from tokenswarm.compare.recommend import Recommendation
from tokenswarm.errors import UsageError

REFERENCE = "reference"


class Study(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Figures by solution; a mapping is by model. `conclusions`: solution by use."""

    name: str
    solutions: dict[str, dict[str, float | dict[str, float]]]
    conclusions: dict[str, str] = {}


class Beside(msgspec.Struct, frozen=True):
    """One figure of both. `ratio`: ours over theirs."""

    solution: str
    figure: str
    model: str
    ours: float | None
    theirs: float

    @property
    def ratio(self) -> float | None:
        return None if self.ours is None else self.ours / self.theirs


def study(name: str) -> Study:
    """`reference`, the study that comes with tokenswarm, or a YAML file of its form. UsageError."""
    try:
        text = (
            files("tokenswarm.compare").joinpath("reference.yaml").read_text("utf-8")
            if name == REFERENCE
            else Path(name).read_text("utf-8")
        )
        return msgspec.convert(yaml.safe_load(text), Study)
    except (OSError, yaml.YAMLError, msgspec.ValidationError) as e:
        raise UsageError(f"--against {name}: give `reference` or a study's YAML file: {e}") from e


def beside(found: list[Solution], other: Study) -> list[Beside]:
    """Every figure of the study whose solution is among ours."""
    ours = {s.name: s for s in found}
    return [b for name, figures in other.solutions.items() if name in ours
            for b in _of(ours[name], figures)]  # fmt: skip


def agreement(recommended: list[Recommendation], other: Study) -> dict[str, bool]:
    """For each conclusion of the study: is it ours?"""
    return {
        r.use: other.conclusions[r.use] in r.solutions
        for r in recommended
        if r.use in other.conclusions
    }


def _of(s: Solution, figures: dict[str, float | dict[str, float]]) -> Iterator[Beside]:
    for figure, theirs in figures.items():
        by_model = theirs if isinstance(theirs, dict) else {"": theirs}
        for model, value in by_model.items():
            yield Beside(s.name, figure, model, _ours(s, figure, model), value)


def _ours(s: Solution, figure: str, model: str) -> float | None:
    if model:
        mine = next((m for m in s.models if m.model == model), None)
        return getattr(mine, figure, None)
    single = s.single
    values: dict[str, float | None] = {
        "models_served": float(len(s.served)),
        "total_bytes": s.vram_total_bytes,
        "tok_s": single.tok_s.value if single else None,
        "mean_e2e_s": single.mean_e2e_s.value if single else None,
        "p95_e2e_s": single.p95_e2e_s.value if single else None,
        "success_ratio": single.success.value if single else None,
    }
    return values.get(figure)
