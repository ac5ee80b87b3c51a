"""Who is loaded, evicted and waited for: the scheduler's rules over real sockets, held against
the truth file."""

import asyncio
import contextlib
import itertools
import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.sim_client import Streamed, call, opened, stream, wait_until
from tokenswarm.sim import truth
from tokenswarm.sim.clock import WallClock, now_s
from tokenswarm.sim.gpu import Gpu
from tokenswarm.sim.host import PageCache
from tokenswarm.sim.process import start
from tokenswarm.sim.profile import GpuSpec, HostSpec, Model, OllamaSpec
from tokenswarm.sim.runner import Ask, Grant
from tokenswarm.sim.scheduler import Scheduler

# Loads take 200 ms; two of the three models fit, `big` never does.
PROFILE = """
name: rules
doc: three models, two fit
gpu: {{name: g, vram_total_bytes: 10000, free_lag_s: 0.02}}
host: {{disk_bytes_per_s: {rate}, cache_bytes_per_s: {rate}}}
ollama: {{batch_bytes: 0, context_length: 100, poll_s: 0.01, num_parallel: 4{ollama}}}
models:
  - &a {{name: a, file_bytes: 3500, spawn_s: 0.0, prefill_s: 0.005, token_s: 0.002}}
  - {{<<: *a, name: b}}
  - {{<<: *a, name: c}}
  - {{<<: *a, name: big, file_bytes: 20000}}
"""


@dataclass
class Rules:
    """A running simulation and ways to ask it."""

    url: str
    control: str
    path: Path
    pool: ThreadPoolExecutor

    def ask(self, model: str, tokens: int = 2, **more: Any) -> Streamed:
        body: dict[str, Any] = {"model": model, "prompt": "hi", "options": {"num_predict": tokens}}
        body["options"] |= more.pop("options", {})
        return stream(self.url, "/api/generate", body | more)

    def later(self, model: str, tokens: int = 2, **more: Any) -> "Future[Streamed]":
        """`ask` in a thread; returns when the server has the request."""
        before = self.arrivals()
        asked = self.pool.submit(self.ask, model, tokens, **more)
        wait_until(lambda: self.arrivals() > before)
        return asked

    def arrivals(self) -> int:
        count = call(self.control, "GET", "/").json["arrivals"]
        assert isinstance(count, int)
        return count

    def loaded(self) -> list[str]:
        got = call(self.url, "GET", "/api/ps").json["models"]
        return [m["name"].removesuffix(":latest") for m in got]

    def used(self) -> int:
        used = call(self.control, "GET", "/gpu").json[0]["vram_used_bytes"]
        assert isinstance(used, int)
        return used

    def told(self) -> truth.Truth:
        return truth.read(self.path)

    def settled(self, requests: int) -> truth.Truth:
        """The truth once it holds that many finished requests."""
        wait_until(lambda: len(self.told().requests) >= requests)
        return self.told()


@contextlib.contextmanager
def rules(tmp_path: Path, ollama: str = "", rate: float = 17500.0) -> Iterator[Rules]:
    file, path = tmp_path / "rules.yaml", tmp_path / "truth.jsonl"
    file.write_text(PROFILE.format(ollama=ollama and ", " + ollama, rate=rate))
    with start(file, truth=path) as sim, ThreadPoolExecutor(32) as pool:
        yield Rules(sim.ollama_url, sim.control_url, path, pool)


def test_a_model_is_loaded_by_its_first_request_and_stays(tmp_path: Path) -> None:
    with rules(tmp_path) as sim:
        assert sim.loaded() == []
        cold, warm = sim.ask("a").lines[-1], sim.ask("a").lines[-1]
        assert cold["load_duration"] >= 200e6 > warm["load_duration"]
        assert sim.loaded() == ["a"]
        assert sim.used() == 3500
        read = sim.settled(2)
    assert [r.stratum for r in read.requests] == ["swap_trigger", "warm"]
    (load,) = read.loads
    assert (load.trigger, load.cause, load.displaced, load.disk_cold) == (1, "demand", [], True)
    assert read.requests[0].load == load.load
    assert read.swaps == []


