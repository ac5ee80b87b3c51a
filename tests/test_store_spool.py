import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import schema_rows
from tests.schema_rows import tick
from tests.small_disk import small_disk
from tokenswarm.errors import SpoolError
from tokenswarm.store.frame import HEADER_BYTES, MAGIC, unpack
from tokenswarm.store.inventory import Ranges
from tokenswarm.store.spool import (
    Damage,
    Position,
    Reader,
    Writer,
    follow,
    frames,
    inventory,
    rows,
    segments,
)


def written(folder: Path, batches: int = 5, source: str = "w0", **options: Any) -> list[list[Any]]:
    """Write `batches` frames of three rows and return the rows."""
    with Writer(folder, source, **options) as writer:
        start = writer.next_seq
        for i in range(start, start + 3 * batches, 3):
            writer.append([tick(i), tick(i + 1), tick(i + 2)])
    return [tick(i)[1] for i in range(start, start + 3 * batches)]


def read(folder: Path) -> list[list[Any]]:
    return [row for _, _, _, row in rows(folder)]


def only_segment(folder: Path) -> Path:
    (paths,) = segments(folder).values()
    (path,) = paths
    return path


@given(st.lists(schema_rows.pairs(), max_size=4), st.integers(1, 2000))
@settings(deadline=None, max_examples=50)
def test_rows_come_back_as_they_were_whatever_the_segments(
    batches: list[list[schema_rows.Pair]], segment_bytes: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Writer(folder, "w0", segment_bytes=segment_bytes, check=True) as writer:
            for batch in batches:
                writer.append(batch)
        sent = [pair for batch in batches for pair in batch]
        assert [(m, row) for _, _, m, row in rows(folder)] == sent
        assert [seq for _, seq, _, _ in rows(folder)] == list(range(len(sent)))
        assert not any(found.damages or found.gaps for found in inventory(folder).values())


def test_a_folder_that_is_not_there_has_no_rows(tmp_path: Path) -> None:
    assert read(tmp_path / "none") == []
    assert inventory(tmp_path / "none") == {}


def test_a_frame_says_what_was_written_and_where(tmp_path: Path) -> None:
    with Writer(tmp_path, "gpu-a") as writer:
        first, second = writer.append([tick(1)]), writer.append([tick(2), tick(3)])
        assert (first.source, first.first_seq, first.count, first.end) == ("gpu-a", 0, 1, 1)
        assert (second.first_seq, second.count, writer.next_seq) == (1, 2, 3)
        path = only_segment(tmp_path)
        assert writer.held_bytes == path.stat().st_size
        assert path.read_bytes()[second.offset :] == second.data
        assert list(frames(path, [])) == [first, second]


def test_a_segment_ends_where_it_would_grow_past_its_size(tmp_path: Path) -> None:
    sent = written(tmp_path, batches=10, segment_bytes=600)
    paths = segments(tmp_path)["w0"]
    assert [p.name for p in paths[:2]] == ["w0-000000.spool", "w0-000001.spool"]
    assert len(paths) > 2
    assert all(p.stat().st_size <= 600 for p in paths)
    assert read(tmp_path) == sent


def test_a_frame_larger_than_a_segment_gets_one_of_its_own(tmp_path: Path) -> None:
    written(tmp_path, batches=3, segment_bytes=10)
    assert len(segments(tmp_path)["w0"]) == 3


def test_sources_whose_names_end_like_segments_stay_apart(tmp_path: Path) -> None:
    written(tmp_path, 1, source="w")
    written(tmp_path, 2, source="w-000000")
    assert {s: len(p) for s, p in segments(tmp_path).items()} == {"w": 1, "w-000000": 1}
    assert {s: found.rows for s, found in inventory(tmp_path).items()} == {"w": 3, "w-000000": 6}


@pytest.mark.parametrize("source", ["", "W0", "../x", "a/b", "-a", "a" * 62, "a.b"])
def test_a_source_is_a_slug_and_leads_nowhere(tmp_path: Path, source: str) -> None:
    with pytest.raises(SpoolError, match="is no source"):
        Writer(tmp_path, source)


def test_a_segment_cut_anywhere_gives_every_frame_before_the_cut(tmp_path: Path) -> None:
    written(tmp_path / "whole", batches=3)
    path = only_segment(tmp_path / "whole")
    whole, ends = path.read_bytes(), [f.offset + len(f.data) for f in frames(path, [])]
    torn = tmp_path / path.name
    for cut in range(len(whole)):
        torn.write_bytes(whole[:cut])
        damages: list[Damage] = []
        good = list(frames(torn, damages))
        assert len(good) == sum(end <= cut for end in ends)
        last = good[-1].offset + len(good[-1].data) if good else len(MAGIC)
        if cut in (0, len(MAGIC), *ends):
            assert damages == []
        else:
            (damage,) = damages
            assert damage.path == torn
            assert damage.offset == (last if cut > len(MAGIC) else 0)
            assert damage.bytes_lost == cut - damage.offset


def test_a_flipped_byte_anywhere_costs_one_frame_and_is_told_with_its_place(
    tmp_path: Path,
) -> None:
    written(tmp_path, batches=3)
    path = only_segment(tmp_path)
    whole, good = path.read_bytes(), list(frames(path, []))
    starts = [0, *(f.offset for f in good), len(whole)]
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        hit = max(i for i, start in enumerate(starts) if start <= at)
        damages: list[Damage] = []
        # hit 0 is the mark before the first frame
        assert list(frames(path, damages)) == [f for i, f in enumerate(good, 1) if i != hit]
        (damage,) = damages
        assert (damage.path, damage.offset) == (path, starts[hit])
        assert damage.bytes_lost == starts[hit + 1] - starts[hit]
        assert damage.reason


holes = st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=300))


