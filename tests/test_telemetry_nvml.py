"""NVML: units, cards that lack figures, cards that fall off the bus, hosts without a driver."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from tokenswarm.errors import UsageError
from tokenswarm.telemetry.nvml import Nvml
from tokenswarm.telemetry.owner import ATTEMPTS, Owners

MIB = 1 << 20


def has_driver() -> bool:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    pynvml.nvmlShutdown()
    return True


class Card(dict[str, Any]):
    """Answers by NVML call; an int in place of one is the error that the call ends with."""


HEALTHY: dict[str, Any] = {
    "Name": "Some GPU",
    "UUID": "GPU-1",
    "MemoryInfo": SimpleNamespace(total=100 * MIB, free=60 * MIB, used=40 * MIB, reserved=10 * MIB),
    "UtilizationRates": SimpleNamespace(gpu=50, memory=25),
    "PowerUsage": 123_456,
    "ClockInfo": 1_980,
    "Temperature": 41,
    "CurrentClocksThrottleReasons": 4,
    "TotalEnergyConsumption": 5_000,
    "ComputeRunningProcesses": [SimpleNamespace(pid=1, usedGpuMemory=7 * MIB)],
}


class Driver:
    """Stands in for pynvml where the machine has no GPU: same names, errors and constants."""

    def __init__(self, *cards: dict[str, Any]):
        self.cards = cards

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvmlDeviceGet"):
            return getattr(pynvml, name)
        return self._call(name.removeprefix("nvmlDeviceGet"))

    def _call(self, what: str) -> Callable[..., Any]:
        def call(card: dict[str, Any], *_: Any) -> Any:
            answer = card[what]
            if isinstance(answer, pynvml.NVMLError):
                raise answer
            return answer

        return call

    def nvmlInit(self) -> None: ...

    def nvmlShutdown(self) -> None: ...

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.1"

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:
        return self.cards[index]


def error(code: int) -> Any:
    return pynvml.NVMLError(code)


@pytest.fixture
def reader() -> Iterator[Callable[..., Nvml]]:
    opened: list[Nvml] = []

    def open_cards(*cards: dict[str, Any]) -> Nvml:
        opened.append(Nvml(Owners(()), Driver(*cards)))
        return opened[-1]

    yield open_cards
    for nvml in opened:
        nvml.close()


def test_figures_come_in_si_units(reader: Callable[..., Nvml]) -> None:
    (s,) = reader(HEALTHY).sample()
    assert (s.name, s.uuid, s.index) == ("Some GPU", "GPU-1", 0)
    assert (s.vram_total_bytes, s.vram_free_bytes) == (100 * MIB, 60 * MIB)
    assert (s.vram_used_bytes, s.vram_reserved_bytes) == (30 * MIB, 10 * MIB)
    assert (s.util_ratio, s.mem_util_ratio, s.power_w) == (0.5, 0.25, 123.456)
    assert (s.sm_clock_hz, s.temperature_c, s.throttle_bits) == (1_980_000_000, 41.0, 4)
    assert [(p.pid, p.vram_used_bytes, p.model) for p in s.processes] == [(1, 7 * MIB, None)]


def test_energy_goes_with_the_first_sample_after_it_was_read(reader: Callable[..., Nvml]) -> None:
    nvml = reader(HEALTHY)
    found: list[float | None] = []
    until = time.perf_counter() + 5
    while not any(found) and time.perf_counter() < until:
        found.append(nvml.sample()[0].energy_j)
        time.sleep(0.005)
    assert found[-1] == 5.0
    assert nvml.sample()[0].energy_j is None


@pytest.mark.parametrize(
    ("call", "field"),
    [
        ("UtilizationRates", "util_ratio"),  # MIG
        ("PowerUsage", "power_w"),
        ("ClockInfo", "sm_clock_hz"),
        ("Temperature", "temperature_c"),
        ("CurrentClocksThrottleReasons", "throttle_bits"),
        ("MemoryInfo", "vram_used_bytes"),  # integrated GPUs
    ],
)
@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_UNKNOWN])
def test_a_figure_that_fails_is_absent_and_the_others_are_not(
    reader: Callable[..., Nvml], call: str, field: str, code: int
) -> None:
    card = HEALTHY | {call: error(code)}
    nvml = reader(card)
    assert getattr(nvml.sample()[0], field) is None
    assert nvml.sample()[0].name == "Some GPU"
    card[call] = HEALTHY[call]
    again = getattr(nvml.sample()[0], field)
    # what a card lacks is not asked for again; what failed once is
    assert (again is None) == (code == pynvml.NVML_ERROR_NOT_SUPPORTED)


def test_a_process_without_known_memory_is_listed(reader: Callable[..., Nvml]) -> None:
    windows = [SimpleNamespace(pid=1, usedGpuMemory=None)]
    (s,) = reader(HEALTHY | {"ComputeRunningProcesses": windows}).sample()
    assert s.processes[0].vram_used_bytes is None


def test_a_lost_gpu_does_not_stop_the_others(reader: Callable[..., Nvml]) -> None:
    first, second = dict(HEALTHY), HEALTHY | {"UUID": "GPU-2"}
    nvml = reader(first, second)
    assert [s.index for s in nvml.sample()] == [0, 1]
    first["PowerUsage"] = error(pynvml.NVML_ERROR_GPU_IS_LOST)
    assert [(s.index, s.uuid) for s in nvml.sample()] == [(1, "GPU-2")]
    assert [s.index for s in nvml.sample()] == [1]


@pytest.mark.skipif(has_driver(), reason="this host has an NVIDIA driver")
def test_a_host_without_driver_says_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"NVML does not start .*: install the NVIDIA driver"):
        Nvml(Owners(()))


@pytest.mark.skipif(not has_driver(), reason="no NVIDIA driver on this host")
def test_a_real_card_adds_up() -> None:
    nvml = Nvml(Owners(()))
    try:
        for _ in range(3):
            for s in nvml.sample():
                parts = (s.vram_used_bytes, s.vram_free_bytes, s.vram_reserved_bytes)
                assert s.vram_total_bytes == sum(p or 0 for p in parts)
                assert s.vram_used_bytes is not None
                assert s.vram_used_bytes >= 0
    finally:
        nvml.close()


SERVER = "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="no /proc")
@pytest.mark.parametrize(
    ("argument", "model"),
    [
        ("tinyllama-1.1b", "tinyllama-1.1b"),  # --served-model-name NAME
        ("--model=tinyllama-1.1b", "tinyllama-1.1b"),
        ("/models/tinyllama-1.1b", "tinyllama-1.1b"),
        ("/models/tinyllama-1.1b.gguf", "tinyllama-1.1b"),
        ("tinyllama-1.1b-chat", None),  # another model that starts alike
        ("my-tinyllama-1.1b", None),  # or ends alike
    ],
)
def test_a_process_is_known_by_its_command_line(argument: str, model: str | None) -> None:
    argv = [sys.executable, "-c", SERVER, argument]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it runs: before that its command line may be empty
        owners = Owners(("tinyllama-1.1b", "qwen"))
        assert owners.model(process.pid) == model
        process.communicate()
    assert owners.model(process.pid) == model  # remembered, for as long as NVML lists it
    owners.forget_all_but(())
    assert owners.model(process.pid) is None


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="no /proc")
def test_a_child_is_known_by_its_parent() -> None:
    """vLLM's engine renames itself; the server that started it keeps its arguments."""
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SERVER!r}])"
    argv = [sys.executable, "-c", code, "--served-model-name", "qwen"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert Owners(("qwen",)).model(child) == "qwen"
        process.communicate()


def test_a_process_that_says_nothing_yet_is_asked_again_but_not_for_ever(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    line = tmp_path / "7" / "cmdline"
    owners, late = Owners(("qwen",), tmp_path), Owners(("qwen",), tmp_path)
    assert owners.model(7) is None
    assert [late.model(7) for _ in range(ATTEMPTS)] == [None] * ATTEMPTS
    line.write_bytes(b"serve\0qwen\0")
    assert owners.model(7) == "qwen"
    assert late.model(7) is None
