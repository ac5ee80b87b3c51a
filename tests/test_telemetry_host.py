"""The host's own figures, and the memory of engines that run on its CPU."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.llama_server import llama_server
from tokenswarm.clock import Clock
from tokenswarm.errors import UsageError
from tokenswarm.store.row import check_row
from tokenswarm.store.schema import HOST
from tokenswarm.telemetry.config import Gpu
from tokenswarm.telemetry.host import HostFeed, HostReader, disk_of, memory_of, network_of
from tokenswarm.telemetry.hostgpu import HostGpu, Memory
from tokenswarm.telemetry.open import open_gpu
from tokenswarm.telemetry.owners.owner import Owner, Owners

MIB = 1 << 20
linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")

STAT = "cpu  100 0 100 {idle} {waiting} 0 0 0 9 9\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
MEMINFO = "MemTotal: 1000 kB\nMemAvailable: 600 kB\nCached: 300 kB\nShmem: 100 kB\nHugePages: 0\n"
DISKS = (
    "   7 0 loop0 9 0 999 0 9 0 999 0 0 0 0\n"
    " 254 0 vda 9 0 {read} 0 9 0 {written} 0 0 0 0\n"
    " 254 1 vda1 9 0 {read} 0 9 0 {written} 0 0 0 0\n"
    " 253 0 dm-0 9 0 {read} 0 9 0 {written} 0 0 0 0\n"
)
NET = (
    "Inter-|   Receive |  Transmit\n face |bytes packets errs\n"
    "    lo: 999 0 0 0 0 0 0 0 999 0 0 0 0 0 0 0\n"
    "  eth0:{received} 0 0 0 0 0 0 0 {sent} 0 0 0 0 0 0 0\n"
    "docker0: 999 0 0 0 0 0 0 0 999 0 0 0 0 0 0 0\n"
)


class Host:
    """A `/proc` and a `/sys` on disk, whose counters are turned by hand."""

    def __init__(self, folder: Path):
        self.proc, self.sys = folder / "proc", folder / "sys"
        (self.proc / "net").mkdir(parents=True)
        for device in ("block/vda/device", "class/net/eth0/device", "block/loop0", "block/dm-0"):
            (self.sys / device).mkdir(parents=True)
        (self.proc / "meminfo").write_text(MEMINFO)

    def count(
        self, idle: int, waiting: int, read: int, written: int, received: int, sent: int
    ) -> None:
        (self.proc / "stat").write_text(STAT.format(idle=idle, waiting=waiting))
        (self.proc / "diskstats").write_text(DISKS.format(read=read, written=written))
        (self.proc / "net" / "dev").write_text(NET.format(received=received, sent=sent))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path)
    host.count(800, 0, 10, 20, 100, 200)
    return host


def test_the_first_look_has_memory_and_no_rates(host: Host) -> None:
    s = HostReader(host.proc, host.sys).sample()
    assert (s.memory_total_bytes, s.memory_used_bytes) == (1000 << 10, 400 << 10)
    assert s.page_cache_bytes == 200 << 10  # what is shared is no cache
    assert (s.cpu_ratio, s.disk_read_bytes_per_s, s.network_sent_bytes_per_s) == (None, None, None)


def test_rates_are_over_the_time_between_two_looks(host: Host) -> None:
    reader = HostReader(host.proc, host.sys)
    began = time.perf_counter()
    reader.sample()
    time.sleep(0.01)
    host.count(850, 25, 10 + 8, 20 + 2, 100 + 7000, 200 + 1400)
    s = reader.sample()
    passed = time.perf_counter() - began
    # 75 ticks passed, all of them idle, 25 of those waiting for a disk
    assert s.cpu_ratio == 0.0
    assert s.cpu_iowait_ratio == pytest.approx(1 / 3)
    read, written = s.disk_read_bytes_per_s, s.disk_written_bytes_per_s
    received, sent = s.network_received_bytes_per_s, s.network_sent_bytes_per_s
    assert read is not None
    assert written is not None
    assert received is not None
    assert sent is not None
    assert 0.01 <= 8 * 512 / read <= passed  # the whole disk alone, in sectors of 512 bytes
    assert read / written == pytest.approx(4)
    assert 0.01 <= 7000 / received <= passed  # the card alone: no loopback, no bridge
    assert received / sent == pytest.approx(5)


def test_a_counter_that_went_back_is_no_rate(host: Host) -> None:
    reader = HostReader(host.proc, host.sys)
    reader.sample()
    host.count(700, 0, 5, 30, 90, 300)
    s = reader.sample()
    assert (s.cpu_ratio, s.disk_read_bytes_per_s, s.network_received_bytes_per_s) == (None,) * 3
    assert s.disk_written_bytes_per_s is not None


def test_what_a_system_does_not_show_is_none(tmp_path: Path) -> None:
    reader = HostReader(tmp_path, tmp_path)
    reader.sample()
    s = reader.sample()
    assert not any(getattr(s, name) for name in s.__struct_fields__)
    assert memory_of("").memory_used_bytes is None


def test_a_container_without_a_card_counts_all_but_loopback() -> None:
    assert network_of(NET.format(received=1, sent=2), []) == (1 + 999, 2 + 999)
    assert network_of("", ["eth0"]) is None
    assert disk_of(DISKS.format(read=1, written=1), []) is None


@linux
def test_this_host_is_busy_when_we_are() -> None:
    reader = HostReader()
    reader.sample()
    until = time.perf_counter() + 0.3
    while time.perf_counter() < until:
        sum(range(1000))
    s = reader.sample()
    assert s.cpu_ratio is not None
    assert 0 < s.cpu_ratio <= 1
    assert s.memory_total_bytes is not None
    assert s.memory_used_bytes is not None
    assert 0 < s.memory_used_bytes < s.memory_total_bytes


@linux
def test_every_look_is_a_row_of_the_schema() -> None:
    feed = HostFeed(1.0, "r", "h", Clock.anchored())
    looks = [feed.look() for _ in range(3)]
    for measurement, values in looks:
        check_row(measurement, values)
    assert feed.name == "host-h"
    assert [v[0] for _, v in looks] == sorted({v[0] for _, v in looks})
    assert len(looks[0][1]) == len(HOST.columns)


ENGINE = """
import mmap, socket, sys
file = open(sys.argv[1], "rb")
model = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
server = socket.create_server(("127.0.0.1", 0))
sum(model[::4096])
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def engine(model: Path, *more: str) -> Iterator[tuple[int, int]]:
    """A process that maps `model` and listens; its pid and port."""
    argv = [sys.executable, "-c", ENGINE, str(model), *more]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
        process.communicate()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tinyllama-1.1b-test.gguf"
    path.write_bytes(os.urandom(MIB) * 64)
    return path


