"""Whole runs against a real llama.cpp with a tiny random model: nothing lost, counts exact."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.llama_server import llama_server
from tests.running import fair, finished, records, run_once, scenario, tokenswarm
from tokenswarm.engines.control import Server
from tokenswarm.engines.prometheus import samples
from tokenswarm.store.rundir import RunDir

pytestmark = pytest.mark.live

N = 120
TINY = {"model": "tiny", "prompt": {"kind": "synthetic", "tokens": 48}}
SPREAD = {"tokens": {"mean": 24, "std": 8, "min": 4, "max": 60}}
MODELS: list[dict[str, Any]] = [
    {"name": "chat", **TINY, "output": SPREAD},
    {"name": "chat-system", **TINY, "output": SPREAD, "system": "be brief"},
    {"name": "ids", **TINY, "output": SPREAD, "endpoint": "completions"},
    # a system text goes in front of the prompt, so it is a text and gets a BOS
    {"name": "text", **TINY, "output": SPREAD, "endpoint": "completions", "system": "be brief"},
    {"name": "whole", **TINY, "output": SPREAD, "stream": False},
]
COUNTERS = {
    "prompt": "llamacpp:prompt_tokens_total",
    "cached": "llamacpp:prompt_tokens_cached_total",
    "output": "llamacpp:tokens_predicted_total",
}


@dataclass(frozen=True)
class Ran:
    """A finished run, and how far the server's own counters moved during it."""

    code: int
    run: RunDir
    got: list[dict[str, Any]]
    served: dict[str, int]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A model that stops at once unless it is told to go on; 2048 tokens of context."""
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    from tests.gguf_model import write_model

    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    with llama_server(write_model(path, ends=100.0), alias="tiny") as url:
        yield url


@pytest.fixture(scope="module")
def ran(url: str, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Six users on four slots, every way to ask."""
    folder = tmp_path_factory.mktemp("run")
    file = _scenario(folder / "llama.yaml", url, *MODELS, max_requests=N)
    before = _counters(url)
    code, run = run_once(file, cwd=folder)
    served = {name: value - before[name] for name, value in _counters(url).items()}
    return Ran(code, run, records(run), served)


def _scenario(path: Path, url: str, *models: dict[str, Any], **changes: Any) -> Path:
    target = {"box": {"api": "openai", "url": url}}
    load = {"kind": "closed", "users": 6}
    return scenario(path, url, *models, targets=target, load=load, **changes)


def _counters(url: str) -> dict[str, int]:
    page = Server(url, 10.0).get("/metrics").body.decode()
    found = {s.name: round(s.value) for s in samples(page, tuple(COUNTERS.values()))}
    return {short: found[name] for short, name in COUNTERS.items()}


def test_every_request_is_accounted_for(ran: Ran) -> None:
    assert fair(ran.code, ran.run.path.parent.parent)
    assert sorted(r["plan_index"] for r in ran.got) == list(range(N))
    assert {(r["status"], r["http_status"]) for r in ran.got} == {("ok", 200)}
    assert {r["model"] for r in ran.got} == {m["name"] for m in MODELS}


def test_token_counts_add_up_to_the_servers_own_counters(ran: Ran) -> None:
    assert {r["token_source"] for r in ran.got} == {"usage"}
    assert sum(r["output_tokens"] for r in ran.got) == ran.served["output"]
    prompts = sum(r["prompt_tokens"] for r in ran.got)
    assert prompts - ran.served["prompt"] == ran.served["cached"]
    assert sum(r["cached_tokens"] for r in ran.got) == ran.served["cached"]


@pytest.mark.parametrize("name", [m["name"] for m in MODELS])
def test_lengths_are_exactly_what_was_wanted(ran: Ran, name: str) -> None:
    got = [r for r in ran.got if r["model"] == name]
    assert [r["output_tokens"] for r in got] == [r["output_tokens_wanted"] for r in got]
    assert {(r["prompt_tokens"], r["prompt_tokens_wanted"]) for r in got} == {(48, 48)}
    assert len({r["output_tokens"] for r in got}) > 3


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("chat", 0),
        ("chat-system", 0),
        # the end of a text completion is a chunk with an empty text, which other servers use for
        # a token that decodes to nothing
        ("ids", 1),
        ("text", 1),
    ],
)
def test_a_streamed_token_is_an_event_with_a_time(ran: Ran, name: str, more: int) -> None:
    for record in (r for r in ran.got if r["model"] == name):
        assert record["token_events"] == record["output_tokens"] + more
        assert len(record["gaps_us"]) == record["token_events"]
        assert 0 < record["ttft_s"] <= record["e2e_s"]


def test_the_manifest_knows_the_server_and_the_summary_invents_no_swap(ran: Ran) -> None:
    engine = ran.run.read_manifest().targets["box"]
    assert engine["engine"] == "llama-cpp"
    assert engine["version"]
    assert not engine["simulated"]
    summary = json.loads(ran.run.summary.read_bytes())
    assert summary["requests"] == N
    assert (summary["swaps"]["count"], summary["cold_starts"]["count"]) == (0, 0)
    for figures in summary["models"].values():
        assert figures["strata"]["warm"]["requests"] == figures["requests"]
        assert figures["prompt_length_misses"] == figures["output_length_misses"] == 0


def test_a_prompt_beyond_the_context_is_a_failure_with_the_servers_words(
    url: str, tmp_path: Path
) -> None:
    long = {"name": "long", "model": "tiny", "prompt": {"kind": "text", "text": "x" * 3000}}
    file = _scenario(tmp_path / "long.yaml", url, long, MODELS[0], max_requests=30)
    _, run = run_once(file, cwd=tmp_path)
    got = records(run)
    failed = [r for r in got if r["model"] == "long"]
    assert len(got) == 30
    assert failed
    assert {(r["status"], r["error_kind"], r["http_status"]) for r in failed} == {
        ("error", "http", 400)
    }
    assert all("context size" in r["error_text"] for r in failed)
    assert {(r["output_tokens"], r["ttft_s"]) for r in failed} == {(None, None)}
    assert {r["status"] for r in got if r["model"] == "chat"} == {"ok"}


def test_nothing_but_failures_is_no_measurement(url: str, tmp_path: Path) -> None:
    long = {"name": "long", "model": "tiny", "prompt": {"kind": "text", "text": "x" * 3000}}
    code, run = run_once(_scenario(tmp_path / "x.yaml", url, long, max_requests=8), cwd=tmp_path)
    assert code == 3
    assert {r["status"] for r in records(run)} == {"error"}


def test_a_model_that_the_server_lacks_is_named_before_anything_is_sent(
    url: str, tmp_path: Path
) -> None:
    before = _counters(url)
    file = _scenario(tmp_path / "gone.yaml", url, {"name": "gone", **TINY, "model": "gone"})
    assert finished(tokenswarm("run", file, cwd=tmp_path)) == 2
    assert "'gone'" in (tmp_path / "stderr.txt").read_text()
    assert _counters(url) == before
