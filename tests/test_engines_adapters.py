"""What each engine says of itself once it is known: residency, figures, token counts."""

import json
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.canned_server import Given, canned_server
from tests.engine_answers import (
    held,
    llama_cpp_python,
    llama_router,
    llama_server,
    llama_swap,
    ollama,
    openai,
    sglang,
    vllm,
)
from tokenswarm.engines import adapter
from tokenswarm.engines.ollama import Ollama
from tokenswarm.engines.protocol import ANY, LoadFigures, Residency, ResidencyState
from tokenswarm.errors import TargetError

PATHS = [
    "/v1/models",
    "/api/ps",
    "/api/tags",
    "/api/version",
    "/version",
    "/running",
    "/props",
    "/server_info",
    "/ready",
    "/health",
    "/metrics",
    "/is_sleeping",
]
LISTERS = ("ollama", "llama-swap")  # what they hold is one list; without it they say nothing


@pytest.mark.parametrize(
    ("size", "vram", "state"),
    [
        (1000, 1000, "resident"),
        (1000, 999, "partial"),  # a part runs on the CPU
        (1000, 0, "partial"),  # all of it does
    ],
)
def test_ollama_tells_what_it_holds_and_what_spilled(size: int, vram: int, state: str) -> None:
    with canned_server(ollama(held("qwen:latest", size, vram))) as canned:
        found = adapter("ollama").residency(canned.url, 5.0)
    assert found is not None
    assert [(r.model, r.state, r.size_bytes, r.vram_bytes, r.context_length) for r in found] == [
        ("qwen:latest", state, size, vram, 2048)
    ]


def test_ollama_holding_nothing_is_not_the_same_as_ollama_not_saying() -> None:
    with canned_server(ollama()) as canned:
        assert adapter("ollama").residency(canned.url, 5.0) == ()
        canned.answers["/api/ps"] = (500, b"oops")
        with pytest.raises(TargetError, match=r"/api/ps: not a list of models: HTTP 500 'oops'"):
            adapter("ollama").residency(canned.url, 5.0)


@pytest.mark.parametrize("dev_mode", [True, False])
@pytest.mark.parametrize(
    ("metrics", "state"),
    [
        ("metrics.prom", "resident"),
        ("metrics_asleep.prom", "asleep"),
        ("metrics_awake.prom", "resident"),
    ],
)
def test_vllm_sleeps_by_either_sign(metrics: str, state: ResidencyState, dev_mode: bool) -> None:
    with canned_server(vllm(metrics, dev_mode=dev_mode)) as canned:
        found = adapter("vllm").residency(canned.url, 5.0)
    level = 1 if state == "asleep" else None
    assert found == (Residency("tinyllama-1.1b", state, sleep_level=level),)


@pytest.mark.parametrize(("offloaded", "discarded", "level"), [(1, 0, 1), (0, 1, 2), (0, 0, None)])
def test_vllm_says_how_deep_it_sleeps(offloaded: int, discarded: int, level: int | None) -> None:
    page = "".join(
        f'vllm:engine_sleep_state{{engine="0",sleep_state="{state}"}} {value}.0\n'
        for state, value in [
            ("awake", 0), ("weights_offloaded", offloaded), ("discard_all", discarded),
        ]
    )  # fmt: skip
    answers = vllm(dev_mode=False)
    answers["/metrics"] = page.encode()
    with canned_server(answers) as canned:
        (found,) = adapter("vllm").residency(canned.url, 5.0) or ()
    assert (found.state, found.sleep_level) == ("asleep", level)


@pytest.mark.parametrize(
    ("expires_at", "left_s"),
    [
        ("{}.123456789Z", 300.0),  # nanoseconds, as Go writes them
        ("{}+00:00", 300.0),
        ("2318-03-10T12:00:00Z", None),  # keep_alive -1
        ("soon", None),
        (7, None),
    ],
)
def test_ollama_tells_when_a_model_is_to_go(expires_at: object, left_s: float | None) -> None:
    moment = datetime.now(UTC) + timedelta(seconds=300)
    if isinstance(expires_at, str):
        expires_at = expires_at.format(moment.strftime("%Y-%m-%dT%H:%M:%S"))
    answers = ollama({**held("qwen:latest"), "expires_at": expires_at})
    with canned_server(answers) as canned:
        (found,) = adapter("ollama").residency(canned.url, 5.0) or ()
    assert found.expires_s == (None if left_s is None else pytest.approx(left_s, abs=20))


