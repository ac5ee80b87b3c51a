"""Waking up at a moment: never before it, again and again, and nothing is left behind."""

import json
import subprocess
import sys
from typing import Any

import pytest


@pytest.fixture(scope="module")
def found() -> Any:
    made = subprocess.run(
        [sys.executable, "-m", "tests.alarm_cases"], capture_output=True, check=True, timeout=60
    )
    return json.loads(made.stdout)


def test_nobody_wakes_before_the_moment(found: Any) -> None:
    assert len(found["ahead"]) == 40
    assert min(found["ahead"]) >= 0.0


def test_a_moment_that_has_passed_is_not_waited_for(found: Any) -> None:
    assert found["passed"] < 10.0


def test_others_run_meanwhile(found: Any) -> None:
    assert found["others"]


def test_an_alarm_whose_sleeper_was_killed_rings_for_the_next(found: Any) -> None:
    assert 0.0 <= found["killed"] < 10.0


def test_an_alarm_that_is_gone_leaves_no_descriptor(found: Any) -> None:
    assert found["left"] == [20, 0]
