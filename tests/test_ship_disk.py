"""A full disk under the spool: shipping goes on, and what is shipped can make room."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import finished, tokenswarm
from tests.schema_rows import tick
from tests.services import Influxd, influxd
from tests.small_disk import fill, small_disk
from tokenswarm.store.cursor import Place
from tokenswarm.store.influx import Database
from tokenswarm.store.spool import Writer

pytestmark = pytest.mark.live

T0 = 1_790_000_000_000_000_000
DB = "disk"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 2 * 2**20) as folder:
        yield folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Influxd]:
    with influxd(tmp_path) as started:
        started.create(DB)
        yield started


def append(writer: Writer, rows: int) -> None:
    first = writer.next_seq
    writer.append([tick(T0 + i * 1_000_000, "w0", i) for i in range(first, first + rows)])


def ship(folder: Path, spool: Path, server: Influxd) -> tuple[int, str]:
    """Exit code of one shipping and what it said on its way."""
    (folder / "stderr.txt").unlink(missing_ok=True)
    command = tokenswarm("ship", spool, "--influx-url", server.url, "--db", DB, cwd=folder)
    code = finished(command)
    said = (folder / "stderr.txt").read_text()
    assert "Traceback" not in said, said
    return code, said


def test_a_cursor_moves_on_a_full_disk_where_it_lies(
    tmp_path: Path, disk: Path, server: Influxd
) -> None:
    spool = disk / "spool"
    with contextlib.closing(Writer(spool, "w0")) as writer:
        append(writer, 500)
        assert ship(tmp_path, spool, server)[0] == 0
        append(writer, 500)
        fill(disk / "ballast")
        code, said = ship(tmp_path, spool, server)
    assert code == 0, said
    assert "cannot write" not in said
    place = Place(spool, Database(server.url, DB))
    assert place.read().counts.shipped == {"tick": 1000}
    assert server.figures(DB, "tick", 'count("token_events")') == [1000]
    (disk / "ballast").unlink()
    assert ship(tmp_path, spool, server)[0] == 0
    assert place.read().counts.shipped == {"tick": 1000}


def test_without_room_for_a_cursor_everything_is_shipped_and_that_is_said(
    tmp_path: Path, disk: Path, server: Influxd
) -> None:
    spool = disk / "spool"
    with Writer(spool, "w0") as writer:
        append(writer, 500)
    fill(disk / "ballast")
    code, said = ship(tmp_path, spool, server)
    assert code == 0, said
    assert "No space left on device; shipping goes on, another start sends this again" in said
    assert server.figures(DB, "tick", 'count("token_events")') == [500]
    (disk / "ballast").unlink()
    code, said = ship(tmp_path, spool, server)
    assert code == 0, said
    assert server.figures(DB, "tick", 'count("token_events")') == [500]
    assert Place(spool, Database(server.url, DB)).read().counts.shipped == {"tick": 500}
