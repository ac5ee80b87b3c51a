"""The one module of analysis that reads and writes files: a run directory in, figures out."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np

from tokenswarm.analysis import gates as gate
from tokenswarm.analysis.collateral import Collateral, with_collateral
from tokenswarm.analysis.columns import Columns, Ints, Texts, coded, floats, run_seconds, texts
from tokenswarm.analysis.distributions import Distribution, distributions
from tokenswarm.analysis.drift import Drift, added, drifts, moved, moved_requests
from tokenswarm.analysis.evidence import SIDES, evidence
from tokenswarm.analysis.figures import Summary
from tokenswarm.analysis.gates import Gate
from tokenswarm.analysis.health import Source
from tokenswarm.analysis.requests import Requests, requests
from tokenswarm.analysis.strata import Strata
from tokenswarm.analysis.summary import Facts, Measured, model_names, summarise
from tokenswarm.analysis.throughput import Replies, TokenSeries
from tokenswarm.analysis.timeline import Timeline, timeline
from tokenswarm.analysis.words import facts_of
from tokenswarm.store import parquet
from tokenswarm.store.makers import ANALYSIS
from tokenswarm.store.parquet import BuildReport
from tokenswarm.store.rundir import Manifest, RunDir
from tokenswarm.store.schema import SWAP
from tokenswarm.store.stored import Stored

PIECE_GAPS = 4_000_000
"""About so many token gaps are in memory at once."""
_REPLY = ("model", "t_first_token_s", "t_last_token_s", "t_end_s", "output_tokens",
          "token_events")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Analysis:
    """What a report is made of: the figures, and the series for its charts."""

    summary: Summary
    timeline: Timeline
    distributions: dict[str, Distribution]


def analyse(run: RunDir, expressions: Sequence[str] = ()) -> Analysis:
    """Analyse a run, finished or killed, from its spool.

    Writes every measurement as Parquet, swap.parquet and request_stratum.parquet (replaced as a
    whole: twice gives the same) and summary.json. `expressions` are gates beside the scenario's.
    UsageError: a gate that is none; SpoolError: files that cannot be written.
    """
    manifest = run.read_manifest()
    wanted = [*(manifest.scenario or {}).get("gates", []), *expressions]
    gates = [gate.parse(e) for e in dict.fromkeys(wanted)]
    return examine(run, manifest, parquet.build(run), gates)


def examine(
    run: RunDir, manifest: Manifest, built: BuildReport, gates: Sequence[Gate] = ()
) -> Analysis:
    """Analyse a run whose Parquet files are there; writes what `analyse` writes beside them."""
    with Stored(run, "request") as columns:
        apart = drifts(manifest.clocks, manifest.routes)
        table = _requests(columns, apart)
        facts = facts_of(manifest, _last_s(run, manifest), built.notes())
        names = model_names(facts.models, table)
        gate.check(gates, names)
        measured, line = _measure(run, manifest, facts, names, table, built, columns, apart)
    summary = summarise(facts, measured, gates)
    _write(run, summary, table, measured.found.strata)
    return Analysis(summary, line, distributions(table, measured.found.strata, names))


def _measure(
    run: RunDir,
    manifest: Manifest,
    facts: Facts,
    names: list[str],
    table: Requests,
    built: BuildReport,
    columns: Stored,
    apart: Mapping[str, Drift],
) -> tuple[Measured, Timeline]:
    t0 = manifest.t0_unix_ns
    sides = {name: moved(parquet.read(run, name), t0, apart) for name in SIDES}
    residency, processes = sides["residency"], sides["gpu_process"]
    seen = evidence(sides, t0, manifest.telemetry, manifest.scenario)
    found = seen.find(table)
    tokens = TokenSeries(len(names), facts.duration_s, facts.load_s)
    lost = Collateral(names, found.events, facts.duration_s)
    for some in _replies(columns, names, apart):
        tokens.add(some)
        lost.add(some)
    found = replace(found, events=with_collateral(found, lost, table, tokens))
    generator = parquet.read(run, "generator")
    workers = {*texts(generator, "worker"), *texts(columns, "worker")}
    measured = Measured(
        requests=table,
        error_text=texts(columns, "error_text")[table.row],
        tokens=tokens,
        found=found,
        memories=seen.memories,
        tax_ratio=lost.tax_ratio(facts.load_s),
        generator=generator,
        sources=_sources(run, manifest, built, workers),
        visible_to=_visible_to(table, residency, processes),
    )
    line = timeline(
        names, table, found, tokens, seen.memories, processes, residency, seen.stays,
        facts.duration_s, t0,
    )  # fmt: skip
    return measured, line


def _last_s(run: RunDir, manifest: Manifest) -> float:
    """When the run ended, in run seconds; of a killed run, its last row."""
    if manifest.end_unix_ns is not None:
        return (manifest.end_unix_ns - manifest.t0_unix_ns) / 1e9
    views = " UNION ALL ".join(
        f"SELECT max(time_ns) AS t FROM {name}" for name in ("request", "tick", "generator")
    )
    last = parquet.query(run, f"SELECT coalesce(max(t), 0) AS time_ns FROM ({views})")
    return max(0.0, float(run_seconds(last, manifest.t0_unix_ns)[0]))


def _visible_to(table: Requests, residency: Columns, processes: Columns) -> list[str]:
    """The sides from which a model's coming and going could be seen."""
    said = {
        "client": not bool(np.isnan(table.load).all()),
        "engine": len(residency["time_ns"]) > 0,
        "gpu": len(processes["time_ns"]) > 0,
    }
    return [side for side, anything in said.items() if anything]


