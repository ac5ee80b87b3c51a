"""The shape of summary.json: stable, versioned (`schema`). None is unknown, never 0."""

import msgspec

SUMMARY_SCHEMA = 1


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
    """`requests` counts every record; `by_status` splits it. Token sums are the server's."""

    requests: int
    by_status: dict[str, int]
    errors: dict[str, int]
    success_ratio: float | None
    output_tok_s: float | None
    prompt_tokens: int
    output_tokens: int
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
    engine: str = "none"
    target: str = "none"


class ColdStarts(msgspec.Struct, frozen=True):
    count: int
    latency_s: Percentiles


class Swaps(msgspec.Struct, frozen=True):
    """`events` are rows of the swap measurement as objects, by t0."""

    count: int
    latency_s: Percentiles
    penalty_s: Percentiles
    per_minute: float | None
    waiters: int
    collateral: int


class GpuFigures(msgspec.Struct, frozen=True):
    source: str
    samples: int
    vram_total_bytes: int | None
    vram_used_max_bytes: int | None
    vram_used_min_bytes: int | None


class GeneratorFigures(msgspec.Struct, frozen=True):
    workers: int
    loop_lag_s: Percentiles
    late_starts: int
    late_max_s: float | None
    cpu_ratio_max: float | None
    records: int
    dropped: int
    lost: str | None


class GateResult(msgspec.Struct, frozen=True):
    expression: str
    value: float | None
    passed: bool
    reason: str | None = None


class Summary(msgspec.Struct, frozen=True):
    """`verdict`: good, gate_failed or not_valid; `reasons` say why it is not good."""

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
