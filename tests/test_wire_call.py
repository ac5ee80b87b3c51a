"""What is sent."""

from typing import Any

import msgspec
import pytest

from tokenswarm.errors import UsageError
from tokenswarm.wire.call import Call, request

CHAT = [{"role": "user", "content": "hi"}]


def call(api: str, endpoint: str, **more: Any) -> Call:
    return msgspec.convert(
        {"api": api, "endpoint": endpoint, "model": "m", "prompt": "hi", **more}, Call
    )


@pytest.mark.parametrize(
    ("asked", "path", "body"),
    [
        # the plain stream
        (
            call("openai", "chat", output_tokens=8),
            "/v1/chat/completions",
            {"model": "m", "messages": CHAT, "stream": True, "max_tokens": 8,
             "stream_options": {"include_usage": True}},
        ),
        # an engine that does not know stream_options
        (
            call("openai", "chat", stream_usage=False),
            "/v1/chat/completions",
            {"model": "m", "messages": CHAT, "stream": True},
        ),
        # exact length, in the engine's own words
        (
            call("openai", "chat", output_tokens=8, min_tokens=True,
                 exact_length={"ignore_eos": True}, stream=False),
            "/v1/chat/completions",
            {"model": "m", "messages": CHAT, "stream": False, "max_tokens": 8, "min_tokens": 8,
             "ignore_eos": True},
        ),
        # a system text, sampling options; an option cannot undo what the call says
        (
            call("openai", "chat", system="be short", stream=False,
                 options={"temperature": 0, "seed": 7, "stream": True}),
            "/v1/chat/completions",
            {"model": "m", "stream": False, "temperature": 0, "seed": 7,
             "messages": [{"role": "system", "content": "be short"}, *CHAT]},
        ),
        # messages replace prompt and system
        (
            call("openai", "chat", system="no", stream=False,
                 messages=({"role": "user", "content": "yo"},)),
            "/v1/chat/completions",
            {"model": "m", "stream": False, "messages": [{"role": "user", "content": "yo"}]},
        ),
        (
            call("openai", "completions", prompt=[1, 2], stream=False, output_tokens=1),
            "/v1/completions",
            {"model": "m", "prompt": [1, 2], "stream": False, "max_tokens": 1},
        ),
        # there is no place for a system text but in front
        (
            call("openai", "generate", system="s", stream=False),
            "/v1/completions",
            {"model": "m", "prompt": "s\n\nhi", "stream": False},
        ),
        (call("openai", "embeddings"), "/v1/embeddings", {"model": "m", "input": "hi"}),
        # Ollama: lengths and sampling go into options, some options go beside them
        (
            call("ollama", "chat", output_tokens=8, keep_alive="5m", system="s",
                 options={"temperature": 0, "think": False, "num_predict": 9}),
            "/api/chat",
            {"model": "m", "stream": True, "keep_alive": "5m", "think": False,
             "options": {"temperature": 0, "num_predict": 8},
             "messages": [{"role": "system", "content": "s"}, *CHAT]},
        ),
        (
            call("ollama", "generate", system="s", stream=False, keep_alive=0),
            "/api/generate",
            {"model": "m", "prompt": "hi", "system": "s", "stream": False, "keep_alive": 0},
        ),
        # completions have no template
        (
            call("ollama", "completions", system="s"),
            "/api/generate",
            {"model": "m", "prompt": "s\n\nhi", "raw": True, "stream": True},
        ),
        (
            call("ollama", "embeddings", keep_alive=-1, output_tokens=4),
            "/api/embed",
            {"model": "m", "input": "hi", "keep_alive": -1},
        ),
    ],
)  # fmt: skip
def test_a_call_becomes_a_path_and_a_body(asked: Call, path: str, body: dict[str, Any]) -> None:
    found_path, found_body = request(asked)
    assert (found_path, msgspec.json.decode(found_body)) == (path, body)


@pytest.mark.parametrize(
    ("api", "endpoint"),
    [("openai", "chat"), ("ollama", "chat"), ("ollama", "completions"), ("ollama", "generate"),
     ("ollama", "embeddings")],
)  # fmt: skip
def test_token_ids_are_refused_where_text_is_wanted(api: str, endpoint: str) -> None:
    with pytest.raises(UsageError, match="takes text, not 3 token ids"):
        request(call(api, endpoint, prompt=[1, 2, 3]))


def test_an_unknown_endpoint_is_refused() -> None:
    with pytest.raises(UsageError, match="no endpoint 'rerank' in api 'openai'"):
        request(msgspec.structs.replace(call("openai", "chat"), endpoint="rerank"))
