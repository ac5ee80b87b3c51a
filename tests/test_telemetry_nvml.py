"""NVML: the real nvidia-ml-py on a stand-in driver. Units, what cards lack, what comes and goes."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pynvml
import pytest

from tests.fake_driver import MIB, FakeDriver, Install, card, install
from tokenswarm import doctor
from tokenswarm.errors import UsageError
from tokenswarm.telemetry.gpu import GpuSample, TelemetryGap
from tokenswarm.telemetry.nvml import reader as nvml_module
from tokenswarm.telemetry.nvml import slow as slow_module
from tokenswarm.telemetry.nvml.card import ACTIVITY_S
from tokenswarm.telemetry.nvml.reader import Nvml
from tokenswarm.telemetry.owners.owner import Owners
from tokenswarm.telemetry.owners.recent import FRESH_S, Recent

__all__ = ["install"]  # a fixture

pytestmark = pytest.mark.live  # the driver is compiled

WAIT_S = 30.0
NOT_SUPPORTED, UNKNOWN = pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_UNKNOWN


@pytest.fixture
def driver(install: Install) -> FakeDriver:
    return install()


@pytest.fixture
def open_nvml() -> Iterator[Callable[..., Nvml]]:
    opened: list[Nvml] = []

    def open_one(**options: Any) -> Nvml:
        opened.append(Nvml(Owners(()), **options))
        return opened[-1]

    yield open_one
    for nvml in opened:
        nvml.close()


Open = Callable[..., Nvml]


def until(nvml: Nvml, wanted: Callable[[list[GpuSample]], bool]) -> list[GpuSample]:
    """Sample until a look is as wanted, and return it; a look without any GPU is an empty one."""
    end = time.perf_counter() + WAIT_S
    while True:
        try:
            samples = nvml.sample()
        except TelemetryGap:
            samples = []
        if wanted(samples):
            return samples
        assert time.perf_counter() < end, f"waited in vain, last seen {samples}"
        time.sleep(0.01)


def slow_one(nvml: Nvml) -> GpuSample:
    """The next sample of GPU 0 with slow figures."""
    return until(nvml, lambda seen: bool(seen) and seen[0].temperature_c is not None)[0]


def test_fast_figures_come_in_si_units(driver: FakeDriver, open_nvml: Open) -> None:
    (s,) = open_nvml().sample()
    assert (s.name, s.uuid, s.index, s.tag) == ("Some GPU", "GPU-gpu0", 0, "0")
    assert (s.vram_total_bytes, s.vram_free_bytes) == (100 * MIB, 60 * MIB)
    assert (s.vram_used_bytes, s.vram_reserved_bytes) == (30 * MIB, 10 * MIB)
    assert (s.util_ratio, s.mem_util_ratio, s.power_w) == (0.5, 0.25, 123.456)
    assert (s.sm_clock_hz, s.mem_clock_hz) == (1_980_000_000, 3_201_000_000)
    assert s.throttle_bits == 4
    assert [(p.pid, p.vram_used_bytes) for p in s.processes] == [(1, 7 * MIB)]


def test_slow_figures_go_with_the_first_sample_after_they_were_read(
    driver: FakeDriver, open_nvml: Open
) -> None:
    driver.says("gpu0.samples.0 = 1000000:100000,2000000:200000")
    nvml = open_nvml(pcie=True)
    s = slow_one(nvml)
    assert (s.energy_j, s.power_instant_w, s.mem_temperature_c) == (5.0, 99.5, 47.0)
    assert (s.temperature_c, s.ecc_corrected, s.ecc_uncorrected) == (41.0, 3, 0)
    assert (s.pcie_tx_bytes_per_s, s.pcie_rx_bytes_per_s) == (7000.0, 9000.0)
    assert s.power_sampled_w is None  # what was sampled before we came belongs to nobody
    (after,) = nvml.sample()
    assert (after.energy_j, after.temperature_c, after.power_w) == (None, None, 123.456)


def test_the_drivers_own_samples_count_once(driver: FakeDriver, open_nvml: Open) -> None:
    driver.says("gpu0.samples.0 = 1000:100000", "gpu0.samples.1 = 1000:10")
    nvml = open_nvml()
    slow_one(nvml)
    driver.says("gpu0.samples.0 = 1000:100000,2000:200000,3000:400000")
    driver.says("gpu0.samples.1 = 2000:20,3000:40")
    (s,) = until(nvml, lambda seen: seen[0].util_sampled_ratio is not None)
    assert (s.power_sampled_w, s.power_sampled_max_w) == (300.0, 400.0)
    assert s.util_sampled_ratio == pytest.approx(0.3)
    again = slow_one(nvml)
    assert (again.power_sampled_w, again.util_sampled_ratio) == (None, None)


def test_memory_is_asked_at_every_look_and_what_costs_more_four_times_a_second(
    driver: FakeDriver, open_nvml: Open
) -> None:
    nvml = open_nvml()
    nvml.sample()
    before, began = driver.calls(), time.perf_counter()
    for _ in range(10):
        nvml.sample()
    asked, turns = driver.calls() - before, (time.perf_counter() - began) / ACTIVITY_S + 1
    assert asked[("gpu0", "nvmlDeviceGetMemoryInfo_v2")] == 10
    for function in ("nvmlDeviceGetUtilizationRates", "nvmlDeviceGetComputeRunningProcesses_v3"):
        assert asked[("gpu0", function)] <= turns


def test_processes_are_listed_at_once_when_memory_moves(
    driver: FakeDriver, open_nvml: Open
) -> None:
    nvml = open_nvml()
    assert [p.pid for p in nvml.sample()[0].processes] == [1]
    driver.says(
        f"gpu0.processes = 1:{7 * MIB},2:{9 * MIB}",
        f"gpu0.memory = {100 * MIB} {10 * MIB} {51 * MIB} {49 * MIB}",
    )
    assert {p.pid for p in nvml.sample()[0].processes} == {1, 2}


FAST = [
    ("gpu0.util", "nvmlDeviceGetUtilizationRates", "util_ratio"),  # MIG
    ("gpu0.power_mw", "nvmlDeviceGetPowerUsage", "power_w"),
    ("gpu0.sm_mhz", "nvmlDeviceGetClockInfo", "sm_clock_hz"),
    ("gpu0.throttle", "nvmlDeviceGetCurrentClocksEventReasons", "throttle_bits"),
]


@pytest.mark.parametrize(("key", "function", "field"), FAST)
def test_a_figure_that_a_card_lacks_is_absent_and_not_asked_for_again(
    driver: FakeDriver, open_nvml: Open, key: str, function: str, field: str
) -> None:
    driver.lacks(key)
    nvml = open_nvml()
    (first,) = nvml.sample()
    asked = driver.calls()
    there = ("gpu0", next(f for _, f, _ in FAST if f != function))
    until(nvml, lambda _: driver.calls()[there] == asked[there] + 3)
    others = 3 if function == "nvmlDeviceGetClockInfo" else 0  # the memory's clock is there
    assert driver.calls()[("gpu0", function)] == asked[("gpu0", function)] + others
    assert getattr(first, field) is None
    assert first.vram_used_bytes == 30 * MIB
    assert next(iter(nvml.about()["gpus"]))["absent"]


@pytest.mark.parametrize(("key", "function", "field"), FAST)
def test_a_figure_that_failed_once_is_asked_for_again(
    driver: FakeDriver, open_nvml: Open, key: str, function: str, field: str
) -> None:
    nvml = open_nvml()
    driver.says(f"gpu0.error.{function} = {UNKNOWN}")
    assert getattr(nvml.sample()[0], field) is None
    driver.says(f"gpu0.error.{function} = 0")
    until(nvml, lambda seen: getattr(seen[0], field) is not None)


@pytest.mark.parametrize(
    ("key", "field"),
    [
        ("gpu0.field.83", "energy_j"),  # before Volta
        ("gpu0.field.82", "mem_temperature_c"),  # GDDR without a sensor
        ("gpu0.ecc_corrected", "ecc_corrected"),  # a card for games
        ("gpu0.temperature_c", "temperature_c"),
    ],
)
def test_a_slow_figure_that_a_card_lacks_is_absent(
    driver: FakeDriver, open_nvml: Open, key: str, field: str
) -> None:
    driver.lacks(key)
    (s,) = until(open_nvml(), lambda seen: seen[0].power_instant_w is not None)
    assert getattr(s, field) is None
    assert s.ecc_uncorrected == 0


def test_energy_has_a_call_of_its_own_where_it_is_no_field(
    driver: FakeDriver, open_nvml: Open
) -> None:
    driver.lacks("gpu0.field.83")
    driver.says("gpu0.energy_mj = 7000")
    assert slow_one(open_nvml()).energy_j == 7.0


def test_pcie_throughput_is_read_only_when_asked_for(driver: FakeDriver, open_nvml: Open) -> None:
    s = slow_one(open_nvml())
    assert (s.pcie_tx_bytes_per_s, s.pcie_rx_bytes_per_s) == (None, None)
    assert driver.calls()[("gpu0", "nvmlDeviceGetPcieThroughput")] == 0


def test_a_slow_call_does_not_hold_up_the_fast_ones(driver: FakeDriver, open_nvml: Open) -> None:
    nvml = open_nvml()
    slow_one(nvml)
    asked = driver.calls()[("gpu0", "nvmlDeviceGetFieldValues")]
    driver.says("gpu0.delay_us.nvmlDeviceGetFieldValues = 2000000")
    until(nvml, lambda _: driver.calls()[("gpu0", "nvmlDeviceGetFieldValues")] > asked)
    taken = [nvml.sample()[0].temperature_c for _ in range(20)]
    # the slow thread is still in its call: it has read nothing since
    assert taken == [None] * 20
    driver.says("gpu0.delay_us.nvmlDeviceGetFieldValues = 0")
    slow_one(nvml)


@pytest.mark.parametrize(
    ("without", "used", "reserved"),
    [
        ((), 30, 10),
        (("nvmlDeviceGetMemoryInfo_v2",), 40, None),  # version 1 counts reserved as used
    ],
)
def test_an_older_drivers_memory_call_is_used(
    install: Install, open_nvml: Open, without: tuple[str, ...], used: int, reserved: int | None
) -> None:
    install(*without)
    (s,) = open_nvml().sample()
    assert s.vram_used_bytes == used * MIB
    assert s.vram_reserved_bytes == (None if reserved is None else reserved * MIB)
    assert s.vram_free_bytes == 60 * MIB


def test_an_older_drivers_names_of_calls_are_used(install: Install, open_nvml: Open) -> None:
    install(
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetGraphicsRunningProcesses_v3",
        "nvmlDeviceGetCurrentClocksEventReasons",
    )
    (s,) = open_nvml().sample()
    assert s.throttle_bits == 4
    assert [(p.pid, p.vram_used_bytes) for p in s.processes] == [(1, 7 * MIB)]


BEYOND_MEMORY = (
    "nvmlSystemGetNVMLVersion",
    "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetFieldValues",
    "nvmlDeviceGetSamples",
    "nvmlDeviceGetTotalEccErrors",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetCurrentClocksEventReasons",
    "nvmlDeviceGetCurrentClocksThrottleReasons",
    "nvmlDeviceGetTotalEnergyConsumption",
    "nvmlEventSetCreate",
)


def test_a_driver_with_the_bare_minimum_still_gives_memory(
    install: Install, open_nvml: Open
) -> None:
    driver = install(*BEYOND_MEMORY)
    driver.says("gpu0.energy_mj = 1")
    nvml = open_nvml()
    s = slow_one(nvml)
    assert (s.vram_used_bytes, s.power_w, s.energy_j) == (30 * MIB, None, None)
    assert nvml.about()["nvml"] == "of unknown version"


def test_a_process_that_computes_and_draws_counts_once(driver: FakeDriver, open_nvml: Open) -> None:
    driver.says("gpu0.processes = 7:100,8:200", "gpu0.graphics = 8:none,9:50")
    (s,) = open_nvml().sample()
    assert {p.pid: p.vram_used_bytes for p in s.processes} == {7: 100, 8: 200, 9: 50}


def test_many_processes_are_all_listed(driver: FakeDriver, open_nvml: Open) -> None:
    driver.says("gpu0.processes = " + ",".join(f"{pid}:{pid}" for pid in range(100, 140)))
    assert len(open_nvml().sample()[0].processes) == 40


def test_a_process_without_known_memory_is_listed(driver: FakeDriver, open_nvml: Open) -> None:
    driver.says("gpu0.processes = 5:none")  # Windows' driver model
    (s,) = open_nvml().sample()
    assert [(p.pid, p.vram_used_bytes) for p in s.processes] == [(5, None)]


def test_on_wsl2_there_are_figures_but_no_processes(driver: FakeDriver, open_nvml: Open) -> None:
    for key in ("processes", "graphics", "field.83", "ecc_corrected", "ecc_uncorrected"):
        driver.lacks(f"gpu0.{key}")
    nvml = open_nvml()
    s = slow_one(nvml)
    assert (s.processes, s.vram_used_bytes, s.power_w) == ((), 30 * MIB, 123.456)
    assert {"processes", "graphics processes"} <= set(nvml.about()["gpus"][0]["absent"])


def test_an_integrated_gpu_without_memory_of_its_own_gives_the_rest(
    driver: FakeDriver, open_nvml: Open
) -> None:
    driver.lacks("gpu0.memory")
    (s,) = open_nvml().sample()
    assert (s.vram_used_bytes, s.vram_total_bytes, s.power_w) == (None, None, 123.456)


@pytest.fixture
def two(driver: FakeDriver) -> FakeDriver:
    driver.says("count = 2", card("gpu1"), "gpu1.power_mw = 1000")
    return driver


def indices(samples: list[GpuSample]) -> list[int]:
    return [s.index for s in samples]


def test_every_gpu_is_sampled(two: FakeDriver, open_nvml: Open) -> None:
    samples = open_nvml().sample()
    assert [(s.tag, s.uuid, s.power_w) for s in samples] == [
        ("0", "GPU-gpu0", 123.456), ("1", "GPU-gpu1", 1.0),
    ]  # fmt: skip


def test_a_lost_gpu_does_not_stop_the_others_and_is_taken_again(
    two: FakeDriver, open_nvml: Open
) -> None:
    nvml = open_nvml()
    two.says("gpu0.lost = 1")
    assert indices(nvml.sample()) == [1]
    assert nvml.lost == ("0",)
    asked = two.calls()[("gpu0", "nvmlDeviceGetPowerUsage")]
    assert [indices(nvml.sample()) for _ in range(5)] == [[1]] * 5
    assert two.calls()[("gpu0", "nvmlDeviceGetPowerUsage")] == asked  # it is left alone
    two.says("gpu0.lost = 0")
    back = until(nvml, lambda seen: indices(seen) == [0, 1])[0]
    assert (back.power_w, back.uuid) == (123.456, "GPU-gpu0")
    assert slow_one(nvml).energy_j == 5.0
    assert not nvml.lost
    two.says("event = gpu0 31")  # its events are listened to again
    assert until(nvml, lambda seen: any(s.xid for s in seen))[0].xid == 31


def test_a_gpu_that_only_a_new_start_of_nvml_brings_back(
    two: FakeDriver, open_nvml: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml_module, "RESTART_S", 0.1)
    monkeypatch.setattr(nvml_module, "RETAKE_S", 0.1)
    nvml = open_nvml()
    two.says("gpu0.sticky = 1", "gpu0.lost = 1")
    assert indices(nvml.sample()) == [1]
    two.says("gpu0.lost = 0")
    until(nvml, lambda seen: indices(seen) == [0, 1])
    assert two.calls()[("-", "nvmlInitWithFlags")] >= 2
    two.says("event = gpu0 31")  # events are listened to again
    assert until(nvml, lambda seen: any(s.xid for s in seen))[0].xid == 31


def test_a_driver_that_is_loaded_anew_is_taken_again(
    driver: FakeDriver, open_nvml: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml_module, "RESTART_S", 0.1)
    monkeypatch.setattr(nvml_module, "RETAKE_S", 0.1)
    nvml = open_nvml()
    gone = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    driver.says(f"gpu0.error.nvmlDeviceGetPowerUsage = {gone}")
    driver.says(f"gpu0.error.nvmlDeviceGetMemoryInfo = {gone}")
    driver.says(f"error.nvmlInitWithFlags = {gone}")
    begun = driver.calls()[("-", "nvmlInitWithFlags")]
    until(nvml, lambda seen: driver.calls()[("-", "nvmlInitWithFlags")] > begun)
    assert until(nvml, lambda seen: True) == []
    driver.says("error.nvmlInitWithFlags = 0")
    driver.says("gpu0.error.nvmlDeviceGetPowerUsage = 0", "gpu0.error.nvmlDeviceGetMemoryInfo = 0")
    assert until(nvml, lambda seen: indices(seen) == [0])[0].power_w == 123.456


def test_a_driver_that_hangs_is_left_alone_at_the_end(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_module, "STOP_S", 0.05)
    nvml = Nvml(Owners(()))
    slow_one(nvml)
    asked = driver.calls()[("gpu0", "nvmlDeviceGetTemperature")]
    driver.says("gpu0.delay_us.nvmlDeviceGetTemperature = 1000000")
    until(nvml, lambda _: driver.calls()[("gpu0", "nvmlDeviceGetTemperature")] > asked)
    nvml.close()
    assert driver.calls()[("-", "nvmlShutdown")] == 0
    monkeypatch.setattr(slow_module, "STOP_S", WAIT_S)
    nvml.close()
    assert driver.calls()[("-", "nvmlShutdown")] == 1


def test_a_gpu_that_was_lost_before_the_start_is_taken_when_it_comes(
    two: FakeDriver, open_nvml: Open
) -> None:
    two.says("gpu0.lost = 1")
    nvml = open_nvml()
    assert indices(nvml.sample()) == [1]
    assert nvml.costs  # of the one that answered
    two.says("gpu0.lost = 0")
    samples = until(nvml, lambda seen: indices(seen) == [0, 1])
    assert samples[0].name == "Some GPU"


def test_a_host_whose_only_gpu_is_lost_has_a_gap(driver: FakeDriver, open_nvml: Open) -> None:
    nvml = open_nvml()
    driver.says("gpu0.lost = 1")
    with pytest.raises(TelemetryGap, match="no GPU answers: 0 fell off the bus"):
        nvml.sample()
    driver.says("gpu0.lost = 0")
    until(nvml, lambda seen: indices(seen) == [0])


def test_every_xid_is_in_one_sample_of_its_gpu(two: FakeDriver, open_nvml: Open) -> None:
    nvml = open_nvml()
    two.says("event = gpu1 31", "event = gpu1 43", "event = gpu0 13")
    seen: list[tuple[int, int]] = []
    end = time.perf_counter() + WAIT_S
    while len(seen) < 3 and time.perf_counter() < end:
        seen += [(s.index, s.xid) for s in nvml.sample() if s.xid is not None]
    assert sorted(seen) == [(0, 13), (1, 31), (1, 43)]
    assert [x for i, x in seen if i == 1] == [31, 43]
    assert all(s.xid is None for s in nvml.sample())


def test_a_lost_gpus_last_words_are_its_xid_alone(two: FakeDriver, open_nvml: Open) -> None:
    nvml = open_nvml()
    two.says("gpu0.lost = 1")
    nvml.sample()
    two.says("event = gpu0 79")
    last = until(nvml, lambda seen: indices(seen) == [0, 1])[0]
    assert (last.xid, last.uuid) == (79, "GPU-gpu0")
    assert (last.vram_used_bytes, last.power_w, last.processes) == (None, None, ())
    assert indices(nvml.sample()) == [1]


MIG = (
    "gpu0.mig = 1",
    "gpu0-mig-1.uuid = MIG-1",
    "gpu0-mig-1.name = Some GPU MIG 1g",
    f"gpu0-mig-1.memory = {20 * MIB} {MIB} {9 * MIB} {11 * MIB}",
    f"gpu0-mig-1.processes = 11:{5 * MIB}",
    "gpu0-mig-1.power_mw = 123456",
    "gpu0-mig-1.sm_mhz = 1980",
)


def test_each_mig_instance_has_a_tag_memory_and_processes_of_its_own(
    driver: FakeDriver, open_nvml: Open
) -> None:
    driver.lacks("gpu0.util")
    driver.says(*MIG, "gpu0-mig-4.uuid = MIG-4", f"gpu0-mig-4.memory = {8 * MIB} 0 {8 * MIB} 0")
    whole, one, four = open_nvml().sample()
    assert [s.tag for s in (whole, one, four)] == ["0", "0-mig-1", "0-mig-4"]
    assert (whole.processes, whole.util_ratio, whole.power_w) == ((), None, 123.456)
    assert [(p.pid, p.vram_used_bytes) for p in one.processes] == [(11, 5 * MIB)]
    assert (one.vram_used_bytes, one.vram_total_bytes, one.uuid) == (10 * MIB, 20 * MIB, "MIG-1")
    assert (one.power_w, one.sm_clock_hz) == (None, None)  # they are the whole card's
    assert four.vram_used_bytes == 0


def test_mig_instances_come_and_go(
    driver: FakeDriver, open_nvml: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml_module, "INSTANCES_S", 0.1)
    driver.says("gpu0.mig = 1")
    nvml = open_nvml()
    assert [s.tag for s in nvml.sample()] == ["0"]
    driver.says(*MIG)
    until(nvml, lambda seen: [s.tag for s in seen] == ["0", "0-mig-1"])
    for line in MIG[1:]:
        driver.lacks(line.partition(" = ")[0])
    until(nvml, lambda seen: [s.tag for s in seen] == ["0"])


def test_the_cost_of_each_call_is_measured_at_the_start(
    driver: FakeDriver, open_nvml: Open
) -> None:
    driver.lacks("gpu0.util")
    driver.says("gpu0.delay_us.nvmlDeviceGetPowerUsage = 2000")
    about = open_nvml().about()
    costs = {c["call"]: c for c in about["calibration"]}
    assert (about["kind"], about["driver"], about["nvml"]) == ("nvml", "580.1", "13.580")
    assert costs["power"]["median_s"] >= 0.002
    assert costs["power"]["max_s"] >= costs["power"]["median_s"]
    assert costs["power"]["calls"] < costs["memory"]["calls"]  # what takes long is asked less
    assert costs["utilisation"]["median_s"] is None
    assert {"fields", "temperature", "ECC corrected"} <= {
        name for name, c in costs.items() if c["tier"] == "slow"
    }


def test_a_driver_that_does_not_start_says_what_to_do(driver: FakeDriver) -> None:
    driver.says(f"error.nvmlInitWithFlags = {pynvml.NVML_ERROR_DRIVER_NOT_LOADED}")
    with pytest.raises(UsageError, match=r"NVML does not start .*Driver Not Loaded.*: install"):
        Nvml(Owners(()))


def test_a_driver_without_a_gpu_says_what_to_do(driver: FakeDriver) -> None:
    driver.says("count = 0")
    with pytest.raises(UsageError, match=r"lists no GPU: give the container its GPUs"):
        Nvml(Owners(()))


def test_a_host_without_driver_says_what_to_do(tmp_path: Path) -> None:
    code = (
        "from tokenswarm.telemetry.nvml.reader import Nvml\n"
        "from tokenswarm.telemetry.owners.owner import Owners\n"
        "Nvml(Owners(()))"
    )
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    done = subprocess.run(
        [sys.executable, "-c", code], env={"LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "UsageError: NVML does not start on this host" in done.stderr
    assert "telemetry.gpu.source to none" in done.stderr


def test_doctor_shows_the_cards_or_that_none_answers(driver: FakeDriver) -> None:
    assert doctor._driver("").text == "driver 580.1, 0: Some GPU 0 GiB"
    driver.says("gpu0.lost = 1")
    assert doctor._driver("").text == "driver 580.1, no GPU answers: 0 fell off the bus"


def test_the_calibration_tool_prints_costs_and_both_tiers(install: Install) -> None:
    driver = install()
    command = [sys.executable, "-m", "tokenswarm.telemetry.nvml.calibrate"]
    done = subprocess.run(
        [*command, "--seconds", "0.6", "--hz", "50"], env=driver.env,
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    shown = {row[0].removeprefix("| "): row[1:] for row in rows}
    assert shown["power"][0] == "fast"
    assert int(shown["samples"][0]) >= 2
    assert shown["CPU of the thread, share of a core"][0].endswith("%")
    assert "Driver 580.1" in done.stdout


@pytest.mark.gpu
@pytest.mark.skipif(not Path("/dev/nvidiactl").exists(), reason="no NVIDIA driver on this host")
def test_a_real_card_adds_up() -> None:
    nvml = Nvml(Owners(()))
    try:
        for _ in range(3):
            for s in nvml.sample():
                parts = (s.vram_used_bytes, s.vram_free_bytes, s.vram_reserved_bytes)
                assert s.vram_total_bytes == sum(p or 0 for p in parts)
                assert s.vram_used_bytes is not None
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


def test_a_process_that_is_known_is_looked_up_twice_a_second(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    line, now = tmp_path / "7" / "cmdline", [0.0]
    owners = Owners(("qwen", "yi"), tmp_path)
    recent = Recent(owners, lambda: now[0])
    assert recent.resolve(7).model is None
    line.write_bytes(b"serve\0qwen\0")
    assert recent.resolve(7).model == "qwen"  # at once, as it was not known
    line.write_bytes(b"serve\0yi\0")
    owners.forget_all_but(())
    assert recent.resolve(7).model == "qwen"
    now[0] += FRESH_S
    assert recent.resolve(7).model == "yi"
    line.write_bytes(b"serve\0qwen\0")
    recent.forget_all_but(())
    assert recent.resolve(7).model == "qwen"