@pytest.mark.parametrize(
    ("awake", "operations", "state"),
    [
        ((1, 1), {}, "resident"),
        ((0, 0), {}, "asleep"),
        ((1, 0), {}, "partial"),  # one of two engines (data parallel) sleeps
        ((0,), {"wake": 1}, "loading"),
        ((0,), {"wake_up": 1, "sleep": 0}, "loading"),
        ((0,), {"wake": 0, "sleep": 1}, "asleep"),
        ((1,), {"sleep": 1}, "resident"),
    ],
)
def test_vllm_half_asleep_or_waking(
    awake: tuple[int, ...], operations: dict[str, int], state: str
) -> None:
    page = "".join(
        f'vllm:engine_sleep_state{{engine="{i}",sleep_state="awake"}} {value}.0\n'
        for i, value in enumerate(awake)
    )
    for name, n in operations.items():
        page += f'vllm:sleep_mode_operations_in_flight{{operation="{name}"}} {n}.0\n'
    answers = vllm(dev_mode=False)
    answers["/metrics"] = page.encode()
    with canned_server(answers) as canned:
        (found,) = adapter("vllm").residency(canned.url, 5.0) or ()
    assert found.state == state


def test_ollama_tells_the_file_of_a_model() -> None:
    digest = "ab" * 32
    modelfile = f"# FROM x\n\nFROM /models/blobs/sha256-{digest}\nPARAMETER a 1\n"
    with canned_server({"/api/show": {"modelfile": modelfile}}) as canned:
        assert Ollama().blob(canned.url, "tiny", 5.0) == digest
        canned.answers["/api/show"] = {"modelfile": "FROM tiny:latest\n"}
        assert Ollama().blob(canned.url, "tiny", 5.0) is None
        canned.answers["/api/show"] = (404, b'{"error":"model not found"}')
        assert Ollama().blob(canned.url, "tiny", 5.0) is None
    assert [json.loads(body) for _, _, body in canned.seen] == [{"model": "tiny"}] * 3


def test_vllm_figures_add_up_the_engines_of_one_model() -> None:
    page = b"".join(
        b'vllm:num_requests_%s{engine="%d",model_name="m"} %d\n' % (name, engine, value)
        for engine, running, waiting in [(0, 3, 1), (1, 4, 0)]
        for name, value in [(b"running", running), (b"waiting", waiting)]
    )
    page += b'vllm:num_requests_waiting_by_reason{model_name="m",reason="capacity"} 9\n'
    page += b'vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.5\n'
    page += b'vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.25\n'
    with canned_server({"/metrics": page}) as canned:
        (figures,) = adapter("vllm").figures(canned.url, 5.0)
    assert figures == LoadFigures("m", running=7, waiting=1, kv_cache_ratio=0.375)


def test_vllm_figures_of_the_recording() -> None:
    with canned_server(vllm()) as canned:
        assert adapter("vllm").figures(canned.url, 5.0) == (
            LoadFigures("tinyllama-1.1b", running=0, waiting=0, kv_cache_ratio=0.0),
        )


def test_vllm_counts_tokens_of_a_prompt_with_bos_or_template() -> None:
    bare: dict[str, Any] = {"model": "tinyllama-1.1b", "prompt": "hello", "max_tokens": 9}
    chat = {"model": "tinyllama-1.1b", "messages": [{"role": "user", "content": "hello"}]}
    with canned_server(vllm()) as canned:
        assert adapter("vllm").prompt_tokens(canned.url, bare, 5.0) == 5 + 1
        assert adapter("vllm").prompt_tokens(canned.url, chat, 5.0) == 5 + 7
        canned.answers["/tokenize"] = (404, b"{}")
        assert adapter("vllm").prompt_tokens(canned.url, bare, 5.0) is None
        assert adapter("vllm").prompt_tokens(canned.url, chat, 5.0) is None


def test_sglang_is_ready_or_loading_or_too_old_to_say() -> None:
    with canned_server(sglang()) as canned:
        assert adapter("sglang").residency(canned.url, 5.0) == (Residency("qwen", "resident"),)
        canned.answers["/ready"] = (503, b"")
        assert adapter("sglang").residency(canned.url, 5.0) == (Residency("qwen", "loading"),)
        del canned.answers["/ready"]
        assert adapter("sglang").residency(canned.url, 5.0) is None
        assert not any(path.startswith("/health") for path, _, _ in canned.seen)


def test_sglang_figures_need_its_metrics() -> None:
    with canned_server(sglang()) as canned:
        assert adapter("sglang").figures(canned.url, 5.0) == (
            LoadFigures("qwen", running=3, waiting=2, kv_cache_ratio=0.25),
        )
        del canned.answers["/metrics"]
        assert adapter("sglang").figures(canned.url, 5.0) == ()


def test_a_llama_router_tells_the_state_of_every_model() -> None:
    with canned_server(llama_router()) as canned:
        assert adapter("llama-cpp").residency(canned.url, 5.0) == (
            Residency("loaded", "resident"),
            Residency("loading", "loading"),
            Residency("unloaded", "absent"),
            Residency("sleeping", "asleep"),
        )


