"""Polls of a target: news, heartbeats, and silence that is not taken for absence."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.canned_server import Canned, Given, canned_server
from tests.engine_answers import held, llama_server, ollama, openai, sglang, vllm
from tests.llama_server import llama_server as llama_cpp
from tests.news_server import news_server
from tests.running import until
from tokenswarm.clock import Clock
from tokenswarm.engines.ollama import same_model
from tokenswarm.engines.protocol import Residency
from tokenswarm.store.row import check_row
from tokenswarm.store.schema import ENGINE, RESIDENCY
from tokenswarm.store.spool import Writer, rows
from tokenswarm.telemetry.config import Config, Engine
from tokenswarm.telemetry.engine import EngineFeed, Poller, Seen, timeout_s
from tokenswarm.telemetry.feed import Outbox

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


def test_a_server_that_comes_back_as_another_engine_is_known_for_what_it_is(box: Canned) -> None:
    p = poller(box.url, "ollama", {"tinyllama-1.1b": "tiny", "qwen": "qwen"})
    assert states(p.poll()) == {"tiny": "absent", "qwen": "resident"}
    box.answers.clear()  # on its way
    assert states(p.poll()) == {}
    box.answers.update(vllm())
    pairs = p.poll()
    assert {(r["engine"], r["model"], r["state"]) for r in cells(pairs, "residency")} == {
        ("vllm", "tiny", "resident"), ("vllm", "qwen", "absent"),
    }  # fmt: skip
    assert all(r["changed"] for r in cells(pairs, "residency"))
    assert [(r["engine"], r["poll_ok"]) for r in cells(pairs, "engine")] == [("vllm", True)]
    remarks = p.take_remarks()
    assert remarks[-1] == "it was ollama and is vllm now"
    assert p.take_remarks() == []


def test_a_server_that_no_longer_says_what_it_did_is_looked_at_anew() -> None:
    """Another engine may take a port over between two polls."""
    with canned_server(vllm()) as canned:
        p = poller(canned.url, "vllm", {"tinyllama-1.1b": "tiny"})
        p.poll()
        canned.answers = ollama(held("tinyllama-1.1b"))
        del canned.answers["/v1/models"]
        assert states(p.poll()) == {}
        assert [r["engine"] for r in cells(p.poll(), "engine")] == ["ollama"]


def test_a_server_that_comes_back_as_what_it_was_goes_on(box: Canned) -> None:
    p = poller(box.url, "ollama", MODELS)
    p.poll()
    answers, box.answers = box.answers, {}
    p.poll()
    box.answers = answers | ollama(held("tinyllama:1.1b"))
    assert states(p.poll()) == {"tinyllama": "resident", "qwen": "absent"}
    before = len(box.seen)
    p.poll()
    assert len(box.seen) == before + 1  # it is sure again, and asks nothing but /api/ps


def test_one_that_was_to_be_taken_as_any_openai_server_stays_one(box: Canned) -> None:
    p = poller(box.url, "openai", MODELS)
    box.answers.clear()
    p.poll()
    box.answers.update(vllm())
    assert [r["engine"] for r in cells(p.poll(), "engine")] == ["openai"]


@pytest.mark.parametrize("engine", ["", "auto"])
def test_an_engine_that_nobody_named_is_found_out_once_it_answers(box: Canned, engine: str) -> None:
    answers, box.answers = box.answers, {}
    p = poller(box.url, engine, MODELS)
    (polled,) = cells(p.poll(), "engine")
    assert (polled["engine"], polled["model"], polled["poll_ok"]) == ("none", "none", False)
    box.answers = answers
    pairs = p.poll()
    assert states(pairs) == {"tinyllama": "absent", "qwen": "resident"}
    assert [r["engine"] for r in cells(pairs, "engine")] == ["ollama"]


def test_a_server_that_is_down_is_a_failed_poll_and_a_remark() -> None:
    with canned_server(ollama(held("qwen"))) as canned:
        p = poller(canned.url, "ollama", MODELS)
        p.poll()
    pairs = p.poll()
    assert states(pairs) == {}
    assert [r["poll_ok"] for r in cells(pairs, "engine")] == [False]
    (remark,) = p.take_remarks()
    assert remark.startswith(f"nothing listens at {canned.url}")


def test_sglang_sleeps_when_it_is_no_longer_ready_and_loads_when_it_is_not_yet() -> None:
    unready: Given = (503, b"")
    with canned_server(sglang()) as canned:
        p = poller(canned.url, "sglang", {"qwen": "qwen"})
        found = []
        for ready in (unready, b"", unready, b""):
            canned.answers["/ready"] = ready
            found.append(states(p.poll())["qwen"])
        assert found == ["loading", "resident", "asleep", "resident"]
        answers, canned.answers = canned.answers, {}
        p.poll()  # it starts again
        canned.answers = answers | {"/ready": unready}
        assert states(p.poll()) == {"qwen": "loading"}


def test_a_server_that_loads_and_does_not_say_what_loads_what_it_is_there_for() -> None:
    loading: Given = (503, b'{"error":{"message":"Loading model"}}')
    with canned_server(llama_server()) as canned:
        answers = dict(canned.answers)
        canned.answers.update(dict.fromkeys(answers, loading))
        p = poller(canned.url, "llama-cpp", {"tiny": "t"})
        assert states(p.poll()) == {"t": "loading"}
        canned.answers.update(answers)
        pairs = p.poll()
        assert states(pairs) == {"t": "resident"}
        assert [r["running"] for r in cells(pairs, "engine")] == [1]


def test_what_a_server_tells_by_itself_does_not_wait_for_the_next_poll(tmp_path: Path) -> None:
    running = {"running": [{"model": "a", "state": "starting"}]}
    models = {"data": [{"id": "a"}]}
    with news_server("/api/events", running=running, **{"v1/models": models}) as teller:
        config = Config(
            run_id="r", t0_unix_ns=0, spool=str(tmp_path), host="h", engine_interval_s=1.0,
        )  # fmt: skip
        feed = EngineFeed(
            Engine("box", "", teller.url, models={"a": "a"}), config, Clock.anchored()
        )
        with fed(feed, tmp_path) as notes:
            until(lambda: teller.listening == 1)
            began_ns = time.time_ns()
            teller.answers["running"] = {"running": [{"model": "a", "state": "ready"}]}
            teller.tell('data:{"type":"modelStatus"}')
            until(lambda: len(spooled(tmp_path)) >= 2)
            seen = spooled(tmp_path)[-1]
    assert (seen["state"], seen["changed"], seen["engine"]) == ("resident", True, "llama-swap")
    assert began_ns < seen["time_ns"]
    times = [r["time_ns"] for r in spooled(tmp_path)]
    assert times == sorted(set(times))
    assert notes == []


def test_a_feed_notes_what_a_person_should_know(tmp_path: Path) -> None:
    with canned_server({}) as canned:
        config = Config(run_id="r", t0_unix_ns=0, spool="", host="h", engine_interval_s=0.05)
        feed = EngineFeed(Engine("box", "auto", canned.url), config, Clock.anchored())
        with fed(feed, tmp_path) as notes:
            until(lambda: len(notes) >= 2)
    assert notes[0].startswith(f"target box: {canned.url} is no server that can be tested")


@pytest.mark.live
def test_a_real_llama_cpp_is_found_out_and_watched(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    from tests.gguf_model import write_model

    model = write_model(tmp_path / "tiny.gguf")
    with llama_cpp(model, alias="tiny") as url:
        p = poller(url, "auto", {"tiny": "t"})
        pairs = p.poll()
        assert states(pairs) == {"t": "resident"}
        (polled,) = cells(pairs, "engine")
        assert (polled["engine"], polled["running"], polled["waiting"]) == ("llama-cpp", 0, 0)
    pairs = p.poll()
    assert states(pairs) == {}
    assert [r["poll_ok"] for r in cells(pairs, "engine")] == [False]


@contextmanager
def fed(feed: EngineFeed, spool: Path) -> Iterator[list[str]]:
    """Run `feed` into `spool`; the value holds its notes."""
    stop, notes = threading.Event(), Remarks()

    def run() -> None:
        with Writer(spool, feed.name) as writer:
            out = Outbox(writer, notes, flush_s=0.0)
            feed.run(stop, out)
            out.flush()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield notes.texts
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


class Remarks:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, text: str) -> None:
        self.texts.append(text)


def spooled(spool: Path) -> list[dict[str, Any]]:
    """Residency changes that have been written, and the first."""
    found = cells([(name, values) for _, _, name, values in rows(spool)], "residency")
    return [r for i, r in enumerate(found) if r["changed"] or i == 0]


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