def _sources(
    run: RunDir, manifest: Manifest, built: BuildReport, workers: set[Any]
) -> list[Source]:
    """The generator's sources: workers that left rows, and those that told the master their end."""
    found = []
    told = {name for name, route in manifest.routes.items() if route in ("shared", "link")}
    for name in sorted(workers | told):
        inventory = built.sources.get(name)
        damages = inventory.damages if inventory else []
        found.append(
            Source(
                name=str(name),
                rows=inventory.rows if inventory else 0,
                missing=sum(b - a for a, b in inventory.gaps) if inventory else 0,
                damages=tuple(f"{d.bytes_lost} bytes unreadable: {d.reason}" for d in damages),
                ended=manifest.ended.get(name),
                last_s=_last_of(run, manifest, str(name)),
            )
        )
    return found


def _last_of(run: RunDir, manifest: Manifest, worker: str) -> float | None:
    views = " UNION ALL ".join(
        f"SELECT max(time_ns) AS t FROM {name} WHERE worker = ?"
        for name in ("request", "tick", "generator")
    )
    last = parquet.query(run, f"SELECT max(t) AS time_ns FROM ({views})", [worker] * 3)
    at = floats(last, "time_ns")[0]
    return None if np.isnan(at) else (int(last["time_ns"][0]) - manifest.t0_unix_ns) / 1e9


def _requests(columns: Stored, apart: Mapping[str, Drift]) -> Requests:
    table = requests(columns)
    return moved_requests(table, texts(columns, "worker")[table.row], apart) if apart else table


def _replies(
    columns: Stored, names: Sequence[str], apart: Mapping[str, Drift]
) -> Iterator[Replies]:
    """Token gaps of all requests, some at a time; DuckDB reads the next while these are used."""
    sized = columns.select("time_ns, coalesce(len(gaps_us), 0)::BIGINT AS n")
    lengths, times = np.asarray(sized["n"]), np.asarray(sized["time_ns"])

    def read(lo: int, hi: int) -> Replies:
        where = ("time_ns >= ? AND time_ns < ?", [lo, hi])
        gaps = np.asarray(columns.select("unnest(gaps_us) AS gap", *where)["gap"])
        some = columns.select(", ".join((*_REPLY, "worker") if apart else _REPLY), *where)
        first, past = np.searchsorted(times, [lo, hi])  # the file lies by time
        reply = _some(some, names, gaps, lengths[first:past])
        if not apart:
            return reply
        add_s = added(texts(some, "worker"), reply.t_end_s, apart)
        return replace(reply, t_first_s=reply.t_first_s + add_s, t_end_s=reply.t_end_s + add_s)

    with ThreadPoolExecutor(1) as reader:
        waiting = None
        for lo, hi in pairwise(_edges(times, lengths)):
            reading = reader.submit(read, lo, hi)
            if waiting is not None:
                yield waiting.result()
            waiting = reading
        if waiting is not None:
            yield waiting.result()


