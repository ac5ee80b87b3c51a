"""A recorded trace played again: the H200's, and traces that are none."""

from pathlib import Path

import pytest

from tokenswarm.errors import UsageError
from tokenswarm.telemetry.config import Gpu
from tokenswarm.telemetry.gpu import TelemetryGap
from tokenswarm.telemetry.open import open_gpu
from tokenswarm.telemetry.replay import Replay

H200 = Path(__file__).parent / "data" / "vllm-0.24.0-h200" / "gpu_trace.csv"
MIB = 1 << 20
TWO = "unix_s,gpu,vram_used_bytes,power_w\n10,0,100,\n10.5,0-mig-1,7,3\n11,0,200,60.5\n"


class Hands:
    """A clock whose hands are moved by hand."""

    def __init__(self) -> None:
        self.at_s = 1000.0

    def __call__(self) -> float:
        return self.at_s


def written(folder: Path, text: str) -> Path:
    trace = folder / "trace.csv"
    trace.write_text(text)
    return trace


def test_the_h200s_memory_is_played_at_its_own_pace() -> None:
    hands = Hands()
    reader = Replay(H200, clock=hands)
    (first,) = reader.sample()
    assert (first.tag, first.vram_used_bytes, first.power_w) == ("0", 615 * MIB, 77.39)
    assert (first.util_ratio, first.vram_total_bytes, first.processes) == (0.0, None, ())
    played = []
    for _ in range(int(reader.length_s)):
        hands.at_s += 1
        played.append(reader.sample()[0].vram_used_bytes)
    # three models of 9,038, 12,988 and 23,150 MiB, and level-2 sleeps of all of them
    assert max(p or 0 for p in played) > 45_000 * MIB
    assert played[-1] is not None
    hands.at_s += 2
    with pytest.raises(TelemetryGap, match="has ended"):
        reader.sample()


def test_a_trace_can_be_played_from_a_later_second_on() -> None:
    hands = Hands()
    whole, late = Replay(H200, clock=Hands()), Replay(H200, 250.0, hands)
    assert late.sample() == whole.at(250.0)
    hands.at_s += 30
    assert late.sample() == whole.at(280.0)


def test_every_gpu_shows_its_last_row_until_the_next_one(tmp_path: Path) -> None:
    reader = Replay(written(tmp_path, TWO))
    assert [(s.tag, s.vram_used_bytes, s.power_w) for s in reader.at(0.4)] == [("0", 100, None)]
    assert [(s.tag, s.vram_used_bytes) for s in reader.at(0.6)] == [("0", 100), ("0-mig-1", 7)]
    assert [(s.tag, s.power_w) for s in reader.at(1.0)] == [("0", 60.5), ("0-mig-1", 3.0)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "unix_s or time_s"),
        ("unix_s,memory_used_mib\n", "holds no rows"),
        ("when,memory_used_mib\n1,2\n", "unix_s or time_s"),
        ("unix_s,colour\n1,red\n", "a figure such as power_w"),
        ("unix_s,power_w\n1,many\n", "line 2: could not convert"),
        ("unix_s,power_w\n2,1\n1,1\n", "line 3: time steps back"),
        ("unix_s,power_w\n1\n", "line 2"),  # a line that was cut off
        ("unix_s,power_w\n1,nan\n", "line 2"),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Replay(written(tmp_path, text))


def test_a_trace_that_is_not_there_or_too_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        Replay(tmp_path / "none.csv")
    with pytest.raises(UsageError, match=r"from second 9: it is 1\.0 s long"):
        Replay(written(tmp_path, TWO), 9)


def test_it_is_opened_by_configuration() -> None:
    reader = open_gpu(Gpu(source="replay", trace=str(H200), trace_from_s=5))
    assert reader is not None
    assert (reader.kind, reader.about()["from_s"]) == ("replay", 5)
    reader.close()
    with pytest.raises(UsageError, match="no trace is named"):
        open_gpu(Gpu(source="replay"))
