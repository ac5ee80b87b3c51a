"""What the figures say, in sentences; terminal and page print the same ones."""

from tokenswarm.analysis.figures import GateResult, Summary
from tokenswarm.report.units import UNKNOWN, count, digits, many, rate, seconds, share, size

VERDICTS = {
    "good": "good",
    "gate_failed": "a gate failed",
    "client_bound": "client bound: the load generator shaped these figures",
    "not_valid": "not valid: do not publish these figures",
}
SIMULATED = "SIMULATED: the servers and the GPU of this run were simulated"


def verdict(s: Summary) -> str:
    return VERDICTS.get(s.verdict, s.verdict)


def headline(s: Summary) -> str:
    """What ran and how it went, in one sentence."""
    models = many(len(s.models), "model")
    gpus = f" on {many(len(s.gpu), 'GPU')}" if s.gpu else ""
    load = digits(s.load_s if s.load_s is not None else s.duration_s)
    return (
        f"{models}{gpus} under load for {load} s: {many(s.requests, 'request')}, "
        f"{share(s.success_ratio)} ok, {rate(s.output_tok_s)} output tok/s."
    )


def swaps(s: Summary) -> str:
    """How often models came in, and who paid for it."""
    if not s.cold_starts.count:
        if not s.cold_starts.visible_to:
            return (
                "Nothing said which models were in memory: cold starts and swaps cannot be told, "
                "every request counts as warm."
            )
        return "No cold start was seen."
    cold = f"{many(s.cold_starts.count, 'cold start')}{_doubtful(s)}"
    if not s.swaps.count:
        return f"{cold}, no swap: nobody was seen to make room for another."
    return (
        f"{many(s.swaps.count, 'swap')} ({rate(s.swaps.per_minute)} a minute) among {cold}: "
        f"the request that brought a model in waited {seconds(s.swaps.latency_s.p50)} "
        f"(median; P95 {seconds(s.swaps.latency_s.p95)}, n {s.swaps.latency_s.n}), "
        f"{many(s.swaps.waiters, 'other')} waited for the same model, "
        f"{s.swaps.collateral:,} for another."
    )


def tax(s: Summary) -> str:
    """What models coming in took from everybody; empty where nobody could tell."""
    if not s.cold_starts.count or s.swaps.tax_ratio is None:
        return ""
    parts = [f"Swap tax: no token came in {share(s.swaps.tax_ratio)} of the time under load"]
    if s.swaps.affected_ratio is not None:
        parts.append(f"{share(s.swaps.affected_ratio)} of the requests paid")
    if s.swaps.tokens_lost:
        parts.append(f"about {s.swaps.tokens_lost:,.0f} tokens were not produced")
    thrashing = s.swaps.thrash is not None and s.swaps.thrash.thrashing
    return ", ".join(parts) + (". The models chase each other out." if thrashing else ".")


def _doubtful(s: Summary) -> str:
    """Cold starts that only one side saw."""
    parts = [
        f"{n} {word}"
        for word in ("probable", "hint")
        if (n := s.cold_starts.by_confidence.get(word, 0))
    ]
    return f" ({', '.join(parts)})" if parts else ""


def gpus(s: Summary) -> list[str]:
    """One line a GPU."""
    return [
        f"{name}: VRAM peak {size(g.vram_used_max_bytes)} of {size(g.vram_total_bytes)} "
        f"({g.source}, {many(g.samples, 'sample')})"
        for name, g in s.gpu.items()
    ]


def gate(g: GateResult) -> str:
    """`pass`/`FAIL`, the expression, the value it was held against."""
    value = UNKNOWN if g.value is None else f"{g.value:.4g}"
    why = f" ({g.reason})" if g.reason and g.value is None else ""
    return f"{'pass' if g.passed else 'FAIL'}  {g.expression}  value {value}{why}"


def generator(s: Summary) -> str:
    """Was the load generator in order?"""
    g = s.generator
    stalled = f", over 250 ms in {g.stalled_s}" if g.stalled_s else ""
    lag = f"loop lag P99 {seconds(g.loop_lag_s.p99)} (n {g.loop_lag_s.n}{stalled})"
    late = f"{many(g.late_starts, 'late start')}"
    worst = f" (worst {seconds(g.late_max_s)})" if g.late_max_s else ""
    cpu = f"CPU at most {share(g.cpu_ratio_max)} of a core"
    return (
        f"{many(g.workers, 'worker')}, {lag}, {late}{worst}, {cpu}, "
        f"{many(g.records, 'record')}, {count(g.dropped)} dropped"
    )


def self_delay(s: Summary) -> str:
    """What of the latencies as users feel them the generator itself caused."""
    d = s.generator.self_delay_s
    return f"Delay before sending, caused by the generator: P99 {seconds(d.p99)} (n {d.n})"


def statuses(s: Summary) -> str:
    """Requests that did not end ok, by status: they are in no percentile and could hide a tail."""
    totals = {
        status: sum(m.by_status.get(status, 0) for m in s.models.values())
        for status in ("error", "timeout", "cut", "cancelled")
    }
    seen = [f"{n} {status}" for status, n in totals.items() if n]
    return f"not in the percentiles: {', '.join(seen)}" if seen else ""


def window(s: Summary) -> str:
    """When the run was, and how much of it was load."""
    load = s.load_s if s.load_s is not None else s.duration_s
    drain = max(0.0, s.duration_s - load)
    return f"{s.started}, {digits(load)} s load + {digits(drain)} s drain"
