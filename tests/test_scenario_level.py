"""Shapes: the level of a load, and the schedule that it stretches."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ks import ks_exponential
from tests.test_scenario_plan import model, scenario
from tokenswarm.scenario.arrivals import arrivals, first_from
from tokenswarm.scenario.level import Level, level_of
from tokenswarm.scenario.model import (
    OpenLoad,
    RampShape,
    Shape,
    SoakShape,
    SpikeShape,
    StepsShape,
    TraceLoad,
)

SHAPES: list[Shape] = [
    RampShape(start=0.2, over_s=30),
    RampShape(start=1, end=0.1, over_s=20),
    StepsShape(levels=[0.2, 1.0, 0.0, 0.5], each_s=10),
    SpikeShape(base=0.1, at_s=5, for_s=3, every_s=12),
    SoakShape(ramp_s=12),
]


def level(shape: Shape) -> Level:
    found = level_of(shape, 60.0)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("shape", "at_s", "expected"),
    [
        (RampShape(over_s=10), 5, 0.5),
        (RampShape(over_s=10), 99, 1),
        (RampShape(start=1, end=0.2, over_s=10), 5, 0.6),
        (StepsShape(levels=[0.2, 1], each_s=10), 9.99, 0.2),
        (StepsShape(levels=[0.2, 1], each_s=10), 10, 1),
        (StepsShape(levels=[0.2, 0.5], each_s=10), 99, 0.5),
        (SpikeShape(base=0.1, at_s=5, for_s=3), 4.9, 0.1),
        (SpikeShape(base=0.1, at_s=5, for_s=3), 5, 1),
        (SpikeShape(base=0.1, at_s=5, for_s=3), 8, 0.1),
        (SpikeShape(base=0.1, at_s=5, for_s=3, every_s=20), 26, 1),
        (SoakShape(ramp_s=10), 5, 0.5),
        (SoakShape(ramp_s=10), 30, 1),
        (SoakShape(ramp_s=10), 55, 0.5),
        (SoakShape(ramp_s=10), 60, 0),
    ],
)
def test_a_shape_has_its_level_at_every_moment(shape: Shape, at_s: float, expected: float) -> None:
    assert level(shape).at(at_s) == pytest.approx(expected)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s.__struct_config__.tag)
def test_the_area_is_what_a_fine_sum_of_levels_gives(shape: Shape) -> None:
    found, step_s, total = level(shape), 0.001, 0.0
    for number in range(60_000):
        total += found.at((number + 0.5) * step_s) * step_s
    assert found.area(60.0) == pytest.approx(total, rel=1e-3)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s.__struct_config__.tag)
@given(share=st.floats(0.001, 0.999))
@settings(max_examples=50, deadline=None)
def test_when_is_where_the_area_is_reached(shape: Shape, share: float) -> None:
    found = level(shape)
    wanted = share * found.area(60.0)
    assert found.area(found.when(wanted)) == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_only_a_level_on_its_way_is_a_ramp() -> None:
    found = level(SoakShape(ramp_s=10))
    assert [found.ramping(t) for t in (5, 30, 55)] == [True, False, True]
    assert not level(StepsShape(levels=[0.1, 1], each_s=10)).ramping(10)


def test_a_load_that_falls_to_nothing_has_a_last_arrival() -> None:
    assert level(RampShape(start=1, end=0, over_s=10)).when(5.01) == math.inf


def test_a_level_is_reached_where_it_is_first_above() -> None:
    found = level(StepsShape(levels=[0.25, 1.0, 0.5], each_s=10))
    assert found.reaches(0.0, 0) == 0
    assert found.reaches(0.25, 3) == 10
    assert found.reaches(0.75, 25) == math.inf
    assert level(RampShape(over_s=10)).reaches(0.5, 0) == pytest.approx(5)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s.__struct_config__.tag)
def test_a_poisson_process_under_a_shape_stays_one(shape: Shape) -> None:
    """Time change: the area between two arrivals is exponential whatever the level does."""
    load = OpenLoad(rate=100, shape=shape)
    schedule = arrivals(scenario(model("a"), load=load, duration_s=60))
    found = level(shape)
    times = [t for i in range(20_000) if (t := schedule.time(i)) < 60]
    assert times == sorted(times)
    gaps = [found.area(b) - found.area(a) for a, b in pairwise([0.0, *times])]
    assert len(times) == pytest.approx(100 * found.area(60), abs=4 * math.sqrt(len(times)))
    assert ks_exponential(gaps, 1 / 100)


def test_steps_of_a_constant_rate_have_so_many_arrivals_each() -> None:
    load = OpenLoad(rate=10, arrivals="constant", shape=StepsShape(levels=[0.5, 1], each_s=10))
    schedule = arrivals(scenario(model("a"), load=load, duration_s=20))
    times = [schedule.time(i) for i in range(150)]
    assert sum(t < 10 for t in times) == 50
    assert sum(10 <= t < 20 for t in times) == 100


def test_the_first_arrival_from_a_moment_on_is_found() -> None:
    schedule = arrivals(scenario(model("a"), load=OpenLoad(rate=100), duration_s=60))
    for index in (0, 1, 17, 1500):
        assert first_from(schedule, schedule.time(index)) == index
        assert first_from(schedule, schedule.time(index) + 1e-9) == index + 1


def test_a_trace_arrives_when_it_says_and_then_no_more() -> None:
    load = TraceLoad(times_s=[0.0, 0.5, 0.5, 9.0])
    schedule = arrivals(scenario(model("a"), load=load))
    assert [schedule.time(i) for i in range(5)] == [0.0, 0.5, 0.5, 9.0, math.inf]
    assert first_from(schedule, 0.6) == 3