def _edges(times: Ints, lengths: Ints) -> list[int]:
    """Times, in order, between which about PIECE_GAPS token gaps lie each."""
    if not len(times):
        return []
    piece = np.cumsum(lengths + 1) // PIECE_GAPS
    firsts = np.flatnonzero(np.diff(piece)) + 1
    return sorted({int(times[0]), *times[firsts].tolist(), int(times[-1]) + 1})


def replies(columns: Columns, names: Sequence[str]) -> Replies:
    """Rows of the request measurement as `Replies`."""
    gaps = [np.zeros(0, np.int64) if g is None else np.asarray(g) for g in columns["gaps_us"]]
    flat = np.concatenate([np.zeros(0, np.int64), *gaps]).astype(np.int64)
    return _some(columns, names, flat, np.array([len(g) for g in gaps], dtype=np.int64))


def _some(columns: Columns, names: Sequence[str], gaps: Ints, lengths: Ints) -> Replies:
    last, end = floats(columns, "t_last_token_s"), floats(columns, "t_end_s")
    return Replies(
        model=coded(texts(columns, "model"), names),
        t_first_s=floats(columns, "t_first_token_s"),
        t_end_s=np.where(np.isnan(last), end, last),
        output_tokens=floats(columns, "output_tokens"),
        token_events=floats(columns, "token_events"),
        gaps_us=gaps,
        lengths=lengths,
    )


def _write(run: RunDir, summary: Summary, table: Requests, strata: Strata) -> None:
    parquet.write(run, "swap", _swap_rows(run, summary), ANALYSIS)
    columns = _stratum_columns(summary, table, strata)
    parquet.write_columns(run, "request_stratum", columns, len(table), ANALYSIS)
    text = msgspec.json.format(msgspec.json.encode(summary), indent=2)
    partial = run.summary.with_suffix(".json.part")
    partial.write_bytes(text + b"\n")
    partial.replace(run.summary)


def _swap_rows(run: RunDir, summary: Summary) -> Iterator[list[Any]]:
    last = -1
    for e in summary.swaps.events:
        last = max(e.start_ms * 1_000_000, last + 1)
        values = [getattr(e, name) for name in SWAP.columns[2:]]
        yield [last, summary.run_id, *values]


def _stratum_columns(summary: Summary, r: Requests, strata: Strata) -> dict[str, Any]:
    """One row a request, at the request's own time, in the order of those."""
    order = np.argsort(r.time_ns, kind="stable")
    # the same time twice: the later one moves on, so that no row hides another
    rising = np.maximum.accumulate(r.time_ns[order] - np.arange(len(order))) + np.arange(len(order))
    said = np.array([*(e.evidence for e in summary.swaps.events), None], dtype=object)
    columns: dict[str, Texts | Any] = {
        "time_ns": rising,
        "run_id": summary.run_id,
        "stratum": strata.name[order],
        "evidence": said[strata.event[order]],  # -1, a warm request's, is the None at the end
    }
    same = ("model", "target", "engine", "id")
    figures = {"ttft_s": r.ttft, "ttft_user_s": r.ttft_user, "e2e_s": r.e2e, "tpot_s": r.tpot,
               "max_stall_s": r.stall}  # fmt: skip
    columns |= {name: getattr(r, name)[order] for name in same}
    return columns | {name: values[order] for name, values in figures.items()}
