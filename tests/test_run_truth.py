"""A thousand requests against the simulator's own knowledge of what it served."""

import math
from typing import Any

import pytest

from tests.running import records, run_once, scenario
from tokenswarm.sim import truth
from tokenswarm.sim.process import start

N = 1000
WITHIN_S = 0.003


@pytest.fixture(scope="module")
def compared(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[list[dict[str, Any]], truth.Truth, int]:
    """Records by request id, the simulator's truth and the run's t0: 32 streams, one process."""
    folder = tmp_path_factory.mktemp("truth")
    with start("steady", truth=folder / "truth.jsonl") as box:
        file = scenario(
            folder / "thousand.yaml",
            box.ollama_url,
            {"name": "steady", "model": "steady", "prompt": {"kind": "text", "text": "hi"}},
            max_requests=N,
            # a request takes 335 ms: 32 streams at a time, out of step, so that the simulator's
            # arrival times are not those of a queue in front of its own loop
            load={"kind": "open", "rate": 95.5, "arrivals": "constant", "max_in_flight": 64},
        )
        code, run = run_once(file, cwd=folder)
    assert code == 0
    return records(run), truth.read(folder / "truth.jsonl"), run.read_manifest().t0_unix_ns


def test_nothing_is_missing_and_nothing_is_there_twice(compared: Any) -> None:
    got, told, _ = compared
    served = sorted(r.request_id for r in told.requests if r.request_id)
    assert len(served) == N
    assert sorted(r["id"] for r in got) == served
    assert sorted(r["plan_index"] for r in got) == list(range(N))
    assert {r["status"] for r in got} == {"ok"}


def test_token_counts_are_exact(compared: Any) -> None:
    got, told, _ = compared
    truths = {r.request_id: r for r in told.requests}
    for record in got:
        true = truths[record["id"]]
        assert record["output_tokens"] == record["token_events"] == true.output_tokens == 64
        assert record["prompt_tokens"] == true.prompt_tokens
        assert len(record["gaps_us"]) == len(true.token_unix_ns)


@pytest.mark.parametrize(
    ("column", "mark"),
    [("t_first_token_s", "first_token_unix_ns"), ("t_last_token_s", "last_token_unix_ns")],
)
def test_token_times_are_within_3_ms_at_p99(compared: Any, column: str, mark: str) -> None:
    got, told, t0_unix_ns = compared
    truths = {r.request_id: r for r in told.requests}
    errors = sorted(
        abs(r[column] - (getattr(truths[r["id"]], mark) - t0_unix_ns) / 1e9) for r in got
    )
    assert errors[math.ceil(0.99 * N) - 1] < WITHIN_S, errors[-20:]


def test_ttft_and_e2e_are_within_3_ms_at_p99(compared: Any) -> None:
    got, told, _ = compared
    truths = {r.request_id: r for r in told.requests}
    for column, mark in (("ttft_s", "first_token_unix_ns"), ("e2e_s", "last_token_unix_ns")):
        errors = sorted(
            abs(r[column] - (getattr(t, mark) - t.arrival_unix_ns) / 1e9)
            for r in got
            for t in [truths[r["id"]]]
        )
        assert errors[math.ceil(0.99 * N) - 1] < WITHIN_S, (column, errors[-20:])
