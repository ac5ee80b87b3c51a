"""A finished request as a spool row of the `request` measurement."""

from typing import Any

from tokenswarm.clock import Clock
from tokenswarm.wire.record import Counts, RequestRecord
from tokenswarm.wire.times import derive


def request_row(
    record: RequestRecord, clock: Clock, run_id: str, worker: str, end_unix_ns: int
) -> list[Any]:
    """The row of `record`, in the order of `store.schema.REQUEST.columns`.

    `end_unix_ns` is the row's time. Stamps become seconds on the run's clock. A request that
    failed before any token has no E2E: the time to a failure is no latency.
    """
    stamps, counts, ending, server = record.stamps, record.counts, record.ending, record.server
    tokens, source = output_tokens(counts)
    figures = derive(stamps, record.token_times, tokens)
    whole = ending.status == "ok" or bool(record.token_times)
    shift = clock.run_s(0.0)
    return [
        end_unix_ns, run_id, record.model, record.target, record.engine, worker,
        record.endpoint, ending.status, record.phase,
        record.id, record.plan_index,
        _run_s(stamps.intended, shift), _run_s(stamps.sent, shift),
        _run_s(stamps.headers, shift), _run_s(stamps.first_event, shift),
        _run_s(stamps.first_token, shift), _run_s(stamps.first_visible, shift),
        _run_s(stamps.last_token, shift), _run_s(stamps.end, shift), stamps.connect_s,
        figures.ttft_s, figures.ttft_user_s, figures.e2e_s if whole else None, figures.tpot_s,
        figures.itl_p50_s, figures.itl_p95_s, figures.itl_p99_s, figures.max_stall_s,
        counts.prompt, tokens, counts.cached, counts.reasoning, counts.token_events, source,
        record.prompt_tokens_wanted, record.output_tokens_wanted,
        server.total_s, server.load_s, server.prompt_eval_s, server.eval_s,
        ending.http_status, ending.error_kind, ending.error_text, ending.finish_reason,
        ending.model_reply, counts.bytes_received, record.slo_ok, figures.gaps_us or None,
    ]  # fmt: skip


def output_tokens(counts: Counts) -> tuple[int | None, str | None]:
    """Output tokens and where they are from: the server's own count, else the token events.

    Without either there is no count: (None, None), never 0.
    """
    if counts.output is not None:
        return counts.output, counts.source
    if counts.token_events:
        return counts.token_events, "events"
    return None, None


def _run_s(stamp: float | None, shift: float) -> float | None:
    return None if stamp is None else stamp + shift