def test_the_victim_has_the_shortest_keep_alive_then_the_first_name(tmp_path: Path) -> None:
    with rules(tmp_path) as sim:
        sim.ask("a", keep_alive="10m")
        sim.ask("b", keep_alive="9m")
        sim.ask("c", keep_alive="10m")  # b goes: it has the shortest
        assert sim.loaded() == ["a", "c"]
        sim.ask("b", keep_alive="10m")  # a goes: the first name of equals, though c came later
        assert sim.loaded() == ["c", "b"]
        sim.ask("b", keep_alive=-1)  # a warm request's keep_alive counts too
        sim.ask("a", keep_alive=60)  # c goes: for ever is longest
        assert sim.loaded() == ["b", "a"]
        read = sim.settled(6)
    assert [load.displaced for load in read.swaps] == [["b"], ["a"], ["c"]]
    assert [u.cause for u in read.unloads] == ["pressure"] * 3


def test_an_idle_victim_goes_before_a_busy_one_of_an_earlier_name(tmp_path: Path) -> None:
    with rules(tmp_path) as sim:
        sim.ask("a")
        sim.ask("b")
        busy = sim.later("a", 200)
        sim.ask("c")
        assert sim.loaded() == ["a", "c"]
        busy.result()


def test_an_eviction_waits_for_the_victims_requests(tmp_path: Path) -> None:
    with rules(tmp_path, "max_loaded_models: 1") as sim:
        sim.ask("a")
        busy = sim.later("a", 100)
        last = sim.ask("b").lines[-1]
        assert busy.result().lines[-1]["eval_count"] == 100
        read = sim.settled(3)
    ran = next(r for r in read.requests if r.n == 2)
    (swap,) = read.swaps
    marks = [swap.demand_unix_ns, swap.evict_unix_ns, ran.last_token_unix_ns]
    marks += [swap.killed_unix_ns, swap.load_unix_ns, swap.ready_unix_ns]
    times = [m for m in marks if m is not None]
    assert len(times) == 6
    assert times == sorted(times)
    # the client is told all of it as "load"
    waited_ns = (swap.ready_unix_ns or 0) - (swap.demand_unix_ns or 0)
    assert last["load_duration"] >= 0.99 * waited_ns


def test_one_load_at_a_time_and_the_rest_queues_behind_it(tmp_path: Path) -> None:
    with rules(tmp_path) as sim:
        first, second = sim.later("a"), sim.later("b")
        waiter = sim.later("a")
        assert [x.result().lines[-1]["done"] for x in (first, second, waiter)] == [True] * 3
        read = sim.settled(3)
    a, b = read.loads
    assert (a.model, b.model) == ("a", "b")
    assert (b.load_unix_ns or 0) >= (a.ready_unix_ns or 0) > (b.demand_unix_ns or 0)
    strata = {r.n: (r.stratum, r.load) for r in read.requests}
    assert strata == {1: ("swap_trigger", 1), 2: ("swap_trigger", 2), 3: ("swap_waiter", 1)}
    granted = {r.n: r.granted_unix_ns or 0 for r in read.requests}
    assert granted[3] >= granted[2]  # it waited behind b's load though its model was ready


def test_a_request_to_a_loaded_model_bypasses_the_queue(tmp_path: Path) -> None:
    with rules(tmp_path) as sim:
        sim.ask("a")
        cold = sim.later("b")
        warm = sim.ask("a").lines[-1]
        assert warm["load_duration"] < 100e6
        assert not cold.done()
        cold.result()


def test_a_model_that_is_being_loaded_is_not_listed(tmp_path: Path) -> None:
    with rules(tmp_path) as sim:
        cold = sim.later("a")
        assert sim.loaded() == []
        wait_until(lambda: 0 < sim.used() < 3500)  # its memory grows meanwhile
        cold.result()
        assert sim.loaded() == ["a"]


