"""The llama.cpp adapter against a real llama.cpp with a tiny random model."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.llama_server import llama_server
from tokenswarm.engines import adapter, probe
from tokenswarm.engines.control import Server
from tokenswarm.engines.protocol import LoadFigures, Residency

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def write_model() -> Callable[..., Path]:
    """A fixture, so that a missing package skips (or fails) each test with the reason."""
    pytest.importorskip("gguf")
    from tests.gguf_model import write_model

    return write_model


@pytest.fixture(scope="module")
def url(
    write_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A model that stops at once unless it is told to go on."""
    pytest.importorskip("xllamacpp")
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    with llama_server(write_model(path, ends=100.0), alias="tiny") as url:
        yield url


def chat(url: str, text: str, **more: Any) -> dict[str, Any]:
    body = {"model": "tiny", "messages": [{"role": "user", "content": text}], **more}
    return Server(url, 30.0).post("/v1/chat/completions", body).object()


def test_the_same_seed_gives_the_same_file(
    write_model: Callable[..., Path], tmp_path: Path
) -> None:
    one, two = write_model(tmp_path / "1", seed=5), write_model(tmp_path / "2", seed=5)
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes() != write_model(tmp_path / "3", seed=6).read_bytes()


def test_it_is_known_for_what_it_is(url: str) -> None:
    info = probe(url)
    assert (info.engine, info.models, info.simulated) == ("llama-cpp", ("tiny",), False)
    assert info.version
    assert probe(f"{url}/v1", named="xllamacpp") == info


def test_it_holds_its_model_and_is_idle(url: str) -> None:
    server = adapter("llama-cpp")
    assert server.residency(url, 5.0) == (Residency("tiny", "resident"),)
    assert server.figures(url, 5.0) == (LoadFigures(None, running=0, waiting=0),)


def test_the_knob_for_exact_lengths_makes_lengths_exact(url: str) -> None:
    exact = adapter("llama-cpp").knobs.exact_length
    assert exact is not None
    assert chat(url, "hello", max_tokens=24)["usage"]["completion_tokens"] < 24
    assert chat(url, "hello", max_tokens=24, **exact)["usage"]["completion_tokens"] == 24


@pytest.mark.parametrize(
    "text", ["hello", "a much longer text, with words", "h\u00e9llo \U0001f600"]
)
@pytest.mark.parametrize("system", [None, "be brief"])
def test_a_prompt_is_counted_as_it_is_billed(url: str, text: str, system: str | None) -> None:
    begin = [] if system is None else [{"role": "system", "content": system}]
    messages = [*begin, {"role": "user", "content": text}]
    bodies = [
        ("/v1/chat/completions", {"model": "tiny", "messages": messages, "max_tokens": 1}),
        ("/v1/completions", {"model": "tiny", "prompt": text, "max_tokens": 1}),
    ]
    for path, body in bodies:
        billed = Server(url, 30.0).post(path, body).object()["usage"]["prompt_tokens"]
        assert adapter("llama-cpp").prompt_tokens(url, body, 5.0) == billed


def test_a_prompt_of_token_ids_has_as_many_tokens(url: str) -> None:
    body = {"model": "tiny", "prompt": [10, 200, 300], "max_tokens": 1}
    reply = Server(url, 30.0).post("/v1/completions", body).object()
    assert reply["usage"]["prompt_tokens"] == 3


def test_a_token_of_the_tiny_model_is_a_character(url: str) -> None:
    """What other tests rely on: as many content chunks as tokens."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": True}
    body |= {"max_tokens": 40, "ignore_eos": True}
    stream = Server(url, 30.0).post("/v1/chat/completions", body).body.decode()
    chunks = [json.loads(e[6:]) for e in stream.split("\n\n") if e.startswith("data: {")]
    words = [c["choices"][0]["delta"].get("content") for c in chunks if c["choices"]]
    assert [len(w) for w in words if w] == [1] * 40
