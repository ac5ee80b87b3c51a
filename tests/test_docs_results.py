"""docs/results/ holds what the code makes of the records beside it, and nothing of one machine."""

import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.running import ROOT, finished, tokenswarm

RESULTS = ROOT / "docs" / "results"
H200 = RESULTS / "2026-11-28-vllm-h200"
SIZE = 2e6


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The comparison made anew from the journal and the runs that are kept."""
    folder = tmp_path_factory.mktemp("results") / "h200"
    shutil.copytree(H200, folder)
    for name in ("comparison.md", "comparison.html", "comparison.json"):
        (folder / name).unlink()
    process = tokenswarm(
        "compare", folder / "vllm-h200.matrix.yaml", "--set", "models=/tmp/models",
        "--set", "site=/tmp/site", "--out", folder, cwd=folder.parent,
    )  # fmt: skip
    assert finished(process, 120) == 0, (folder.parent / "stderr.txt").read_text()
    return folder


def test_the_figures_are_those_of_the_records(made: Path) -> None:
    kept, anew = (
        msgspec.json.decode((folder / "comparison.json").read_bytes()) for folder in (H200, made)
    )
    assert list(differences(kept, anew)) == []


def test_nothing_was_measured_again(made: Path) -> None:
    assert (made / "journal.jsonl").read_bytes() == (H200 / "journal.jsonl").read_bytes()


def test_a_throughput_lies_within_its_interval() -> None:
    """Streams in step: blocks of a second by the ends of requests left it outside."""
    made = msgspec.json.decode((H200 / "comparison.json").read_bytes())
    loads = made["solutions"][0]["loads"]
    assert [load["load"] for load in loads] == ["single", "together"]
    for load in loads:
        for figure in ("tok_s", "success", "mean_e2e_s", "p95_e2e_s"):
            v = load[figure]
            assert v["low"] <= v["value"] <= v["high"], (load["load"], figure)
            assert v["low"] < v["high"]


def test_each_folder_is_small_and_says_when_with_what_and_how() -> None:
    folders = [p for p in RESULTS.iterdir() if p.is_dir()]
    assert folders
    for folder in folders:
        assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < SIZE
        said = (folder / "README.md").read_text()
        assert folder.name[:10] in said
        for word in ("driver", "Python", "tokenswarm compare"):
            assert word in said, word


def test_no_record_names_a_place_of_the_machine_it_was_made_on() -> None:
    for path in RESULTS.rglob("*"):
        if path.is_file():
            places = re.findall(rb"/(?:work|home|root|Users)/[\w./-]+", path.read_bytes())
            assert places == [], path


def differences(a: Any, b: Any, where: str = "") -> Any:
    """Where two results differ; figures may by a hundredth (drawn intervals, by another numpy)."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        for key in a:
            yield from differences(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from differences(one, other, f"{where}[{i}]")
    elif isinstance(a, float) and isinstance(b, float):
        if a != pytest.approx(b, rel=0.01):
            yield where, a, b
    elif a != b:
        yield where, a, b
