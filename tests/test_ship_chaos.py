"""A spool on its way into real databases, while those, the network and the shipper itself die.

Whatever happens, in the end every point is there exactly once, with the values it was written
with, and `tokenswarm verify` says so.
"""

import contextlib
import itertools
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.hostile_proxy import Answer, Cut, Forward, Half, Late, Lost, Proxy, Step, hostile_proxy
from tests.running import finished, tokenswarm, until
from tests.services import Influxd, Service, Victoria, influxd, victoria
from tests.ship_rows import NUMBERS, Source, Written
from tokenswarm.store.schema import MEASUREMENTS

pytestmark = pytest.mark.live

LINES = 200_000
AWAY_S = 60.0
SHORT_LINES, SHORT_AWAY_S = 20_000, 3.0
DB = "chaos"
DONE_S = 180.0

TROUBLE: tuple[tuple[Step, ...], ...] = (
    (Answer(500), Half()),
    (Answer(429, retry_after_s=1), Lost()),
    (Answer(413), Cut()),
    (Answer(503), Half()),
    (Late(0.3), Lost()),
    (Answer(500), Cut()),
)
"""What the network does beside each event, twice with a batch between."""


@dataclass
class Stage:
    """A shipper that follows a spool through the proxy into a server, and what happens to them."""

    server: Service
    proxy: Proxy
    folder: Path
    options: tuple[str, ...]
    away_s: float
    shipper: Any = None
    spool: Path = field(init=False)

    def __post_init__(self) -> None:
        self.spool = self.folder / "spool"

    def start_shipper(self) -> None:
        self.shipper = tokenswarm(
            "ship", self.spool, "--influx-url", self.proxy.url, "--db", DB, "--follow", "--drain",
            DONE_S, *self.options, cwd=self.folder,
        )  # fmt: skip

    def kill_shipper(self) -> None:
        """kill -9 while a batch is on its way, and start another."""
        self._mid_batch(Late(0.5))
        os.killpg(self.shipper.pid, signal.SIGKILL)
        self.shipper.wait()
        self.start_shipper()

    def kill_server(self) -> None:
        """kill -9 while a batch is on its way, and start it again with its data."""
        self._mid_batch(Forward())
        self.server.kill()
        time.sleep(0.5)
        self.server.start()

    def server_away(self) -> None:
        """kill -9, and nothing there for a long while."""
        self._mid_batch(Late(0.5))
        self.server.kill()
        time.sleep(self.away_s)
        self.server.start()

    def _mid_batch(self, step: Step) -> None:
        taken = len(self.proxy.done)
        self.proxy.script.appendleft(step)
        until(lambda: len(self.proxy.done) > taken, DONE_S)

    def finish(self) -> dict[str, Any]:
        """Ask the shipper to end; what it says of its work, when it says that all is there."""
        self.shipper.send_signal(signal.SIGTERM)
        code = finished(self.shipper, DONE_S)
        said = (self.folder / "stderr.txt").read_text()
        assert "Traceback" not in said, said
        assert code == 0, said
        status: dict[str, Any] = json.loads(
            (self.folder / "stdout.txt").read_text().splitlines()[-1]
        )
        return status


@contextlib.contextmanager
def staged(server: Service, folder: Path, away_s: float, *options: str) -> Iterator[Stage]:
    with hostile_proxy(server.url) as proxy:
        stage = Stage(server, proxy, folder, options, away_s)
        yield stage


