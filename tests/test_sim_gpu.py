"""The simulated GPU's memory and gauges, without any server."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenswarm.sim.gpu import Gpu, Ledger, OutOfVram, Ramp
from tokenswarm.sim.host import PageCache
from tokenswarm.sim.meter import IDLE_BIT, Meter
from tokenswarm.sim.profile import CoTenant, GpuSpec, HostSpec, Model

SPEC = GpuSpec(name="test", vram_total_bytes=1000, vram_reserved_bytes=100, free_lag_s=1.0)

# (claim or release, which process, bytes, seconds until the next step)
steps = st.lists(
    st.tuples(
        st.booleans(), st.integers(1, 5), st.integers(0, 700), st.floats(0, 2, allow_nan=False)
    ),
    max_size=40,
)


@given(steps)
def test_memory_in_use_never_exceeds_the_total_and_all_of_it_comes_back(
    moves: list[tuple[bool, int, int, float]],
) -> None:
    ledger, now, held = Ledger(1000, 100), 0.0, set[int]()
    for claims, pid, size, wait_s in moves:
        if claims and pid not in held:
            try:
                ledger.claim(pid, "m", Ramp(0, size, now, now + 1), now)
                held.add(pid)
            except OutOfVram:
                assert size > ledger.free(now)
        elif not claims and pid in held:
            ledger.release(pid, now, lag_s=1.5)
            held.remove(pid)
        for at in (now, now + wait_s):
            assert 0 <= ledger.used(at) <= ledger.total - ledger.reserved
            assert ledger.free(at) >= 0
        now += wait_s
    for pid in held:
        ledger.release(pid, now, lag_s=1.5)
    assert ledger.used(now + 1.5) == 0
    assert ledger.free(now + 1.5) == 900


def test_memory_of_a_dead_process_comes_back_over_the_lag() -> None:
    ledger = Ledger(1000)
    ledger.claim(7, "m", Ramp(0, 800, 0, 0), 0)
    assert ledger.release(7, 10, lag_s=2) == 800
    assert [ledger.used(t) for t in (10, 11, 12)] == [800, 400, 0]
    assert ledger.claims() == []


def test_a_process_that_loads_counts_with_all_that_it_will_take() -> None:
    ledger = Ledger(1000)
    ledger.claim(7, "m", Ramp(0, 800, 0, 10), 0)
    assert (ledger.used(1), ledger.free(1)) == (80, 200)
    with pytest.raises(OutOfVram, match="300 bytes, 200 are free"):
        ledger.claim(8, "n", Ramp(0, 300, 1, 2), 1)


def test_the_view_splits_memory_as_nvml_v2_does() -> None:
    gpu = Gpu(SPEC, (CoTenant(name="other", vram_bytes=250),), 0.0)
    view = gpu.view(1.0, 123)
    parts = [view[f"vram_{part}_bytes"] for part in ("used", "reserved", "free")]
    assert parts == [250, 100, 650]
    assert view["vram_total_bytes"] == sum(parts)
    assert view["processes"] == [{"pid": 400_001, "vram_used_bytes": 250, "model": "other"}]
    assert "simulated" in view["name"]


def test_weights_come_in_over_pcie_while_memory_fills() -> None:
    gpu = Gpu(SPEC, (), 0.0)
    gpu.ledger.claim(7, "m", Ramp(0, 800, 1, 5), 0)
    shown = [gpu.view(now, 0)["pcie_rx_bytes_per_s"] for now in (0.5, 1.0, 4.9, 5.0)]
    assert shown == [0, 200, 200, 0]
    gpu.ledger.resize(7, Ramp(800, 100, 6, 7), 6)
    assert gpu.view(6.5, 0)["pcie_rx_bytes_per_s"] == 0


def test_streams_share_the_gpu() -> None:
    spec = GpuSpec(name="g", vram_total_bytes=1, other_model_slowdown=0.5, loading_slowdown=2.0)
    gpu = Gpu(spec, (), 0.0)
    gpu.begin_stream("a", 0.0)
    assert gpu.stretch("a", 0.1) == 1.0
    gpu.begin_stream("a", 0.0)
    assert gpu.stretch("a", 0.1) == pytest.approx(1.1)
    gpu.begin_stream("b", 0.0)
    assert gpu.stretch("b", 0.1) == pytest.approx(1.5)
    assert gpu.slowed_by_load("a") == 1.0
    gpu.begin_load("b", 0.0)
    assert (gpu.slowed_by_load("a"), gpu.slowed_by_load("b")) == (2.0, 1.0)
    gpu.end_load("b", 0.0)
    gpu.end_stream("b", 0.0)
    gpu.end_stream("a", 0.0)
    assert gpu.stretch("a", 0.1) == 1.0


def test_energy_is_the_integral_of_power_however_often_it_is_read() -> None:
    spec = GpuSpec(name="g", vram_total_bytes=1, idle_power_w=50.0, max_power_w=250.0)
    once, often = Meter(spec, 0.0), Meter(spec, 0.0)
    for meter in (once, often):
        meter.set_load(4, False, 1.0)
    for i in range(1, 400):
        often.read(1.0 + i / 100)
    last, same = once.read(5.0), often.read(5.0)
    assert last["energy_j"] == pytest.approx(same["energy_j"], rel=1e-6)
    # a second idle, then four seconds near 0.9 of the span, less the lag of one window
    assert last["energy_j"] == pytest.approx(
        50 * 5 + 200 * 0.9 * (4 - spec.util_window_s), rel=1e-3
    )
    assert last["util_ratio"] == pytest.approx(0.9, abs=1e-3)
    assert last["throttle_bits"] == 0


def test_an_idle_gpu_says_so() -> None:
    read = Meter(SPEC, 0.0).read(100.0)
    assert (read["util_ratio"], read["throttle_bits"]) == (0.0, IDLE_BIT)
    assert read["power_w"] == SPEC.idle_power_w
    assert read["sm_clock_hz"] == SPEC.idle_clock_hz


def test_the_page_cache_forgets_the_least_recently_read_file() -> None:
    a, b, c = (Model(name=n, file_bytes=40) for n in "abc")
    cache = PageCache(HostSpec(cache_bytes=100, disk_bytes_per_s=1.0, cache_bytes_per_s=5.0), ())
    for model in (a, b, a, c):
        cache.read(model)
    assert [cache.holds(m) for m in (a, b, c)] == [True, False, True]
    assert (cache.bytes_per_s(a), cache.bytes_per_s(b)) == (5.0, 1.0)
