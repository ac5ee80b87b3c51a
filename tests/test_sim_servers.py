"""vLLM- and SGLang-like servers with a fixed share of the GPU, over real sockets."""

import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.sim_client import Streamed, call, opened, stream, wait_until
from tokenswarm.engines.probe import adapter, probe
from tokenswarm.sim import truth
from tokenswarm.sim.process import start

DATA = Path(__file__).parent / "data" / "vllm-0.24.0-h200"

# Starts take 100 ms + 100 ms weights + 100 ms; sleep and wake-up at level 1 100 ms.
PROFILE = """
name: servers
doc: two vLLM servers
gpu: {{name: g, vram_total_bytes: 10000, context_bytes: 100, free_lag_s: 0.02}}
host: {{disk_bytes_per_s: 10000.0, cache_bytes_per_s: 10000.0}}
ollama: null
servers:
  - &s {{name: one, engine: {engine}, model: a, memory_ratio: {ratio}, import_s: 0.1,
        profile_s: 0.05, init_s: 0.05, sleep_bytes_per_s: 10000.0, wake_bytes_per_s: 10000.0,
        discard_s: 0.01{one}}}
  - {{<<: *s, name: two, model: b{two}}}
{more}
models:
  - &a {{name: a, file_bytes: 1000, kv_bytes_per_token: 1, prefill_s: 0.005, token_s: 0.002,
        train_context: 2048}}
  - {{<<: *a, name: b}}
"""
USAGE = {"include_usage": True}


@dataclass
class Servers:
    """A running simulation and ways to ask it."""

    urls: dict[str, str]
    control: str
    path: Path

    def ask(self, server: str = "one", tokens: int = 3, **more: Any) -> Streamed:
        body = self.body("a" if server == "one" else "b", tokens)
        return stream(self.urls[server], "/v1/chat/completions", body | more)

    @staticmethod
    def body(model: str, tokens: int) -> dict[str, Any]:
        said = [{"role": "user", "content": "hi"}]
        return {"model": model, "messages": said, "max_tokens": tokens, "stream": True}

    def post(self, path: str, body: object = None, server: str = "one") -> Any:
        return call(self.urls[server], "POST", path, body).json

    def state(self, server: str = "one") -> str:
        return str(call(self.control, "GET", "/servers").json[server]["state"])

    def act(self, action: str, server: str = "one") -> None:
        change = {"server": server, "action": action}
        assert call(self.control, "POST", "/servers", change).status == 200

    def processes(self) -> dict[str, tuple[int, int]]:
        """pid and bytes by model, as NVML would show them."""
        (gpu,) = call(self.control, "GET", "/gpu").json
        return {p["model"]: (p["pid"], p["vram_used_bytes"]) for p in gpu["processes"]}

    def told(self, loads: int = 0) -> truth.Truth:
        """The truth once it has so many loads."""
        wait_until(lambda: len(truth.read(self.path).loads) >= loads)
        return truth.read(self.path)


@contextlib.contextmanager
def servers(
    folder: Path, engine: str = "vllm", ratio: float = 0.4, one: str = "", two: str = "",
    more: str = "",
) -> Iterator[Servers]:  # fmt: skip
    file, path = folder / "servers.yaml", folder / "truth.jsonl"
    file.write_text(PROFILE.format(engine=engine, ratio=ratio, one=one, two=two, more=more))
    with start(file, truth=path) as sim:
        yield Servers(sim.urls, sim.control_url, path)


def shape(value: Any) -> Any:
    """A JSON value with its leaves replaced by their types."""
    if isinstance(value, dict):
        return {k: shape(v) for k, v in value.items()}
    if isinstance(value, list):
        return [shape(v) for v in value]
    return type(value).__name__


@pytest.mark.parametrize(
    ("recorded", "options"),
    [
        ("chat_stream.sse", {"stream_options": USAGE}),
        ("chat_stream_no_usage.sse", {}),
        (
            "chat_stream_continuous_usage.sse",
            {"stream_options": {**USAGE, "continuous_usage_stats": True}},
        ),
    ],
)
def test_streams_have_the_events_and_fields_of_recorded_ones(
    tmp_path: Path, recorded: str, options: dict[str, Any]
) -> None:
    lines = (DATA / recorded).read_bytes().splitlines()
    theirs = [x.removeprefix(b"data: ") for x in lines if x.startswith(b"data: ")]
    with servers(tmp_path) as sim:
        ours = sim.ask(tokens=16, **options).events
    assert len(ours) == len(theirs)
    assert [e == "[DONE]" for e in ours] == [x == b"[DONE]" for x in theirs]
    for mine, line in zip(ours[:-1], theirs[:-1], strict=True):
        assert shape(mine) == shape(json.loads(line))


