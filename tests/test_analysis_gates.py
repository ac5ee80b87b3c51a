"""Gates: what they read, what they refuse, and that a missing value never passes."""

import msgspec
import pytest

from tests.written_summary import summary
from tokenswarm.analysis.figures import ModelFigures
from tokenswarm.analysis.gates import OPERATORS, check, judge, parse
from tokenswarm.errors import UsageError


@pytest.mark.parametrize(
    ("expression", "value", "passed"),
    [
        ("models.tinyllama.strata.warm.ttft_s.p95 < 0.5", 0.05675, True),
        ("models.tinyllama.strata.warm.ttft_s.p95<0.05", 0.05675, False),
        ("models.qwen2-5_3b.requests >= 40", 40, True),  # - and _ in a name
        ("swaps.count == 2", 2, True),
        ("swaps.count != 2", 2, False),
        ("swaps.latency_s.p95 <= 2.5e0", 2.5, True),
        ("success_ratio > .9", 0.95, True),
        ("models.tinyllama.by_status.cut == 0", 0, True),
        ("models.tinyllama.errors.http == 0", 0, True),  # an error that never happened
        ("models.qwen2-5_3b.errors.http > 1", 2, True),
        ("gpu.box-gpu0.vram_used_max_bytes < 12e9", 10_200_547_328, True),
        ("generator.dropped == -0", 0, True),
    ],
)
def test_a_gate_holds_one_figure_against_a_bound(
    expression: str, value: float, passed: bool
) -> None:
    result = judge(parse(expression), summary())
    assert (result.value, result.passed) == (value, passed)
    assert (result.reason is None) == passed


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_figure_that_is_missing_fails_every_gate(operator: str) -> None:
    result = judge(
        parse(f"models.qwen2-5_3b.strata.swap_waiter.ttft_s.p95 {operator} 1"), summary()
    )
    assert (result.value, result.passed) == (None, False)
    assert result.reason == "there is no value to judge"


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("models.tinylama.requests > 1", "did you mean 'models.tinyllama'"),
        ("models.tinyllama.ttft.p95 < 1", "did you mean 'models.tinyllama.ttft_s'"),
        ("swap.count == 0", "did you mean 'swaps'"),
        ("swaps.count.p95 < 1", "it has nothing below it"),
        ("models.tinyllama.ttft_s < 1", "is not a number; take one of"),
        ("verdict == 1", "is not a number"),
        ("simulated == 1", "is not a number"),
    ],
)
def test_a_path_that_leads_nowhere_names_the_nearest(expression: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        judge(parse(expression), summary())


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "swaps.count",
        "swaps.count < ",
        "swaps.count < x",
        "swaps.count =< 1",
        "swaps.count < 1 or 1",
        "__import__('os').system('true') < 1",
        "1 < swaps.count",
        "swaps.count < nan",
    ],
)
def test_what_is_no_gate_is_refused(expression: str) -> None:
    with pytest.raises(UsageError, match="write PATH OPERATOR NUMBER"):
        parse(expression)


def test_gates_can_be_checked_before_the_run() -> None:
    good = [
        "models.tinyllama.strata.swap_waiter.max_stall_s.p99 < 1",
        "models.tinyllama.errors.http == 0",
        "generator.loop_lag_s.p99 < 0.05",
        "gpu.any.vram_used_max_bytes < 1",  # GPUs are known when they have been sampled
    ]
    check([parse(e) for e in good], ["tinyllama"])
    for bad in ("models.qwen.requests > 0", "verdict == 1", "models.tinyllama.strata.hot.ok > 0"):
        with pytest.raises(UsageError):
            check([parse(bad)], ["tinyllama"])


def test_every_number_of_a_summary_can_be_checked_before_the_run() -> None:
    model = msgspec.to_builtins(summary().models["tinyllama"])
    paths = [k for k, v in model.items() if isinstance(v, int | float)]
    assert len(paths) > 5
    check([parse(f"models.tinyllama.{p} < 1") for p in paths], ["tinyllama"])
    assert set(paths) <= {f.name for f in msgspec.structs.fields(ModelFigures)}