@given(st.lists(holes, min_size=1, max_size=4))
def test_whatever_is_overwritten_every_untouched_frame_is_read(
    damage: list[tuple[int, bytes]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written(folder, batches=8)
        path = only_segment(folder)
        whole, good = path.read_bytes(), list(frames(path, []))
        torn = bytearray(whole)
        for at, text in damage:
            torn[at : at + len(text)] = text
        path.write_bytes(torn)
        damages: list[Damage] = []
        found = list(frames(path, damages))
        spans = [(f, slice(f.offset, f.offset + len(f.data))) for f in good]
        assert found == [f for f, span in spans if torn[span] == whole[span]]
        mark = len(MAGIC) if torn.startswith(MAGIC) else 0
        lost = sum(d.bytes_lost for d in damages)
        assert mark + sum(len(f.data) for f in found) + lost == len(torn)


def test_a_segment_that_ends_in_zeros_gives_what_came_before(tmp_path: Path) -> None:
    sent = written(tmp_path)
    with only_segment(tmp_path).open("ab") as f:
        f.write(bytes(1 << 20))
    assert read(tmp_path) == sent
    (damage,) = inventory(tmp_path)["w0"].damages
    assert damage.bytes_lost == 1 << 20


def test_after_damage_in_the_middle_a_restart_uses_no_number_twice(tmp_path: Path) -> None:
    sent = written(tmp_path, batches=3)
    path = only_segment(tmp_path)
    middle = list(frames(path, []))[1]
    flip(path, middle.offset + HEADER_BYTES)
    with Writer(tmp_path, "w0") as writer:
        assert writer.next_seq == 9
    assert read(tmp_path) == sent[:3] + sent[6:]
    assert inventory(tmp_path)["w0"].gaps == [(3, 6)]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_file_of_another_kind_is_damage_not_rows(tmp_path: Path) -> None:
    (tmp_path / "w0-000000.spool").write_bytes(b"time,model\n1,tinyllama\n")
    (found,) = inventory(tmp_path).values()
    assert (found.rows, found.first_seq, found.last_seq) == (0, None, None)
    assert "not a spool segment" in found.damages[0].reason


def test_a_torn_tail_loses_only_what_was_not_acknowledged(tmp_path: Path) -> None:
    sent = written(tmp_path, batches=2)
    with only_segment(tmp_path).open("ab") as f:
        f.write(b"\x01\x02\x03")
    sent += written(tmp_path, batches=1)
    assert read(tmp_path) == sent
    found = inventory(tmp_path)["w0"]
    assert (found.segments, found.rows, found.gaps) == (2, 9, [])
    assert (found.damages[0].bytes_lost, found.last_seq) == (3, 8)


def test_a_lost_middle_shows_as_a_gap(tmp_path: Path) -> None:
    written(tmp_path, batches=6, segment_bytes=600)
    paths = segments(tmp_path)["w0"]
    lost = [f for f in frames(paths[1], [])]
    paths[1].unlink()
    found = inventory(tmp_path)["w0"]
    assert found.gaps == [(lost[0].first_seq, lost[-1].end)]
    assert found.rows == 18 - sum(f.count for f in lost)


def test_a_restart_goes_on_in_a_new_segment(tmp_path: Path) -> None:
    sent = written(tmp_path) + written(tmp_path) + written(tmp_path)
    assert len(segments(tmp_path)["w0"]) == 3
    assert read(tmp_path) == sent
    with Writer(tmp_path, "w0") as writer:
        assert writer.next_seq == len(sent)
        assert writer.held_bytes == sum(p.stat().st_size for p in tmp_path.glob("*.spool"))


def test_a_writer_killed_with_kill_9_leaves_every_acknowledged_row(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tokenswarm.store.spool import Writer\n"
        "w = Writer(Path(sys.argv[1]), 'w0'); i = 0\n"
        "while True:\n"
        "    w.append([('tick', [i, 'r', 'm', 't', 'e', 'w0', 1, 1, 0, None, 3, 1.0])]); i += 1\n"
        "    print(i, flush=True)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 200:
                break
        process.send_signal(signal.SIGKILL)
        acknowledged = 200 + len(process.stdout.readlines())
    assert len(read(tmp_path)) >= acknowledged
    Writer(tmp_path, "w0").close()  # the lock went with the process


def test_a_second_writer_of_a_source_is_refused_until_the_first_closes(tmp_path: Path) -> None:
    with Writer(tmp_path, "w0"), Writer(tmp_path, "w1"):
        with pytest.raises(SpoolError, match="'w0' has a writer already"):
            Writer(tmp_path, "w0")
        script = (
            "import sys; from pathlib import Path; from tokenswarm.store.spool import Writer\n"
            "Writer(Path(sys.argv[1]), 'w0')"
        )
        other = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True
        )
        assert "has a writer already" in other.stderr
    Writer(tmp_path, "w0").close()


def test_a_folder_that_cannot_be_made_is_said_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match="file/spool"):
        Writer(tmp_path / "file" / "spool", "w0")


def test_a_closed_writer_takes_nothing_and_closes_again(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "w0")
    writer.close()
    writer.close()
    with pytest.raises(SpoolError, match="closed"):
        writer.append([tick(1)])


@pytest.mark.parametrize(
    "bad",
    [
        [],  # nothing to acknowledge
        [("tick", ["\ud800"])],  # a lone surrogate has no UTF-8
        [("tick", [2**64])],  # past every msgpack integer
        [("tick", [object()])],  # no plain value
    ],
)
def test_what_cannot_be_encoded_is_refused_and_costs_nothing(tmp_path: Path, bad: Any) -> None:
    with Writer(tmp_path, "w0") as writer:
        writer.append([tick(0)])
        with pytest.raises(SpoolError):
            writer.append(bad)
        writer.append([tick(1)])
    assert read(tmp_path) == [tick(0)[1], tick(1)[1]]


def test_the_check_names_the_field_before_anything_is_written(tmp_path: Path) -> None:
    with Writer(tmp_path, "w0", check=True) as writer:
        with pytest.raises(SpoolError, match="token_events"):
            writer.append([tick(0), ("tick", [*tick(1)[1][:6], 1.5, *tick(1)[1][7:]])])
        assert writer.next_seq == 0
    assert read(tmp_path) == []


def test_the_limit_on_bytes_counts_earlier_segments(tmp_path: Path) -> None:
    sent = written(tmp_path, batches=2)
    held = only_segment(tmp_path).stat().st_size
    with (
        Writer(tmp_path, "w0", max_bytes=held + 10) as writer,
        pytest.raises(SpoolError, match=f"may hold {held + 10}"),
    ):
        writer.append([tick(6)])
    assert read(tmp_path) == sent


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def append_until_refused(writer: Writer) -> tuple[list[list[Any]], str]:
    """Append ticks one by one; those acknowledged, and what the refusal said."""
    sent: list[list[Any]] = []
    try:
        while len(sent) < 10_000:
            writer.append([tick(len(sent))])
            sent.append(tick(len(sent))[1])
    except SpoolError as e:
        return sent, str(e)
    raise AssertionError("the disk never filled up")


@pytest.mark.parametrize("limit", [0, 3, 8, 20, 250, 300])
def test_a_write_cut_short_by_the_system_is_taken_back(tmp_path: Path, limit: int) -> None:
    with Writer(tmp_path, "w0") as writer:
        with file_size_limit(limit):
            sent, said = append_until_refused(writer)
            assert "append again when there is room" in said
            assert append_until_refused(writer)[0] == []
        assert only_segment(tmp_path).stat().st_size <= limit
        assert writer.next_seq == len(sent)
        assert read(tmp_path) == sent
        writer.append([tick(99)])
    assert read(tmp_path) == [*sent, tick(99)[1]]
    assert inventory(tmp_path)["w0"].damages == []


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 64 * 1024) as folder:
        yield folder