def cpu(names: tuple[str, ...], ports: tuple[int, ...] = ()) -> HostGpu:
    return HostGpu(names, Owners(names), ports)


@linux
def test_a_model_that_an_engine_maps_shows_as_memory_of_the_gpu_cpu(model: Path) -> None:
    names = ("tinyllama-1.1b-test", "another")
    with engine(model) as (pid, _):
        (s,) = cpu(names).sample()
        assert (s.tag, socket.gethostname() in s.name) == ("cpu", True)
        assert [(p.pid, p.model) for p in s.processes] == [(pid, "tinyllama-1.1b-test")]
        held = s.processes[0].vram_used_bytes or 0
        assert 64 * MIB < held < 128 * MIB
        assert s.vram_used_bytes == held
        assert s.vram_total_bytes is not None
        assert s.vram_total_bytes > held


@linux
@pytest.mark.live
def test_llama_cpp_on_a_cpu_shows_its_models_memory(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="no llama.cpp: pip install '.[live]'")
    pytest.importorskip("gguf", reason="no model: pip install '.[live]'")
    from tests.gguf_model import write_model

    path = tmp_path / "tiny-of-ours.gguf"
    reader = cpu(("tiny-of-ours",))
    assert reader.sample()[0].processes == ()
    with llama_server(write_model(path, ends=100.0)) as url:
        port = int(url.rpartition(":")[2])
        (by_name,) = cpu(("tiny-of-ours",)).sample()
        (by_port,) = cpu(("tiny-of-ours",), (port,)).sample()
    assert [p.model for p in by_name.processes] == ["tiny-of-ours"]
    assert [p.pid for p in by_port.processes] == [p.pid for p in by_name.processes]
    assert (by_name.vram_used_bytes or 0) > path.stat().st_size