def test_a_llama_router_is_asked_for_the_load_of_what_it_has_loaded_alone() -> None:
    """Any other question about a model would load or wake it."""
    with canned_server(llama_router()) as canned:
        assert adapter("llama-cpp").figures(canned.url, 5.0) == (
            LoadFigures("loaded", running=2, waiting=5),
        )
        canned.answers["/metrics?model=loaded&autoload=false"] = (501, b"")
        canned.answers["/slots?model=loaded&autoload=false"] = b'[{"is_processing": true}, 3]'
        assert adapter("llama-cpp").figures(canned.url, 5.0) == (LoadFigures("loaded", running=1),)
        asked = {path.partition("?")[2] for path, _, _ in canned.seen}
    assert asked == {"", "model=loaded&autoload=false"}


@pytest.mark.parametrize(
    ("metrics", "found"),
    [(True, LoadFigures(None, running=1, waiting=3)), (False, LoadFigures(None, running=1))],
)
def test_llama_cpp_without_metrics_has_slots(metrics: bool, found: LoadFigures) -> None:
    with canned_server(llama_server(metrics=metrics)) as canned:
        assert adapter("llama-cpp").figures(canned.url, 5.0) == (found,)
        assert ("/slots" in {path for path, _, _ in canned.seen}) is not metrics


def test_a_llama_cpp_that_sleeps_is_not_woken_by_looking_at_its_slots() -> None:
    with canned_server(llama_server()) as canned:
        canned.answers["/props"] = {"build_info": "b7000", "is_sleeping": True}
        assert adapter("llama-cpp").residency(canned.url, 5.0) == (Residency("tiny", "asleep"),)
        assert adapter("llama-cpp").figures(canned.url, 5.0) == ()
        assert "/slots" not in {path for path, _, _ in canned.seen}


@pytest.mark.parametrize("lists", [True, False])
def test_a_llama_cpp_that_loads_says_so_though_it_lists_its_model_already(lists: bool) -> None:
    loading: Given = (503, b'{"error":{"code":503,"message":"Loading model"}}')
    with canned_server(llama_server()) as canned:
        canned.answers |= {"/health": loading, "/props": loading, "/slots": loading}
        if not lists:
            canned.answers["/v1/models"] = loading
        found = adapter("llama-cpp").residency(canned.url, 5.0)
        assert found == (Residency("tiny" if lists else ANY, "loading"),)
        assert adapter("llama-cpp").figures(canned.url, 5.0) == ()


def test_llama_swap_tells_what_runs_behind_it() -> None:
    with canned_server(llama_swap()) as canned:
        assert adapter("llama-swap").residency(canned.url, 5.0) == (
            Residency("a", "resident"),
            Residency("b", "loading"),
            Residency("c", "absent"),
        )


def test_llama_cpp_python_holds_its_only_model_and_of_several_nobody_knows_which() -> None:
    with canned_server(llama_cpp_python()) as canned:
        there = adapter("llama-cpp-python")
        assert there.residency(canned.url, 5.0) == (Residency("one", "resident"),)
        canned.answers["/v1/models"] = {"data": [{"id": "one"}, {"id": "two"}]}
        assert there.residency(canned.url, 5.0) is None


@pytest.mark.parametrize(
    ("engine", "answers"),
    [
        ("openai", openai()),
        ("llama-cpp-python", {"/v1/models": {"data": [{"id": "one"}, {"id": "two"}]}}),
    ],
)
def test_an_engine_without_a_way_to_say_says_none(engine: str, answers: dict[str, Given]) -> None:
    with canned_server(answers) as canned:
        there = adapter(engine)
        assert there.residency(canned.url, 5.0) is None
        assert there.figures(canned.url, 5.0) == ()
        assert there.prompt_tokens(canned.url, {"model": "m", "prompt": "x"}, 5.0) is None


@pytest.mark.parametrize("engine", ["ollama", "vllm", "sglang", "llama-cpp", "llama-swap"])
@pytest.mark.parametrize("nonsense", [b"null", b"[]", b'{"models": 3, "data": [1, {}]}', b"<html>"])
def test_nonsense_under_200_is_no_engine_and_no_crash(engine: str, nonsense: bytes) -> None:
    answers: dict[str, Given] = dict.fromkeys(PATHS, nonsense)
    with canned_server(answers) as canned:
        assert adapter(engine).fingerprint(canned.url, 5.0) is None
        assert adapter(engine).figures(canned.url, 5.0) == ()
        with pytest.raises(TargetError, match="not a list") if engine in LISTERS else nullcontext():
            assert not adapter(engine).residency(canned.url, 5.0)