def test_a_full_disk_loses_nothing_acknowledged_and_writing_goes_on(disk: Path) -> None:
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(20_000))
    with Writer(disk / "spool", "w0") as writer:
        sent, said = append_until_refused(writer)
        assert "No space left on device" in said
        assert sent
        assert read(disk / "spool") == sent
        ballast.unlink()
        writer.append([tick(99)])
    assert read(disk / "spool") == [*sent, tick(99)[1]]
    assert inventory(disk / "spool")["w0"].damages == []


def test_frames_over_a_link_arrive_once_in_any_repetition(tmp_path: Path) -> None:
    sent = written(tmp_path / "worker", batches=4)
    data = [f.data for f in Reader(tmp_path / "worker").frames()]
    with Writer(tmp_path / "master", "w0") as copy:
        assert copy.append_frame(data[1]) == 0  # refused: the first is missing
        assert copy.append_frame(data[0]) == 3
        assert copy.append_frame(data[0]) == 3  # known: acknowledged, not written
        assert copy.append_frame(data[2]) == 3  # refused: the second is missing
        assert [copy.append_frame(d) for d in data] == [3, 6, 9, 12]
    with Writer(tmp_path / "master", "w0") as copy:  # the master was restarted
        assert [copy.append_frame(d) for d in data] == [12] * 4
    assert read(tmp_path / "master") == sent
    assert inventory(tmp_path / "master")["w0"].repeated_rows == 0


