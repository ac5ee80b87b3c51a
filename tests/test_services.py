"""The servers that other tests stand on hold what they are told to hold."""

from pathlib import Path

import pytest

from tests.services import ADMIN, influxd, victoria

pytestmark = pytest.mark.live

T = 1_790_000_000_000_000_000


def test_influxd_holds_its_points_over_kill_9(tmp_path: Path) -> None:
    with influxd(tmp_path) as server:
        server.create("x")
        server.write("x", "\n".join(f"tick,model=a n={i}i {T + i}" for i in range(1000)))
        server.write("x", f"tick,model=a n=1i {T + 1}")
        server.kill()
        assert not server.running
        server.start()
        assert server.measurements("x") == ["tick"]
        assert server.figures("x", "tick", 'count("n")', 'sum("n")') == [1000, 499_500]
        assert server.figures("x", "gpu", 'count("n")') == []


def test_influxd_with_accounts_lets_nobody_in_without_one(tmp_path: Path) -> None:
    with influxd(tmp_path, auth=True) as server:
        server.create("x")
        server.auth = None
        with pytest.raises(AssertionError, match="401"):
            server.write("x", "tick n=1i")
        server.auth = ADMIN
        server.write("x", "tick n=1i")


@pytest.mark.parametrize("path", ["/write", "/api/v2/write"])
def test_victoria_counts_a_point_sent_twice_once(tmp_path: Path, path: str) -> None:
    lines = "\n".join(f"tick,model=a n={i}i {T + i * 1_000_000}" for i in range(1000))
    with victoria(tmp_path) as server:
        for _ in range(2):
            server.post(path, lines.encode(), db="x", bucket="x", org="o")
        (series,) = server.samples("tick_.*")
        assert (series["metric"]["__name__"], series["metric"]["model"]) == ("tick_n", "a")
        assert (len(series["values"]), sum(series["values"])) == (1000, 499_500)
        server.stop()
        server.start()
        assert sum(len(s["values"]) for s in server.samples()) == 1000
