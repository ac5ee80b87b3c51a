"""`tokenswarm search`: run a scenario at one rate after another until the highest that meets the
SLOs is known; a table, search.json, and the curve as search.html."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as changed

import msgspec

from tokenswarm.analysis.figures import Summary
from tokenswarm.analysis.gates import check, judge, parse
from tokenswarm.analysis.knee import Bracket, decided
from tokenswarm.command import RunCommand
from tokenswarm.errors import EXIT_GATE_FAILED, EXIT_GOOD, EXIT_NOT_VALID, UsageError
from tokenswarm.report.curve import Point, page, table
from tokenswarm.scenario.model import Scenario
from tokenswarm.store.rundir import RunDir

RUN_IDS = "*-*"


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for. `slos` are gates; without `models.` in front they hold for every model."""

    command: RunCommand
    slos: tuple[str, ...]
    start: float
    highest: float
    repeats: int
    precision: float


@dataclass(slots=True)
class Result:
    """Every rate that was tried, and the highest that met the SLOs (None: none did)."""

    points: list[Point] = field(default_factory=list)
    rate: float | None = None
    stopped: str | None = None


def search(wanted: Search, say: Callable[[str], None]) -> Result:
    """Run until the knee is found. A run that is not valid ends the search: no rate beyond it can
    be judged. UsageError: an SLO that is none, or no SLO at all."""
    scenario = wanted.command.resolved()
    gates = _gates(wanted.slos, scenario)
    bracket, result = Bracket(wanted.start, wanted.precision, wanted.highest), Result()
    while (rate := bracket.rate()) is not None:
        point = _try(wanted, rate, gates, scenario, say)
        result.points.append(point)
        if point.met is None:
            result.stopped = point.why
            break
        bracket.tell(rate, met=point.met)
    result.rate = bracket.good
    _write(wanted, result)
    return result


def run_search(wanted: Search) -> int:
    """Search, print the table; 0 found, 1 no rate met the SLOs, 3 a run was not valid."""

    def say(text: str) -> None:
        sys.stderr.write(f"tokenswarm search: {text}\n")

    result = search(wanted, say)
    print(table(result.points), end="")
    print(f"curve: {wanted.command.out / 'search.html'}")
    if result.stopped is not None:
        print(f"stopped: {result.stopped}")
        return EXIT_NOT_VALID
    if result.rate is None:
        print("no rate met the SLOs")
        return EXIT_GATE_FAILED
    print(f"highest rate that meets the SLOs: {result.rate:.4g} requests/s")
    return EXIT_GOOD


def _gates(slos: Sequence[str], scenario: Scenario) -> list[str]:
    names = [m.name for m in scenario.models if m.weight > 0]
    given = list(slos) or [
        f"models.{m.name}.goodput_ratio >= 0.99" for m in scenario.models if m.slo is not None
    ]
    if not given:
        message = "no SLO; give --slo 'ttft_user_s.p95 < 0.5', or slo: in the scenario's models"
        raise UsageError(message)
    whole = []
    for slo in given:
        every = [f"models.{name}.{slo.strip()}" for name in names]
        whole += [slo] if "models." in slo else every
    check(map(parse, whole), [m.name for m in scenario.models])
    return whole


def _try(
    wanted: Search,
    rate: float,
    gates: Sequence[str],
    scenario: Scenario,
    say: Callable[[str], None],
) -> Point:
    """Run at `rate`, with another seed each time, until the majority of the repeats is known."""
    met: list[bool] = []
    last: Summary | None = None
    while (verdict := decided(met, wanted.repeats)) is None:
        run = changed(wanted.command, rate=rate, seed=scenario.seed + len(met))
        last = _run(run)
        if last.verdict in ("not_valid", "client_bound"):
            why = f"at {rate:.4g}/s the run was {last.verdict}: {'; '.join(last.reasons)}"
            return Point.of(rate, None, last, len(met) + 1, why)
        failed = [r for r in (judge(parse(g), last) for g in gates) if not r.passed]
        met.append(not failed)
        why = "; ".join(f"{r.expression}: {r.reason}" for r in failed) or "met"
        say(f"{rate:.4g} requests/s, run {len(met)}: {why}")
    assert last is not None
    return Point.of(rate, verdict, last, len(met), why)


def _run(command: RunCommand) -> Summary:
    before = set(command.out.glob(RUN_IDS))
    ended = subprocess.run(command.argv(), stdout=subprocess.DEVNULL, check=False)
    new = [p for p in set(command.out.glob(RUN_IDS)) - before if RunDir(p).summary.is_file()]
    if not new:
        raise UsageError(f"the run left no summary (exit code {ended.returncode}); see above")
    return msgspec.json.decode(RunDir(new[0]).summary.read_bytes(), type=Summary)


def _write(wanted: Search, result: Result) -> None:
    folder = wanted.command.out
    folder.mkdir(parents=True, exist_ok=True)
    said = {"rate": result.rate, "stopped": result.stopped, "points": result.points}
    (folder / "search.json").write_bytes(msgspec.json.format(msgspec.json.encode(said)) + b"\n")
    (folder / "search.html").write_text(page(result.points, result.rate), "utf-8")
