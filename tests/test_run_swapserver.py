"""Whole runs against a real server that swaps two models: who met a load is seen by TTFT."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.running import records, run_once, scenario
from tests.swap_server import SwapServer, swap_server
from tokenswarm.store.rundir import RunDir

pytestmark = pytest.mark.swapserver

N = 48
TOKENS = 4
HI = {"prompt": {"kind": "text", "text": "hi"}, "output": {"tokens": TOKENS}}
MODELS: list[dict[str, Any]] = [
    {"name": "a", "model": "a", **HI},
    {"name": "b", "model": "b", **HI},
    {"name": "a-whole", "model": "a", "stream": False, **HI},
    {"name": "b-whole", "model": "b", "stream": False, **HI},
]
SERVED = {m["name"]: m["model"] for m in MODELS}  # the server's models, by ours


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwapServer]:
    """Two models of 340 MB that stop at once unless told to go on; `a` is loaded first."""
    pytest.importorskip("gguf")
    pytest.importorskip("llama_cpp.server.app", exc_type=ImportError)
    from tests.gguf_model import write_model

    folder = tmp_path_factory.mktemp("swap")
    size: dict[str, Any] = {"layers": 2, "dim": 2048, "context": 512, "ends": 100.0}
    files = {
        name: write_model(folder / f"{name}.gguf", seed=seed, **size)
        for seed, name in enumerate("ab")
    }
    with swap_server(files, folder) as server:
        yield server
    for file in files.values():
        file.unlink()


@pytest.fixture(scope="module")
def mixed(server: SwapServer, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """One user, one request after the other: both changes of the model and runs of the same one,
    streamed and whole."""
    folder = tmp_path_factory.mktemp("mixed")
    file = scenario(
        folder / "swap.yaml", server.url, *MODELS,
        targets={"box": {"api": "openai", "url": server.url}},
        load={"kind": "closed", "users": 1}, max_requests=N,
    )  # fmt: skip
    code, run = run_once(file, cwd=folder)
    # the server takes a core for itself: on a busy host of two the generator may stand still
    reasons = json.loads(run.summary.read_bytes())["reasons"]
    assert code == 0 or all("could not keep up" in r for r in reasons), reasons
    return run


def in_order(run: RunDir) -> list[dict[str, Any]]:
    return sorted(records(run), key=lambda r: r["t_sent_s"])


def test_every_request_is_accounted_for(server: SwapServer, mixed: RunDir) -> None:
    got = in_order(mixed)
    assert [r["plan_index"] for r in got] == list(range(N))
    assert {(r["status"], r["http_status"]) for r in got} == {("ok", 200)}
    assert server.answered()[:N] == [("/v1/chat/completions", 200)] * N


def test_token_counts_are_the_servers_own_where_it_gives_them(mixed: RunDir) -> None:
    """It has usage only in whole answers. The template has no BOS."""
    whole = [r for r in in_order(mixed) if r["model"].endswith("-whole")]
    assert len(whole) > 10
    for record in whole:
        assert record["token_source"] == "usage"
        assert record["output_tokens"] == record["output_tokens_wanted"] == TOKENS
        assert record["prompt_tokens"] == len("[user]hi[assistant]")


def test_a_stream_without_usage_is_counted_by_its_events(mixed: RunDir) -> None:
    """A token of these models is a character, so an event is a token."""
    streamed = [r for r in in_order(mixed) if not r["model"].endswith("-whole")]
    assert len(streamed) > 10
    for record in streamed:
        assert record["token_source"] == "events"
        assert record["output_tokens"] == record["token_events"] == TOKENS
        assert record["prompt_tokens"] is None


def test_cold_and_warm_requests_are_told_apart_by_ttft(mixed: RunDir) -> None:
    """Cold: the request before it went to the other model. The very first is neither."""
    cold: list[float] = []
    warm: list[float] = []
    for before, record in pairwise(in_order(mixed)):
        if not record["model"].endswith("-whole"):
            stays = SERVED[before["model"]] == SERVED[record["model"]]
            (warm if stays else cold).append(record["ttft_s"])
    assert min(len(cold), len(warm)) >= 8
    assert median(cold) > 3 * median(warm)
    threshold = (median(cold) + median(warm)) / 2
    right = sum(t > threshold for t in cold) + sum(t <= threshold for t in warm)
    assert right >= 0.95 * (len(cold) + len(warm)), (sorted(warm), sorted(cold))


def test_the_engine_is_known_and_the_summary_invents_no_swap(mixed: RunDir) -> None:
    """The server does not say what it holds, so no figure may say when it loaded what."""
    engine = mixed.read_manifest().targets["box"]
    assert engine["engine"] == "llama-cpp-python"
    assert engine["version"]
    summary = json.loads(mixed.summary.read_bytes())
    assert summary["requests"] == N
    assert summary["models"].keys() == SERVED.keys()
    assert (summary["swaps"]["count"], summary["cold_starts"]["count"]) == (0, 0)


def test_an_answer_that_breaks_off_at_the_context_is_a_failure(
    server: SwapServer, tmp_path: Path
) -> None:
    """When a prompt does not fit, this server says 200, ends the stream and hangs up, which the
    next request on the same connection may meet."""
    file = scenario(
        tmp_path / "long.yaml", server.url,
        {"name": "long", "model": "b", "prompt": {"kind": "text", "text": "x" * 800}},
        targets={"box": {"api": "openai", "url": server.url}}, max_requests=4,
        load={"kind": "closed", "users": 1},
    )  # fmt: skip
    code, run = run_once(file, cwd=tmp_path)
    got = records(run)
    assert code == 3
    assert [r["status"] for r in got] == ["error"] * 4
    assert {r["error_kind"] for r in got} <= {"empty", "reset"}
    assert {(r["output_tokens"], r["ttft_s"]) for r in got} == {(None, None)}