def test_a_full_queue_is_503_for_cold_models_only(tmp_path: Path) -> None:
    with rules(tmp_path, "max_queue: 1", rate=3500.0) as sim:
        sim.ask("a")
        loading, queued = sim.later("b"), sim.later("c")
        refused = sim.ask("c")
        assert refused.head.startswith(b"HTTP/1.1 503 ")
        assert refused.lines == [
            {"error": "server busy, please try again.  maximum pending requests exceeded"}
        ]
        body = {"model": "c", "messages": [{"role": "user", "content": "x"}]}
        error = call(sim.url, "POST", "/v1/chat/completions", body)
        assert (error.status, error.json["error"]["type"]) == (503, "api_error")
        assert sim.ask("a").lines[-1]["done"]
        loading.result(), queued.result()


def test_a_client_that_goes_away_aborts_the_load(tmp_path: Path) -> None:
    with rules(tmp_path) as sim:
        with opened(sim.url, "/api/generate", {"model": "a", "prompt": "hi"}):
            wait_until(lambda: sim.used() > 0)
        wait_until(lambda: sim.used() == 0)
        assert sim.loaded() == []
        assert sim.ask("a").lines[-1]["load_duration"] >= 200e6
        read = sim.settled(2)
    assert [x.outcome for x in read.loads] == ["aborted", "ok"]
    assert [r.outcome for r in read.requests] == ["cancelled", "ok"]
    assert [u.cause for u in read.unloads] == ["aborted"]


def test_a_waiting_client_that_goes_away_leaves_the_queue(tmp_path: Path) -> None:
    with rules(tmp_path) as sim:
        first = sim.later("a")
        with opened(sim.url, "/api/generate", {"model": "b", "prompt": "hi"}):
            wait_until(lambda: sim.arrivals() == 2)
        first.result()
        sim.ask("c")
        assert sim.loaded() == ["a", "c"]


def test_a_client_that_goes_away_in_mid_stream_frees_its_slot(tmp_path: Path) -> None:
    with rules(tmp_path, "num_parallel: 1") as sim:
        sim.ask("a")
        body = {"model": "a", "prompt": "x", "options": {"num_predict": 5000}}
        with opened(sim.url, "/api/generate", body) as sock:
            sock.recv(100)
        assert sim.ask("a").lines[-1]["done"]
        cut = next(r for r in sim.settled(3).requests if r.n == 2)
    assert (cut.outcome, cut.finish_reason) == ("cancelled", None)
    assert 0 < cut.output_tokens < 5000


def test_keep_alive_0_unloads_after_the_answer(tmp_path: Path) -> None:
    with rules(tmp_path) as sim:
        assert sim.ask("a", keep_alive=0).lines[-1]["done"]
        wait_until(lambda: sim.used() == 0)
        assert sim.loaded() == []


def test_an_unload_answers_at_once_and_waits_for_running_requests(tmp_path: Path) -> None:
    with rules(tmp_path) as sim:
        sim.ask("a")
        busy = sim.later("a", 100)
        got = call(sim.url, "POST", "/api/generate", {"model": "a", "keep_alive": 0})
        assert got.json["done_reason"] == "unload"
        assert not busy.done()
        assert sim.used() == 3500
        assert busy.result().lines[-1]["eval_count"] == 100
        wait_until(lambda: sim.used() == 0)
        unload = sim.told().unloads
        wait_until(lambda: len(sim.told().unloads) == 1)
        unload = sim.told().unloads
    assert [u.cause for u in unload] == ["control"]


def test_a_model_expires_when_it_was_idle_for_its_keep_alive(tmp_path: Path) -> None:
    with rules(tmp_path) as sim:
        sim.ask("a", keep_alive="700ms")
        assert sim.loaded() == ["a"]
        wait_until(lambda: sim.loaded() == [])
        wait_until(lambda: len(sim.told().unloads) == 1)
        assert sim.told().unloads[0].cause == "ttl"


def test_another_num_ctx_reloads_the_model(tmp_path: Path) -> None:
    with rules(tmp_path) as sim:
        sim.ask("a")
        sim.ask("a", options={"num_ctx": 50})
        assert call(sim.url, "GET", "/api/ps").json["models"][0]["context_length"] == 50
        sim.ask("a", options={"num_ctx": 50})
        sim.ask("a")  # without num_ctx it wants the default again
        read = sim.settled(4)
    assert [(x.cause, x.context, x.displaced) for x in read.loads] == [
        ("demand", 100, []),
        ("reconfig", 50, ["a"]),
        ("reconfig", 100, ["a"]),
    ]
    assert read.swaps == []  # nothing else was displaced
    assert [r.stratum for r in read.requests].count("warm") == 1


