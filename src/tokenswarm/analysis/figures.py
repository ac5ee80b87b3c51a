"""The shape of summary.json: stable, versioned (`schema`). None is unknown, never 0."""

import msgspec

SUMMARY_SCHEMA = 1

STRATA = ("warm", "swap_trigger", "swap_waiter", "swap_collateral")
STATUSES = ("ok", "error", "timeout", "cut", "cancelled")


class Percentiles(msgspec.Struct, frozen=True):
    """Nearest rank (ceil(p*n)) over status ok; all None when n is 0. Seconds."""

    n: int
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None


class Stratum(msgspec.Struct, frozen=True):
    requests: int
    ok: int
    ttft_s: Percentiles
    ttft_user_s: Percentiles
    e2e_s: Percentiles
    tpot_s: Percentiles
    max_stall_s: Percentiles


class ModelFigures(msgspec.Struct, frozen=True):
    """`requests` counts every record; `by_status` and `by_phase` split it. Token sums are the
    server's. Goodput is None where the scenario gives the model no SLO; it counts cold requests
    in, and its cold_out figures leave out every request that is not warm."""

    requests: int
    by_status: dict[str, int]
    errors: dict[str, int]
    success_ratio: float | None
    output_tok_s: float | None
    prompt_tokens: int | None
    output_tokens: int | None
    token_mismatches: int
    prompt_length_misses: int
    output_length_misses: int
    goodput_rps: float | None
    goodput_ratio: float | None
    e2e_s: Percentiles
    ttft_s: Percentiles
    ttft_user_s: Percentiles
    tpot_s: Percentiles
    itl_s: Percentiles
    strata: dict[str, Stratum]
    by_phase: dict[str, int] = {}
    engine: str = "none"
    target: str = "none"
    goodput_cold_out_rps: float | None = None
    goodput_cold_out_ratio: float | None = None


class SwapEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One cold start or swap: a row of the swap measurement (store/schema.py), tags and fields.

    `displaced` None: nobody could say whether another model had to go. `marks_from` says for
    each known mark which side gave it: client, engine or gpu.
    """

    target: str
    engine: str
    gpu: str
    model_in: str
    model_out: str
    kind: str
    outcome: str
    start_ms: int
    end_ms: int
    text: str
    displaced: bool | None
    cause: str
    confidence: str
    evidence: str
    t0_s: float
    t1_s: float | None = None
    t2_s: float | None = None
    t3_s: float | None = None
    t4_s: float | None = None
    t5_s: float | None = None
    t6_s: float | None = None
    latency_s: float | None = None
    penalty_s: float | None = None
    trigger_id: str
    waiters: int
    collateral: int
    vram_before_bytes: int | None = None
    vram_trough_bytes: int | None = None
    vram_peak_bytes: int | None = None
    vram_after_bytes: int | None = None
    headroom_bytes: int | None = None
    queue_s: float | None = None
    evict_s: float | None = None
    gap_s: float | None = None
    load_s: float | None = None
    first_token_s: float | None = None
    rewarm_s: float | None = None
    moved_bytes: int | None = None
    load_bytes_per_s: float | None = None
    limit_ratio: float | None = None
    limit: str | None = None
    coldness: str | None = None
    left_because: str | None = None
    energy_j: float | None = None
    blocked_request_s: float | None = None
    stall_max_s: float | None = None
    itl_p95_shift_s: float | None = None
    ttft_p95_shift_s: float | None = None
    tokens_lost: float | None = None
    marks_from: dict[str, str] = {}


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One change of what is in device memory, as one side saw it, run seconds.

    `what`: arrive, leave, sleep or wake. `model` None: the side cannot tell. `cause` of one that
    leaves: pressure, reconfig, control, idle, crash or unknown. `level` of a sleep or wake: 1
    (weights in host memory) or 2 (dropped). `lower_bound`: it was over before two samples had
    shown it, so more bytes may have moved.
    """

    at_s: float
    end_s: float
    what: str
    side: str
    model: str | None = None
    target: str | None = None
    device: str | None = None
    bytes: int | None = None
    cause: str | None = None
    level: int | None = None
    lower_bound: bool = False