def test_a_frame_damaged_on_its_way_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "worker", batches=1)
    (frame,) = Reader(tmp_path / "worker").frames()
    with Writer(tmp_path / "master", "w0") as copy:
        for bad in (frame.data[:-1], frame.data + b"x", b"", frame.data[:-1] + b"\xff"):
            with pytest.raises(SpoolError):
                copy.append_frame(bad)
        assert copy.append_frame(frame.data) == 3
    assert unpack("w0", frame.data).rows() == [tick(0), tick(1), tick(2)]
    assert frame.payload == frame.data[HEADER_BYTES:]


def test_rows_in_two_segments_at_once_count_once(tmp_path: Path) -> None:
    sent = written(tmp_path)
    path = only_segment(tmp_path)
    (tmp_path / "w0-000001.spool").write_bytes(path.read_bytes())
    assert read(tmp_path) == sent
    found = inventory(tmp_path)["w0"]
    assert (found.rows, found.repeated_rows) == (15, 15)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)), max_size=12))
def test_ranges_hold_what_a_set_holds(parts: list[tuple[int, int]]) -> None:
    ranges, seen = Ranges(), set[int]()
    for first, length in parts:
        numbers = set(range(first, first + length))
        new = {n for a, b in ranges.add(first, first + length) for n in range(a, b)}
        assert new == numbers - seen
        seen |= numbers
    assert {n for a, b in ranges.spans for n in range(a, b)} == seen
    missing = set(range(max(seen, default=-1) + 1)) - seen
    assert {n for a, b in ranges.gaps() for n in range(a, b)} == missing


def test_following_gives_what_came_since_the_last_call(tmp_path: Path) -> None:
    position = Position()
    assert list(follow(tmp_path, position)) == []
    with Writer(tmp_path, "w0", segment_bytes=300) as w0, Writer(tmp_path, "gpu") as gpu:
        one, two = w0.append([tick(0)]), gpu.append([tick(1)])
        assert list(follow(tmp_path, position, "gpu")) == [two]
        assert list(follow(tmp_path, position)) == [one]
        assert list(follow(tmp_path, position)) == []
        more = [w0.append([tick(i)]) for i in range(2, 30)]
        assert len(segments(tmp_path)["w0"]) > 2
        assert list(follow(tmp_path, position)) == more
    assert position.damages == []


def test_following_waits_for_an_unfinished_tail_and_gives_it_up_with_the_next_segment(
    tmp_path: Path,
) -> None:
    written(tmp_path, batches=2)
    path = only_segment(tmp_path)
    whole, (first, second) = path.read_bytes(), list(frames(path, []))
    position = Position()
    path.write_bytes(whole[:-5])
    assert list(follow(tmp_path, position)) == [first]
    assert list(follow(tmp_path, position)) == []
    path.write_bytes(whole)
    assert list(follow(tmp_path, position)) == [second]
    path.write_bytes(whole + b"torn")
    assert list(follow(tmp_path, position)) == []
    assert position.damages == []
    written(tmp_path, batches=1)
    assert [f.first_seq for f in follow(tmp_path, position)] == [6]
    assert [(d.path, d.offset, d.bytes_lost) for d in position.damages] == [(path, len(whole), 4)]


def test_following_passes_over_damage_as_soon_as_something_comes_after_it(tmp_path: Path) -> None:
    with Writer(tmp_path, "w0") as writer:
        first, second = writer.append([tick(0)]), writer.append([tick(1)])
        flip(only_segment(tmp_path), second.offset)
        position = Position()
        assert list(follow(tmp_path, position)) == [first]
        assert position.damages == []
        third = writer.append([tick(2)])
        assert list(follow(tmp_path, position)) == [third]
        assert list(follow(tmp_path, position)) == []
        (damage,) = position.damages
        assert (damage.offset, damage.bytes_lost) == (second.offset, len(second.data))
        assert position.seen["w0"].gaps() == [(1, 2)]
