"""Master, simulator and workers on three hosts: a slow link, a cut, a kill; what is in the end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.namespaces import HUB_IP, Host, star
from tests.running import (
    ROOT,
    argv_of,
    children,
    end_started,
    fair,
    finished,
    popen,
    records,
    run_dirs,
    scenario,
    until,
)
from tokenswarm.sim import truth
from tokenswarm.store.rundir import RunDir
from tokenswarm.store.spool import rows

pytestmark = pytest.mark.slow

ONE = {"name": "steady", "model": "steady", "prompt": {"kind": "text", "text": "hi"},
       "output": {"tokens": 16}}  # fmt: skip
SIM_PORT, MASTER_PORT, SLOW_PORT = 11434, 5557, 5558
CUT_S = 30.0
LOCUST = [sys.executable, "-m", "locust"]


@dataclass
class Site:
    """The three hosts, each with a folder of its own, and what runs there."""

    folder: Path
    hub: tuple[str, ...]
    hosts: list[Host]
    sim: "subprocess.Popen[bytes]"

    def at_hub(self, *command: str) -> "subprocess.Popen[bytes]":
        return popen([*self.hub, *command], self._folder("hub"))

    def master(self, file: Path, *argv: str) -> "subprocess.Popen[bytes]":
        return self.at_hub(
            *LOCUST, "-f", str(ROOT / "locustfiles" / "mix.py"), "--master", "--headless",
            "--master-bind-host", "0.0.0.0", "--scenario", str(file), "--no-live",
            "--only-tokenswarm", *argv,
        )  # fmt: skip

    def workers(self, number: int, port: int = MASTER_PORT) -> "subprocess.Popen[bytes]":
        """Two worker processes on host `number`: they are told the master's address only."""
        host = self.hosts[number]
        # another host has other files: nothing lies over the hub's folder
        hide = f'mount -t tmpfs none {self._folder("hub")} && exec "$@"'
        command = [*LOCUST, "-f", "-", "--worker", "--processes", "2"]
        command += ["--master-host", host.hub_ip, "--master-port", str(port)]
        apart = ["unshare", "-m", "bash", "-c", hide, "-"]
        return popen([*host.run, *apart, *command], self._folder(f"host{number}"))

    def _folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def run(self) -> RunDir:
        until(lambda: bool(run_dirs(self.folder / "hub" / "runs")))
        return run_dirs(self.folder / "hub" / "runs")[0]

    def served(self) -> set[str]:
        """Ids of all requests that came in, once the simulator has ended."""
        self.sim.terminate()
        self.sim.wait(10)
        told = truth.read(self.folder / "truth.jsonl")
        return {a.request_id for a in told.arrivals if a.request_id}

    def said(self) -> str:
        return "".join(p.read_text() for p in self.folder.glob("*/std*.txt"))


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    with star(2) as (hub, hosts):
        command = [*hub, sys.executable, "-m", "tokenswarm.sim", "steady", "--host", HUB_IP]
        command += ["--port", str(SIM_PORT), "--truth", str(folder / "truth.jsonl")]
        sim = popen(command, folder)
        until(lambda: "http" in (folder / "stdout.txt").read_text())
        try:
            yield Site(folder, hub, hosts, sim)
        finally:
            end_started()


def worker_process(process: "subprocess.Popen[bytes]") -> int:
    """One of the workers that `process` started, however many shells are in between."""
    pids = [process.pid]
    for pid in pids:
        pids += children(pid)
    return [pid for pid in pids if "--processes" in argv_of(pid)][-1]


def open_scenario(folder: Path, **changes: Any) -> Path:
    load = {"kind": "open", "rate": 30, "max_in_flight": 64}
    more = {"load": load, "drain_s": 60, "telemetry": {"gpu": {"source": "none"}}} | changes
    return scenario(folder / "hosts.yaml", f"http://{HUB_IP}:{SIM_PORT}", ONE, **more)