def through_everything(stage: Stage, lines: int) -> Written:
    """Write `lines` rows while everything fails in turn; what was written."""
    events = (
        stage.kill_server, stage.kill_shipper, stage.server_away, stage.kill_server,
        stage.kill_shipper, stage.kill_server,
    )  # fmt: skip
    stage.spool.mkdir()
    with contextlib.closing(Source(stage.spool)) as source:
        stage.start_shipper()
        for event, trouble in zip(events, TROUBLE, strict=True):
            source.write(lines // (len(events) + 1))
            stage.proxy.script.extend([*trouble, Forward(), *trouble])
            event()
        source.write(lines - source.written.lines)
        while stage.proxy.script:
            source.write(20)
            time.sleep(0.5)
    return source.written


def took_part(proxy: Proxy) -> None:
    """Every kind of trouble really happened."""
    assert all(proxy.times(kind) for kind in (Half, Lost, Cut, Late))
    assert all(proxy.times(Answer, status) for status in (500, 429, 413, 503))
    assert proxy.away


def verified(stage: Stage, url: str) -> tuple[int, str]:
    """What `tokenswarm verify` ends with and says."""
    command = tokenswarm(
        "verify", stage.spool, "--influx-url", url, "--db", DB, *stage.options, cwd=stage.folder
    )
    code = finished(command, DONE_S)
    return code, (stage.folder / "stdout.txt").read_text()


def numbers(written: Written) -> dict[tuple[str, str], tuple[int, float]]:
    kinds = {(m.name, f.name): f.kind for m in MEASUREMENTS.values() for f in m.fields}
    return {key: what for key, what in written.values.items() if kinds[key] in NUMBERS}


def held_by_influxd(server: Influxd, written: Written) -> None:
    """The database has what was written: points, values of each field, their sums."""
    assert sorted(server.measurements(DB)) == sorted(written.rows)
    summed = numbers(written)
    for name in written.rows:
        fields = [f for m, f in written.values if m == name]
        counts = server.figures(DB, name, *(f'count("{f}")' for f in fields))
        assert dict(zip(fields, counts, strict=True)) == {
            f: written.values[name, f][0] for f in fields
        }
        fields = [f for m, f in summed if m == name]
        sums = server.figures(DB, name, *(f'sum("{f}")' for f in fields))
        assert dict(zip(fields, sums, strict=True)) == {f: summed[name, f][1] for f in fields}


def points_in_influxd(server: Influxd, name: str) -> int:
    """How many points `name` has, whatever fields they have."""
    found = server.query(f'select * from "{name}"', DB)
    return sum(len(s["values"]) for s in found)


def held_by_victoria(server: Victoria, written: Written) -> None:
    """The same, for the numbers: it has nothing else."""
    samples = server.samples()
    for (name, f), (count, total) in numbers(written).items():
        of_field = [s for s in samples if s["metric"]["__name__"] == f"{name}_{f}"]
        values = list(itertools.chain.from_iterable(s["values"] for s in of_field))
        assert (name, f, len(values), sum(values)) == (name, f, count, total)


LENGTHS = [
    pytest.param(SHORT_LINES, SHORT_AWAY_S, id="short"),
    pytest.param(LINES, AWAY_S, id="full", marks=pytest.mark.chaos),
]


@pytest.mark.parametrize(("lines", "away_s"), LENGTHS)
def test_every_point_is_in_influxdb_once_after_kills_outages_and_a_hostile_proxy(
    tmp_path: Path, lines: int, away_s: float
) -> None:
    with influxd(tmp_path) as server, staged(server, tmp_path, away_s) as stage:
        server.create(DB)
        written = through_everything(stage, lines)
        status = stage.finish()
        took_part(stage.proxy)
        held_by_influxd(server, written)
        for name, rows in written.rows.items():
            if rows <= 20_000:
                assert points_in_influxd(server, name) == rows
        assert status["done"]
        assert sum(status["shipped"].values()) == written.lines >= lines
        assert not status["quarantined"]
        code, said = verified(stage, server.url)
        assert code == 0, said


@pytest.mark.chaos
def test_every_number_is_in_victoriametrics_once_after_the_same(tmp_path: Path) -> None:
    with victoria(tmp_path) as server, staged(server, tmp_path, AWAY_S, "--api", "v2") as stage:
        written = through_everything(stage, LINES)
        stage.finish()
        took_part(stage.proxy)
        held_by_victoria(server, written)
        code, said = verified(stage, server.url)
        assert code == 0, said
