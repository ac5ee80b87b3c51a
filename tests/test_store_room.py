"""A bounded spool: what goes when there is no room, what never goes, and what is told of it."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.schema_rows import tick
from tests.small_disk import small_disk
from tokenswarm.errors import SpoolError
from tokenswarm.store.frame import frames
from tokenswarm.store.room import Removed, removed
from tokenswarm.store.spool import Position, Writer, follow, inventory, rows, segments

BOUND = 20_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 64_000) as folder:
        yield folder


def fill(writer: Writer, frames_: int, start: int = 0) -> None:
    """Append so many frames of four rows."""
    for i in range(start, start + frames_):
        writer.append([tick(4 * i + k) for k in range(4)])


def held(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.glob("*.spool"))


def seqs(folder: Path) -> list[int]:
    return [seq for _, seq, _, _ in rows(folder)]


def test_a_bounded_spool_stays_in_its_bound_and_counts_what_it_dropped(tmp_path: Path) -> None:
    with Writer(tmp_path, "gpu", max_bytes=BOUND, full="drop") as writer:
        for i in range(200):
            fill(writer, 1, i)
            assert held(tmp_path) <= BOUND
            assert writer.held_bytes == held(tmp_path)
        gone = writer.removed
    kept = seqs(tmp_path)
    assert kept == list(range(gone.end_seq, 800))
    assert len(kept) > 100
    assert gone.unshipped_rows == gone.end_seq > 0
    assert gone.shipped_rows == 0
    found = inventory(tmp_path)["gpu"]
    assert (found.removed, found.gaps, found.damages) == (gone, [], [])
    assert (found.first_seq, found.last_seq) == (gone.end_seq, 799)


def test_a_spool_that_may_not_drop_refuses_and_holds_what_it_has(tmp_path: Path) -> None:
    with Writer(tmp_path, "w0", max_bytes=BOUND) as writer:
        with pytest.raises(SpoolError, match=r"may hold 20000; raise the limit"):
            fill(writer, 10_000)
        assert seqs(tmp_path) == list(range(writer.next_seq))
        assert writer.removed == Removed()


def test_what_is_shipped_goes_when_its_segment_ends_and_what_is_not_stays(tmp_path: Path) -> None:
    shipped = 0
    with Writer(
        tmp_path, "gpu", segment_bytes=1000, max_bytes=10**6, full="drop", shipped=lambda: shipped
    ) as writer:
        fill(writer, 20)
        assert writer.removed == Removed()
        assert seqs(tmp_path) == list(range(80))
        shipped = 42
        fill(writer, 5, 20)
        gone = writer.removed
        assert 42 - 12 < gone.end_seq <= 42
        assert (gone.shipped_rows, gone.unshipped_rows) == (gone.end_seq, 0)
        assert seqs(tmp_path) == list(range(gone.end_seq, 100))


def test_at_the_bound_it_is_told_apart_what_had_been_shipped(tmp_path: Path) -> None:
    with Writer(
        tmp_path, "gpu", segment_bytes=10**6, max_bytes=BOUND, full="drop", shipped=lambda: 10
    ) as writer:
        fill(writer, 200)
        gone = writer.removed
    assert gone.shipped_rows == 10
    assert gone.unshipped_rows == gone.end_seq - 10


def test_numbers_go_on_after_everything_was_removed(tmp_path: Path) -> None:
    with Writer(
        tmp_path, "gpu", segment_bytes=300, max_bytes=10**6, full="drop", shipped=lambda: 10**9
    ) as writer:
        fill(writer, 50)
    for path in segments(tmp_path)["gpu"]:
        last = max(f.end for f in frames(path, []))
    assert last == 200
    with Writer(
        tmp_path, "gpu", max_bytes=10**6, full="drop", shipped=lambda: 10**9
    ) as writer:  # what is shipped goes at the start, too
        assert segments(tmp_path) == {}
        assert (writer.next_seq, writer.held_bytes) == (200, 0)
        assert writer.removed.shipped_rows == 200
    with Writer(tmp_path, "gpu", max_bytes=10**6, full="drop") as writer:
        assert writer.append([tick(1)]).first_seq == 200
        assert int(segments(tmp_path)["gpu"][0].stem[-6:]) > writer.removed.segment


def test_a_removal_that_was_cut_short_is_finished_at_the_next_start(tmp_path: Path) -> None:
    with Writer(tmp_path, "gpu", segment_bytes=300) as writer:
        fill(writer, 10)
    paths = segments(tmp_path)["gpu"]
    first = next(frames(paths[2], []))
    (tmp_path / ".gpu.removed").write_text(
        f'{{"end_seq":{first.first_seq},"segment":1,"shipped_rows":8,"unshipped_rows":0}}'
    )
    assert removed(tmp_path, "gpu").end_seq == first.first_seq
    with Writer(tmp_path, "gpu", max_bytes=10**6, full="drop") as writer:
        assert segments(tmp_path)["gpu"] == paths[2:]
        assert writer.held_bytes == held(tmp_path)
        assert writer.next_seq == 40


def test_a_frame_over_the_bound_is_refused_and_drops_nothing_else(tmp_path: Path) -> None:
    with Writer(tmp_path, "gpu", max_bytes=2000, full="drop") as writer:
        fill(writer, 2)
        with pytest.raises(SpoolError, match="may hold 2000"):
            writer.append([tick(i) for i in range(500)])
        assert seqs(tmp_path) == list(range(8))


def test_a_full_disk_gives_up_what_was_shipped_and_nothing_else(disk: Path) -> None:
    shipped = 0

    def writer() -> Writer:
        return Writer(
            disk / "spool", "gpu", segment_bytes=4000, max_bytes=10**6, full="drop",
            shipped=lambda: shipped,
        )  # fmt: skip

    with writer() as gpu:
        with pytest.raises(SpoolError, match="No space left on device"):
            fill(gpu, 10_000)
        acknowledged = gpu.next_seq
        assert seqs(disk / "spool") == list(range(acknowledged))
        shipped = acknowledged // 2
        fill(gpu, 5, acknowledged // 4)
        gone = gpu.removed
        assert 0 < gone.end_seq <= shipped
        assert gone.unshipped_rows == 0
        assert seqs(disk / "spool") == list(range(gone.end_seq, acknowledged + 20))
    with writer() as gpu:
        assert gpu.next_seq == acknowledged + 20


def test_a_follower_counts_what_was_dropped_before_it_came_by(tmp_path: Path) -> None:
    position = Position()
    got: list[tuple[int, int]] = []

    def look() -> None:
        got.extend((f.first_seq, f.end) for f in follow(tmp_path, position))

    with Writer(tmp_path, "gpu", max_bytes=BOUND, full="drop") as writer:
        fill(writer, 10)
        look()
        fill(writer, 500, 10)
        dropped = writer.removed.end_seq
        look()
        fill(writer, 5, 510)
        look()
    assert [n for a, b in got for n in range(a, b)] == [*range(40), *range(dropped, 2060)]
    assert position.seen["gpu"].gaps() == [(40, dropped)]
    assert {path.name for path in segments(tmp_path)["gpu"]} >= {*position.ended, *position.offsets}
    late = Position()
    assert next(f.first_seq for f in follow(tmp_path, late)) >= dropped
    assert late.seen["gpu"].gaps() == []


def test_a_bounded_writer_killed_with_kill_9_forgets_nothing_it_dropped(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tokenswarm.store.spool import Writer\n"
        "w = Writer(Path(sys.argv[1]), 'gpu', max_bytes=4000, full='drop'); i = 0\n"
        "while True:\n"
        "    w.append([('tick', [i, 'r', 'm', 't', 'e', 'w0', 1, 1, 0, None, 3, 1.0])]); i += 1\n"
        "    print(w.next_seq, flush=True)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    said = 0
    for _ in range(4):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines: Iterator[Any] = iter(process.stdout)
            for _, line in zip(range(150), lines, strict=False):
                assert int(line) > said
                said = int(line)
            process.send_signal(signal.SIGKILL)
            said = max([said, *map(int, process.stdout.readlines())])
    with Writer(tmp_path, "gpu", max_bytes=4000, full="drop") as writer:
        assert writer.next_seq >= said >= 600
        gone = writer.removed
        assert gone.unshipped_rows == gone.end_seq
        assert seqs(tmp_path) == list(range(gone.end_seq, writer.next_seq))
    assert (tmp_path / ".gpu.removed").stat().st_size == 256
