"""The benchmarks' machinery: it builds, speaks the wire formats and computes right. No timing."""

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # bench is no part of the package, and pytest knows no root

from bench import accuracy, hot_path, measure, worker  # noqa: E402
from bench.__main__ import parser  # noqa: E402
from bench.accuracy import Case, Stamped  # noqa: E402
from bench.hot_path import Row  # noqa: E402
from bench.measure import Moment, Window  # noqa: E402
from bench.server import Api, BenchError, LogRow, Server, Stats, Timing, build, pinned  # noqa: E402
from tokenswarm.scenario.model import Scenario  # noqa: E402

FAST = Timing(tokens=5, ttft_ms=2, itl_ms=1)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The server is built for this test session, not taken from an earlier one."""
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


def fetch(server: Server, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        connection.request("POST", path, b'{"model":"bench"}', headers or {})
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def test_the_server_is_built_once_for_the_same_source(tmp_path: Path) -> None:
    first = build(tmp_path)
    changed = first.stat().st_mtime_ns
    assert build(tmp_path) == first
    assert first.stat().st_mtime_ns == changed


def test_an_openai_stream_has_a_role_chunk_its_tokens_a_finish_a_usage_and_done() -> None:
    with Server("openai", FAST) as server:
        status, body = fetch(server, "/v1/chat/completions")
    events = [event.removeprefix(b"data: ") for event in body.split(b"\n\n")]
    assert events[-2:] == [b"[DONE]", b""]
    chunks = [json.loads(event) for event in events[:-2]]
    deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"]]
    assert status == 200
    assert deltas == [
        {"role": "assistant", "content": ""},
        *[{"content": " token"}] * 5,
        {},
    ]
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["usage"] == {
        "prompt_tokens": 13,
        "total_tokens": 18,
        "completion_tokens": 5,
    }
    assert len({c["id"] for c in chunks}) == 1


def test_an_ollama_stream_ends_with_counts_and_durations() -> None:
    with Server("ollama", FAST) as server:
        _, body = fetch(server, "/api/chat")
    lines = [json.loads(line) for line in body.splitlines()]
    assert [line["message"]["content"] for line in lines] == [" token"] * 5 + [""]
    assert [line["done"] for line in lines] == [False] * 5 + [True]
    assert lines[-1]["eval_count"] == 5
    assert lines[-1]["eval_duration"] > 4_000_000
    assert lines[-1]["prompt_eval_duration"] > 2_000_000


def test_the_log_matches_requests_by_id_in_order_of_their_times() -> None:
    with Server("openai", FAST) as server:
        for name in ("w0-1", 'w0-"2"', "x" * 100):
            fetch(server, "/v1/chat/completions", {"X-Request-Id": name})
        rows, stats = server.log(), server.stats()
    assert [row.id for row in rows] == ["w0-1", "w0-_2_", "x" * 63]
    for row in rows:
        assert row.received_ns + 2_000_000 <= row.first_ns
        assert row.first_ns < row.last_ns
        assert row.tokens == 5
    assert (stats.requests, stats.tokens, stats.streams) == (3, 15, 0)


def test_a_log_longer_than_a_page_comes_whole() -> None:
    with Server("openai", Timing(tokens=1, ttft_ms=0, itl_ms=0)) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        for i in range(150):  # a page is 64
            connection.request("GET", "/v1/chat/completions", headers={"x-request-id": str(i)})
            connection.getresponse().read()
        connection.close()
        assert [row.id for row in server.log()] == [str(i) for i in range(150)]


@pytest.mark.parametrize(
    ("api", "path", "status"),
    [
        ("ollama", "/api/version", 200),
        ("ollama", "/api/ps", 200),
        ("ollama", "/api/tags", 200),
        ("ollama", "/version", 404),  # that would make it vLLM
        ("openai", "/version", 200),
        ("openai", "/v1/models", 200),
        ("openai", "/api/version", 404),  # that would make it Ollama
        ("openai", "/" + "x" * 5000, 404),  # longer than a path may be
    ],
)
def test_a_probe_finds_the_engine_that_was_asked_for(api: str, path: str, status: int) -> None:
    with Server(msgspec.convert(api, Api), FAST) as server:
        got, body = fetch(server, path)
    assert got == status
    assert json.loads(body)


def test_a_head_without_end_is_refused_and_the_server_lives_on() -> None:
    with Server("openai", FAST) as server:
        with pytest.raises((http.client.BadStatusLine, ConnectionError)):
            fetch(server, "/", {"x-long": "x" * 20000})
        assert server.stats().refused == 1


def test_a_bad_option_of_the_server_is_named() -> None:
    done = subprocess.run([build(), "-n", "0"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "0: give a number from 1" in done.stderr


def test_pinning_to_a_core_that_is_not_ours_says_so() -> None:
    with pytest.raises(BenchError, match="core 100000 is not ours"), pinned(100000):
        pass


def moment(at_s: float, idle_s: float, cpu_s: dict[int, float], *counts: int) -> Moment:
    tokens, late = counts
    return Moment(at_s, idle_s, cpu_s, Stats(0, tokens, 0, late, 0, 0, 0, 0))


def test_a_window_names_the_busiest_process_the_sum_and_the_others() -> None:
    found = measure.window(
        moment(10.0, 50.0, {1: 1.0, 2: 5.0}, 1000, 1),
        moment(12.0, 51.7, {1: 1.010, 2: 5.002}, 2000, 6),
    )
    assert found.us_per_token == pytest.approx(10)
    assert found.tree_us_per_token == pytest.approx(12)
    assert found.late_ratio == pytest.approx(0.005)
    assert found.others_ratio == pytest.approx((2.0 - 1.7 - 0.012) / 2.0)
    assert "others used 14% of the core" in hot_path.remark("wrk", found)


def test_a_window_without_tokens_is_no_measurement() -> None:
    with pytest.raises(BenchError, match="no token"):
        measure.window(moment(0, 0, {1: 0}, 7, 0), moment(1, 1, {1: 1}, 7, 0))


def test_the_idle_time_of_a_core_that_is_not_there_is_no_measurement() -> None:
    assert measure.idle_s(0) > 0
    with pytest.raises(BenchError, match="core 100000"):
        measure.idle_s(100000)


def test_the_tree_of_a_process_has_its_children_and_their_cpu_time() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in measure.process_tree(os.getpid())
        assert measure.cpu_s(child.pid) >= 0
        child.communicate(b"\n")


def rounds(*us: tuple[float, float]) -> list[hot_path.Round]:
    return [
        {
            c: Window(u, u, 1, 1.0, 0.0, 0.0)
            for c, u in zip(("wrk", "tokenswarm"), pair, strict=True)
        }
        for pair in us
    ]


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    found = hot_path.row("tokenswarm", rounds((5, 10), (10, 15), (4, 12)))
    assert found.ratio == 2
    assert (found.us_min, found.us_median, found.us_max) == (10, 12, 15)


def test_every_client_goes_first_once_in_as_many_rounds() -> None:
    orders = [hot_path.rotated(["a", "b", "c"], i) for i in range(3)]
    assert [order[0] for order in orders] == ["a", "b", "c"]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)


@pytest.mark.parametrize(
    ("us", "ratio", "sentences"),
    [
        (12.0, 1.8, 0),  # both just met
        (13.1, 1.9, 0),  # within the slack of a tenth
        (13.3, 1.0, 1),  # too much in itself
        (9.0, 2.0, 1),  # too much beside wrk
        (20.0, 3.0, 2),
        (20.0, None, 1),  # no wrk in this run
    ],
)
def test_the_budget_has_a_slack_of_a_tenth(us: float, ratio: float | None, sentences: int) -> None:
    rows = [Row("wrk", 6.5, 6.5, 6.5, 6.5, 1.0), Row("tokenswarm", us, us, us, us, ratio)]
    assert len(hot_path.exceeded(rows)) == sentences


@pytest.mark.parametrize(("us", "sentences"), [(24.0, 0), (26.3, 0), (26.5, 1)])
def test_where_wrk_takes_twice_as_long_the_budget_is_twice_as_large(
    us: float, sentences: int
) -> None:
    rows = [Row("wrk", 13.4, 13.4, 13.4, 13.4, 1.0), Row("tokenswarm", us, us, us, us, 1.8)]
    assert len(hot_path.exceeded(rows)) == sentences


def test_accuracy_compares_by_id_and_counts_what_only_one_side_knows() -> None:
    ours = [
        Stamped("a", 0, 20_000_000, 90_000_000, 5),  # warm-up: matched, in no figure
        Stamped("b", 100_000_000, 121_000_000, 200_000_000, 5),
        Stamped("c", 100_000_000, 120_000_000, 200_000_000, 4),
        Stamped("only-ours", 100_000_000, 120_000_000, 200_000_000, 5),
    ]
    log = [
        LogRow("a", 0, 1, 2, 5),
        LogRow("b", 100_200_000, 120_200_000, 199_000_000, 5),
        LogRow("c", 100_100_000, 120_000_000, 199_000_000, 5),
        LogRow("only-theirs", 0, 1, 2, 5),
    ]
    found = accuracy.compare(Case(2, 5, 0.002), ours, log, 50_000_000)
    assert found.ttft_error_s.n == 2
    assert found.ttft_error_s.max == pytest.approx(0.001)
    assert found.first_late_s.max == pytest.approx(0.0008)
    assert (found.unmatched, found.miscounted) == (2, 1)
    assert accuracy.exceeded(found) == ["wrong: 2 unmatched, 1 miscounted"]


def test_accuracy_over_its_budget_says_the_figure() -> None:
    ours = [Stamped("a", 0, 30_000_000, 90_000_000, 5)]
    found = accuracy.compare(Case(1, 5, 0.002), ours, [LogRow("a", 0, 20_000_000, 90, 5)], 0)
    assert accuracy.exceeded(found) == [
        "over budget: TTFT error P99 10.000 ms at 1 streams, budget 2.000"
    ]


def test_accuracy_without_a_common_request_is_no_measurement() -> None:
    with pytest.raises(BenchError, match="no request"):
        accuracy.compare(Case(1, 5, 0.002), [], [], 0)


def test_the_scenario_file_is_one_that_the_model_reads(tmp_path: Path) -> None:
    written = worker.scenario("ollama", "http://127.0.0.1:1", 32, 10.0)
    path = worker.write(tmp_path, written)
    assert msgspec.yaml.decode(path.read_bytes(), type=Scenario) == written


@pytest.mark.parametrize("kind", ["blocking", "watcher"])
def test_a_bare_loop_streams_until_it_is_ended(kind: str) -> None:
    with Server("openai", FAST) as server:
        argv = [sys.executable, "-m", "bench.floor", kind, server.stream_url, "3"]
        with subprocess.Popen(argv, cwd=ROOT) as client:
            while server.stats().requests < 9 and client.poll() is None:
                pass
            client.kill()
        assert server.stats().requests >= 9


def test_the_command_line_knows_its_benchmarks_and_their_options() -> None:
    arguments = parser().parse_args(["hot_path", "--only", "wrk", "--api", "ollama", "--quick"])
    assert (arguments.only, arguments.api, arguments.quick) == (["wrk"], "ollama", True)
    assert parser().parse_args(["accuracy"]).seconds == 15.0