def test_a_slow_link_a_cut_and_a_kill_lose_nothing_but_what_a_killed_worker_had_not_written(
    tmp_path: Path,
) -> None:
    with site(tmp_path) as at:
        master = at.master(open_scenario(tmp_path, duration_s=16 + CUT_S), "--expect-workers", "4")
        slow = [sys.executable, "-m", "tests.slow_proxy", at.hosts[0].hub_ip, str(SLOW_PORT)]
        at.at_hub("env", f"PYTHONPATH={ROOT}:{os.environ.get('PYTHONPATH', '')}", *slow,
                  "127.0.0.1", str(MASTER_PORT))  # fmt: skip
        far, cut = at.workers(0, SLOW_PORT), at.workers(1)
        run = at.run()
        until(lambda: len(records(run)) > 60)
        assert len({r["worker"] for r in records(run)}) == 4
        at.hosts[1].pull()
        time.sleep(CUT_S)
        before = len(records(run))
        at.hosts[1].plug()
        until(lambda: len(records(run)) > before + 30)
        os.kill(worker_process(far), signal.SIGKILL)
        code = finished(master)
        finished(cut)
        served = at.served()
        said = at.said()
    got = records(run)
    ids = [r["id"] for r in got]
    manifest = run.read_manifest()
    notes = "\n".join(manifest.notes)
    assert len(ids) == len(set(ids)), "nothing is there twice"
    dead = {r["worker"] for r in got} - set(manifest.ended)
    assert len(dead) == 1, (manifest.ended, said)
    (name,) = dead
    spooled = [row for source, _, _, row in rows(spool_of(tmp_path / "host0")) if source == name]
    here = [row for source, _, _, row in rows(run.spool) if source == name]
    assert len(here) == len(spooled), "what it had written, its sibling has sent"
    missing = served - set(ids)
    assert {name.split("-")[0] for name in missing} <= dead, "only the killed worker lost any"
    assert len(missing) <= 64
    reached = {r["id"] for r in got if r["status"] == "ok"}
    assert reached <= served
    assert notes.count("was lost") >= 2, notes
    assert notes.count("joined") >= 1, notes
    assert set(manifest.routes.values()) == {"link"}
    late = max(r["t_intended_s"] for r in got)
    assert late > manifest_duration(manifest.scenario) - 1, "the schedule went on to its end"
    assert fair(code, tmp_path / "hub"), said


def spool_of(folder: Path) -> Path:
    """The spool that the workers of a host keep of their own."""
    (run,) = run_dirs(folder / "runs")
    return run.spool


def manifest_duration(scenario: dict[str, Any] | None) -> float:
    assert scenario is not None
    return float(scenario["duration_s"])


def test_a_run_whose_master_was_killed_is_collected_by_a_new_one(tmp_path: Path) -> None:
    with site(tmp_path) as at:
        master = at.master(open_scenario(tmp_path, duration_s=120), "--expect-workers", "4")
        for number in (0, 1):
            at.workers(number)
        run = at.run()
        until(lambda: len(records(run)) > 60)
        os.kill(master.pid, signal.SIGKILL)
        master.wait()
        time.sleep(2)
        assert run.read_manifest().end_unix_ns is None
        again = at.at_hub(
            *LOCUST, "-f", str(ROOT / "locustfiles" / "mix.py"), "--master",
            "--master-bind-host", "0.0.0.0", "--web-port", "18089",
        )  # fmt: skip
        until(run.report.is_file, 60)
        os.kill(again.pid, signal.SIGTERM)
        finished(again)
        served, said = at.served(), at.said()
    ids = [r["id"] for r in records(run)]
    assert len(ids) == len(set(ids)), "nothing is there twice"
    assert set(ids) == served, said
    manifest = run.read_manifest()
    assert len(manifest.ended) >= 4
    assert any("its master died" in note for note in manifest.notes)
    late = max(r["t_sent_s"] for r in records(run))
    assert late < 60, "the load stops with its master"