def test_completions_have_the_events_of_a_recorded_stream(tmp_path: Path) -> None:
    lines = (DATA / "completions_stream.sse").read_bytes().splitlines()
    theirs = [json.loads(x[6:]) for x in lines if x.startswith(b"data: {")]
    body = {"model": "a", "prompt": "hi", "max_tokens": 16, "stream": True}
    with servers(tmp_path) as sim:
        got = stream(sim.urls["one"], "/v1/completions", body | {"stream_options": USAGE})
    *ours, done = got.events
    assert done == "[DONE]"
    assert len(ours) == 17  # theirs has two tokens in one of its chunks
    for mine, recorded in ((0, 0), (-2, -2), (-1, -1)):
        assert shape(ours[mine]) == shape(theirs[recorded])


def test_adapters_know_the_servers_and_see_them_sleep(tmp_path: Path) -> None:
    vllm = adapter("vllm")
    with servers(tmp_path) as sim:
        info = probe(sim.urls["one"])
        assert (info.engine, info.models, info.control_url) == ("vllm", ("a",), sim.control)
        assert [r.state for r in vllm.residency(sim.urls["one"], 5) or ()] == ["resident"]
        sim.post("/sleep?level=1")
        assert [r.state for r in vllm.residency(sim.urls["one"], 5) or ()] == ["asleep"]
        page = call(sim.urls["one"], "GET", "/metrics").body.decode()
    assert 'sleep_state="weights_offloaded"} 1.0' in page
    assert 'sleep_state="awake"} 0.0' in page


def test_metrics_count_what_runs_and_the_cache_it_uses(tmp_path: Path) -> None:
    vllm = adapter("vllm")
    with servers(tmp_path) as sim, ThreadPoolExecutor(2) as pool:
        (idle,) = vllm.figures(sim.urls["one"], 5)
        assert (idle.model, idle.running, idle.waiting, idle.kv_cache_ratio) == ("a", 0, 0, 0.0)
        asked = [pool.submit(sim.ask, "one", 300) for _ in range(2)]
        wait_until(lambda: vllm.figures(sim.urls["one"], 5)[0].running == 2)
        assert (vllm.figures(sim.urls["one"], 5)[0].kv_cache_ratio or 0) > 0
        assert [a.result().events[-1] for a in asked] == ["[DONE]"] * 2


def test_memory_is_a_flat_line_whatever_is_asked(tmp_path: Path) -> None:
    with servers(tmp_path) as sim, ThreadPoolExecutor(1) as pool:
        before = sim.processes()
        asked = pool.submit(sim.ask, "one", 200)
        while not asked.done():
            assert sim.processes() == before
        read = sim.told(loads=2)
    assert {bytes_ for _, bytes_ in before.values()} == {4000}
    assert [(x.cause, x.server) for x in read.loads] == [("start", "one"), ("start", "two")]


@pytest.mark.parametrize(("level", "garbage"), [(1, False), (2, True)])
def test_sleep_gives_memory_back_and_keeps_the_pid(
    tmp_path: Path, level: int, garbage: bool
) -> None:
    with servers(tmp_path) as sim:
        pid, full = sim.processes()["a"]
        said = sim.post(f"/sleep?level={level}")
        assert said == {"status": "sleeping", "level": level}
        assert sim.processes()["a"] == (pid, 100)
        assert call(sim.urls["one"], "GET", "/health").status == 200
        assert call(sim.urls["one"], "GET", "/is_sleeping").json == {"is_sleeping": True}
        sim.post("/wake_up")
        assert sim.processes()["a"] == (pid, full)
        text = "".join(c["choices"][0]["delta"]["content"] for c in sim.ask().events[:-1])
        assert (text == "!!!") == garbage
        assert sim.post("/collective_rpc", {"method": "reload_weights"}) == {"results": [None]}
        text = "".join(c["choices"][0]["delta"]["content"] for c in sim.ask().events[:-1])
        assert text != "!!!"
        wait_until(lambda: len(sim.told().loads) == 3)
        read = sim.told()
    assert [(u.kind, u.cause) for u in read.unloads] == [(f"sleep_l{level}", "control")]
    wake = read.loads[-1]
    assert (wake.kind, wake.cause, wake.outcome) == (f"wake_l{level}", "control", "ok")


