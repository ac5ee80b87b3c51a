"""What adapters do to servers: load, unload, sleep, wake; and docs/engines.md."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.canned_server import Given, canned_server
from tests.engine_answers import llama_router, llama_swap
from tests.engine_page import LABELS, PAGE, PITFALLS, page
from tokenswarm.compare.ask import ask, call_of, canary
from tokenswarm.engines import adapter, probe
from tokenswarm.engines.control import Server
from tokenswarm.engines.sheet import Sheet
from tokenswarm.errors import TargetError
from tokenswarm.scenario.model import Target
from tokenswarm.sim.process import start
from tokenswarm.sim.serve import Endpoints

S = 20.0


@pytest.fixture(scope="module")
def vllm() -> Iterator[Endpoints]:
    with start("three-vllm", speed=10) as box:
        yield box


@pytest.fixture(scope="module")
def sglang() -> Iterator[Endpoints]:
    with start("two-sglang", speed=10) as box:
        yield box


def states(engine: str, url: str) -> dict[str, str]:
    return {r.model: r.state for r in adapter(engine).residency(url, S) or ()}


def test_ollama_unloads_and_says_so_only_when_the_model_has_gone() -> None:
    with start("rtx5090", speed=10) as box:
        ollama, url = adapter("ollama"), box.ollama_url
        assert ollama.ready(url, S)
        assert ollama.unloads
        ollama.load(url, "tinyllama:1.1b", S)
        assert states("ollama", url) == {"tinyllama:1.1b": "resident"}
        ollama.unload(url, "tinyllama:1.1b", S)
        assert states("ollama", url) == {}
        with pytest.raises(TargetError, match="failed: HTTP 404"):
            ollama.load(url, "no-such-model", S)
        with pytest.raises(TargetError, match="cannot sleep"):
            ollama.sleep(url, 1, S)


@pytest.mark.parametrize("level", [1, 2])
def test_vllm_sleeps_at_both_levels_and_its_text_is_the_same_afterwards(
    vllm: Endpoints, level: int
) -> None:
    engine, url = adapter("vllm"), vllm.urls["qwen"]
    assert engine.sleep_levels(url, S) == (1, 2)
    before = canary(url, "openai", "qwen2.5-3b", S)
    engine.sleep(url, level, S)
    assert engine.ready(url, S)  # its health says nothing of it
    assert states("vllm", url) == {"qwen2.5-3b": "asleep"}
    page = Server(url, S).get("/metrics").body.decode()
    asleep = "weights_offloaded" if level == 1 else "discard_all"
    assert f'sleep_state="{asleep}"}} 1.0' in page  # the level went into the query
    engine.wake(url, level, S)
    assert states("vllm", url) == {"qwen2.5-3b": "resident"}
    assert before
    assert canary(url, "openai", "qwen2.5-3b", S) == before


def test_weights_that_were_dropped_and_not_loaded_again_are_told_by_the_text(
    vllm: Endpoints,
) -> None:
    url = vllm.urls["tinyllama"]
    before = canary(url, "openai", "tinyllama-1.1b", S)
    Server(url, S).post("/sleep?level=2", {})
    Server(url, S).post("/wake_up", {})
    assert canary(url, "openai", "tinyllama-1.1b", S) != before
    Server(url, S).post("/collective_rpc", {"method": "reload_weights"})
    assert canary(url, "openai", "tinyllama-1.1b", S) == before


def test_vllm_that_cannot_reload_its_weights_has_its_cache_all_the_same() -> None:
    """As with weights that were never in a file: it must not die of the next request."""
    refused = (500, b'{"error":{"message":"Model reloading with `dummy` format"}}')
    asked = ["/wake_up?tags=weights", "/collective_rpc", "/wake_up?tags=kv_cache"]
    answers: dict[str, Given] = {asked[0]: {}, asked[1]: refused, asked[2]: {}}
    with canned_server(answers) as server:
        with pytest.raises(TargetError, match="Model reloading with `dummy` format"):
            adapter("vllm").wake(server.url, 2, S)
        assert [path for path, _, _ in server.seen] == asked


def test_sglang_releases_and_loads_its_weights_from_disk_again(sglang: Endpoints) -> None:
    engine, url = adapter("sglang"), sglang.urls["tinyllama"]
    assert engine.ready(url, S)
    assert engine.sleep_levels(url, S) == (2,)  # no backup of its weights
    before = canary(url, "openai", "tinyllama-1.1b", S)
    engine.sleep(url, 2, S)
    assert not engine.ready(url, S)
    engine.wake(url, 2, S)
    assert engine.ready(url, S)
    assert canary(url, "openai", "tinyllama-1.1b", S) == before


def test_sglang_that_serves_is_not_asked_to_release_which_would_kill_it(
    sglang: Endpoints,
) -> None:
    engine, url = adapter("sglang"), sglang.urls["tinyllama"]
    call = call_of(probe(url), "openai", "tinyllama-1.1b", "hi", 2000)
    asking = threading.Thread(target=ask, args=(url, call, 60.0))
    asking.start()
    try:
        for _ in range(1000):
            if any(f.running for f in engine.figures(url, S)):
                break
        with pytest.raises(TargetError, match="would kill it"):
            engine.sleep(url, 2, S)
    finally:
        asking.join()
    assert engine.ready(url, S)


def test_a_router_loads_and_unloads_and_is_waited_for() -> None:
    answers = llama_router()
    with canned_server(answers) as server:
        router = adapter("llama-cpp")
        names = list(states("llama-cpp", server.url))
        listed: dict[str, Any] = msgspec.json.decode(server.answer("/v1/models", b"")[1])

        def moved(state: str) -> Any:
            def answer(body: bytes) -> dict[str, Any]:
                wanted = msgspec.json.decode(body)["model"]
                for model in listed["data"]:
                    if model["id"] == wanted:
                        model["status"] = {"value": state}
                return {"success": True}

            return answer

        server.answers["/v1/models"] = lambda _: listed
        server.answers["/models/load"] = moved("loaded")
        server.answers["/models/unload"] = moved("unloaded")
        router.load(server.url, names[0], S)
        assert states("llama-cpp", server.url)[names[0]] == "resident"
        router.unload(server.url, names[0], S)
        assert states("llama-cpp", server.url)[names[0]] == "absent"
        server.answers["/models/load"] = {"success": True}
        with pytest.raises(TargetError, match=r"is not resident within 0\.3 s"):
            router.load(server.url, names[0], 0.3)


def test_llama_swap_unloads_by_name_and_waits_until_it_no_longer_runs() -> None:
    with canned_server(llama_swap()) as server:
        swap = adapter("llama-swap")
        name = next(n for n, s in states("llama-swap", server.url).items() if s == "resident")
        nothing: dict[str, Any] = {"running": []}

        def unload(_: bytes) -> dict[str, Any]:
            server.answers["/running"] = nothing
            return {"ok": True}

        server.answers[f"/api/models/unload/{name}"] = unload
        swap.unload(server.url, name, S)
        assert states("llama-swap", server.url) == {}


@pytest.mark.parametrize("engine", ["openai", "llama-cpp-python", "vllm"])
def test_an_engine_without_a_way_to_unload_says_so(engine: str) -> None:
    with pytest.raises(TargetError, match="no way to unload"):
        adapter(engine).unload("http://127.0.0.1:9", "m", 1.0)


def test_sglang_posing_as_ollama_is_sglang(sglang: Endpoints) -> None:
    url = sglang.urls["tinyllama"]
    assert probe(url).engine == "sglang"
    with pytest.raises(TargetError, match="is sglang, not ollama"):
        probe(url, named="ollama")


def test_another_name_in_the_answer_is_found() -> None:
    """As llama-cpp-python does for a model that it does not have."""
    with start("chaos") as box:
        url = box.ollama_url
        call = call_of(probe(url), "openai", "wrong-model", "hi", 4)
        assert ask(url, call, S).model_reply == "another-model"


def test_the_defaults_outlast_a_cold_load() -> None:
    """Ollama gives up on a load after 5 minutes; a client that goes away ends it."""
    target = Target(api="ollama", url="http://127.0.0.1:1")
    assert target.idle_timeout_s > 300
    assert target.total_timeout_s > target.idle_timeout_s


def test_the_documented_engines_are_the_adapters() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.engine_page --write"
    assert {*LABELS, "title"} == set(Sheet.__struct_fields__)


def test_every_pitfall_names_a_test_that_there_is() -> None:
    tests = "".join(p.read_text() for p in Path(__file__).parent.glob("test_*.py"))
    missing = [name for _, _, name in PITFALLS if f"def {name}(" not in tests]
    assert missing == []
    assert len(PITFALLS) == 20
