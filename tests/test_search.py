"""The search for the highest rate: its steps, and a knee that is known."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.browser import page
from tests.running import finished, scenario, tokenswarm
from tokenswarm.analysis.knee import Bracket, decided
from tokenswarm.sim.process import start

SLOTS, SERVICE_S = 2, 0.2
KNEE = SLOTS / SERVICE_S
"""Requests a second that two slots of 0.2 s serve."""
PROFILE = {
    "name": "two-slots", "doc": "Two requests at once, 0.2 s each.",
    "gpu": {"name": "Plain GPU", "vram_total_bytes": 16_000_000_000,
            "vram_reserved_bytes": 300_000_000, "context_bytes": 300_000_000},
    "host": {"cached": True},
    "ollama": {"num_parallel": SLOTS, "context_length": 2048, "resident": ["steady"]},
    "models": [{"name": "steady", "file_bytes": 500_000_000, "prefill_s": 0.1, "token_s": 0.1,
                "train_context": 2048}],
}  # fmt: skip


def searched(knee: float, **more: Any) -> tuple[float | None, list[float]]:
    """What a search finds where every rate up to `knee` meets the SLOs, and its rates."""
    bracket, tried = Bracket(1.0, 0.05, **more), []
    while (rate := bracket.rate()) is not None:
        tried.append(rate)
        bracket.tell(rate, met=rate <= knee)
    return bracket.good, tried


@pytest.mark.parametrize("knee", [0.01, 0.7, 1.0, 3.3, 100.0, 900.0])
def test_a_search_ends_within_its_precision_below_the_knee(knee: float) -> None:
    found, tried = searched(knee)
    assert found is not None
    assert knee / 1.05 <= found <= knee
    assert len(tried) <= 20


def test_a_search_goes_no_higher_than_it_may() -> None:
    found, tried = searched(100.0, highest=12.0)
    assert found == max(tried) == 12.0


def test_a_search_without_any_good_rate_ends() -> None:
    found, tried = searched(0.0)
    assert found is None
    assert len(tried) == 20


def test_the_majority_of_the_repeats_decides_as_soon_as_it_is_known() -> None:
    assert decided([], 3) is None
    assert decided([True], 3) is None
    assert decided([True, True], 3) is True
    assert decided([True, False], 3) is None
    assert decided([False, False], 3) is False
    assert decided([True], 1) is True


@pytest.mark.slow
def test_a_search_on_the_simulator_finds_the_known_knee(tmp_path: Path) -> None:
    profile = tmp_path / "two-slots.yaml"
    profile.write_text(yaml.safe_dump(PROFILE))
    model = {"name": "steady", "model": "steady", "prompt": {"kind": "text", "text": "hi"},
             "output": {"tokens": 2}}  # fmt: skip
    with start(profile) as box:
        file = scenario(
            tmp_path / "knee.yaml", box.ollama_url, model, drain_s=10,
            telemetry={"gpu": {"source": "none"}},
            load={"kind": "open", "rate": 1, "arrivals": "constant"},
        )  # fmt: skip
        # a backlog grows by 1 - KNEE / rate of the time: at P50 of 4 s, 2 s times that
        process = tokenswarm(
            "search", file, "--slo", "ttft_user_s.p50 < 0.16", "--from", 9, "--to", 11.5,
            "--repeats", 1, "--precision", 0.05, "--duration", 4, cwd=tmp_path,
        )  # fmt: skip
        code = finished(process)
    said = (tmp_path / "stdout.txt").read_text()
    assert code == 0, said
    folder = tmp_path / "runs" / "search"
    found = json.loads((folder / "search.json").read_bytes())
    assert found["rate"] == pytest.approx(KNEE, rel=0.05), said
    assert f"highest rate that meets the SLOs: {found['rate']:.4g} requests/s" in said
    assert {p["met"] for p in found["points"]} == {True, False}
    assert len(list(folder.glob("*/summary.json"))) == len(found["points"])
    curve_is_drawn((folder / "search.html").as_uri(), len(found["points"]))


def curve_is_drawn(url: str, points: int) -> None:
    with page() as (tab, seen):
        tab.goto(url)
        assert tab.locator("svg circle").count() == 2 * points
        assert tab.locator("tbody tr").count() == points
    assert seen.errors == []
    assert seen.requests == [url]


def test_a_search_without_an_slo_says_what_to_give(tmp_path: Path) -> None:
    model = {"name": "a", "model": "a"}
    file = scenario(tmp_path / "bare.yaml", "http://127.0.0.1:9", model)
    code = finished(tokenswarm("search", file, cwd=tmp_path))
    assert code == 2
    assert "no SLO; give --slo" in (tmp_path / "stderr.txt").read_text()
