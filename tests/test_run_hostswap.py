"""A real server that changes its model: every change found by its memory and our own requests."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.running import records, run_once, scenario
from tests.swap_server import swap_server
from tokenswarm.analysis.run import analyse

pytestmark = pytest.mark.swapserver

HI = {"prompt": {"kind": "text", "text": "hi"}, "output": {"tokens": 4}}
BYTES = 340e6


def test_every_change_of_the_model_is_a_swap_with_its_victim(tmp_path: Path) -> None:
    """Two models of 340 MB; one user. The server holds one model, `a` at first, and tells
    nobody: what is known comes from the memory of its process and from who waited."""
    pytest.importorskip("gguf")
    pytest.importorskip("llama_cpp.server.app", exc_type=ImportError)
    from tests.gguf_model import write_model

    size: dict[str, Any] = {"layers": 2, "dim": 2048, "context": 512, "ends": 100.0}
    files = {n: write_model(tmp_path / f"{n}.gguf", seed=i, **size) for i, n in enumerate("ab")}
    with swap_server(files, tmp_path) as server:
        file = scenario(
            tmp_path / "swap.yaml", server.url, *({"name": n, "model": n, **HI} for n in "ab"),
            targets={"box": {"api": "openai", "url": server.url}},
            load={"kind": "closed", "users": 1}, max_requests=24,
            telemetry={"gpu": {"source": "host", "interval_s": 0.02}},
        )  # fmt: skip
        _, run = run_once(file, cwd=tmp_path)
    asked = sorted(records(run), key=lambda r: r["t_sent_s"])
    changes = {b["id"]: a["model"] for a, b in pairwise(asked) if a["model"] != b["model"]}
    events = {e.trigger_id: e for e in analyse(run).summary.swaps.events}
    first = asked[0]["id"]
    assert len(changes) >= 8
    assert {i: e.model_out for i, e in events.items() if i != first} == changes
    assert (first in events) == (asked[0]["model"] == "b")
    assert {e.confidence for e in events.values()} == {"confirmed"}
    assert {e.kind for e in events.values()} == {"weights_cold"}
    moved = sorted(e.moved_bytes or 0 for e in events.values())
    assert moved[len(moved) // 2] == pytest.approx(BYTES, rel=0.15)
