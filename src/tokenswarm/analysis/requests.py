"""The requests of a run as arrays: what every other module of analysis starts from."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tokenswarm.analysis.columns import Bools, Columns, Floats, Ints, Texts, floats, texts

COLUMNS = (
    "time_ns", "model", "target", "engine", "status", "phase", "id", "t_intended_s", "t_sent_s",
    "t_first_token_s", "t_last_token_s", "t_end_s", "connect_s", "ttft_s", "ttft_user_s", "e2e_s",
    "tpot_s", "max_stall_s", "prompt_tokens", "output_tokens", "token_events", "token_source",
    "prompt_tokens_wanted", "output_tokens_wanted", "server_load_s", "http_status", "error_kind",
    "slo_ok", "server_total_s", "server_prompt_eval_s",
)  # fmt: skip
"""Columns of request.parquet that `Requests` needs (error texts and gaps are read apart)."""

LATE_S = 0.02
"""What a request usually takes to its server and back is shorter."""


@dataclass(frozen=True, slots=True)
class Requests:
    """One entry a request, sorted by t_sent_s (those never sent last). Seconds are on the run's
    clock, NaN where unknown; `row` is the entry's place in the columns it came from."""

    row: Ints
    time_ns: Ints
    model: Texts
    target: Texts
    engine: Texts
    status: Texts
    ok: Bools
    """Which ended well."""
    phase: Texts
    id: Texts
    t_intended: Floats
    t_sent: Floats
    t_first: Floats
    t_last: Floats
    t_end: Floats
    connect: Floats
    ttft: Floats
    ttft_user: Floats
    e2e: Floats
    tpot: Floats
    stall: Floats
    prompt_tokens: Floats
    output_tokens: Floats
    token_events: Floats
    token_source: Texts
    prompt_wanted: Floats
    output_wanted: Floats
    load: Floats
    came_in: Floats
    """When the server had it, as far as its own durations say; else t_sent."""
    http_status: Floats
    error_kind: Texts
    slo_ok: Floats
    errors: Ints
    """Indices of those with status error."""
    waited_until: Floats
    """When the wait for the first token was over: its arrival, or the end without one."""
    wait: Floats
    """Seconds from sent to first token, or to the end where none came."""
    groups: dict[tuple[str, str], Ints]
    """(target, model) -> indices of its requests, in order of t_sent."""

    def __len__(self) -> int:
        return len(self.row)


def requests(columns: Columns) -> Requests:
    """Build `Requests` from columns of the request measurement."""
    sent = floats(columns, "t_sent_s")
    row = np.argsort(sent, kind="stable").astype(np.int64)

    def f(name: str) -> Floats:
        return floats(columns, name)[row]

    def s(name: str) -> Texts:
        return texts(columns, name)[row]

    load = f("server_load_s")
    model, target, status = s("model"), s("target"), s("status")
    first, end = f("t_first_token_s"), f("t_end_s")
    until = np.where(np.isnan(first), end, first)
    return Requests(
        row=row,
        time_ns=np.asarray(columns["time_ns"], dtype=np.int64)[row],
        model=model,
        target=target,
        engine=s("engine"),
        status=status,
        ok=np.asarray(status == "ok", dtype=np.bool_),
        phase=s("phase"),
        id=s("id"),
        t_intended=f("t_intended_s"),
        t_sent=sent[row],
        t_first=first,
        t_last=f("t_last_token_s"),
        t_end=end,
        connect=f("connect_s"),
        ttft=f("ttft_s"),
        ttft_user=f("ttft_user_s"),
        e2e=f("e2e_s"),
        tpot=f("tpot_s"),
        stall=f("max_stall_s"),
        prompt_tokens=f("prompt_tokens"),
        output_tokens=f("output_tokens"),
        token_events=f("token_events"),
        token_source=s("token_source"),
        prompt_wanted=f("prompt_tokens_wanted"),
        output_wanted=f("output_tokens_wanted"),
        load=load,
        came_in=sent[row] + _late(f, load),
        http_status=f("http_status"),
        error_kind=s("error_kind"),
        slo_ok=f("slo_ok"),
        errors=np.flatnonzero(status == "error"),
        waited_until=until,
        wait=until - sent[row],
        groups=grouped(target, model),
    )


def _late(f: Callable[[str], Floats], load: Floats) -> Floats:
    """How late each request came to its server (a connection that was taken late, a host that
    stood still): seconds beyond the server's own durations that both its first token and its
    end were late by."""
    sent = f("t_sent_s")
    until = f("t_first_token_s") - sent - load - np.nan_to_num(f("server_prompt_eval_s"))
    late = np.fmin(until, f("t_end_s") - sent - f("server_total_s"))
    known = ~np.isnan(until) & ~np.isnan(f("server_total_s"))
    return np.where(known & (late > LATE_S), late, 0.0)


def grouped(target: Texts, model: Texts) -> dict[tuple[str, str], Ints]:
    """(target, model) -> indices of its requests."""
    pairs = sorted(set(zip(target.tolist(), model.tolist(), strict=True)))
    masks = (np.asarray((target == t) & (model == m), dtype=np.bool_) for t, m in pairs)
    return {pair: np.flatnonzero(mask) for pair, mask in zip(pairs, masks, strict=True)}