def test_a_request_to_a_sleeping_server_hangs_until_it_is_woken(tmp_path: Path) -> None:
    with servers(tmp_path) as sim, ThreadPoolExecutor(2) as pool:
        sim.post("/sleep?level=1")
        asked = [pool.submit(sim.ask) for _ in range(2)]
        wait_until(lambda: len(sim.told().arrivals) == 2)
        time.sleep(0.1)
        assert not any(a.done() for a in asked)
        sim.post("/wake_up")
        assert [a.result().events[-1] for a in asked] == ["[DONE]"] * 2
        assert all(a.result().head_s < 0.1 < a.result().seconds for a in asked)  # early headers
        wait_until(lambda: len(sim.told().requests) == 2)
        read = sim.told()
    strata = sorted((r.n, r.stratum) for r in read.requests)
    assert strata == [(1, "swap_trigger"), (2, "swap_waiter")]
    assert {r.load for r in read.requests} == {read.loads[-1].load}
    assert (read.loads[-1].trigger, read.loads[-1].kind) == (1, "wake_l1")


def test_sleeping_ends_running_answers_with_abort(tmp_path: Path) -> None:
    with servers(tmp_path) as sim, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(sim.ask, "one", 1000)
        vllm = adapter("vllm")
        wait_until(lambda: vllm.figures(sim.urls["one"], 5)[0].running == 1)
        sim.post("/sleep?level=2")
        *_, last, done = asked.result().events
        wait_until(lambda: len(sim.told().requests) == 1)
        (row,) = sim.told().requests
    assert (last["choices"][0]["finish_reason"], done) == ("abort", "[DONE]")
    assert (row.outcome, row.finish_reason) == ("error", "abort")


def test_a_restart_changes_the_pid_and_cuts_who_was_served(tmp_path: Path) -> None:
    with servers(tmp_path) as sim, ThreadPoolExecutor(1) as pool:
        pid, full = sim.processes()["a"]
        asked = pool.submit(sim.ask, "one", 1000)
        wait_until(lambda: adapter("vllm").figures(sim.urls["one"], 5)[0].running == 1)
        sim.act("restart")
        assert asked.result().end in ("eof", "reset")
        assert "a" not in sim.processes()
        with pytest.raises(ConnectionRefusedError):
            call(sim.urls["one"], "GET", "/health")
        wait_until(lambda: sim.state() == "awake")
        new, again = sim.processes()["a"]
        assert sim.ask().events[-1] == "[DONE]"
        read = sim.told(loads=3)
    assert (new != pid, again) == (True, full)
    assert [(u.kind, u.cause) for u in read.unloads] == [("process", "control")]
    assert (read.loads[-1].cause, read.loads[-1].pid) == ("control", new)
    assert read.requests[0].outcome == "cut"


def test_a_start_stopped_half_way_and_started_again_serves(tmp_path: Path) -> None:
    with servers(tmp_path, one=", started: false") as sim:
        assert sim.state() == "down"
        for _ in range(3):
            sim.act("restart")
        wait_until(lambda: sim.state() == "awake")
        assert sim.ask().events[-1] == "[DONE]"
        wait_until(lambda: sim.told().loads[-1].outcome == "ok")
        outcomes = [x.outcome for x in sim.told(loads=2).loads if x.server == "one"]
    assert outcomes[-1] == "ok"
    assert set(outcomes[:-1]) <= {"aborted"}


def test_a_vllm_server_that_finds_too_little_free_memory_does_not_start(tmp_path: Path) -> None:
    with servers(tmp_path, ratio=0.6) as sim:
        states = call(sim.control, "GET", "/servers").json
        read = sim.told(loads=2)
    assert (states["one"]["state"], states["two"]["state"]) == ("awake", "down")
    assert "less than desired GPU memory utilization" in states["two"]["start_failure"]
    assert [(x.server, x.outcome) for x in read.loads] == [("one", "ok"), ("two", "error")]


