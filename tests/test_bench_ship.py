"""The shipping benchmark's machinery: both ways do the whole work, and the sums are right."""

import random
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # bench is no part of the package, and pytest knows no root

from bench import ship  # noqa: E402
from bench.__main__ import parser  # noqa: E402
from bench.ship import Figures  # noqa: E402
from tokenswarm.store.lines import encode  # noqa: E402
from tokenswarm.store.row import check_row  # noqa: E402


def rounds(*us: tuple[float, float]) -> list[dict[str, Figures]]:
    """Rounds in which a line took (us with tokenswarm, us with Points)."""
    return [
        {"tokenswarm": Figures(1000, a / 1000, 1.0), "points": Figures(1000, b / 1000, 1.0)}
        for a, b in us
    ]


def test_the_lines_are_of_the_size_that_the_budget_names() -> None:
    rng = random.Random(1)
    rows = [ship.sample(i, rng) for i in range(100)]
    for row in rows:
        check_row("gpu", row)
    assert 350 < len(encode([("gpu", row) for row in rows]).text) / 100 < 450


@pytest.mark.parametrize(
    ("us", "over"),
    [
        ((4.0, 50.0), 0),
        ((5.4, 55.0), 0),  # a tenth over is noise
        ((6.0, 90.0), 1),
        ((4.0, 30.0), 1),
        ((20.0, 60.0), 2),
    ],
)
def test_a_budget_that_does_not_hold_is_said(us: tuple[float, float], over: int) -> None:
    assert len(ship.exceeded(rounds(us))) == over


def test_one_bad_round_of_three_changes_nothing() -> None:
    assert ship.exceeded(rounds((4.0, 50.0), (40.0, 50.0), (4.1, 50.0))) == []


def test_the_table_shows_both_ways() -> None:
    text = ship.table(rounds((4.0, 50.0)))
    assert "250,000" in text
    assert "12.5 x as fast" in text


@pytest.mark.parametrize("way", ["tokenswarm", "points"])
def test_each_way_ships_every_line_every_time(way: str, tmp_path: Path) -> None:
    spool = ship.write_spool(tmp_path / "spool", 700)
    with ship.sink() as url:
        for _ in range(2):
            found = ship.measure(way, url, spool)
            assert found.lines == 700
            assert found.cpu_s > 0


def test_it_is_a_benchmark_of_the_command_line() -> None:
    assert parser().parse_args(["ship", "--quick"]).quick
