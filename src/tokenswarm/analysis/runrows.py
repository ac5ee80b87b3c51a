"""A run's own rows: what the manifest knows of it (run), its final figures (run_summary), and when
a model was being brought in (swap_active)."""

from typing import Any

from tokenswarm.analysis.figures import ModelFigures, Stratum, Summary
from tokenswarm.analysis.rows import active_rows
from tokenswarm.clock import slug
from tokenswarm.store import parquet
from tokenswarm.store.makers import ANALYSIS
from tokenswarm.store.rundir import Manifest, RunDir
from tokenswarm.store.schema import MEASUREMENTS

ALL = "all"
"""Tag for all models together, and for all strata of a model."""


def write(run: RunDir, summary: Summary) -> None:
    """Replace run.parquet, run_summary.parquet and swap_active.parquet."""
    manifest = run.read_manifest()
    parquet.write(run, "run", [run_row(manifest, summary)], ANALYSIS)
    parquet.write(run, "run_summary", summary_rows(manifest, summary), ANALYSIS)
    active = active_rows(manifest, summary.swaps.events)
    parquet.write(run, "swap_active", active, ANALYSIS)


def run_row(manifest: Manifest, summary: Summary) -> list[Any]:
    """The row of measurement run; `end_ms` is None for a run that was killed."""
    end = manifest.end_unix_ns
    return _row(
        "run",
        manifest.t0_unix_ns,
        {"run_id": manifest.run_id, "engine": _engine(summary)},
        scenario=summary.scenario,
        version=manifest.tokenswarm,
        start_ms=manifest.t0_unix_ns // 1_000_000,
        end_ms=None if end is None else end // 1_000_000,
        simulated=summary.simulated,
        verdict=summary.verdict,
    )


def summary_rows(manifest: Manifest, summary: Summary) -> list[list[Any]]:
    """Rows of run_summary: the whole run, each model, each stratum of it that has requests."""
    tags = {"run_id": manifest.run_id, "stratum": ALL}
    rows: list[tuple[dict[str, str], dict[str, Any]]] = [
        ({**tags, "model": ALL, "engine": _engine(summary)}, _of_run(summary))
    ]
    for name, figures in summary.models.items():
        mine = {**tags, "model": slug(name), "engine": slug(figures.engine)}
        rows.append((mine, _of_model(figures)))
        rows += [
            ({**mine, "stratum": stratum}, _of_stratum(found))
            for stratum, found in figures.strata.items()
            if found.requests
        ]
    times = range(manifest.t0_unix_ns, manifest.t0_unix_ns + len(rows))
    return [_row("run_summary", at, t, **cells) for at, (t, cells) in zip(times, rows, strict=True)]


def _of_run(s: Summary) -> dict[str, Any]:
    peaks = [g.vram_used_max_bytes for g in s.gpu.values() if g.vram_used_max_bytes is not None]
    return {
        "requests": s.requests,
        "success_ratio": s.success_ratio,
        "output_tok_s": s.output_tok_s,
        "cold_starts": s.cold_starts.count,
        "swaps": s.swaps.count,
        "swap_latency_p50_s": s.swaps.latency_s.p50,
        "swap_latency_p95_s": s.swaps.latency_s.p95,
        "swap_tax_ratio": s.swaps.tax_ratio,
        "swap_affected_ratio": s.swaps.affected_ratio,
        "vram_peak_bytes": max(peaks, default=None),
    }


def _of_model(m: ModelFigures) -> dict[str, Any]:
    return {
        "requests": m.requests,
        "success_ratio": m.success_ratio,
        "output_tok_s": m.output_tok_s,
        "ttft_p50_s": m.ttft_s.p50,
        "ttft_p95_s": m.ttft_s.p95,
        "e2e_p50_s": m.e2e_s.p50,
        "e2e_p95_s": m.e2e_s.p95,
        "itl_p95_s": m.itl_s.p95,
        "ttft_p99_s": m.ttft_s.p99,
        "e2e_p99_s": m.e2e_s.p99,
        "tpot_p50_s": m.tpot_s.p50,
        "tpot_p95_s": m.tpot_s.p95,
        "goodput_rps": m.goodput_rps,
        "goodput_ratio": m.goodput_ratio,
    }


def _of_stratum(s: Stratum) -> dict[str, Any]:
    return {
        "requests": s.requests,
        "success_ratio": s.ok / s.requests,
        "ttft_p50_s": s.ttft_s.p50,
        "ttft_p95_s": s.ttft_s.p95,
        "e2e_p50_s": s.e2e_s.p50,
        "e2e_p95_s": s.e2e_s.p95,
        "ttft_p99_s": s.ttft_s.p99,
        "e2e_p99_s": s.e2e_s.p99,
        "tpot_p50_s": s.tpot_s.p50,
        "tpot_p95_s": s.tpot_s.p95,
    }


def _engine(summary: Summary) -> str:
    """The engine of all models, `several` when they differ."""
    engines = {slug(m.engine) for m in summary.models.values()} - {"none"}
    return engines.pop() if len(engines) == 1 else "several" if engines else "none"


def _row(measurement: str, time_ns: int, tags: dict[str, str], **cells: Any) -> list[Any]:
    m = MEASUREMENTS[measurement]
    values = [cells.pop(f.name, None) for f in m.fields]
    assert not cells, f"{measurement} has no {sorted(cells)}"
    return [time_ns, *(tags.get(tag, "none") for tag in m.tags), *values]
