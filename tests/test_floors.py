"""The direction of imports, and what a light import must not load."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "tokenswarm"

FLOOR = {
    "__init__": 0, "errors": 0, "clock": 0, "native": 0, "sim": 0,
    "engines": 1, "store": 1, "scenario": 1,
    "analysis": 2, "telemetry": 2, "wire": 2, "doctor": 2, "launch": 2,
    "report": 3, "load": 3, "compare": 3,
    "cli": 4, "command": 4, "search": 4, "__main__": 4,
}  # fmt: skip

HEAVY = ["locust", "gevent", "pynvml", "duckdb", "numpy", "docker", "influxdb_client"]


def modules() -> Iterator[tuple[str, Path]]:
    """Each module as `folder.name`, and its file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts), path


def imported(path: Path) -> Iterator[str]:
    """Dotted names of ours below `tokenswarm` that `path` imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        for name in names:
            if name.startswith("tokenswarm."):
                yield name.removeprefix("tokenswarm.")


def top(name: str) -> str:
    return name.split(".")[0]


def test_no_import_runs_up_a_floor() -> None:
    for name, path in modules():
        mine = top(name)
        for other in {top(n) for n in imported(path) if top(n) in FLOOR} - {mine}:
            assert FLOOR[other] <= FLOOR[mine], f"{name} imports {other}"


def test_folders_of_one_floor_import_each_other_in_one_direction_only() -> None:
    edges = {
        (top(name), top(other))
        for name, path in modules()
        for other in imported(path)
        if top(other) in FLOOR and top(other) != top(name)
    }
    assert not [(a, b) for a, b in edges if (b, a) in edges]


def test_no_file_imports_itself_by_way_of_others() -> None:
    files = dict(modules())
    graph = {name: {n for n in imported(path) if n in files} for name, path in files.items()}
    order = list(TopologicalSorter(graph).static_order())  # CycleError names the circle
    assert set(order) == set(files)


def test_the_simulator_imports_nothing_of_ours_and_analysis_never_imports_it() -> None:
    for name, path in modules():
        ours = {top(n) for n in imported(path) if top(n) in FLOOR}
        if top(name) == "sim":
            assert ours <= {"sim"}, name
        if top(name) in ("analysis", "wire", "scenario", "store", "engines", "launch"):
            assert "sim" not in ours, name


@pytest.mark.parametrize("banned", ["locust", "gevent"])
def test_only_load_imports_gevent_or_locust(banned: str) -> None:
    for name, path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if any(top(n) == banned for n in names):
                assert top(name) == "load", name


def loaded(code: str) -> set[str]:
    """Top-level modules in sys.modules after `code` ran in a fresh interpreter."""
    script = f"{code}\nimport sys\nprint(*{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    return set(done.stdout.decode().split())


@pytest.mark.parametrize("module", ["tokenswarm", "tokenswarm.cli", "tokenswarm.store.schema"])
def test_a_light_import_loads_nothing_heavy(module: str) -> None:
    assert loaded(f"import {module}") & set(HEAVY) == set()


def test_a_scenario_is_read_without_anything_heavy() -> None:
    assert loaded("import tokenswarm.scenario.load") & set(HEAVY) == set()


@pytest.mark.parametrize("folder", ["locustfiles", "agents"])
def test_files_run_by_path_shadow_no_module(folder: str) -> None:
    root = PACKAGE.parent.parent / folder
    names = {p.stem for p in root.glob("*.py")} if root.is_dir() else set()
    assert "__init__" not in names
    assert not names & set(sys.stdlib_module_names)
    assert not names & {"locust", "openai", "ollama", "docker", "yaml"}