def test_requests_beyond_num_parallel_wait_for_a_slot(tmp_path: Path) -> None:
    with rules(tmp_path, "num_parallel: 1") as sim:
        sim.ask("a")
        first = sim.later("a", 50)
        second = sim.ask("a", 2).lines[-1]
        first.result()
        read = sim.settled(3)
    one, two = (next(r for r in read.requests if r.n == n) for n in (2, 3))
    assert (two.started_unix_ns or 0) >= (one.last_token_unix_ns or 0)
    parts = sum(second[f"{p}_duration"] for p in ("load", "prompt_eval", "eval"))
    waited_ns = (two.started_unix_ns or 0) - (two.granted_unix_ns or 0)
    assert second["total_duration"] - parts >= waited_ns > 0  # it is in the total alone
    assert two.stratum == "warm"


def test_a_model_that_never_fits_is_an_error(tmp_path: Path) -> None:
    with rules(tmp_path) as sim:
        sim.ask("a")
        got = sim.ask("big")
        assert got.head.startswith(b"HTTP/1.1 500 ")
        assert "out of memory" in got.lines[0]["error"]
        assert sim.ask("b").lines[-1]["done"]
        failed = [x for x in sim.settled(3).loads if x.outcome == "error"]
    assert [(x.model, x.displaced) for x in failed] == [("big", ["a"])]


def test_a_locked_server_makes_warm_requests_wait_and_the_truth_calls_them_collateral(
    tmp_path: Path,
) -> None:
    with rules(tmp_path, "lock_s: 0.6") as sim:
        sim.ask("a")
        body = {"model": "b", "prompt": "hi", "options": {"num_predict": 1}}
        with opened(sim.url, "/api/generate", body) as sock:
            wait_until(lambda: sim.used() > 3500)
            sim.ask("a")
            sock.recv(100)
        read = sim.settled(3)
    hit = next(r for r in read.requests if r.n == 3)
    assert hit.stratum == "swap_collateral"
    assert hit.collateral_wait_s > 0.05
    assert (hit.granted_unix_ns or 0) - hit.arrival_unix_ns >= hit.collateral_wait_s * 0.99e9


def test_a_model_that_is_too_large_is_loaded_in_part_and_slower(tmp_path: Path) -> None:
    with rules(tmp_path, "offload: true, offload_slowdown: 10.0") as sim:
        sim.ask("a")
        last = sim.ask("big", 8).lines[-1]
        whole = sim.ask("a", 8).lines[-1]
        big = sim.settled(3).loads[1]
        sim.ask("big")
        (shown,) = call(sim.url, "GET", "/api/ps").json["models"]
        assert sim.used() == shown["size_vram"] < shown["size"] == 20000
    assert (big.displaced, big.partial, big.outcome) == (["a"], True, "ok")
    assert big.size_bytes == 20000
    assert last["eval_duration"] > 3 * whole["eval_duration"]


def test_a_crash_fails_what_the_process_was_saying_and_is_found_out_later(tmp_path: Path) -> None:
    with rules(tmp_path) as sim:
        sim.ask("a")
        beside = sim.later("a", 2000)
        knobs = {"crash": {"token": 3}}
        call(sim.control, "POST", "/knobs", {"model": "a", "knobs": knobs})
        crashed = sim.ask("a", 50)
        assert [x for x in (crashed, beside.result()) if "error" not in x.lines[-1]] == []
        wait_until(lambda: sim.used() == 0)
        assert sim.loaded() == ["a"]  # nobody has needed it since
        call(sim.control, "POST", "/knobs", {"model": "a", "knobs": {}})
        again = sim.ask("a").lines[-1]
        assert (again["done"], again["load_duration"] >= 200e6) == (True, True)
        read = sim.settled(4)
    assert len([x for x in crashed.lines if not x.get("error")]) == 3
    assert [u.cause for u in read.unloads] == ["crash"]
    assert [(x.cause, x.displaced) for x in read.loads] == [("demand", [])] * 2
    assert sorted(r.outcome for r in read.requests) == ["error", "error", "ok", "ok"]


