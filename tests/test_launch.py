"""Servers as processes: started, found out about when they fail, ended whatever happens."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.running import ROOT, children, popen, until
from tokenswarm.errors import UsageError
from tokenswarm.launch import ledger
from tokenswarm.launch.phases import phases
from tokenswarm.launch.process import ProcessLauncher
from tokenswarm.launch.ready import await_ready, free_port, refuse_taken
from tokenswarm.launch.reasons import one_line, reason
from tokenswarm.launch.start import Start, StartFailed


@pytest.fixture(autouse=True)
def _own_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))


def script(folder: Path, code: str, **more: object) -> Start:
    """A Start of a Python script."""
    argv = (sys.executable, "-c", textwrap.dedent(code))
    return Start(name="s", argv=argv, log=folder / "logs" / "s.log", **more)  # type: ignore[arg-type]


def test_a_process_runs_in_its_own_session_and_is_ended_with_its_children(tmp_path: Path) -> None:
    what = script(
        tmp_path,
        """
        import subprocess, sys, time
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        time.sleep(600)
        """,
    )
    started = ProcessLauncher().start(what)
    until(lambda: len(started.pids()) == 2)
    pids = started.pids()
    assert started.ended() is None
    started.stop()
    started.stop()
    assert all(ledger.began(pid) is None for pid in pids)
    assert not list(ledger.folder().glob("*.json"))


def test_who_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenswarm.launch.process.GRACE_S", 0.3)
    what = script(
        tmp_path,
        """
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("deaf", flush=True)
        time.sleep(600)
        """,
    )
    started = ProcessLauncher().start(what)
    until(lambda: "deaf" in started.said())
    (pid,) = started.pids()
    started.stop()
    assert ledger.began(pid) is None


def test_what_a_killed_tokenswarm_left_running_is_ended_by_the_next(tmp_path: Path) -> None:
    owner = popen(
        [sys.executable, "-c", textwrap.dedent("""
            import pathlib, sys, time
            from tokenswarm.launch.process import ProcessLauncher
            from tokenswarm.launch.start import Start
            code = ("import subprocess, sys, time;"
                    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
                    "time.sleep(600)")
            log = pathlib.Path("left.log")
            for name in ("one", "two"):
                argv = (sys.executable, "-c", code)
                ProcessLauncher().start(Start(name=name, argv=argv, log=log))
            time.sleep(600)
            """)],
        tmp_path,
    )  # fmt: skip
    until(lambda: len(list(ledger.folder().glob("*.json"))) == 2)
    leaders = [int(p.name.split("-")[0]) for p in ledger.folder().glob("*.json")]
    until(lambda: all(len(ledger.members(pid)) == 2 for pid in leaders))
    assert ProcessLauncher().sweep() == []  # their owner lives
    os.kill(leaders[0], signal.SIGKILL)  # its child is left without it
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    assert sorted(ProcessLauncher().sweep()) == ["one", "two"]
    assert not any(ledger.members(pid) for pid in leaders)
    assert ProcessLauncher().sweep() == []


def test_a_stranger_with_a_reused_pid_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        gone = ledger.Entry("s", stranger.pid, 1, owner=1, owner_began=2)
        path = ledger.folder() / f"{stranger.pid}-1.json"
        path.write_bytes(__import__("msgspec").json.encode(gone))
        assert ledger.sweep() == []
        assert stranger.poll() is None
        assert not path.exists()
    finally:
        stranger.kill()
        stranger.wait()


def test_a_ledger_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    ledger.folder().chmod(0o777)
    with pytest.raises(UsageError, match="not private"):
        ledger.sweep()


def test_a_program_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    what = Start(name="s", argv=("/no/such/program",), log=tmp_path / "s.log")
    with pytest.raises(StartFailed, match="no such program: /no/such/program") as e:
        ProcessLauncher().start(what)
    assert e.value.failure.kind == "no_program"


def test_a_taken_port_is_told_before_and_from_the_log(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartFailed, match=f"somebody listens on {port}"):
            refuse_taken("s", port)
        argv = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port))
        started = ProcessLauncher().start(Start(name="s", argv=argv, log=tmp_path / "s.log"))
        with pytest.raises(StartFailed, match=r"port taken: .*Address already in use"):
            await_ready(started, lambda: False, 30)
        started.stop()
    refuse_taken("s", free_port())


def test_a_memory_limit_ends_what_wants_more_and_the_reason_is_memory(tmp_path: Path) -> None:
    code = "import time; time.sleep(0.3); b = bytearray(1 << 30); time.sleep(600)"
    started = ProcessLauncher().start(script(tmp_path, code, memory_limit_bytes=500 << 20))
    with pytest.raises(StartFailed) as e:
        await_ready(started, lambda: False, 30)
    started.stop()
    assert e.value.failure.kind == "out_of_memory"
    assert "MemoryError" in e.value.failure.text


def test_who_is_never_ready_is_given_up_in_time(tmp_path: Path) -> None:
    started = ProcessLauncher().start(script(tmp_path, "import time; time.sleep(600)"))
    began = time.monotonic()
    with pytest.raises(StartFailed) as e:
        await_ready(started, lambda: False, 0.5)
    started.stop()
    assert e.value.failure.kind == "timeout"
    assert time.monotonic() - began < 30


VLLM_FULL = (
    "(EngineCore pid=7) ERROR [core.py:1100] ValueError: Free memory on device cuda:0 "
    "(94.1/139.8 GiB) on startup is less than desired GPU memory utilization (0.9, 125.82 GiB). "
    "Decrease GPU memory utilization or reduce GPU memory used by other processes."
)
H200 = ROOT / "docs" / "results" / "2026-11-28-vllm-h200" / "vllm" / "logs"
DRIVER = 'could not select device driver "" with capabilities: [[gpu]]'


def test_the_reason_of_a_real_vllm_is_told_without_what_the_log_puts_before_it() -> None:
    why = reason((H200 / "greedy.log").read_text(), 1)
    assert why.kind == "out_of_memory"
    assert why.text.startswith("out of memory: ValueError: Free memory on device cuda:0 (92.27/")
    assert why.text.endswith("reduce GPU memory used by other processes.")


def test_the_phases_of_a_real_vllm() -> None:
    found = phases((H200 / "yi.log").read_text())
    assert (found.weights_s, found.init_s, found.graphs_s) == (1.48, 9.54, None)
    assert found.weights_bytes == pytest.approx(6.06e9 * 2, rel=0.01)  # bfloat16


@pytest.mark.parametrize(
    ("log", "code", "kind"),
    [
        (f"INFO start\n{VLLM_FULL}\nRuntimeError: Engine core initialization failed.", 1,
         "out_of_memory"),
        ("RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.", 1,
         "out_of_memory"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", 1,
         "out_of_memory"),
        ("ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory\n"
         "error: failed to load model", 1, "out_of_memory"),
        ("ValueError: No available memory for the cache blocks.", 1, "out_of_memory"),
        ("OSError: [Errno 98] error while attempting to bind on address ('0.0.0.0', 40001): "
         "address already in use", 1, "port_taken"),
        ("Bind for 0.0.0.0:40001 failed: port is already allocated", None, "port_taken"),
        (DRIVER, None, "no_gpu_runtime"),
        ("RuntimeError: Found no NVIDIA driver on your system.", 1, "no_gpu"),
        ("No such image: vllm/vllm-openai:none", None, "image_missing"),
        ("/usr/bin/python3: No module named vllm", 1, "no_engine"),
        ("OSError: models/x is not a local folder and is not a valid model identifier", 1,
         "no_model"),
        ("", -9, "killed"),
        ("loading", 137, "killed"),
        ("it went wrong somehow", 3, "ended"),
    ],
)  # fmt: skip
def test_the_reason_is_read_from_the_log(log: str, code: int | None, kind: str) -> None:
    found = reason(log, code)
    assert found.kind == kind
    assert "\n" not in found.text


def test_the_kernels_kill_at_the_memory_limit_is_out_of_memory() -> None:
    assert reason("loading", 137, oom_killed=True).kind == "out_of_memory"


def test_a_reason_is_one_short_line_without_control_characters() -> None:
    said = one_line("a\x1b[31m\n b" + "x" * 1000)
    assert said.isprintable()
    assert len(said) < 320


def test_phases_of_a_start_are_read_from_the_log() -> None:
    vllm = (
        "INFO [default_loader.py:391] Loading weights took 0.62 seconds\n"
        "INFO [gpu_model_runner.py:4800] Model loading took 2.05 GiB memory and 1.02 seconds\n"
        "INFO [gpu_worker.py:370] Available KV cache memory: 5.21 GiB\n"
        "INFO [core.py:270] init engine (profile, create kv cache, warmup model) took 3.10 seconds"
    )
    found = phases(vllm)
    assert (found.weights_s, found.init_s) == (0.62, 3.10)
    assert found.weights_bytes == round(2.05 * 2**30)
    assert found.kv_bytes == round(5.21 * 2**30)
    llama = (
        "load_tensors: CPU_Mapped model buffer size =   100.00 MiB\n"
        "load_tensors:      CUDA0 model buffer size =   500.00 MiB\n"
        "llama_kv_cache:  CUDA0 KV buffer size =    44.00 MiB\n"
    )
    assert phases(llama).weights_bytes == 600 << 20
    assert phases(llama).kv_bytes == 44 << 20
    assert phases("nothing of it").weights_bytes is None


def test_children_of_this_test_process_are_gone() -> None:
    """The launcher leaves no zombie of what it has stopped."""
    assert not [pid for pid in children(os.getpid()) if ledger.began(pid) is None]
