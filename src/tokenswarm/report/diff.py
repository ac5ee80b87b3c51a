"""`tokenswarm diff`: two run directories in, what is different as text, JSON or Markdown out."""

import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from tokenswarm.analysis.bootstrap import histogram
from tokenswarm.analysis.columns import Bools, Floats, Ints, floats, texts
from tokenswarm.analysis.compare import (
    ALL,
    LATENCIES,
    Comparison,
    Difference,
    Part,
    Side,
    Unlike,
    compare,
)
from tokenswarm.analysis.figures import STRATA, Summary
from tokenswarm.analysis.percentiles import GapPool
from tokenswarm.analysis.run import analyse
from tokenswarm.analysis.throughput import blocks
from tokenswarm.report import markdown as md
from tokenswarm.report import units
from tokenswarm.report.table import STRATUM_WORDS
from tokenswarm.store import parquet
from tokenswarm.store.rundir import Manifest, RunDir
from tokenswarm.store.stored import Stored

BLOCK_S = 5.0
"""Tokens are drawn anew by blocks of so many seconds: what follows closely is not independent."""
HEADINGS = ("model", "part", "figure", "A", "B", "change", "interval", "n", "says")
WORDS = {"noise": "may be noise", "too_few": "too few to tell", "nothing": ""}
WIDTH = 150


def compared(path_a: Path, path_b: Path, confidence: float = 0.95) -> Comparison:
    """The runs in both directories; analysed first where that was not done. UsageError: no run."""
    runs = [RunDir.open(path_a), RunDir.open(path_b)]
    a, b = (side(run) for run in runs)
    facts = [run.read_manifest() for run in runs]
    return compare(a, b, unlike(facts[0], facts[1], a.summary, b.summary), confidence)


# -- reading --------------------------------------------------------------------------------------
def side(run: RunDir) -> Side:
    """One run, as `compare` wants it."""
    summary = _summary(run)
    # in the order in which request.parquet lies
    sql = (
        "SELECT coalesce(s.stratum, 'warm') AS stratum FROM request r LEFT JOIN request_stratum s "
        "USING (id) ORDER BY r.time_ns, r.spool_source, r.spool_seq"
    )
    stratum = texts(parquet.query(run, sql), "stratum")
    with Stored(run, "request") as columns:
        model = texts(columns, "model")
        ok = np.asarray(texts(columns, "status") == "ok", dtype=np.bool_)
        latencies = {name: floats(columns, name) for name in LATENCIES}
        sized = columns.select("greatest(coalesce(len(gaps_us), 0) - 1, 0)::BIGINT AS n")["n"]
        gaps = np.asarray(columns.select("unnest(gaps_us[2:]) AS gap")["gap"])
        tokens = _tokens(columns, summary)
    owner = np.repeat(np.arange(len(model)), np.asarray(sized))
    parts = {}
    for name in summary.models:
        for kind in (ALL, *STRATA):
            mine = (model == name) & ((stratum == kind) | (kind == ALL))
            where = np.asarray(mine, dtype=np.bool_)
            if where.any():
                parts[name, kind] = _part(where, ok, latencies, gaps, owner)
    return Side(summary, parts, tokens)


def _summary(run: RunDir) -> Summary:
    needed = [run.summary, run.parquet("request"), run.parquet("request_stratum")]
    if all(path.is_file() for path in needed):
        try:
            return msgspec.json.decode(run.summary.read_bytes(), type=Summary)
        except msgspec.DecodeError:  # of another version: made anew
            pass
    return analyse(run).summary


def _part(where: Bools, ok: Bools, latencies: dict[str, Floats], gaps: Ints, owner: Ints) -> Part:
    good = where & ok
    kept = {name: values[good] for name, values in latencies.items()}
    mine = where[owner]
    pool = GapPool()
    pool.add(gaps[mine])
    place = np.cumsum(where) - 1
    pooled = pool.percentiles()
    return Part(
        requests=int(where.sum()),
        ok=int(good.sum()),
        latencies={name: np.sort(v[~np.isnan(v)]) for name, v in kept.items()},
        itl={"p50": pooled.p50, "p95": pooled.p95},
        gaps=histogram(gaps[mine], place[owner[mine]], int(where.sum())),
    )


def _tokens(found: Any, summary: Summary) -> dict[str, Floats]:
    """Output tokens a second in blocks of about BLOCK_S under load, by model."""
    load_s = summary.load_s or summary.duration_s
    first_s, last_s = floats(found, "t_first_token_s"), floats(found, "t_last_token_s")
    tokens, model = floats(found, "output_tokens"), texts(found, "model")
    out = {}
    for name in summary.models if load_s >= BLOCK_S else ():
        mine = np.asarray(model == name, dtype=np.bool_)
        out[name] = blocks(first_s[mine], last_s[mine], tokens[mine], load_s, BLOCK_S)
    return out


def unlike(a: Manifest, b: Manifest, of_a: Summary, of_b: Summary) -> list[Unlike]:
    """Facts in which the runs differ: scenario, seed, versions, hardware, validity."""
    pairs = zip(_facts(a, of_a).items(), _facts(b, of_b).values(), strict=True)
    return [Unlike(what, one, other) for (what, one), other in pairs if one != other]