def test_the_second_sglang_server_fails_for_memory(tmp_path: Path) -> None:
    with servers(tmp_path, "sglang", 0.9) as sim:
        states = call(sim.control, "GET", "/servers").json
        assert probe(sim.urls["one"]).engine == "sglang"
        *_, last, usage, done = sim.ask(stream_options=USAGE).events
    assert (states["one"]["state"], states["two"]["state"]) == ("awake", "down")
    assert "--mem-fraction-static" in states["two"]["start_failure"]
    assert (last["choices"][0]["finish_reason"], done) == ("length", "[DONE]")
    assert usage["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize(("backup", "garbage"), [("false", True), ("true", False)])
def test_sglang_releases_its_memory_and_keeps_weights_only_with_a_backup(
    tmp_path: Path, backup: str, garbage: bool
) -> None:
    with servers(tmp_path, "sglang", 0.4, one=f", weights_backup: {backup}") as sim:
        full = sim.processes()["a"]
        sim.post("/release_memory_occupation", {})
        assert sim.processes()["a"] == (full[0], 100)
        assert call(sim.urls["one"], "GET", "/ready").status == 503
        sim.post("/resume_memory_occupation", {})
        assert sim.processes()["a"] == full
        assert call(sim.urls["one"], "GET", "/ready").status == 200
        events = sim.ask().events[:-1]
    text = "".join(c["choices"][0]["delta"]["content"] or "" for c in events)
    assert (text == "!!!") == garbage


SWITCHED = {
    "ratio": 0.8, "two": ", asleep: true", "more": "switcher: {awake: 1, level: 1}",
}  # fmt: skip


def test_a_switcher_wakes_who_is_asked_and_puts_the_other_to_sleep(tmp_path: Path) -> None:
    with servers(tmp_path, **SWITCHED) as sim:  # type: ignore[arg-type]
        assert sim.ask("two").events[-1] == "[DONE]"
        assert (sim.state("one"), sim.state("two")) == ("asleep", "awake")
        assert sim.ask("one").events[-1] == "[DONE]"
        wait_until(lambda: len(sim.told().requests) == 2)
        read = sim.told()
    assert [(x.model, x.kind, x.displaced) for x in read.swaps] == [
        ("b", "wake_l1", ["a"]),
        ("a", "wake_l1", ["b"]),
    ]
    for swap in read.swaps:
        marks = [swap.demand_unix_ns, swap.evict_unix_ns, swap.freed_unix_ns]
        marks += [swap.load_unix_ns, swap.ready_unix_ns]
        known = [m for m in marks if m is not None]
        assert len(known) == 5
        assert known == sorted(known)
    assert [r.stratum for r in read.requests] == ["swap_trigger"] * 2


def test_turns_are_taken_fairly_and_every_request_ends(tmp_path: Path) -> None:
    with servers(tmp_path, **SWITCHED) as sim, ThreadPoolExecutor(8) as pool:  # type: ignore[arg-type]
        asked = [pool.submit(sim.ask, name, 20) for name in ("one", "two") * 8]
        assert [a.result().events[-1] for a in asked] == ["[DONE]"] * 16
        wait_until(lambda: len(sim.told().requests) == 16)
        read = sim.told()
    assert {r.outcome for r in read.requests} == {"ok"}
    assert len(read.swaps) == len({s.load for s in read.swaps}) >= 1


def test_a_waiter_that_goes_away_keeps_nobody_from_sleeping(tmp_path: Path) -> None:
    with servers(tmp_path, **SWITCHED) as sim:  # type: ignore[arg-type]
        with opened(sim.urls["two"], "/v1/chat/completions", sim.body("b", 3)):
            wait_until(lambda: sim.state("two") == "waking")
        assert sim.ask("one").events[-1] == "[DONE]"
        assert sim.ask("two").events[-1] == "[DONE]"


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/v1/chat/completions", {"model": "nope", "messages": []}, 404, "NotFoundError"),
        ("/v1/chat/completions", {"model": "a", "messages": []}, 400, "BadRequestError"),
        ("/v1/completions", {"model": "a", "prompt": "x", "max_tokens": 9999}, 400,
         "BadRequestError"),
        ("/sleep?level=7", None, 400, "BadRequestError"),
        ("/collective_rpc", {"method": "format_disk"}, 400, "BadRequestError"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_said_as_vllm_says_it(
    tmp_path: Path, path: str, body: object, status: int, kind: str
) -> None:
    with servers(tmp_path) as sim:
        got = call(sim.urls["one"], "POST", path, body)
    assert (got.status, got.json["error"]["type"]) == (status, kind)
