"""Models that all fit: no swap, and no cold start but each one's first."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.llama_server import llama_server
from tests.running import fair, run_once, scenario
from tokenswarm.analysis.figures import Summary
from tokenswarm.analysis.run import analyse
from tokenswarm.sim.process import start
from tokenswarm.store import parquet
from tokenswarm.store.rundir import RunDir

SERVED = {"tinyllama": "tinyllama:1.1b", "qwen": "qwen2.5:3b", "yi": "yi:6b"}


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Summary, RunDir]:
    """A simulated GPU with room for all three models, for ten seconds."""
    folder = tmp_path_factory.mktemp("roomy")
    with start("rtx5090", speed=4.0) as box:
        models: list[dict[str, Any]] = [{"name": n, "model": m} for n, m in SERVED.items()]
        file = scenario(
            folder / "roomy.yaml", box.ollama_url, *models,
            load={"kind": "closed", "users": 4, "think_s": 0.1}, duration_s=10,
        )  # fmt: skip
        code, run = run_once(file, cwd=folder)
    assert code in (0, 3)  # 3: other processes held the generator up
    return analyse(run).summary, run


def test_models_that_fit_have_only_their_first_cold_starts(roomy: tuple[Summary, RunDir]) -> None:
    summary, _ = roomy
    assert summary.swaps.count == 0
    assert sorted(e.model_in for e in summary.swaps.events) == sorted(SERVED)
    assert {e.model_out for e in summary.swaps.events} == {"none"}


def test_every_request_has_one_stratum(roomy: tuple[Summary, RunDir]) -> None:
    summary, run = roomy
    ids = parquet.read(run, "request_stratum", ["id"])["id"]
    assert len(ids) == len(set(ids)) == summary.requests


def test_memory_and_tokens_stand_side_by_side_each_second(roomy: tuple[Summary, RunDir]) -> None:
    line = analyse(roomy[1]).timeline.by_second
    assert len({len(line.t_s), len(line.tok_s), len(line.in_flight), len(line.swapping)}) == 1
    busy = [s for s in line.t_s if 5 <= s < 9]
    assert all(line.vram_used_bytes[s] and line.headroom_bytes[s] for s in busy)
    assert not any(line.swapping[s] for s in busy)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Two llama.cpp servers with a tiny model each."""
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    from tests.gguf_model import write_model

    folder = tmp_path_factory.mktemp("models")
    with ExitStack() as servers:
        yield [
            servers.enter_context(llama_server(write_model(folder / f"{n}.gguf"), alias=n))
            for n in ("one", "two")
        ]


@pytest.mark.live
def test_two_real_servers_beside_each_other_never_swap(pair: list[str], tmp_path: Path) -> None:
    file = scenario(
        tmp_path / "pair.yaml", pair[0],
        *({"name": n, "model": n, "target": n, "prompt": {"kind": "text", "text": "hi"},
           "output": {"tokens": 8}} for n in ("one", "two")),
        targets={n: {"api": "openai", "url": u} for n, u in zip(("one", "two"), pair, strict=True)},
        load={"kind": "closed", "users": 4}, max_requests=80,
    )  # fmt: skip
    code, run = run_once(file, cwd=tmp_path)
    assert fair(code, tmp_path)
    summary = analyse(run).summary
    assert (summary.swaps.count, summary.cold_starts.count) == (0, 0)
    assert {
        s.requests for m in summary.models.values() for n, s in m.strata.items() if n != "warm"
    } == {0}