def test_a_crash_hides_itself_on_v1_as_the_real_server_hides_it(tmp_path: Path) -> None:
    with rules(tmp_path) as sim:
        call(sim.control, "POST", "/knobs", {"knobs": {"crash": {"token": 2}}})
        body = {"model": "a", "messages": [{"role": "user", "content": "x"}], "stream": True}
        got = stream(sim.url, "/v1/chat/completions", body | {"max_tokens": 9})
    assert "[DONE]" not in got.events
    assert all(e["choices"][0]["finish_reason"] is None for e in got.events)


def test_a_process_that_dies_while_loading_is_an_error_for_its_request_alone(
    tmp_path: Path,
) -> None:
    with rules(tmp_path) as sim:
        sim.ask("b")
        call(sim.control, "POST", "/knobs", {"model": "a", "knobs": {"load_crash_rate": 1.0}})
        failed = sim.ask("a")
        assert failed.head.startswith(b"HTTP/1.1 500 ")
        call(sim.control, "POST", "/knobs", {"model": "a", "knobs": {}})
        assert sim.ask("a").lines[-1]["done"]
        read = sim.settled(3)
    assert [(x.model, x.outcome) for x in read.loads] == [("b", "ok"), ("a", "error"), ("a", "ok")]
    assert [(u.model, u.cause) for u in read.unloads] == [("a", "crash")]
    assert read.loads[1].load_unix_ns is not None


def test_requests_held_up_by_a_lock_go_on_in_the_order_of_their_arrival(tmp_path: Path) -> None:
    with rules(tmp_path, "lock_s: 1.0") as sim:
        loading = sim.later("a")
        wait_until(lambda: sim.used() > 0)
        asked = [sim.later("b") for _ in range(4)]
        assert [a.result().lines[-1]["done"] for a in (loading, *asked)] == [True] * 5
        read = sim.settled(5)
    order = sorted(read.requests, key=lambda r: r.arrival_unix_ns)
    assert [r.stratum for r in order] == ["swap_trigger", "swap_trigger", *["swap_waiter"] * 3]


def test_early_headers_come_before_the_model_is_ready(tmp_path: Path) -> None:
    with rules(tmp_path) as sim:
        call(sim.control, "POST", "/knobs", {"model": "a", "knobs": {"early_headers": True}})
        early, late = sim.ask("a"), sim.ask("b")
        rows = {r.model: r for r in sim.settled(2).requests}
    assert early.head_s < 0.2 <= late.head_s
    assert (rows["a"].headers_unix_ns or 0) < (rows["a"].granted_unix_ns or 0)
    assert (rows["b"].headers_unix_ns or 0) > (rows["b"].granted_unix_ns or 0)


def test_text_while_loading_comes_before_the_model_is_ready(tmp_path: Path) -> None:
    with rules(tmp_path) as sim:
        call(sim.control, "POST", "/knobs", {"knobs": {"loading_text": True}})
        body = {"model": "a", "prompt": "x", "max_tokens": 2, "stream": True}
        body["messages"] = [{"role": "user", "content": "x"}]
        got = stream(sim.url, "/v1/chat/completions", body)
        deltas = [c["delta"] for e in got.events[:-1] for c in e["choices"]]
        read = sim.settled(1).requests[0]
    loading = [d for d in deltas if "reasoning_content" in d]
    assert len(loading) >= 1
    assert len([d for d in deltas if d.get("content")]) == 2
    assert read.output_tokens == len(read.token_unix_ns) == 2
    assert (read.headers_unix_ns or 0) < (read.granted_unix_ns or 0)


