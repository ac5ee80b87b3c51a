"""Polls of a target: news, heartbeats, and silence that is not taken for absence."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.canned_server import Canned, Given, canned_server
from tests.engine_answers import held, ollama, openai, vllm
from tokenswarm.clock import Clock
from tokenswarm.engines.ollama import same_model
from tokenswarm.engines.protocol import Residency
from tokenswarm.store.row import check_row
from tokenswarm.store.schema import ENGINE, RESIDENCY
from tokenswarm.telemetry.config import Engine
from tokenswarm.telemetry.engine import Poller, Seen, timeout_s

MODELS = {"tinyllama:1.1b": "tinyllama", "qwen": "qwen"}


def cells(pairs: list[tuple[str, list[Any]]], measurement: str) -> list[dict[str, Any]]:
    columns = {"engine": ENGINE, "residency": RESIDENCY}[measurement].columns
    for name, values in pairs:
        check_row(name, values)
    return [dict(zip(columns, v, strict=True)) for name, v in pairs if name == measurement]


def states(pairs: list[tuple[str, list[Any]]]) -> dict[str, str]:
    return {r["model"]: r["state"] for r in cells(pairs, "residency")}


@pytest.fixture
def box() -> Iterator[Canned]:
    with canned_server(ollama(held("qwen:latest"))) as canned:
        yield canned


def poller(url: str, engine: str, models: dict[str, str], interval_s: float = 0.5) -> Poller:
    config = Engine("box", engine, url, models=models)
    return Poller(config, "r", Clock.anchored(), interval_s)


def test_every_model_of_the_scenario_has_a_state_at_the_first_look(box: Canned) -> None:
    pairs = poller(box.url, "ollama", MODELS).poll()
    assert states(pairs) == {"tinyllama": "absent", "qwen": "resident"}  # :latest is the same
    assert [r["changed"] for r in cells(pairs, "residency")] == [False, False]
    (polled,) = cells(pairs, "engine")
    assert (polled["poll_ok"], polled["running"], polled["model"]) == (True, None, "none")
    assert 0 < polled["poll_s"] < 5


def test_a_swap_shows_at_the_next_poll_and_nothing_else_does(box: Canned) -> None:
    p = poller(box.url, "ollama", MODELS)
    p.poll()
    assert states(p.poll()) == {}
    box.answers.update(ollama(held("tinyllama:1.1b", vram=400)))
    pairs = p.poll()
    assert states(pairs) == {"tinyllama": "partial", "qwen": "absent"}
    assert all(r["changed"] for r in cells(pairs, "residency"))
    assert cells(pairs, "residency")[0]["vram_bytes"] == 400


def test_a_failed_poll_says_only_that_it_failed(box: Canned) -> None:
    p = poller(box.url, "ollama", MODELS)
    p.poll()
    box.answers["/api/ps"] = (500, b"")
    pairs = p.poll()
    assert states(pairs) == {}
    assert [r["poll_ok"] for r in cells(pairs, "engine")] == [False]
    box.answers.update(ollama(held("qwen:latest")))
    assert states(p.poll()) == {}  # still resident: no change to report


def test_a_blocked_answer_ends_with_the_timeout(box: Canned) -> None:
    def blocked(_: bytes) -> Given:
        time.sleep(0.6)  # as /api/ps does during a load
        return {"models": []}

    p = poller(box.url, "ollama", MODELS, interval_s=0.1)
    box.answers["/api/ps"] = blocked
    (polled,) = cells(p.poll(), "engine")
    assert polled["poll_ok"] is False
    assert 0.3 <= polled["poll_s"] < 0.6


def test_times_of_a_target_strictly_increase(box: Canned) -> None:
    p = poller(box.url, "ollama", MODELS)
    times = [values[0] for _ in range(3) for _, values in p.poll()]
    assert times == sorted(set(times))


def test_vllm_figures_carry_the_scenarios_slug_even_when_a_poll_fails() -> None:
    with canned_server(vllm("metrics_asleep.prom")) as canned:
        p = poller(canned.url, "vllm", {"tinyllama-1.1b": "tiny"})
        pairs = p.poll()
        assert states(pairs) == {"tiny": "asleep"}
        (polled,) = cells(pairs, "engine")
        assert (polled["model"], polled["running"], polled["kv_cache_ratio"]) == ("tiny", 0, 0.0)
    (polled,) = cells(p.poll(), "engine")
    assert (polled["model"], polled["running"], polled["poll_ok"]) == ("tiny", None, False)


def test_an_engine_that_cannot_say_has_no_residency_rather_than_an_absent_model() -> None:
    with canned_server(openai()) as canned:
        assert states(poller(canned.url, "openai", {"gpt": "gpt"}).poll()) == {}


@pytest.mark.parametrize(
    ("now_s", "found", "due", "changed"),
    [
        (0.5, Residency("a", "resident", 10), False, False),  # nothing new
        (1.0, Residency("a", "resident", 10), True, False),  # heartbeat
        (0.98, Residency("a", "resident", 10), True, False),  # heartbeat, a little early
        (0.1, Residency("a", "asleep", 10), True, True),  # another state
        (0.1, Residency("a", "resident", 20), True, False),  # same state, more memory
        (0.1, Residency("a", "resident", 10, None, 4096), True, False),  # another context
        (0.1, Residency("b", "resident", 10), True, True),  # gone: another model is listed
    ],
)
def test_a_row_is_due_on_change_and_every_second(
    now_s: float, found: Residency, due: bool, changed: bool
) -> None:
    seen = Seen({"a": "slug-a"}, same_model)
    assert len(seen.look((Residency("a", "resident", 10),), 0.0)) == 1
    looks = seen.look((found,), now_s)
    assert [(look.slug, look.changed) for look in looks] == ([("slug-a", changed)] if due else [])


def test_slugs_are_the_scenarios_where_it_knows_the_model() -> None:
    seen = Seen({"qwen": "q"}, same_model)
    assert [seen.slug(m) for m in ("qwen:latest", "Other:1b", None)] == ["q", "other-1b", "none"]


@pytest.mark.parametrize(("interval_s", "want_s"), [(0.01, 0.3), (0.5, 0.4), (60.0, 2.0)])
def test_the_timeout_follows_the_interval_within_bounds(interval_s: float, want_s: float) -> None:
    assert timeout_s(interval_s) == want_s
