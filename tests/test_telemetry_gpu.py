"""What a look at a GPU becomes: rows of the schema, in strictly increasing time."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.canned_server import Canned, canned_server
from tokenswarm.errors import UsageError
from tokenswarm.store.row import Monotonic, check_row
from tokenswarm.store.schema import GPU, GPU_PROCESS
from tokenswarm.telemetry.gpu import GpuProcess, GpuSample, TelemetryGap, rows
from tokenswarm.telemetry.row import row
from tokenswarm.telemetry.simulated import SimulatedGpu

SLUGS = {"qwen2.5:3b": "qwen"}
VIEW = (
    b'[{"index":0,"name":"X (simulated)","uuid":"GPU-1","vram_total_bytes":100,'
    b'"vram_used_bytes":60,"vram_reserved_bytes":10,"vram_free_bytes":30,"util_ratio":0.5,'
    b'"power_w":30,"sm_clock_hz":180000000,"throttle_bits":1,"new_figure":7,"unix_ns":5,'
    b'"processes":[{"pid":400001,"vram_used_bytes":50,"model":"qwen2.5:3b"}]}]'
)


def cells(pair: tuple[str, list[Any]]) -> dict[str, Any]:
    measurement = {"gpu": GPU, "gpu_process": GPU_PROCESS}[pair[0]]
    return dict(zip(measurement.columns, pair[1], strict=True))


def test_every_row_fits_the_schema_and_times_strictly_increase() -> None:
    processes = tuple(GpuProcess(pid=p, vram_used_bytes=p, model=None) for p in (7, 8))
    both = [GpuSample(index=i, power_w=1.5, processes=processes) for i in (0, 1)]
    stamp = Monotonic()
    out = [
        pair
        for when_ns in (1000, 1002, 5000)  # the second look falls among the first one's rows
        for pair in rows(both, when_ns, stamp, "nvml", "r", "h", {})
    ]
    times = [pair[1][0] for pair in out]
    assert times == sorted(set(times))
    assert times[-6:] == [5000, 5001, 5002, 5003, 5004, 5005]
    for measurement, values in out:
        check_row(measurement, values)


def test_every_figure_of_a_sample_is_in_the_column_of_its_name() -> None:
    figures: dict[str, Any] = {f.name: n for n, f in enumerate(GPU.fields[:-1], 1)}
    sample = GpuSample(index=2, processes=(GpuProcess(pid=9, vram_used_bytes=8),), **figures)
    gpu, process = map(cells, rows([sample], 5, Monotonic(), "nvml", "r", "h", {}))
    assert gpu == figures | {
        "time_ns": 5, "run_id": "r", "host": "h", "gpu": "2", "source": "nvml",
    }  # fmt: skip
    assert process == {
        "time_ns": 6, "run_id": "r", "host": "h", "gpu": "2", "model": "none",
        "container": "none", "pid": 9, "vram_used_bytes": 8,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("model", "tag"),
    [
        ("qwen2.5:3b", "qwen"),  # the scenario's slug
        ("Other Model:1b", "other-model-1b"),  # not in the scenario
        (None, "none"),  # nobody knows
    ],
)
def test_a_process_carries_its_models_slug(model: str | None, tag: str) -> None:
    sample = GpuSample(index=3, processes=(GpuProcess(pid=9, model=model),))
    gpu, process = map(cells, rows([sample], 1, Monotonic(), "sim", "r", "h", SLUGS))
    assert (process["model"], process["container"], process["gpu"], process["pid"]) == (
        tag, "none", "3", 9,
    )  # fmt: skip
    assert (gpu["gpu"], gpu["source"], gpu["vram_used_bytes"]) == ("3", "sim", None)


def test_a_row_takes_only_what_the_schema_knows() -> None:
    with pytest.raises(TypeError, match="gpu has no colour"):
        row(GPU, 1, run_id="r", host="h", gpu="0", colour="red")
    with pytest.raises(KeyError, match="gpu"):
        row(GPU, 1, run_id="r", host="h")


@pytest.fixture
def control() -> Iterator[Canned]:
    with canned_server({"/gpu": VIEW}) as canned:
        yield canned


def test_the_control_port_is_read_and_unknown_figures_are_ignored(control: Canned) -> None:
    reader = SimulatedGpu(control.url)
    try:
        (sample,) = reader.sample()
        (again,) = reader.sample()
    finally:
        reader.close()
    assert again == sample
    assert reader.about() == {"kind": "sim", "control_url": control.url}
    assert (sample.power_w, sample.util_ratio, sample.mem_util_ratio) == (30.0, 0.5, None)
    assert sample.processes == (GpuProcess(pid=400001, vram_used_bytes=50, model="qwen2.5:3b"),)


@pytest.mark.parametrize("answer", [(503, b"busy"), (200, b"<html>"), (200, b'[{"index":"x"}]')])
def test_a_look_that_fails_is_a_gap_and_the_next_one_works(
    control: Canned, answer: tuple[int, bytes]
) -> None:
    reader = SimulatedGpu(control.url)
    try:
        control.answers["/gpu"] = answer
        with pytest.raises(TelemetryGap, match="/gpu: "):
            reader.sample()
        control.answers["/gpu"] = VIEW
        assert len(reader.sample()) == 1
    finally:
        reader.close()


def test_a_control_port_that_has_gone_is_a_gap() -> None:
    with canned_server({"/gpu": VIEW}) as canned:
        reader = SimulatedGpu(canned.url, timeout_s=0.2)
        reader.close()
    with pytest.raises(TelemetryGap):
        reader.sample()


def test_a_control_port_is_a_url() -> None:
    with pytest.raises(UsageError, match="is no control port"):
        SimulatedGpu("file:///dev/nvidia0")
