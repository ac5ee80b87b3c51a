"""Who listens at a URL: fingerprints, refusals and the way out of each."""

from collections.abc import Callable

import pytest

from tests.canned_server import Given, canned_server
from tests.engine_answers import (
    llama_cpp_python,
    llama_router,
    llama_swap,
    ollama,
    openai,
    sglang,
    vllm,
)
from tokenswarm.engines import ENGINES, adapter, check_models, probe, target_headers
from tokenswarm.engines.protocol import EngineInfo, Knobs
from tokenswarm.errors import TargetError

Answers = dict[str, Given]


@pytest.mark.parametrize(
    ("answers", "engine", "version", "models"),
    [
        (ollama, "ollama", "0.33.0", ("tinyllama:1.1b", "qwen:latest")),
        (vllm, "vllm", "0.24.0", ("tinyllama-1.1b",)),  # recorded
        (sglang, "sglang", "0.5.23", ("qwen",)),  # answers Ollama's /api/tags as well
        (llama_router, "llama-cpp", "b7000", ("loaded", "loading", "unloaded", "sleeping")),
        (llama_cpp_python, "llama-cpp-python", "0.3.35", ("one",)),
        (llama_swap, "llama-swap", "v250", ("a", "b", "c", "d")),  # has Ollama's /api/version
        (openai, "openai", None, ("gpt",)),  # nothing but OpenAI's API
    ],
)
def test_each_engine_is_told_by_its_answers(
    answers: Callable[[], Answers], engine: str, version: str | None, models: tuple[str, ...]
) -> None:
    with canned_server(answers()) as canned:
        info = probe(canned.url)
        named = probe(canned.url, named=engine)
    assert (info.engine, info.version, info.models) == (engine, version, models)
    assert named == info
    assert (info.url, info.simulated, info.control_url) == (canned.url, False, None)


def test_vllm_without_metrics_and_with_a_renamed_owner_is_still_told_by_its_metrics() -> None:
    answers = vllm()
    answers["/v1/models"] = openai()["/v1/models"]
    with canned_server(answers) as canned:
        assert probe(canned.url).engine == "vllm"
        canned.answers["/metrics"] = b"python_info 1\n"
        assert probe(canned.url).engine == "openai"


@pytest.mark.parametrize(
    ("engine", "knobs"),
    [
        ("ollama", Knobs(keep_alive=True)),
        (
            "vllm",
            Knobs({"ignore_eos": True}, min_tokens=True, token_id_prompts=True, tokenize=True),
        ),
        ("sglang", Knobs({"ignore_eos": True}, min_tokens=True, token_id_prompts=True)),
        (
            "llama-cpp",
            Knobs(
                {"ignore_eos": True}, token_id_prompts=True, tokenize=True, keeps_connections=False
            ),
        ),
        (
            "llama-cpp-python",
            Knobs({}, min_tokens=True, stream_usage=False, request_ids=False),
        ),
        ("llama-swap", Knobs()),
        ("openai", Knobs()),
    ],
)
def test_knobs_are_those_of_the_engine(engine: str, knobs: Knobs) -> None:
    assert adapter(engine).knobs == knobs
    assert engine in ENGINES


def test_an_engine_may_be_named_as_people_write_it() -> None:
    assert adapter("llama.cpp").engine == adapter("llama_cpp").engine == "llama-cpp"
    with pytest.raises(TargetError, match=r"unknown engine 'tgi': use one of llama-swap, ollama"):
        adapter("tgi")


def test_another_engine_than_named_is_refused() -> None:
    with (
        canned_server(sglang()) as canned,
        pytest.raises(TargetError, match="is sglang, not ollama: correct the target's"),
    ):
        probe(canned.url, named="ollama")


def test_openai_may_be_named_for_any_server_that_speaks_it() -> None:
    with canned_server(ollama()) as canned:
        assert probe(canned.url, named="openai").engine == "openai"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "wants a key .HTTP 401.: put the key into the environment"),
        (403, "wants a key"),
        (307, "redirects"),
        (503, "not ready .*: wait until"),
        (404, "is no server that can be tested, .*: correct the target's url"),
    ],
)
def test_a_refusal_names_the_way_out(status: int, words: str) -> None:
    with (
        canned_server({"/v1/models": (status, b"no")}) as canned,
        pytest.raises(TargetError, match=words),
    ):
        probe(canned.url)