def test_memory_never_exceeds_the_gpu_and_every_request_ends_whatever_the_mix(
    tmp_path: Path,
) -> None:
    dice = random.Random(7)
    with rules(tmp_path) as sim:
        asked = [
            sim.pool.submit(
                sim.ask,
                dice.choice("abc"),
                dice.randint(1, 8),
                keep_alive=dice.choice([0, "20ms", "5m"]),
                options=dice.choice([{}, {"num_ctx": 60}]),
            )
            for _ in range(24)
        ]
        for _ in range(5):
            with opened(sim.url, "/api/generate", {"model": "c", "prompt": "x"}):
                time.sleep(0.01)
        while not all(a.done() for a in asked):
            view = call(sim.control, "GET", "/gpu").json[0]
            assert 0 <= view["vram_used_bytes"] <= view["vram_total_bytes"]
            assert view["vram_free_bytes"] >= 0
            held = sum(p["vram_used_bytes"] for p in view["processes"])
            assert held <= view["vram_used_bytes"]
        assert all(a.result().lines[-1]["done"] for a in asked)
        read = sim.settled(29)
    assert len(read.arrivals) == len(read.requests) == 29
    assert [r.outcome for r in read.requests].count("ok") == 24
    _check_marks(read)


def _check_marks(read: truth.Truth) -> None:
    """What holds in every truth file."""
    for r in read.requests:
        stamps = [r.arrival_unix_ns, r.granted_unix_ns, r.started_unix_ns, r.first_token_unix_ns]
        stamps += [*r.token_unix_ns, r.last_token_unix_ns, r.end_unix_ns]
        known = [s for s in stamps if s is not None]
        assert known == sorted(known)
    ready = [(x.load_unix_ns, x.ready_unix_ns) for x in read.loads if x.outcome == "ok"]
    spans = sorted((a, b) for a, b in ready if a is not None and b is not None)
    assert all(one[1] <= two[0] for one, two in itertools.pairwise(spans))  # one at a time
    by_load = {x.load: x for x in read.loads}
    assert len(by_load) == len(read.loads)
    for r in read.requests:
        if r.stratum == "swap_trigger" and r.load is not None:
            assert by_load[r.load].trigger == r.n
        if r.stratum == "swap_waiter":
            assert r.load is not None
            assert by_load[r.load].model == r.model
    for x in read.loads:
        marks = [x.demand_unix_ns, x.evict_unix_ns, x.killed_unix_ns, x.load_unix_ns]
        marks += [x.ready_unix_ns]
        known = [m for m in marks if m is not None]
        assert known == sorted(known)
    evicted = {u.load for u in read.unloads if u.cause in ("pressure", "reconfig")}
    assert evicted <= {x.load for x in read.loads if x.displaced}


@pytest.mark.parametrize("turns", range(12))
def test_a_client_that_goes_away_at_any_moment_leaves_nothing_behind(turns: int) -> None:
    async def go() -> None:
        gpu = Gpu(GpuSpec(name="g", vram_total_bytes=100, free_lag_s=0.0), (), now_s())
        spec = OllamaSpec(batch_bytes=0, poll_s=0.0, keep_alive_s=0.01)
        model = Model(name="m", file_bytes=50, spawn_s=0.0, train_context=10)
        cache, clock = PageCache(HostSpec(cached=True), (model,)), WallClock.anchored()
        scheduler = Scheduler(spec, gpu, cache, truth.Writer(None), clock)
        queue = asyncio.create_task(scheduler.run())
        leaving = asyncio.create_task(scheduler.acquire(Ask(1, model, 10, None, now_s())))
        for _ in range(turns):
            await asyncio.sleep(0)
        leaving.cancel()
        outcome = (await asyncio.gather(leaving, return_exceptions=True))[0]
        if isinstance(outcome, Grant):
            scheduler.release(outcome.runner)
        await asyncio.sleep(0.005)
        while gpu.ledger.claims():  # it expires, so nobody holds it
            await asyncio.sleep(0.005)
        grant = await asyncio.wait_for(scheduler.acquire(Ask(2, model, 10, None, now_s())), 5)
        assert grant.runner.refs == 1
        scheduler.release(grant.runner)
        assert not queue.done()
        queue.cancel()
        await asyncio.sleep(0.02)  # the model expires

    asyncio.run(asyncio.wait_for(go(), 10))


def test_the_listening_socket_is_bound_to_loopback_only(tmp_path: Path) -> None:
    with rules(tmp_path) as sim, socket.socket() as other:
        port = int(sim.url.rpartition(":")[2])
        with pytest.raises(ConnectionRefusedError):
            other.connect(("127.0.0.2", port))
