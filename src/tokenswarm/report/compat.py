"""`report --compat vllm`: a run in the words and by the formulas of another load tester."""

from pathlib import Path

import numpy as np

from tokenswarm.analysis.columns import floats, texts
from tokenswarm.analysis.vllm import Spread, Stamps, VllmFigures, vllm_figures
from tokenswarm.store import parquet
from tokenswarm.store.rundir import RunDir
from tokenswarm.store.stored import Stored

TOOLS = ("vllm",)
WIDTH = 58
_ALL = "all models"
_SPREADS = (
    ("Time to First Token", "TTFT", "ttft_ms"),
    ("Time per Output Token (excl. 1st token)", "TPOT", "tpot_ms"),
    ("Inter-token Latency", "ITL", "itl_ms"),
    ("End-to-end Latency", "E2EL", "e2el_ms"),
)
NOTE = (
    "By vllm bench serve's formulas: linear percentiles, TTFT at the first chunk even when it is "
    "empty,\nthroughput over the whole time with drain; failed requests are left out."
)


def vllm_text(path: Path) -> str:
    """The run in `path` as vllm bench serve prints it: all of it, then each model.

    UsageError: no run there.
    """
    run = RunDir.open(path)
    if not run.parquet("request").is_file():
        parquet.build(run)
    blocks = [block(name, figures) for name, figures in by_model(run).items()]
    return "\n".join([*blocks, NOTE]) + "\n"


def by_model(run: RunDir) -> dict[str, VllmFigures]:
    """Figures of all requests, then, where there are several models, of each."""
    with Stored(run, "request") as columns:
        model = texts(columns, "model")
        stamps = _stamps(columns)
    found = {_ALL: vllm_figures(stamps)}
    names = sorted(set(model.tolist()))
    for name in names if len(names) > 1 else ():
        found[name] = vllm_figures(stamps.only(np.asarray(model == name, dtype=np.bool_)))
    return found


def _stamps(columns: Stored) -> Stamps:
    lengths = columns.select("coalesce(len(gaps_us), 0)::BIGINT AS n")["n"]
    return Stamps(
        ok=np.asarray(texts(columns, "status") == "ok", dtype=np.bool_),
        t_sent=floats(columns, "t_sent_s"),
        t_first_event=floats(columns, "t_first_event_s"),
        t_first_token=floats(columns, "t_first_token_s"),
        t_last_token=floats(columns, "t_last_token_s"),
        t_end=floats(columns, "t_end_s"),
        prompt_tokens=floats(columns, "prompt_tokens"),
        output_tokens=floats(columns, "output_tokens"),
        gaps_us=np.asarray(columns.select("unnest(gaps_us) AS gap")["gap"]),
        lengths=np.asarray(lengths),
    )


def block(name: str, f: VllmFigures) -> str:
    """One set of figures, laid out as vllm bench does."""
    lines = [f" {name}: Serving Benchmark Result ".center(WIDTH, "=")]
    lines += [
        _line("Successful requests:", f.completed),
        _line("Failed requests:", f.failed),
        _line("Benchmark duration (s):", f.duration),
        _line("Total input tokens:", f.total_input_tokens),
        _line("Total generated tokens:", f.total_output_tokens),
        _line("Request throughput (req/s):", f.request_throughput),
        _line("Output token throughput (tok/s):", f.output_throughput),
        _line("Peak output token throughput (tok/s):", f.max_output_tokens_per_s),
        _line("Total token throughput (tok/s):", f.total_token_throughput),
    ]
    for title, short, field in _SPREADS:
        lines += [title.center(WIDTH, "-"), *_spread(short, getattr(f, field))]
    return "\n".join([*lines, "=" * WIDTH])


def _spread(short: str, s: Spread) -> list[str]:
    named = {"Mean": s.mean, "Median": s.median, "Std": s.std, "P90": s.p90, "P95": s.p95,
             "P99": s.p99}  # fmt: skip
    return [_line(f"{name} {short} (ms):", value) for name, value in named.items()]


def _line(label: str, value: float | None) -> str:
    text = "-" if value is None else str(value) if isinstance(value, int) else f"{value:.2f}"
    return f"{label:<42}{text:<16}".rstrip()