class ColdStarts(msgspec.Struct, frozen=True):
    """Every time that demand brought a model in, swaps among them.

    `visible_to`: the sides (client, engine, gpu) that said anything of where models were. Empty:
    a count of 0 means nothing, and every request is warm for want of evidence.
    """

    count: int
    latency_s: Percentiles
    by_confidence: dict[str, int] = {}
    visible_to: list[str] = []


class Thrash(msgspec.Struct, frozen=True):
    """Does the mix make models chase each other out? `swaps_per_minute` beside
    `changes_per_minute`, how often the wanted model changes in order of sending, and
    `swaps_per_change`, their ratio. `came_back`: share of displaced models wanted again, and
    brought in again, within `back_s`. `thrashing`: over half of them, and the tax is over 10 %.
    """

    swaps_per_minute: float | None
    changes_per_minute: float | None
    swaps_per_change: float | None
    came_back: float | None
    back_s: float
    thrashing: bool


class Affected(msgspec.Struct, frozen=True):
    """P95 over ok requests of one model: all of them, those overlapping no [t0, t6] of any cold
    start, and those that do; and the number of the last. t6 unknown: t5, then t4."""

    requests: int
    affected: int
    ttft_all_s: float | None
    ttft_without_s: float | None
    ttft_affected_s: float | None
    e2e_all_s: float | None
    e2e_without_s: float | None
    e2e_affected_s: float | None


class Swaps(msgspec.Struct, frozen=True):
    """The cold starts that displaced another model. `events` holds every cold start, by t0.

    The counts and sums after it are over all of them. `tax_ratio`: share of the time under load
    in which no token came while one was going on. `affected_ratio`: share of requests that are
    not warm. `p95` by model. `residency`: every change seen, by time.
    """

    count: int
    latency_s: Percentiles
    penalty_s: Percentiles
    per_minute: float | None
    waiters: int
    collateral: int
    events: list[SwapEvent] = []
    by_kind: dict[str, int] = {}
    by_cause: dict[str, int] = {}
    by_outcome: dict[str, int] = {}
    moved_bytes: int | None = None
    blocked_request_s: float | None = None
    tokens_lost: float | None = None
    energy_j: float | None = None
    tax_ratio: float | None = None
    affected_ratio: float | None = None
    thrash: Thrash | None = None
    p95: dict[str, Affected] = {}
    residency: list[Change] = []


class GpuFigures(msgspec.Struct, frozen=True):
    source: str
    samples: int
    vram_total_bytes: int | None
    vram_used_max_bytes: int | None
    vram_used_min_bytes: int | None


class GeneratorFigures(msgspec.Struct, frozen=True):
    """`loop_lag_s` is over one value a worker and second, the worst in it; `stalled_s` counts
    those above 250 ms, `full_s` those in which it used or waited for a whole processor.
    `self_delay_s` is what each request waited in the generator before its first byte was sent,
    connecting left out."""

    workers: int
    loop_lag_s: Percentiles
    late_starts: int
    late_max_s: float | None
    cpu_ratio_max: float | None
    records: int
    dropped: int
    lost: str | None
    stalled_s: int = 0
    full_s: int = 0
    self_delay_s: Percentiles = Percentiles(0)


class ErrorFigures(msgspec.Struct, frozen=True):
    """Requests of one model that ended alike. `example` is what the first one's server said."""

    model: str
    status: str
    kind: str
    http_status: int | None
    count: int
    first_s: float | None
    example: str | None


class GateResult(msgspec.Struct, frozen=True):
    expression: str
    value: float | None
    passed: bool
    reason: str | None = None


class Summary(msgspec.Struct, frozen=True):
    """`verdict`: good, gate_failed, client_bound or not_valid; `reasons` say why it is not good.

    `duration_s` runs from t0 to the end of the last record, `load_s` is the part in which load
    was offered (without drain). `facts` are the manifest's, in words for a person.
    """

    schema: int
    run_id: str
    scenario: str
    simulated: bool
    verdict: str
    reasons: list[str]
    gates: list[GateResult]
    started: str
    duration_s: float
    requests: int
    success_ratio: float | None
    output_tok_s: float | None
    models: dict[str, ModelFigures]
    cold_starts: ColdStarts
    swaps: Swaps
    gpu: dict[str, GpuFigures]
    generator: GeneratorFigures
    load_s: float | None = None
    errors: list[ErrorFigures] = []
    facts: dict[str, str] = {}
    notes: list[str] = []
