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
    server's. Goodput is None where the scenario gives the model no SLO."""

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
    marks_from: dict[str, str] = {}


class ColdStarts(msgspec.Struct, frozen=True):
    """Every time that demand brought a model in, swaps among them.

    `visible_to`: the sides (client, engine, gpu) that said anything of where models were. Empty:
    a count of 0 means nothing, and every request is warm for want of evidence.
    """

    count: int
    latency_s: Percentiles
    by_confidence: dict[str, int] = {}
    visible_to: list[str] = []


class Swaps(msgspec.Struct, frozen=True):
    """The cold starts that displaced another model. `events` holds every cold start, by t0."""

    count: int
    latency_s: Percentiles
    penalty_s: Percentiles
    per_minute: float | None
    waiters: int
    collateral: int
    events: list[SwapEvent] = []


class GpuFigures(msgspec.Struct, frozen=True):
    source: str
    samples: int
    vram_total_bytes: int | None
    vram_used_max_bytes: int | None
    vram_used_min_bytes: int | None


class GeneratorFigures(msgspec.Struct, frozen=True):
    """`loop_lag_s` is over one value a worker and second, the worst in it; `stalled_s` counts
    those above 250 ms."""

    workers: int
    loop_lag_s: Percentiles
    late_starts: int
    late_max_s: float | None
    cpu_ratio_max: float | None
    records: int
    dropped: int
    lost: str | None
    stalled_s: int = 0


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
    """`verdict`: good, gate_failed or not_valid; `reasons` say why it is not good.

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
