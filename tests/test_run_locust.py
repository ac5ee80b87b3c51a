"""Locust stays Locust: its own options do what they do, with our runs beside them."""

import csv
import sys
from pathlib import Path

from tests.running import ROOT, fair, finished, popen, records, run_dirs, scenario, tokenswarm
from tests.web import free_port
from tokenswarm.sim.process import start

NAMES = ("steady", "steady-b")
MODELS = [{"name": n, "model": n, "prompt": {"kind": "text", "text": "hi"}} for n in NAMES]
TAGGED = """
from locust import constant, tag, task

from tokenswarm.load import OllamaUser


class Chat(OllamaUser):
    wait_time = constant(0.05)

    @tag("short")
    @task
    def short(self):
        self.chat("hi", model="steady", num_predict=2)

    @tag("long")
    @task
    def long(self):
        self.chat("hi", model="steady-b", num_predict=400)
"""


def locust(*argv: object) -> list[str]:
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "locustfiles" / "mix.py")]
    return [*command, "--headless", "--no-live", *map(str, argv)]


def test_csv_html_json_and_processes_work_beside_our_run(tmp_path: Path) -> None:
    port = free_port()
    with start("steady") as box:
        file = scenario(tmp_path / "s.yaml", box.ollama_url, *MODELS, duration_s=3,
                        load={"kind": "closed", "users": 4})  # fmt: skip
        code = finished(popen(
            locust("--scenario", file, "--csv", "out", "--html", "out.html", "--json-file", "out",
                   "--processes", 2, "--master-port", port, "--master-bind-port", port),
            tmp_path,
        ))  # fmt: skip
    assert fair(code, tmp_path), (tmp_path / "stderr.txt").read_text()
    (run,) = run_dirs(tmp_path / "runs")
    got = records(run)
    assert {r["worker"] for r in got} == {"w0", "w1"}
    with (tmp_path / "out_stats.csv").open() as lines:
        rows = {row["Name"]: row for row in csv.DictReader(lines)}
    assert set(rows) == {*NAMES, "Aggregated"}
    assert int(rows["Aggregated"]["Request Count"]) == len(got)
    for name in NAMES:
        assert int(rows[name]["Request Count"]) == sum(r["model"] == name for r in got)
    assert "steady-b" in (tmp_path / "out.html").read_text()
    assert (tmp_path / "out.json").stat().st_size > 100


def test_tags_run_time_and_an_explicit_exit_code_are_locusts(tmp_path: Path) -> None:
    file = tmp_path / "tagged.py"
    file.write_text(TAGGED + "\n\n" + EXIT)
    with start("steady") as box:
        command = [sys.executable, "-m", "locust", "-f", str(file), "--headless", "--no-live"]
        command += ["--host", box.ollama_url, "--tags", "short", "--run-time", "3s", "-u", "2"]
        code = finished(popen(command, tmp_path))
    (run,) = run_dirs(tmp_path / "runs")
    assert {r["model"] for r in records(run)} == {"steady"}
    assert code == 42, "what a locustfile sets explicitly is the exit code"


EXIT = """
from locust import events


@events.quitting.add_listener
def say(environment, **_):
    environment.process_exit_code = 42
"""


def test_requests_in_flight_outlast_a_stop_with_or_without_a_stop_timeout(tmp_path: Path) -> None:
    file = tmp_path / "tagged.py"
    file.write_text(TAGGED)
    with start("steady") as box:
        command = [sys.executable, "-m", "locust", "-f", str(file), "--headless", "--no-live"]
        command += ["--host", box.ollama_url, "--tags", "long", "--run-time", "2s", "-u", "2"]
        code = finished(popen([*command, "--stop-timeout", "10"], tmp_path))
    (run,) = run_dirs(tmp_path / "runs")
    got = records(run)
    assert fair(code, tmp_path)
    assert {r["status"] for r in got} == {"ok"}
    assert {r["output_tokens"] for r in got} == {400}


def test_a_gate_that_fails_is_exit_code_1_through_locust(tmp_path: Path) -> None:
    with start("steady") as box:
        file = scenario(tmp_path / "g.yaml", box.ollama_url, MODELS[0], max_requests=5,
                        load={"kind": "closed", "users": 1})  # fmt: skip
        gate = "models.steady.ttft_s.p50 < 0.001"
        code = finished(popen(locust("--scenario", file, "--gate", gate), tmp_path))
        away = tmp_path / "same"
        away.mkdir()
        same = finished(tokenswarm("run", file, "--gate", gate, cwd=away))
    assert code == same == 1
