"""A Prometheus page: the samples asked for, whatever else it holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine_answers import VLLM
from tokenswarm.engines.prometheus import Sample, samples


@pytest.mark.parametrize(
    ("line", "labels", "value"),
    [
        ("a 1", {}, 1.0),  # no labels
        ('a{x="y"} 2.5', {"x": "y"}, 2.5),  # one label
        ('a{x="y",z="w",} 1e3', {"x": "y", "z": "w"}, 1000.0),  # trailing comma
        ('a{x="a\\"b\\\\c\\nd"} 1', {"x": 'a"b\\c\nd'}, 1.0),  # escapes
        ('a{x="}"} 1', {"x": "}"}, 1.0),  # a brace in a value
        ("a 1 1700000000000", {}, 1.0),  # with a time
        ("a +Inf", None, None),  # not finite: no figure
        ("a NaN", None, None),
        ("a one", None, None),  # no number
        ("ab 1", None, None),  # another name that starts alike
        ("# HELP a 1", None, None),  # a comment
        ('a{x="y" 1', None, None),  # broken
    ],
)
def test_a_line_is_a_sample_or_nothing(
    line: str, labels: dict[str, str] | None, value: float | None
) -> None:
    want = [] if labels is None or value is None else [Sample("a", labels, value)]
    assert list(samples(f"x 1\n{line}\ny 2\n", ("a",))) == want


def test_the_recorded_page_gives_the_states_of_sleep() -> None:
    page = (VLLM / "metrics_asleep.prom").read_text()
    found = {s.labels["sleep_state"]: s.value for s in samples(page, ("vllm:engine_sleep_state",))}
    assert found == {"awake": 0.0, "weights_offloaded": 1.0, "discard_all": 0.0}


@given(st.text(max_size=200))
def test_any_page_is_read_without_error(page: str) -> None:
    assert all(s.name == "a" for s in samples(f"a{page}", ("a",)))
