"""One summary and its time line, written by hand."""

from tokenswarm.analysis.figures import (
    ColdStarts,
    ErrorFigures,
    GateResult,
    GeneratorFigures,
    GpuFigures,
    ModelFigures,
    Percentiles,
    Stratum,
    Summary,
    SwapEvent,
    Swaps,
)
from tokenswarm.analysis.timeline import Dots, Memory, Span, Timeline

HOSTILE = "<script>alert('x')</script>\u2028</script><!-- \x1b[31m"


def spread(n: int, p50: float) -> Percentiles:
    """Percentiles that grow from `p50`."""
    return Percentiles(n, p50, p50 * 1.2, p50 * 1.25, p50 * 2, p50 * 3) if n else Percentiles(0)


def stratum(requests: int, ok: int, ttft: float) -> Stratum:
    ttft_s, e2e_s = spread(ok, ttft), spread(ok, ttft + 0.4)
    return Stratum(requests, ok, ttft_s, ttft_s, e2e_s, spread(ok, 0.007), spread(ok, 0.02))


def model(requests: int, failed: int, strata: dict[str, Stratum]) -> ModelFigures:
    ok = requests - failed
    nothing = stratum(0, 0, 0)
    names = ("warm", "swap_trigger", "swap_waiter", "swap_collateral")
    return ModelFigures(
        requests=requests,
        by_status={"ok": ok, "error": failed, "timeout": 0, "cut": 0, "cancelled": 0},
        errors={"http": failed} if failed else {},
        success_ratio=ok / requests,
        output_tok_s=85.45,
        prompt_tokens=900,
        output_tokens=5437,
        token_mismatches=0,
        prompt_length_misses=0,
        output_length_misses=0,
        goodput_rps=0.63,
        goodput_ratio=0.422,
        e2e_s=spread(ok, 0.48),
        ttft_s=spread(ok, 0.0454),
        ttft_user_s=spread(ok, 0.0454),
        tpot_s=spread(max(0, ok - 1), 0.007),
        itl_s=spread(ok * 50, 0.007),
        strata={name: strata.get(name, nothing) for name in names},
        engine="ollama",
        target="box",
        goodput_cold_out_rps=0.6,
        goodput_cold_out_ratio=0.422 if failed == 0 else 0.468,
    )


def event(**more: object) -> SwapEvent:
    cells: dict[str, object] = {
        "target": "box", "engine": "ollama", "gpu": "gpu0", "model_in": "qwen2-5_3b",
        "model_out": "tinyllama", "kind": "process_cold", "outcome": "ok", "start_ms": 1,
        "end_ms": 2, "text": "", "displaced": True, "cause": "demand", "confidence": "confirmed",
        "evidence": "client+engine+gpu", "t0_s": 4.8, "t1_s": 5.0, "t2_s": 5.1, "t3_s": 5.2,
        "t4_s": 6.8, "t5_s": 6.93, "latency_s": 2.13, "penalty_s": 2.05, "trigger_id": "w0-7",
        "waiters": 3, "collateral": 2, "vram_trough_bytes": 3_758_096_384,
        "vram_peak_bytes": 10_189_934_592,
    }  # fmt: skip
    return SwapEvent(**(cells | more))  # type: ignore[arg-type]


def summary(**more: object) -> Summary:
    """A run of two models with two swaps; one of the models failed twice."""
    cells: dict[str, object] = {
        "schema": 1, "run_id": "20261122t163015z-k3f9qa", "scenario": "two-models",
        "simulated": True, "verdict": "gate_failed",
        "reasons": ["gate swaps.count == 0: 2 is not == 0"],
        "gates": [
            GateResult("success_ratio > 0.9", 0.95, True),
            GateResult("swaps.count == 0", 2.0, False, "2 is not == 0"),
            GateResult("swaps.penalty_s.p50 < 1", None, False, "there is no value to judge"),
        ],
        "started": "2026-11-22T16:30:15Z", "duration_s": 61.5, "requests": 130,
        "success_ratio": 0.95, "output_tok_s": 146.07,
        "models": {
            "tinyllama": model(90, 0, {"warm": stratum(90, 90, 0.0454)}),
            "qwen2-5_3b": model(
                40, 2, {"warm": stratum(36, 35, 0.085), "swap_trigger": stratum(4, 3, 2.13)}
            ),
        },
        "cold_starts": ColdStarts(3, spread(3, 2.1), {"confirmed": 2, "probable": 1, "hint": 0}),
        "swaps": Swaps(
            2, Percentiles(2, 2.13, 2.5, 2.5, 2.5, 2.5), spread(2, 2.05), 2.0, 3, 2,
            [event(), event(t0_s=75.25, t1_s=None, model_out="none", displaced=None)],
        ),
        "gpu": {"box-gpu0": GpuFigures("sim", 1232, 12_884_901_888, 10_200_547_328, 536_870_912)},
        "generator": GeneratorFigures(
            2, Percentiles(120, 0.001, 0.002, 0.003, 0.004, 0.005), 0, None, 0.2, 130, 0, None
        ),
        "load_s": 60.0,
        "errors": [ErrorFigures("qwen2-5_3b", "error", "http", 503, 2, 12.3, HOSTILE)],
        "facts": {"load": "closed loop, 4 users", "targets": "box: ollama 0.33.0"},
        "notes": [],
    }  # fmt: skip
    return Summary(**(cells | more))  # type: ignore[arg-type]


def timeline() -> Timeline:
    """A time line that fits `summary`."""
    seconds = [0.0, 1.0]
    each: dict[str, list[float | None]] = {"tinyllama": [80.0, 0.0], "qwen2-5_3b": [None, 12.0]}
    return Timeline(
        duration_s=61.5, load_s=60.0, bin_s=1, t_s=[*seconds], tok_s=each, window_s=30.0,
        window_t_s=[0.0, 30.0], ttft_p95_s=each, e2e_p95_s=each,
        window_n={"tinyllama": [1, 0], "qwen2-5_3b": [0, 1]},
        dots={
            "tinyllama": Dots([0.5], [0.04], [0.5], [0], 1),
            "qwen2-5_3b": Dots([4.8], [2.13], [2.6], [1], 1),
        },
        memory=[Memory("box-gpu0", "sim", 12 * 2**30, [*seconds], [0.5e9, 4e9], {})],
        residency={"tinyllama": [Span(0.0, 61.5, "resident")]},
    )  # fmt: skip
