"""What every test relies on: nothing is left running, and what is missing is said."""

import os
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.running import end_started

# a busy machine is no fault of the code: no test here is held to a time
settings.register_profile("ours", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ours")

REQUIRE_LIVE = os.environ.get("TOKENSWARM_REQUIRE_LIVE") == "1"


@pytest.fixture(autouse=True)
def _nothing_left_running() -> Iterator[None]:
    yield
    end_started()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With TOKENSWARM_REQUIRE_LIVE=1 a live test that would be skipped fails instead,
    unless it needs a GPU, which nobody can install."""
    report = yield
    live = item.get_closest_marker("live") or item.get_closest_marker("swapserver")
    hardware = item.get_closest_marker("gpu")
    if REQUIRE_LIVE and live and not hardware and report.skipped:
        report.outcome = "failed"
    return report
