"""The open loop: one schedule whatever the number of workers, by the server's own arrival log."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest

from tests.ks import ks_exponential
from tests.running import end_started, records, run_once, scenario
from tokenswarm.scenario.load import load
from tokenswarm.scenario.plan import arrivals
from tokenswarm.sim import truth
from tokenswarm.sim.process import start

ONE = {"name": "steady", "model": "steady", "prompt": {"kind": "text", "text": "hi"},
       "output": {"tokens": 1}}  # fmt: skip
N, RATE = 2000, 100.0
BLUR_S = 0.003
"""A process sends within about a millisecond after it is due, as it has other things to do: gaps
below a few of them are not kept. What an exponential gap has beyond any length is exponential
again, with the same mean: the longer gaps are held to that."""
BUSY_S = 0.003


@dataclass(frozen=True)
class Offered:
    """What was to arrive and what did, seconds after t0, both in order of the schedule."""

    due_s: list[float]
    intended_s: list[float]
    sent_s: list[float]
    arrived_s: list[float]
    indices: list[int]
    workers: set[str]


@pytest.fixture(scope="module", params=[1, 2, 4, 8], ids=lambda n: f"{n} workers")
def offered(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Offered]:
    folder = tmp_path_factory.mktemp(f"open{request.param}")
    with start("steady", truth=folder / "truth.jsonl") as box:
        file = scenario(
            folder / "open.yaml", box.ollama_url, ONE, max_requests=N, duration_s=60, seed=1,
            telemetry={"gpu": {"source": "none"}},
            load={"kind": "open", "rate": RATE, "max_in_flight": 400},
        )  # fmt: skip
        _, run = run_once(file, "--workers", request.param, cwd=folder)
    t0 = run.read_manifest().t0_unix_ns
    rows = sorted(records(run), key=lambda r: r["plan_index"])
    log = {a.request_id: a.unix_ns for a in truth.read(folder / "truth.jsonl").arrivals}
    schedule = arrivals(load(file))
    yield Offered(
        due_s=[schedule.time(i) for i in range(N)],
        intended_s=[r["t_intended_s"] for r in rows],
        sent_s=[r["t_sent_s"] for r in rows],
        arrived_s=[(log[r["id"]] - t0) / 1e9 for r in rows],
        indices=[r["plan_index"] for r in rows],
        workers={r["worker"] for r in rows},
    )
    end_started()


def test_the_workers_together_send_the_one_schedule_of_the_seed(offered: Offered) -> None:
    assert offered.indices == list(range(N))
    assert offered.intended_s == pytest.approx(offered.due_s, abs=2e-6)


def test_the_intended_times_are_a_poisson_process(offered: Offered) -> None:
    gaps = [b - a for a, b in pairwise([0.0, *offered.intended_s])]
    assert ks_exponential(gaps, 1 / RATE)


def test_the_server_sees_the_rate_of_the_schedule(offered: Offered) -> None:
    asked = N / offered.due_s[-1]
    seen = N / max(offered.arrived_s)
    assert seen == pytest.approx(asked, rel=0.01)


def test_requests_arrive_when_they_are_due(offered: Offered) -> None:
    late = sorted(b - a for a, b in zip(offered.due_s, offered.arrived_s, strict=True))
    assert late[0] > -0.002, "nothing is sent before it is due"
    assert late[N // 2] < 0.02


def test_arrivals_at_the_server_are_a_poisson_process(offered: Offered) -> None:
    late = sorted(b - a for a, b in zip(offered.due_s, offered.arrived_s, strict=True))
    if late[int(0.95 * N)] - late[0] > BUSY_S:
        pytest.skip("this host was busy: arrivals are late by different times")
    gaps = [b - a for a, b in pairwise(sorted(offered.arrived_s))]
    assert ks_exponential([gap - BLUR_S for gap in gaps if gap > BLUR_S], 1 / RATE)
