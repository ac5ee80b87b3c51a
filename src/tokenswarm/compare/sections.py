"""The tables of a comparison, once for terminal, Markdown and HTML: titles, headings, cells."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tokenswarm.analysis.figures import STRATA
from tokenswarm.compare.comparison import ModelFigures, Solution
from tokenswarm.compare.result import Result
from tokenswarm.compare.value import LoadFigures, Value
from tokenswarm.report import units

NONE = units.UNKNOWN
SHOWN = 200


@dataclass(frozen=True, slots=True)
class Section:
    """A table. `note` stands below its title."""

    title: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def sections(r: Result) -> list[Section]:
    """Every table that has a row."""
    made = [
        _several(r),
        *_loads(r),
        _memory(r),
        _drill(r),
        _starts(r),
        _strata(r),
        _against(r),
    ]
    return [s for s in made if s.rows]


def _several(r: Result) -> Section:
    rows = []
    for s in r.solutions:
        said = s.failure or "; ".join(
            [f"{x.server}{' (beyond)' if x.beyond else ''}: {x.why}" for x in s.refused]
            + [f"{m.model}: {m.why_not}" for m in s.models if _said_nowhere_else(s, m)]
        )
        engine = f"{s.engine} {s.version or ''}".strip()
        served = f"{len(s.served)} of {len(s.wanted)}: {', '.join(s.served) or 'none'}"
        rows.append((s.name, engine, s.several, served, _short(said or "all started")))
    heads = ("solution", "engine", "several at once", "models served", "what happened")
    return Section("Can it serve several models at once?", heads, rows)


def _said_nowhere_else(s: Solution, m: ModelFigures) -> bool:
    return not m.serves and m.why_not is not None and all(x.why != m.why_not for x in s.refused)


def _loads(r: Result) -> Iterator[Section]:
    names = list(dict.fromkeys(x.load for s in r.solutions for x in s.loads))
    for name in names:
        by_solution = [(s, next((x for x in s.loads if x.load == name), None)) for s in r.solutions]
        known = [(s, x) for s, x in by_solution if x is not None]
        models = ", ".join(known[0][1].models) if known else ""
        rows = [(label, *(_cell(cell, s, x) for s, x in by_solution)) for label, cell in FIGURES]
        rows = [row for row in rows if any(c != NONE for c in row[1:])]
        heads = ("figure", *(s.name for s in r.solutions))
        note = "Brackets: 95 % intervals. Percentiles by nearest rank."
        yield Section(f"Load {name}: {models}", heads, rows, note)


Cell = Callable[[Solution, LoadFigures], str]


def _cell(cell: Cell, s: Solution, x: LoadFigures | None) -> str:
    if x is None:
        return NONE
    return cell(s, x) if x.failure is None or cell is _happened else NONE


def _happened(s: Solution, x: LoadFigures) -> str:
    return _short(x.failure) if x.failure else x.verdict.replace("_", " ")


def _calls(s: Solution, x: LoadFigures) -> str:
    if not x.single:
        return NONE
    m = next((m for m in s.models if m.model in x.models), None)
    return f"{units.seconds(m.first_call_s)} / {units.seconds(m.cached_call_s)}" if m else NONE


def _own_memory(s: Solution, x: LoadFigures) -> str:
    own = [m.added_bytes for m in s.models if m.model in x.models and m.added_bytes is not None]
    return units.size(sum(own)) if own else NONE


FIGURES: tuple[tuple[str, Cell], ...] = (
    ("result", _happened),
    ("throughput (tok/s)", lambda s, x: _value(x.tok_s, units.rate)),
    ("throughput, times the slowest",
     lambda s, x: units.rate(s.speed_ratio) if x.single else NONE),
    ("mean latency", lambda s, x: _value(x.mean_e2e_s, units.seconds)),
    ("P95 latency", lambda s, x: _value(x.p95_e2e_s, units.seconds)),
    ("success rate", lambda s, x: _value(x.success, units.share)),
    ("first call / cached call", _calls),
    ("TTFT P50 / P95",
     lambda s, x: f"{units.seconds(x.ttft_s.p50)} / {units.seconds(x.ttft_s.p95)}"),
    ("ITL P50 / P95", lambda s, x: f"{units.seconds(x.itl_s.p50)} / {units.seconds(x.itl_s.p95)}"),
    ("goodput (requests/s)", lambda s, x: units.rate(x.goodput_rps)),
    ("energy per token (J)", lambda s, x: units.rate(x.energy_j_per_token)),
    ("memory of these models", _own_memory),
    ("requests", lambda s, x: units.count(x.requests)),
    ("users, output tokens", lambda s, x: f"{x.users}, {x.output_tokens:g}"),
)  # fmt: skip


def _memory(r: Result) -> Section:
    rows = []
    for s in r.solutions:
        rows += [
            (s.name, m.model, units.size(m.added_bytes), units.size(m.weights_bytes),
             units.size(m.kv_bytes), units.size(m.total_bytes), units.seconds(m.first_call_s),
             units.seconds(m.cached_call_s))
            for m in s.models
        ]  # fmt: skip
        ratio = f"{units.digits(s.memory_ratio)} times the least" if s.memory_ratio else ""
        if s.vram_total_bytes is not None:
            total = units.size(s.vram_total_bytes)
            rows.append((s.name, "all that is served", "", "", "", total, "", ratio))
    heads = ("solution", "model", "added", "weights", "KV cache", "in total", "first call",
             "cached call")  # fmt: skip
    note = (
        "Device memory by what was in use before and after. The first call is the first after its "
        "server's start, for a short answer; the cached one follows it."
    )
    return Section("Memory by model", heads, rows, note)


WORDS = {
    "restart": "restart", "sleep1": "sleep level 1", "sleep2": "sleep level 2, weights reloaded",
    "reload": "unload, load by demand", "disk": "unload, load from disk", "visit": "visit in turn",
}  # fmt: skip


def _drill(r: Result) -> Section:
    rows = []
    for s in r.solutions:
        for c in s.changes:
            canary = NONE if c.canary is None else f"{c.canary[0]} of {c.canary[1]}"
            n = max(c.first_call_s.n, c.leave_s.n)
            failed = f", {len(c.failures)} failed" if c.failures else ""
            rows.append(
                (s.name, WORDS.get(c.action, c.action), c.model, f"{n}{failed}",
                 _range(c.leave_s), _range(c.return_s), _range(c.first_call_s),
                 _range(c.cached_call_s), units.seconds(c.penalty_s.value),
                 units.size(c.freed_bytes), canary)
            )  # fmt: skip
    heads = ("solution", "change", "model", "n", "gone after", "back after", "first call",
             "cached call", "penalty", "freed", "same text")  # fmt: skip
    return Section("Swap drill", heads, rows, "Medians; brackets: least and largest.")


def _starts(r: Result) -> Section:
    rows = [
        (s.name, x.server, str(x.ready_s.n), _range(x.ready_s), _range(x.weights_s),
         _range(x.init_s))
        for s in r.solutions
        for x in s.starts
    ]  # fmt: skip
    heads = ("solution", "server", "n", "ready after", "weights", "engine's own init")
    return Section("Starts of servers", heads, rows, "Medians; weights and init by the logs.")


def _strata(r: Result) -> Section:
    rows = []
    for s in r.solutions:
        for x in s.loads:
            if x.failure is None:
                shares = (units.count(x.strata.get(name, 0)) for name in STRATA)
                p = x.swap_latency_s
                rows.append(
                    (s.name, x.load, *shares, str(x.cold_starts), str(x.swaps),
                     f"{units.seconds(p.p50)} / {units.seconds(p.p95)}" if p.n else NONE)
                )  # fmt: skip
    heads = ("solution", "load", *(name.replace("_", " ") for name in STRATA), "cold starts",
             "swaps", "swap latency P50 / P95")  # fmt: skip
    return Section("Who paid for swaps under load", heads, rows)


def _against(r: Result) -> Section:
    if r.against is None:
        return Section("", (), [])
    rows = []
    for b in r.against.figures:
        say = _unit(b.figure)
        off = NONE if b.ratio is None else f"{(b.ratio - 1) * 100:+.1f} %"
        rows.append((b.solution, b.figure, b.model, say(b.ours), say(b.theirs), off))
    heads = ("solution", "figure", "model", "here", "there", "difference")
    agrees = [f"{use}: {'the same' if same else 'another'} conclusion"
              for use, same in r.against.agrees.items()]  # fmt: skip
    return Section(f"Beside {r.against.name}", heads, rows, "; ".join(agrees))


def _unit(figure: str) -> Callable[[float | None], str]:
    if figure.endswith("_bytes"):
        return lambda v: NONE if v is None else f"{v / 1e9:.2f} GB"
    if figure.endswith("_ratio"):
        return units.share
    return units.seconds if figure.endswith("_s") and figure != "tok_s" else units.rate


def _value(v: Value, say: Callable[[float | None], str]) -> str:
    if v.value is None or v.low is None:
        return say(v.value)
    return f"{say(v.value)} [{say(v.low)}, {say(v.high)}]"


def _range(v: Value) -> str:
    """A median with least and largest, where there are several."""
    return _value(v, units.seconds) if v.n > 1 else units.seconds(v.value)


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
