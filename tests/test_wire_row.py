"""A record as a row of the request measurement."""

from typing import Any

import pytest

from tokenswarm.clock import Clock
from tokenswarm.store.schema import REQUEST
from tokenswarm.wire.record import Counts, Ending, RequestRecord, ServerTimes, Stamps
from tokenswarm.wire.row import request_row

CLOCK = Clock(unix_ns=1_000_000_005_000_000_000, perf_s=50.0, t0_unix_ns=1_000_000_000_000_000_000)
TYPES = {"float": float, "int": int, "str": str, "bool": bool, "ints": list}


def record(**more: Any) -> RequestRecord:
    fields: dict[str, Any] = {
        "id": "w1-7", "model": "tiny", "target": "box", "engine": "vllm", "endpoint": "chat",
        "phase": "steady",
        "stamps": Stamps(
            intended=51.0, sent=51.5, headers=51.6, first_event=51.7, first_token=52.0,
            first_visible=52.25, last_token=52.5, end=52.75, connect_s=0.125,
        ),
        "counts": Counts(11, 3, 5, 1, "usage", 2, 999),
        "ending": Ending("ok", None, None, 200, "stop", "other"),
        "server": ServerTimes(4.0, 1.0, 0.5, 0.25),
        "token_times": [52.0, 52.5],
        "plan_index": 7, "prompt_tokens_wanted": 12, "output_tokens_wanted": 3, "slo_ok": True,
    }  # fmt: skip
    return RequestRecord(**{**fields, **more})


def named(row: list[Any]) -> dict[str, Any]:
    return dict(zip(REQUEST.columns, row, strict=True))


def test_every_column_holds_what_its_name_says() -> None:
    found = named(request_row(record(), CLOCK, "run-1", "w1", 1_000_000_007_750_000_000))
    assert found == {
        "time_ns": 1_000_000_007_750_000_000,
        "run_id": "run-1", "model": "tiny", "target": "box", "engine": "vllm", "worker": "w1",
        "endpoint": "chat", "status": "ok", "phase": "steady",
        "id": "w1-7", "plan_index": 7,
        "t_intended_s": 6.0, "t_sent_s": 6.5, "t_headers_s": pytest.approx(6.6),
        "t_first_event_s": pytest.approx(6.7), "t_first_token_s": 7.0, "t_first_visible_s": 7.25,
        "t_last_token_s": 7.5, "t_end_s": 7.75, "connect_s": 0.125,
        "ttft_s": 0.5, "ttft_user_s": 1.0, "e2e_s": 1.0, "tpot_s": 0.25,
        "itl_p50_s": 0.5, "itl_p95_s": 0.5, "itl_p99_s": 0.5, "max_stall_s": 0.5,
        "prompt_tokens": 11, "output_tokens": 3, "cached_tokens": 5, "reasoning_tokens": 1,
        "token_events": 2, "token_source": "usage",
        "prompt_tokens_wanted": 12, "output_tokens_wanted": 3,
        "server_total_s": 4.0, "server_load_s": 1.0, "server_prompt_eval_s": 0.5,
        "server_eval_s": 0.25,
        "http_status": 200, "error_kind": None, "error_text": None, "finish_reason": "stop",
        "model_reply": "other", "bytes_received": 999, "slo_ok": True, "gaps_us": [0, 500_000],
    }  # fmt: skip


def test_every_value_has_the_type_of_its_field() -> None:
    found = named(request_row(record(), CLOCK, "run-1", "w1", 1))
    for field in REQUEST.fields:
        assert found[field.name] is None or type(found[field.name]) is TYPES[field.kind], field.name


def test_a_failure_without_tokens_has_no_counts_and_no_latency() -> None:
    failed = record(
        stamps=Stamps(intended=51.0, sent=51.5, end=51.75),
        counts=Counts(),
        ending=Ending("error", "connect_refused", "connection refused"),
        server=ServerTimes(),
        token_times=[],
    )
    found = named(request_row(failed, CLOCK, "run-1", "w1", 1))
    missing = ("output_tokens", "token_source", "e2e_s", "ttft_s", "gaps_us", "prompt_tokens")
    assert [found[name] for name in missing] == [None] * len(missing)
    assert (found["token_events"], found["status"]) == (0, "error")


@pytest.mark.parametrize(
    ("counts", "tokens", "source"),
    [
        (Counts(output=3, source="usage", token_events=2), 3, "usage"),
        (Counts(output=3, source="native", token_events=3), 3, "native"),
        # the server gives none
        (Counts(token_events=2), 2, "events"),
        # neither: not known, which is not 0
        (Counts(), None, None),
        # the server says 0
        (Counts(output=0, source="usage"), 0, "usage"),
    ],
)
def test_output_tokens_are_the_server_s_else_the_events(
    counts: Counts, tokens: int | None, source: str | None
) -> None:
    found = named(request_row(record(counts=counts), CLOCK, "run-1", "w1", 1))
    assert (found["output_tokens"], found["token_source"]) == (tokens, source)


def test_an_answer_in_one_piece_has_the_response_s_e2e() -> None:
    whole = record(stamps=Stamps(sent=51.5, end=53.0), token_times=[])
    found = named(request_row(whole, CLOCK, "run-1", "w1", 1))
    assert (found["e2e_s"], found["ttft_s"], found["output_tokens"]) == (1.5, None, 3)