def test_a_vllm_that_only_guards_its_api_wants_its_key() -> None:
    with (
        canned_server(vllm() | {"/v1/models": (401, b'{"error":"Unauthorized"}')}) as canned,
        pytest.raises(TargetError, match="wants a key"),
    ):
        probe(canned.url)


def test_an_ollama_whose_other_api_is_closed_is_usable() -> None:
    with canned_server(ollama() | {"/v1/models": (403, b"")}) as canned:
        assert probe(canned.url).engine == "ollama"


def test_a_key_that_is_refused_is_not_repeated() -> None:
    key = "sk-secret-114"
    with (
        canned_server({"/v1/models": (401, f"bad key {key}".encode())}) as canned,
        pytest.raises(TargetError, match="refuses the key it was given") as caught,
    ):
        probe(canned.url, headers={"Authorization": f"Bearer {key}"})
    assert key not in str(caught.value)


def test_a_llama_server_that_is_loading_says_so() -> None:
    loading = b'{"error":{"code":503,"message":"Loading model"}}'
    answers: Answers = {path: (503, loading) for path in ("/v1/models", "/props", "/health")}
    with (
        canned_server(answers, Server="llama.cpp") as canned,
        pytest.raises(TargetError, match="still loading its model: wait"),
    ):
        probe(canned.url)


def test_a_llama_server_that_wants_a_key_says_so() -> None:
    answers = openai() | {"/props": (401, b"{}")}
    with (
        canned_server(answers, Server="llama.cpp") as canned,
        pytest.raises(TargetError, match="wants a key: set api_key_env"),
    ):
        probe(canned.url)


@pytest.mark.parametrize(
    ("header", "control_url"),
    [
        ("http://127.0.0.1:7071", "http://127.0.0.1:7071"),
        ("http://127.0.0.1:7071/", "http://127.0.0.1:7071"),
        ("file:///etc/passwd", None),  # simulated, but that is no control port
        ("http://user:pass@box", None),
    ],
)
def test_a_simulation_says_so_in_every_answer(header: str, control_url: str | None) -> None:
    with canned_server(ollama(), X_Tokenswarm_Sim=header) as canned:
        info = probe(canned.url)
    assert (info.simulated, info.control_url) == (True, control_url)


def info(engine: str, *models: str) -> EngineInfo:
    return EngineInfo(engine, None, "http://box:1", models, Knobs())


def test_models_that_are_there_pass() -> None:
    assert check_models(info("vllm", "a", "b"), ["a", "b", "a"]) == ()


@pytest.mark.parametrize("wanted", ["qwen", "qwen:latest", "lib/qwen"])
def test_latest_goes_without_saying_for_ollama_only(wanted: str) -> None:
    assert check_models(info("ollama", "qwen:latest", "lib/qwen:latest"), [wanted]) == ()
    with pytest.raises(TargetError):
        check_models(info("ollama", "qwen:7b"), [wanted])
    with pytest.raises(TargetError):
        check_models(info("vllm", "x:latest"), [wanted])


@pytest.mark.parametrize(
    ("engine", "way"),
    [
        ("ollama", "`ollama pull gemma`"),
        ("vllm", "`--served-model-name gemma`"),
        ("llama-cpp", "`--alias gemma`"),
        ("openai", "use one of those"),
    ],
)
def test_a_missing_model_names_those_there_and_the_way_out(engine: str, way: str) -> None:
    with pytest.raises(TargetError) as caught:
        check_models(info(engine, "a", "b"), ["a", "gemma"])
    text = str(caught.value)
    assert text.startswith(f"http://box:1 ({engine}) has no model 'gemma'; it has a, b: ")
    assert way in text


def test_a_server_without_a_list_is_noted_but_an_empty_ollama_has_nothing() -> None:
    assert "could not be checked" in check_models(info("openai"), ["a"])[0]
    with pytest.raises(TargetError, match="it has none: `ollama pull a`"):
        check_models(info("ollama"), ["a"])


def test_a_key_comes_from_the_environment() -> None:
    environ = {"BOX_KEY": " k \n", "EMPTY": ""}
    assert target_headers({"X": "y"}, "BOX_KEY", environ) == {
        "X": "y",
        "Authorization": "Bearer k",
    }
    assert target_headers({"X": "y"}, None, environ) == {"X": "y"}
    for name in ("EMPTY", "MISSING"):
        with pytest.raises(TargetError, match=f"{name} .*is not set"):
            target_headers({}, name, environ)