def _facts(m: Manifest, s: Summary) -> dict[str, str]:
    scenario = m.scenario or {}
    targets = [
        f"{name}: {t.get('engine', 'unknown')} {t.get('version') or 'version unknown'}"
        for name, t in sorted(m.targets.items())
    ]
    memory = [
        f"{name}: {units.size(g.vram_total_bytes)} ({g.source})"
        for name, g in sorted(s.gpu.items())
    ]
    return {
        "scenario": s.scenario,
        "scenario file": (m.scenario_sha256 or "unknown")[:16],
        "models": ", ".join(sorted(s.models)),
        "load": s.facts.get("load", "unknown"),
        "duration": f"{s.load_s or s.duration_s:.0f} s",
        "seed": str(m.seed),
        "tokenswarm": m.tokenswarm,
        "engines": "; ".join(targets),
        "GPUs": "; ".join(memory) or "none seen",
        "host": f"{m.host}, {m.platform}",
        "workers": str(s.generator.workers),
        "simulated": str(s.simulated).lower(),
        "validity": "not valid" if s.verdict in ("not_valid", "client_bound") else "valid",
        "settings": _settings(scenario),
    }


def _settings(scenario: dict[str, Any]) -> str:
    """Models, mix and load as they were played, overrides and all, so that any change shows."""
    kept = {k: v for k, v in scenario.items() if k in ("models", "mix", "load", "warmup_s")}
    text = msgspec.json.encode(kept, order="deterministic")
    return f"sha256 {hashlib.sha256(text).hexdigest()[:12]}"


# -- showing --------------------------------------------------------------------------------------
def cells(d: Difference) -> tuple[str, ...]:
    """One line of the table."""
    ratio = None if not d.a or d.b is None else d.b / d.a - 1
    change = "" if ratio is None else f"{ratio:+.1%}".replace("%", " %")
    bounds = ""
    if d.low is not None and d.high is not None:
        bounds = f"{_signed(d.figure, d.low)} to {_signed(d.figure, d.high)}"
    part = d.stratum if d.stratum == ALL else STRATUM_WORDS[d.stratum]
    return (
        d.model or "swaps", part, d.figure, _value(d.figure, d.a), _value(d.figure, d.b), change,
        bounds, f"{d.n_a:,}, {d.n_b:,}", _says(d),
    )  # fmt: skip


def _says(d: Difference) -> str:
    judged = {True: " (better)", False: " (worse)", None: ""}[d.better]
    return WORDS.get(d.says, f"{d.says}{judged}")


def _value(figure: str, value: float | None) -> str:
    name = figure.split(".")[-2] if figure.endswith(("p50", "p95")) else figure.split(".")[-1]
    if name.endswith("_s") and not name.endswith("tok_s"):
        return units.seconds(value)
    if name in ("requests", "count"):
        return units.count(None if value is None else int(value))
    return units.share(value) if name.endswith("ratio") else units.rate(value)


def _signed(figure: str, value: float) -> str:
    if figure.endswith("ratio"):
        return f"{value * 100:+.1f} %"
    text = _value(figure, abs(value))
    return f"{'-' if value < 0 else '+'}{text}"


def verdict(c: Comparison) -> str:
    """What to make of it, in sentences."""
    chance = len(c.judged) * (1 - c.confidence)
    return (
        f"{len(c.real)} of {len(c.judged)} differences stand out at {c.confidence:.0%}; about "
        f"{chance:.0f} of so many would by chance. The intervals know the noise within each run, "
        "not the one between runs: repeat a run to see that."
    )


def _warnings(c: Comparison) -> Iterator[str]:
    for u in c.unlike:
        yield f"not alike: {u.what}: {u.a or 'none'} | {u.b or 'none'}"


def as_text(c: Comparison) -> str:
    """A table, what stands out first said, for a terminal or a file."""
    out = io.StringIO()
    console = Console(file=out, width=WIDTH, color_system=None, highlight=False, soft_wrap=True)
    console.print(f"A {c.run_a}\nB {c.run_b}", markup=False)
    for line in _warnings(c):
        console.print(md.plain(line), markup=False)
    made = Table(box=box.ASCII, pad_edge=False, show_edge=False)
    for i, heading in enumerate(HEADINGS):
        made.add_column(heading, justify="left" if i < 3 or i == 8 else "right", no_wrap=True)
    for d in c.differences:
        made.add_row(*cells(d))
    console.print(made, soft_wrap=False)
    console.print(verdict(c), markup=False)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def as_json(c: Comparison) -> str:
    text = msgspec.json.format(msgspec.json.encode(c), indent=2)
    return text.decode() + "\n"


def as_markdown(c: Comparison) -> str:
    """What stands out, then everything, folded."""
    head = f"### {md.code(c.run_a)} (A) and {md.code(c.run_b)} (B)"
    parts = [head, md.text(verdict(c))]
    if c.unlike:
        rows = [[md.text(t or "none") for t in (u.what, u.a, u.b)] for u in c.unlike]
        parts += ["The runs are not alike:", md.grid(("", "A", "B"), rows, "lll")]
    if c.real:
        parts.append(_grid(c.real))
    folded = f"<details><summary>All figures</summary>\n\n{_grid(c.differences)}\n\n</details>"
    return "\n\n".join([*parts, folded]) + "\n"


def _grid(differences: list[Difference]) -> str:
    rows = [[md.text(cell) for cell in cells(d)] for d in differences]
    return md.grid(HEADINGS, rows, "lllrrrrrl")


FORMS: dict[str, Callable[[Comparison], str]] = {
    "text": as_text,
    "json": as_json,
    "markdown": as_markdown,
}
