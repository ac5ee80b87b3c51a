"""Put the figures of one run together as `Summary`."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from tokenswarm.analysis.columns import Bools, Columns, Floats, Texts
from tokenswarm.analysis.correlate import thrash, with_and_without
from tokenswarm.analysis.figures import (
    STATUSES,
    STRATA,
    SUMMARY_SCHEMA,
    ColdStarts,
    ErrorFigures,
    GateResult,
    GpuFigures,
    ModelFigures,
    Stratum,
    Summary,
    SwapEvent,
    Swaps,
)
from tokenswarm.analysis.gates import Gate, judge
from tokenswarm.analysis.goodput import goodput
from tokenswarm.analysis.health import Source, client_bound, generator_figures, invalid
from tokenswarm.analysis.percentiles import percentiles
from tokenswarm.analysis.requests import Requests
from tokenswarm.analysis.strata import Strata
from tokenswarm.analysis.swaps import Found
from tokenswarm.analysis.throughput import TokenSeries
from tokenswarm.analysis.vram import DeviceMemory

ERRORS_SHOWN = 100
CHANGES_SHOWN = 5000


@dataclass(frozen=True, slots=True)
class Facts:
    """What the manifest knows of a run, as far as figures need it. `load_s` is the time in which
    load was offered, `load` the scenario's load object, `slos` the models that have an SLO."""

    run_id: str
    t0_unix_ns: int
    scenario: str
    simulated: bool
    duration_s: float
    load_s: float
    load: Mapping[str, object] | None
    models: tuple[str, ...]
    slos: frozenset[str]
    words: Mapping[str, str]
    notes: Sequence[str]


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything that was measured, in the shapes that the parts of analysis make."""

    requests: Requests
    error_text: Texts
    tokens: TokenSeries
    found: Found
    memories: Sequence[DeviceMemory]
    generator: Columns
    sources: Sequence[Source]
    visible_to: Sequence[str]
    tax_ratio: float | None = None


def model_names(facts_models: Sequence[str], requests: Requests) -> list[str]:
    """The scenario's models in its order, then others that requests name (a locustfile's)."""
    return [*facts_models, *sorted(set(requests.model) - set(facts_models))]


def summarise(facts: Facts, m: Measured, gates: Sequence[Gate]) -> Summary:
    """All figures, every gate judged, and the verdict.

    not_valid when `health.invalid` has a reason, client_bound when the generator shaped the
    result, else gate_failed when a gate did, else good.
    """
    bare = _figures(facts, m)
    broken = invalid(m.requests, bare.generator, m.sources)
    bound = client_bound(m.requests, bare.generator, facts.load)
    results = [judge(gate, bare) for gate in gates]
    failed = [f"gate {g.expression}: {g.reason}" for g in results if not g.passed]
    return _with(bare, _verdict(broken, bound, failed), broken + bound + failed, results)


def _verdict(broken: list[str], bound: list[str], failed: list[str]) -> str:
    if broken:
        return "not_valid"
    if bound:
        return "client_bound"
    return "gate_failed" if failed else "good"


def _with(s: Summary, verdict: str, reasons: list[str], gates: list[GateResult]) -> Summary:
    return msgspec.structs.replace(s, verdict=verdict, reasons=reasons, gates=gates)


def _figures(facts: Facts, m: Measured) -> Summary:
    names = model_names(facts.models, m.requests)
    return Summary(
        schema=SUMMARY_SCHEMA,
        run_id=facts.run_id,
        scenario=facts.scenario,
        simulated=facts.simulated,
        verdict="good",
        reasons=[],
        gates=[],
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(facts.t0_unix_ns / 1e9)),
        duration_s=facts.duration_s,
        requests=len(m.requests),
        success_ratio=_share(m.requests.ok),
        output_tok_s=m.tokens.output_tok_s(),
        models={name: _model(facts, m, i, name) for i, name in enumerate(names)},
        cold_starts=_cold_starts(m.found.events, m.visible_to),
        swaps=_swaps(m, facts.load_s),
        gpu={memory.name: _gpu(memory) for memory in m.memories},
        generator=generator_figures(m.requests, m.generator, m.sources),
        load_s=facts.load_s,
        errors=_errors(m.requests, m.error_text),
        facts=dict(facts.words),
        notes=list(facts.notes),
    )


def _share(mask: Bools) -> float | None:
    return float(np.count_nonzero(mask)) / len(mask) if len(mask) else None


def _total(values: Floats) -> int | None:
    known = values[~np.isnan(values)]
    return int(known.sum()) if len(known) else None


def _count(values: Texts) -> dict[str, int]:
    found: Counter[str] = Counter()
    for value, n in Counter(values.tolist()).items():
        found[str(value)] += n
    return dict(sorted(found.items()))


def _model(facts: Facts, m: Measured, index: int, name: str) -> ModelFigures:
    r = m.requests
    mine = np.asarray(r.model == name, dtype=np.bool_)
    ok = mine & r.ok
    warm = mine & np.asarray(m.found.strata.name == "warm", dtype=np.bool_)
    rps, ratio = goodput(r, mine, facts.load_s, name in facts.slos)
    warm_rps, warm_ratio = goodput(r, warm, facts.load_s, name in facts.slos)
    failed = r.error_kind[mine & ~r.ok]
    return ModelFigures(
        requests=int(np.count_nonzero(mine)),
        by_status={s: int(np.count_nonzero(r.status[mine] == s)) for s in STATUSES},
        errors=_count(np.where(failed == None, "unknown", failed)),  # noqa: E711 (elementwise)
        success_ratio=_share(r.ok[mine]),
        output_tok_s=m.tokens.output_tok_s(index),
        prompt_tokens=_total(r.prompt_tokens[mine]),
        output_tokens=_total(r.output_tokens[mine]),
        token_mismatches=_mismatches(r, ok),
        prompt_length_misses=_misses(r.prompt_tokens[ok], r.prompt_wanted[ok]),
        output_length_misses=_misses(r.output_tokens[ok], r.output_wanted[ok]),
        goodput_rps=rps,
        goodput_ratio=ratio,
        e2e_s=percentiles(r.e2e[ok]),
        ttft_s=percentiles(r.ttft[ok]),
        ttft_user_s=percentiles(r.ttft_user[ok]),
        tpot_s=percentiles(r.tpot[ok]),
        itl_s=m.tokens.itl[index].percentiles(),
        strata={s: _stratum(r, m.found.strata, mine, s) for s in STRATA},
        by_phase=_count(r.phase[mine]),
        engine=_first(r.engine[mine]),
        target=_first(r.target[mine]),
        goodput_cold_out_rps=warm_rps,
        goodput_cold_out_ratio=warm_ratio,
    )


def _first(values: Texts) -> str:
    return str(values[0]) if len(values) else "none"


def _mismatches(r: Requests, ok: Bools) -> int:
    """Requests whose server counted other than one token an event."""
    said = (r.token_source == "usage") | (r.token_source == "native")
    counted = ok & np.asarray(said, dtype=np.bool_)
    return int(np.count_nonzero(r.output_tokens[counted] != r.token_events[counted]))


def _misses(got: Floats, wanted: Floats) -> int:
    return int(np.count_nonzero(~np.isnan(wanted) & ~np.isnan(got) & (got != wanted)))


def _stratum(r: Requests, strata: Strata, mine: Bools, name: str) -> Stratum:
    where = mine & np.asarray(strata.name == name, dtype=np.bool_)
    ok = where & r.ok
    return Stratum(
        requests=int(np.count_nonzero(where)),
        ok=int(np.count_nonzero(ok)),
        ttft_s=percentiles(r.ttft[ok]),
        ttft_user_s=percentiles(r.ttft_user[ok]),
        e2e_s=percentiles(r.e2e[ok]),
        tpot_s=percentiles(r.tpot[ok]),
        max_stall_s=percentiles(r.stall[ok]),
    )


def _known(values: Sequence[float | None]) -> Floats:
    return np.array([v for v in values if v is not None], dtype=np.float64)


def _cold_starts(events: Sequence[SwapEvent], visible_to: Sequence[str]) -> ColdStarts:
    confidences = [e.confidence for e in events]
    return ColdStarts(
        count=len(events),
        latency_s=percentiles(_known([e.latency_s for e in events])),
        by_confidence={c: confidences.count(c) for c in ("confirmed", "probable", "hint")},
        visible_to=list(visible_to),
    )


def _swaps(m: Measured, load_s: float) -> Swaps:
    events = m.found.events
    swaps = [e for e in events if e.displaced]
    return Swaps(
        count=len(swaps),
        latency_s=percentiles(_known([e.latency_s for e in swaps])),
        penalty_s=percentiles(_known([e.penalty_s for e in swaps])),
        per_minute=sum(e.t0_s < load_s for e in swaps) / load_s * 60 if load_s > 0 else None,
        waiters=sum(e.waiters for e in swaps),
        collateral=sum(e.collateral for e in swaps),
        events=list(events),
        by_kind=dict(sorted(Counter(e.kind for e in events).items())),
        by_cause=dict(sorted(Counter(e.cause for e in events).items())),
        by_outcome=dict(sorted(Counter(e.outcome for e in events).items())),
        moved_bytes=_total(_known([e.moved_bytes for e in events])),
        blocked_request_s=_sum([e.blocked_request_s for e in events]),
        tokens_lost=_sum([e.tokens_lost for e in events]),
        energy_j=_sum([e.energy_j for e in events]),
        tax_ratio=m.tax_ratio,
        affected_ratio=_share(np.asarray(m.found.strata.name != "warm", dtype=np.bool_)),
        thrash=thrash(m.requests, events, load_s, m.tax_ratio),
        p95=with_and_without(m.requests, events),
        residency=list(m.found.changes[:CHANGES_SHOWN]),
    )


def _sum(values: Sequence[float | None]) -> float | None:
    """The sum of the known ones; None when none is."""
    known = _known(values)
    return float(known.sum()) if len(known) else None


def _gpu(memory: DeviceMemory) -> GpuFigures:
    used = memory.used[~np.isnan(memory.used)]
    total = memory.total[~np.isnan(memory.total)]
    return GpuFigures(
        source=memory.source,
        samples=len(memory.at_s),
        vram_total_bytes=int(total.max()) if len(total) else None,
        vram_used_max_bytes=int(used.max()) if len(used) else None,
        vram_used_min_bytes=int(used.min()) if len(used) else None,
    )


def _errors(r: Requests, error_text: Texts) -> list[ErrorFigures]:
    """Failed requests by model, status, kind and HTTP status; the most frequent first."""
    groups: dict[tuple[str, str, str, int | None], list[int]] = {}
    for i in np.flatnonzero(~r.ok):
        http = None if np.isnan(r.http_status[i]) else int(r.http_status[i])
        key = (str(r.model[i]), str(r.status[i]), str(r.error_kind[i] or "unknown"), http)
        groups.setdefault(key, []).append(int(i))
    found = [
        ErrorFigures(*key, len(where), *_example(r, error_text, where))
        for key, where in groups.items()
    ]
    return sorted(found, key=lambda e: (-e.count, e.model, e.kind))[:ERRORS_SHOWN]


def _example(r: Requests, error_text: Texts, where: list[int]) -> tuple[float | None, str | None]:
    ended = r.t_end[where]
    first = None if np.isnan(ended).all() else float(np.nanmin(ended))
    said = next((str(error_text[i])[:300] for i in where if error_text[i]), None)
    return first, said
