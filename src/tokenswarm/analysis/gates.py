"""Gates: `PATH OPERATOR NUMBER` over summary.json, such as
`models.tinyllama.strata.warm.ttft_s.p95 < 0.5`. Parsed by hand; nothing is ever evaluated."""

import difflib
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import msgspec

from tokenswarm.analysis.figures import STATUSES, STRATA, GateResult, ModelFigures, Stratum, Summary
from tokenswarm.errors import UsageError
from tokenswarm.wire.record import ERROR_KINDS

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_GATE = re.compile(
    r"\s*(?P<path>[a-z][a-z0-9_.-]*?)\s*(?P<operator><=|>=|==|!=|<|>)\s*"
    r"(?P<bound>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*"
)


@dataclass(frozen=True, slots=True)
class Gate:
    """One parsed gate."""

    expression: str
    path: tuple[str, ...]
    operator: str
    bound: float


def parse(expression: str) -> Gate:
    """Read one gate; UsageError when it is none."""
    found = _GATE.fullmatch(expression)
    if not found:
        raise UsageError(
            f"gate {expression[:200]!r}: write PATH OPERATOR NUMBER with one of "
            f"{' '.join(OPERATORS)}, as in 'models.tinyllama.strata.warm.ttft_s.p95 < 0.5'"
        )
    path = tuple(found["path"].split("."))
    return Gate(expression.strip(), path, found["operator"], float(found["bound"]))


def check(gates: Iterable[Gate], models: Iterable[str]) -> None:
    """Refuse a gate that no run of `models` could have a figure for; for use before the run."""
    shape = _shape(models)
    for gate in gates:
        if gate.path[0] != "gpu":  # the names of GPUs are known when samples come
            _lookup(shape, gate)


def judge(gate: Gate, summary: Summary) -> GateResult:
    """Hold one gate against `summary`; UsageError when it has no such figure."""
    tree = msgspec.to_builtins(summary)
    for model in tree["models"].values():  # an error that did not happen happened 0 times
        model["errors"] = {**dict.fromkeys(ERROR_KINDS, 0), **model["errors"]}
    value = _lookup(tree, gate)
    if value is None:
        return GateResult(gate.expression, None, False, "there is no value to judge")
    passed = OPERATORS[gate.operator](value, gate.bound)
    reason = None if passed else f"{value:.6g} is not {gate.operator} {gate.bound:g}"
    return GateResult(gate.expression, value, passed, reason)


def _lookup(tree: Any, gate: Gate) -> float | None:
    node = tree
    for i, name in enumerate(gate.path):
        names = sorted(node) if isinstance(node, Mapping) else []
        if name not in names:
            raise UsageError(_unknown(gate, i, names))
        node = node[name]
    if node is None or (isinstance(node, int | float) and not isinstance(node, bool)):
        return node
    raise UsageError(_not_a_number(gate, node))


def _unknown(gate: Gate, at: int, names: list[str]) -> str:
    place = ".".join(gate.path[:at])
    head = f"gate {gate.expression!r}: {place or 'the summary'} has no {gate.path[at]!r}"
    near = difflib.get_close_matches(gate.path[at], names, n=1, cutoff=0.3)
    if near:
        return f"{head}; did you mean {'.'.join((*gate.path[:at], near[0]))!r}?"
    return f"{head}; it has {', '.join(names) if names else 'nothing below it'}"


def _not_a_number(gate: Gate, node: Any) -> str:
    below = [k for k in node if not isinstance(node[k], str)] if isinstance(node, Mapping) else []
    hint = f"; take one of {', '.join(sorted(below)[:12])}" if below else ""
    return f"gate {gate.expression!r}: {'.'.join(gate.path)} is not a number{hint}"


def _shape(models: Iterable[str]) -> dict[str, Any]:
    """Every path that a summary of `models` has, each with None."""
    shape: dict[str, Any] = _empty(Summary)
    model = _empty_model()
    shape["models"] = {name: model for name in models}
    return shape


def _empty_model() -> dict[str, Any]:
    model = _empty(ModelFigures)
    model["strata"] = {name: _empty(Stratum) for name in STRATA}
    model["by_status"] = dict.fromkeys(STATUSES)
    model["errors"] = dict.fromkeys(ERROR_KINDS)
    return model


def _empty(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """The fields of `struct`: structs among them unfolded, numbers None, the rest as text."""
    return {f.name: _blank(f.type) for f in msgspec.structs.fields(struct)}


def _blank(kind: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _empty(kind)
    return None if {int, float} & {kind, *get_args(kind)} - {bool} else str(kind)