@linux
def test_an_engine_that_has_gone_holds_nothing(model: Path) -> None:
    reader = cpu(("tinyllama-1.1b-test",))
    with engine(model):
        assert reader.sample()[0].processes
    (s,) = reader.sample()  # before the next look for processes
    assert (s.processes, s.vram_used_bytes) == ((), 0)


@linux
def test_an_engine_that_names_no_model_is_known_by_its_port(tmp_path: Path) -> None:
    nameless = tmp_path / "weights.bin"
    nameless.write_bytes(bytes(8 * MIB))
    with engine(nameless) as (pid, port):
        assert cpu(("tiny",)).sample()[0].processes == ()
        (s,) = cpu(("tiny",), (port,)).sample()
    assert [p.pid for p in s.processes] == [pid]


PARENT = """
import socket, subprocess, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
child = [sys.executable, "-c", "import sys; sys.stdin.read()"]
subprocess.run(child)
"""


@linux
def test_an_engines_child_belongs_to_it() -> None:
    argv, pipe = [sys.executable, "-c", PARENT], subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        reader = cpu((), (int(process.stdout.readline()),))
        until = time.perf_counter() + 20
        while len(held := reader.sample()[0].processes) < 2 and time.perf_counter() < until:
            time.sleep(0.05)
        assert len(held) == 2
        assert process.pid in {p.pid for p in held}
        process.communicate()
    assert reader.sample()[0].processes == ()


@linux
def test_two_engines_share_what_both_of_them_map(model: Path) -> None:
    with engine(model) as (one, _), engine(model) as (other, _):
        held = [Memory(pid).renew().bytes() or 0 for pid in (one, other)]
    assert sum(held) < 120 * MIB  # 64 MiB of the model once, and two interpreters


BREATHING = """
import sys, time
print(flush=True)
while True:
    held = bytearray(200 << 20)
    held[::4096] = b"x" * len(held[::4096])
    time.sleep(0.005)
    del held
    time.sleep(0.005)
"""


@linux
def test_a_share_asked_for_while_a_model_comes_and_goes_is_not_off_by_the_model() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", BREATHING], stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        memory = Memory(process.pid)
        held = [memory.renew().bytes() or 0 for _ in range(400)]
        process.kill()
    # an interpreter of its own takes some MiB that nobody shares
    assert MIB < min(held) < max(held) < 230 * MIB


@linux
def test_a_scan_that_takes_its_time_holds_up_no_look(model: Path) -> None:
    names = ("tinyllama-1.1b-test",)
    go_on, asked = threading.Event(), threading.Event()

    class Slow(Owners):
        def resolve(self, pid: int) -> Owner:
            asked.set()
            assert go_on.wait(60)
            return super().resolve(pid)

    with engine(model) as (pid, _):
        reader = HostGpu(names, Slow(names))
        go_on.set()
        assert [p.pid for p in reader.sample()[0].processes] == [pid]
        go_on.clear()
        asked.clear()
        while not asked.is_set():  # the next scan is due after a second
            assert reader.sample()[0].processes
            time.sleep(0.05)
        assert [p.pid for p in reader.sample()[0].processes] == [pid]
        go_on.set()
        reader.close()


@linux
def test_somebody_elses_process_shows_what_is_resident(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "statm").write_text("900 100 50 1 0 800 0\n")
    memory = Memory(7, tmp_path)
    assert memory.bytes() == 100 * os.sysconf("SC_PAGE_SIZE")
    (tmp_path / "7" / "statm").write_text("900 150 50 1 0 800 0\n")
    assert memory.bytes() == 150 * os.sysconf("SC_PAGE_SIZE")


def test_a_system_without_proc_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no /proc"):
        HostGpu((), Owners(()), (), tmp_path)


@linux
def test_it_is_opened_by_configuration() -> None:
    reader = open_gpu(Gpu(source="host", ports=(1,)), ("tiny",))
    assert reader is not None
    assert reader.about() == {"kind": "host", "ports": [1], "models": ["tiny"]}
    assert [s.tag for s in reader.sample()] == ["cpu"]
    reader.close()
