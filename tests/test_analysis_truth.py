"""Swaps and strata of a real run against what the simulator knows of it."""

from typing import Any

import pytest

from tests.running import run_once, scenario
from tokenswarm.analysis.figures import Summary, SwapEvent
from tokenswarm.analysis.run import analyse
from tokenswarm.sim import truth
from tokenswarm.sim.process import start
from tokenswarm.store import parquet
from tokenswarm.store.rundir import RunDir

SERVED = {"tinyllama": "tinyllama:1.1b", "qwen": "qwen2.5:3b", "yi": "yi:6b"}


@pytest.fixture(scope="module")
def swapped(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Summary, RunDir, truth.Truth]:
    """Ten seconds of three models on a GPU with room for two."""
    folder = tmp_path_factory.mktemp("swaps")
    with start("rtx5090-crowded", truth=folder / "truth.jsonl") as box:
        models: list[dict[str, Any]] = [{"name": n, "model": m} for n, m in SERVED.items()]
        file = scenario(
            folder / "swaps.yaml",
            box.ollama_url,
            *models,
            load={"kind": "closed", "users": 5, "think_s": 0.2},
            duration_s=10,
        )
        code, run = run_once(file, cwd=folder)
    # 3: other processes held the generator up; who came in and who left is known all the same
    assert code in (0, 3)
    return analyse(run).summary, run, truth.read(folder / "truth.jsonl")


def pairs(swapped: Any) -> list[tuple[SwapEvent, truth.Load]]:
    """Events beside loads, in the order in which models became ready."""
    summary, _, told = swapped
    events = sorted(summary.swaps.events, key=lambda e: e.t4_s)
    loads = sorted((k for k in told.loads if k.outcome == "ok"), key=lambda k: k.ready_unix_ns)
    assert len(loads) > 4
    return list(zip(events, loads, strict=True))


def test_every_load_is_an_event_with_its_victims(swapped: Any) -> None:
    slugs = {served: name for name, served in SERVED.items()}
    for event, load in pairs(swapped):
        gone = sorted(slugs[m] for m in load.displaced)
        assert event.model_in == slugs[load.model]
        assert event.model_out == ("-and-".join(gone) or "none")
    assert swapped[0].swaps.count == len(swapped[2].swaps)


def test_marks_are_near_the_simulators(swapped: Any) -> None:
    t0 = swapped[1].read_manifest().t0_unix_ns
    for event, load in pairs(swapped):
        # two requests of one moment may come in the other way round, so not by the trigger's id
        assert event.t0_s == pytest.approx((load.demand_unix_ns - t0) / 1e9, abs=0.1)
        assert event.t4_s == pytest.approx((load.ready_unix_ns - t0) / 1e9, abs=0.1)
        assert event.t3_s == pytest.approx((load.load_unix_ns - t0) / 1e9, abs=0.2)


def test_requests_held_up_are_those_that_the_simulator_held_up(swapped: Any) -> None:
    _, run, told = swapped
    rows = parquet.read(run, "request_stratum", ["id", "stratum"])
    ours = dict(zip(rows["id"], rows["stratum"], strict=True))
    theirs = {r.request_id: r.stratum for r in told.requests}
    assert set(ours) == set(theirs)
    own = ("swap_trigger", "swap_waiter")
    assert {i for i in ours if ours[i] in own} == {i for i in ours if theirs[i] in own}
    # the simulator knows who waited for others; the rule sees waits that stand out, a busy test
    # machine's among them
    assert sum(ours[i] != theirs[i] and theirs[i] not in own for i in ours) <= 0.25 * len(ours)
