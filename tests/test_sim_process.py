"""The simulation as a process: its start, its truth file, its end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.sim_client import call, opened, stream, wait_until
from tokenswarm.sim import truth
from tokenswarm.sim.process import SimError, start


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"  # an orphan may have nobody who reaps it


def test_it_says_that_it_is_a_simulation_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "t.jsonl"
    with start("steady", truth=path, speed=2, seed=9) as sim:
        assert (sim.profile, sim.speed, sim.seed, sim.simulation) == ("steady", 2.0, 9, True)
        about = call(sim.control_url, "GET", "/").json
        assert about["simulation"] is True
        assert (about["profile"], about["speed"], about["seed"]) == ("steady", 2.0, 9)
        for url, where in ((sim.ollama_url, "/api/ps"), (sim.control_url, "/gpu")):
            assert call(url, "GET", where).headers["x-tokenswarm-sim"] == sim.control_url
        for bad in ("/nothing", "/v1/nothing"):
            assert call(sim.ollama_url, "GET", bad).headers["x-tokenswarm-sim"] == sim.control_url
        assert call(sim.control_url, "GET", "/truth/path").json == {"path": str(path)}
        assert call(sim.control_url, "GET", "/nothing").status == 404
    read = truth.read(path)
    assert (read.start.simulation, read.start.profile, read.start.speed) == (True, "steady", 2.0)
    assert [x.cause for x in read.loads] == ["start", "start"]


def test_the_gpu_view_shows_every_process(tmp_path: Path) -> None:
    with start("rtx5090-crowded") as sim:
        (gpu,) = call(sim.control_url, "GET", "/gpu").json
    assert [p["model"] for p in gpu["processes"]] == ["co-tenant"]
    assert gpu["vram_free_bytes"] == 8_700_000_000
    numbers = ("util_ratio", "mem_util_ratio", "power_w", "energy_j", "sm_clock_hz")
    assert all(gpu[k] >= 0 for k in (*numbers, "temperature_c", "throttle_bits", "unix_ns"))


def test_the_truth_holds_every_request_and_each_byte_came_after_its_time(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    body = {"model": "steady", "prompt": "one two", "options": {"num_predict": 6}}
    seen: list[tuple[int, list[int]]] = []
    with start("steady", truth=path, speed=4) as sim:
        for i in range(3):
            sent_ns, arrivals = time.time_ns(), list[int]()
            with opened(sim.ollama_url, "/api/generate", body, **{"x-request-id": f"r{i}"}) as s:
                got = b""
                while not got.endswith(b"0\r\n\r\n"):
                    data = s.recv(65536)
                    arrivals += [time.time_ns()] * data.count(b'"done":false')
                    got += data
            seen.append((sent_ns, arrivals))
    read = truth.read(path)
    assert [r.request_id for r in read.requests] == ["r0", "r1", "r2"]
    assert [a.request_id for a in read.arrivals] == ["r0", "r1", "r2"]
    for row, arrival, (sent_ns, arrivals) in zip(read.requests, read.arrivals, seen, strict=True):
        assert (row.prompt_tokens, row.output_tokens) == (10, 6)
        assert (row.outcome, row.stratum, row.http_status) == ("ok", "warm", 200)
        assert sent_ns < arrival.unix_ns == row.arrival_unix_ns < row.token_unix_ns[0]
        assert len(row.token_unix_ns) == len(arrivals) == 6
        # two anchors of one wall clock may differ by what one reading takes
        assert all(
            told <= came + 200_000 for told, came in zip(row.token_unix_ns, arrivals, strict=True)
        )
        # an absolute schedule: 20 ms to the first token, then 5 ms, four times faster
        took_ns = row.token_unix_ns[-1] - row.arrival_unix_ns
        assert took_ns >= 0.95 * (20e6 + 5 * 5e6) / 4


def test_the_truth_is_on_disk_soon_and_without_a_stop(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    body = {"model": "steady", "prompt": "x", "options": {"num_predict": 1}}
    with start("steady", truth=path) as sim:
        stream(sim.ollama_url, "/api/generate", body)
        wait_until(lambda: len(truth.read(path).requests) == 1, for_s=2.0)
        os.kill(sim.pid, signal.SIGKILL)
    assert len(truth.read(path).requests) == 1


def test_what_runs_when_it_ends_is_told_as_unfinished(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    body = {"model": "steady", "prompt": "x", "options": {"num_predict": 5000}}
    with start("steady", truth=path) as sim, opened(sim.ollama_url, "/api/generate", body) as s:
        s.recv(100)
        call(sim.control_url, "POST", "/shutdown")
        wait_until(lambda: not _alive(sim.pid))
    (row,) = truth.read(path).requests
    assert row.outcome == "unfinished"
    assert row.output_tokens > 0


def test_the_same_seed_says_the_same_words_and_another_one_does_not() -> None:
    body = {"model": "early-eos", "prompt": "x", "stream": False}

    def words(seed: int) -> list[str]:
        with start("chaos", seed=seed, speed=10) as sim:
            answers = [call(sim.ollama_url, "POST", "/api/generate", body) for _ in range(5)]
        return [a.json["response"] for a in answers]

    assert words(1) == words(1) != words(2)


def test_a_truth_file_that_is_still_written_is_read_up_to_its_last_whole_line(
    tmp_path: Path,
) -> None:
    path = tmp_path / "t.jsonl"
    with start("steady", truth=path):
        pass
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"type":"request","n":1')
    assert len(truth.read(path).loads) == 2
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="no start line"):
        truth.read(path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_status_0(number: signal.Signals, tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    command = [sys.executable, "-m", "tokenswarm.sim", "steady", "--ready-file", str(ready)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    with child:
        assert child.stdout is not None
        endpoints = json.loads(child.stdout.readline())
        assert json.loads(ready.read_text()) == endpoints
        assert endpoints["pid"] == child.pid
        child.send_signal(number)
        assert child.wait(10) == 0


def test_it_ends_when_its_parent_was_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from tokenswarm.sim.process import start\n"
        "with start('steady') as sim:\n"
        "    print(sim.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert _alive(pid)
        parent.kill()
        parent.wait()
        wait_until(lambda: not _alive(pid))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rtx9999"], "no profile 'rtx9999'"),
        (["steady", "--speed", "0"], "above 0"),
        (["steady", "--truth", "/dev/null/t"], "/dev/null"),
    ],
)
def test_what_cannot_be_simulated_is_said_with_status_2(arguments: list[str], says: str) -> None:
    command = [sys.executable, "-m", "tokenswarm.sim", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_start_that_fails_is_an_error_of_the_caller(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SimError, match="did not start"), start("rtx9999"):
        pass
    assert "no profile" in capfd.readouterr().err


def test_it_imports_nothing_else_of_tokenswarm() -> None:
    script = (
        "import sys, tokenswarm.sim.__main__, tokenswarm.sim.process\n"
        "print(sorted(m for m in sys.modules if m.startswith('tokenswarm.')\n"
        "      and not m.startswith('tokenswarm.sim')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"
