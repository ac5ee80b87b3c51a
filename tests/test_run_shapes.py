"""Shapes, conversations and traces in whole runs, and Locust's shape classes with our users."""

import sys
from collections import defaultdict
from pathlib import Path

from tests.running import fair, finished, popen, records, run_dirs, run_once, scenario
from tokenswarm.sim.process import start

ONE = {"name": "steady", "model": "steady", "prompt": {"kind": "text", "text": "hi"},
       "output": {"tokens": 8}}  # fmt: skip
SHAPED = """
from locust import task
from tokenswarm.load import OllamaUser
from tokenswarm.load.shapes import Steps


class Chat(OllamaUser):
    model = "steady"

    @task
    def ask(self):
        self.chat("hi", num_predict=8)


class Up(Steps):
    users, duration_s, levels, each_s = 4, 6.0, (0.25, 1.0), 3.5
"""


def test_requests_say_whether_the_rate_was_on_its_way(tmp_path: Path) -> None:
    with start("steady") as box:
        file = scenario(
            tmp_path / "ramp.yaml", box.ollama_url, ONE, duration_s=5,
            load={"kind": "open", "rate": 40, "shape": {"kind": "ramp", "over_s": 3}},
        )  # fmt: skip
        code, run = run_once(file, "--workers", 2, cwd=tmp_path)
    got = records(run)
    assert fair(code, tmp_path)
    assert {r["phase"] for r in got if r["t_sent_s"] < 3} == {"ramp"}
    assert {r["phase"] for r in got if 3 < r["t_sent_s"] < 5} == {"steady"}
    ramp = [r for r in got if r["t_intended_s"] < 3]
    assert 30 < len(ramp) < 95, "60 on average, not the 120 of the full rate"
    assert sum(r["t_intended_s"] < 1.5 for r in ramp) < len(ramp) / 2


def test_users_above_the_level_wait_and_conversations_grow(tmp_path: Path) -> None:
    with start("steady") as box:
        file = scenario(
            tmp_path / "talk.yaml", box.ollama_url, ONE, duration_s=4,
            load={"kind": "closed", "users": 4, "turns": 3, "think_s": 0.05,
                  "shape": {"kind": "steps", "levels": [0.25, 1], "each_s": 2}},
        )  # fmt: skip
        code, run = run_once(file, cwd=tmp_path)
    got = records(run)
    assert fair(code, tmp_path)
    assert most_at_once([r for r in got if r["t_sent_s"] < 2]) == 1
    assert most_at_once(got) > 1
    talks = defaultdict(list)
    for row in sorted(got, key=lambda r: r["plan_index"]):
        talks[row["plan_index"] // 3].append(row)
    whole = [talk for talk in talks.values() if len(talk) == 3]
    assert len(whole) >= 4
    for talk in whole:
        prompts = [row["prompt_tokens"] for row in talk]
        assert prompts[0] < prompts[1] < prompts[2]
        assert talk[0]["t_end_s"] <= talk[1]["t_sent_s"] <= talk[2]["t_sent_s"]


def most_at_once(rows: list[dict[str, float]]) -> int:
    """The largest number of `rows` in flight together."""
    moments = sorted(
        [(r["t_sent_s"], 1) for r in rows] + [(r["t_end_s"], -1) for r in rows],
        key=lambda moment: (moment[0], moment[1]),
    )
    now = most = 0
    for _, step in moments:
        now += step
        most = max(most, now)
    return most


def test_a_trace_is_played_and_the_run_ends_with_it(tmp_path: Path) -> None:
    (tmp_path / "times.txt").write_text("".join(f"{100 + i * 0.1}\n" for i in range(20)))
    with start("steady") as box:
        file = scenario(tmp_path / "trace.yaml", box.ollama_url, ONE, duration_s=60,
                        load={"kind": "trace", "path": "times.txt"})  # fmt: skip
        code, run = run_once(file, "--workers", 2, cwd=tmp_path)
    got = sorted(records(run), key=lambda r: r["plan_index"])
    assert fair(code, tmp_path)
    assert [round(r["t_intended_s"], 3) for r in got] == [round(i * 0.1, 3) for i in range(20)]
    manifest = run.read_manifest()
    assert (manifest.end_unix_ns or 0) - manifest.t0_unix_ns < 30e9


def test_a_shape_class_starts_and_stops_our_users(tmp_path: Path) -> None:
    file = tmp_path / "shaped.py"
    file.write_text(SHAPED)
    with start("steady") as box:
        command = [sys.executable, "-m", "locust", "-f", str(file), "--headless", "--no-live"]
        command += ["--host", box.ollama_url, "--stop-timeout", "20"]
        code = finished(popen(command, tmp_path))
    said = (tmp_path / "stderr.txt").read_text()
    assert fair(code, tmp_path), said
    assert "Traceback" not in said
    (run,) = run_dirs(tmp_path / "runs")
    got = records(run)
    assert {r["status"] for r in got} == {"ok"}
    users = [row["users"] for row in records(run, "generator")]
    assert 1 in users
    assert max(users) == 4
