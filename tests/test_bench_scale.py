"""The benchmark of more processes: its figures from two moments, and a real short round."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # bench is no part of the package, and pytest knows no root

from bench import scale  # noqa: E402
from bench.measure import Moment  # noqa: E402
from bench.server import Stats  # noqa: E402

CASE = scale.Case(512, 20.0, 64)


def at(at_s: float, tokens: int, *cpu_s: float) -> Moment:
    stats = Stats(1, tokens, 512, tokens // 100, 0, 0, 0, 0)
    return Moment(at_s, 0.0, dict(enumerate(cpu_s)), stats)


def test_cpu_is_that_of_all_processes_and_the_rate_that_of_the_server() -> None:
    row = scale.row(CASE, 2, at(10, 1000, 1.0, 2.0), at(12, 51_000, 1.2, 2.3), 100)
    assert row.tokens_s == 25_000
    assert row.us_per_token == pytest.approx(10.0)
    assert row.late_ratio == pytest.approx(0.01)


def test_the_table_shows_each_beside_the_single_process() -> None:
    rows = [scale.Row(512, 20.0, n, 10_000.0 * max(n, 1), 9.5, 1 << 27, 0.0) for n in (0, 1, 2)]
    lines = scale.table(rows).splitlines()
    assert [line.split()[3] for line in lines[1:]] == ["none", "1", "2"]
    assert [line.split()[5] for line in lines[1:]] == ["1.00", "1.00", "2.00"]


def test_growth_is_looked_for_where_all_that_is_kept_is_full() -> None:
    filling = [100 + n for n in range(60)]
    assert scale.growth([*filling, *[160] * 30]) == (160, 160, 1.0)
    leaking = [100 + n for n in range(90)]
    assert scale.growth(leaking)[2] == pytest.approx(185 / 164)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_quick_round_measures_one_process_and_a_worker(tmp_path: Path) -> None:
    file = tmp_path / "scale.json"
    command = [sys.executable, "-m", "bench", "scale", "--quick", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 3 and "not ours" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_bytes())
    assert [r["processes"] for r in rows] == [0, 1]
    assert all(r["tokens_s"] > 100 and r["us_per_token"] > 1 for r in rows)
    assert all(r["rss_bytes"] > 50_000_000 for r in rows)
