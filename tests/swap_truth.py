"""Swaps, marks and strata held against the simulator's ground truth, on scenarios drawn by seed.

python -m tests.swap_truth --swaps 1000 --write docs/swap-accuracy.md
python -m tests.swap_truth --seed 17 --keep /tmp/seed-17
"""

import argparse
import math
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import yaml

from tests.running import finished, run_dirs, tokenswarm
from tests.swap_compare import (
    CLIENT_S,
    Compared,
    Lengths,
    Told,
    TrueEvent,
    compare_events,
    compare_strata,
    victims,
)
from tests.swap_scenarios import Drawn, draw
from tokenswarm.analysis.columns import floats
from tokenswarm.analysis.run import analyse
from tokenswarm.sim import truth
from tokenswarm.sim.process import start
from tokenswarm.store import parquet
from tokenswarm.store.rundir import RunDir

SAMPLES = 1.5  # a mark from the GPU is good to so many sample intervals
STOOD_STILL_S = 0.1  # longer than that, and a look or two of every side is missing
EXIT_CODES = (0, 1, 3)  # 3: a busy machine held the generator up; the events are there all the same


@dataclass
class Played:
    """One scenario, played and compared."""

    drawn: Drawn
    compared: Compared
    evidence: list[str] = field(default_factory=list)
    problem: str | None = None
    stood_still_s: float = 0.0

    @property
    def gpu_s(self) -> float:
        return float(self.drawn.scenario["telemetry"]["gpu"]["interval_s"])

    @property
    def engine_s(self) -> float:
        return float(self.drawn.scenario["telemetry"]["engine"]["interval_s"])

    @property
    def good(self) -> bool:
        c = self.compared
        return not (c.missed or c.false or c.wrong_strata or self.problem)

    @property
    def disturbed(self) -> bool:
        """Whether this machine stood still meanwhile, for the box or for the sampler."""
        return self.stood_still_s > STOOD_STILL_S


def play(drawn: Drawn, folder: Path) -> Played:
    """Run `drawn` with a simulated box of its own in `folder`, and compare."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "profile.yaml").write_text(yaml.safe_dump(drawn.profile, sort_keys=False))
    told = folder / "truth.jsonl"
    with start(folder / "profile.yaml", truth=told, speed=drawn.speed, seed=drawn.seed) as sim:
        for name, target in drawn.scenario["targets"].items():
            target["url"] = sim.urls[drawn.targets.get(name, "ollama")]
        file = folder / "scenario.yaml"
        file.write_text(yaml.safe_dump(drawn.scenario, sort_keys=False))
        code = finished(tokenswarm("run", file, cwd=folder))
    runs = run_dirs(folder / "runs")
    if code not in EXIT_CODES or not runs:
        said = (folder / "stderr.txt").read_text()[-500:]
        return Played(drawn, Compared(), problem=f"exit code {code}: {said}")
    return compare(drawn, runs[-1], truth.read(told))


def play_again(folder: Path) -> Played:
    """Analyse the kept run in `folder` (named after its seed) anew, and compare."""
    run = run_dirs(folder / "runs")[-1]
    analyse(run)
    return compare(draw(int(folder.name)), run, truth.read(folder / "truth.jsonl"))


def compare(drawn: Drawn, run: RunDir, read: truth.Truth) -> Played:
    """What analysis made of `run` beside what the simulator told."""
    sample_s = drawn.scenario["telemetry"]["gpu"]["interval_s"]
    told = Told(read, run.read_manifest().t0_unix_ns, *asked(run), sample_s)
    found = msgspec.json.decode(run.summary.read_bytes())["swaps"]["events"]
    out, events = Compared(), told.events()
    compare_events(events, found, sample_s, told.stood_still(), out)
    rows = parquet.read(run, "request_stratum", ["id", "stratum"])
    ours = dict(zip(map(str, rows["id"]), map(str, rows["stratum"]), strict=True))
    compare_strata(told, events, ours, out, sample_s)
    still_s = max(longest_gap_s(run) - sample_s, *(at - due for due, at in told.stood_still()), 0.0)
    return Played(drawn, out, [e["confidence"] for _, e in out.pairs], stood_still_s=still_s)


def longest_gap_s(run: RunDir) -> float:
    """The longest time between two looks at the GPU."""
    looks = np.unique(parquet.read(run, "gpu", ["time_ns"])["time_ns"])
    return float(np.diff(looks).max()) / 1e9 if len(looks) > 1 else 0.0


def asked(run: RunDir) -> tuple[dict[str, str], dict[str, Lengths]]:
    """By request id: the scenario's name of the model, and what the client measured."""
    names = ["t_sent_s", "t_first_token_s", "t_end_s", "max_stall_s"]
    columns = parquet.read(run, "request", ["id", "model", *names])
    sent, first, end, stall = (floats(columns, name) for name in names)
    waits = np.where(np.isnan(first), end, first) - sent
    ids = [str(i) for i in columns["id"]]
    slugs = dict(zip(ids, map(str, columns["model"]), strict=True))
    lengths = zip(waits.tolist(), np.nan_to_num(stall).tolist(), strict=True)
    return slugs, {i: Lengths(*both) for i, both in zip(ids, lengths, strict=True)}


# figures


@dataclass
class Totals:
    """Everything that was compared so far."""

    played: list[Played] = field(default_factory=list)
    aside: list[Played] = field(default_factory=list)

    @property
    def swaps(self) -> int:
        return sum(p.compared.swaps for p in self.played)

    @property
    def true(self) -> int:
        return sum(len(p.compared.pairs) + len(p.compared.missed) for p in self.played)

    @property
    def recall(self) -> float:
        return _share(sum(len(p.compared.pairs) for p in self.played), self.true)

    @property
    def precision(self) -> float:
        right = sum(len(p.compared.pairs) for p in self.played)
        return _share(right, right + sum(len(p.compared.false) for p in self.played))

    @property
    def evident(self) -> float:
        """Share of the events found that are confirmed or probable."""
        said = [c for p in self.played for c in p.evidence]
        return _share(sum(c in ("confirmed", "probable") for c in said), len(said))

    @property
    def requests(self) -> int:
        return sum(p.compared.requests for p in self.played)

    @property
    def strata(self) -> float:
        """Share of requests whose strata agree."""
        wrong = sum(len(p.compared.wrong_strata) for p in self.played)
        return _share(self.requests - wrong, self.requests)

    def attributes(self) -> dict[str, float]:
        """Share of the events found whose kind and outcome are right."""
        pairs = [pair for p in self.played for pair in p.compared.pairs]
        return {
            name: _share(sum(getattr(t, name) == e[name] for t, e in pairs), len(pairs))
            for name in ("kind", "outcome")
        }

    def shortfalls(self) -> list[str]:
        """What is not as it has to be."""
        said = [p.problem for p in self.played if p.problem]
        figures = (
            ("recall", self.recall, 1.0),
            ("precision", self.precision, 1.0),
            ("confirmed or probable", self.evident, 0.95),
            ("strata agree", self.strata, 0.999),
        )
        said += [f"{name}: {value:.4f}, not {least}" for name, value, least in figures
                 if value < least]  # fmt: skip
        for (mark, side), (n, error_s, ratio) in self.marks().items():
            if ratio > 1:
                said.append(f"{mark} from the {side}: {error_s * 1e3:.1f} ms at P95 of {n}")
        return said

    def marks(self) -> dict[tuple[str, str], tuple[int, float, float]]:
        """By mark and side: how many, P95 of the error in seconds, P95 of error / precision."""
        errors: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for p in self.played:
            bounds = {"client": CLIENT_S, "gpu": SAMPLES * p.gpu_s, "engine": p.engine_s}
            for (mark, side), values in p.compared.errors.items():
                pairs = errors.setdefault((mark, side), [])
                pairs += [(v, v / bounds[side]) for v in values]
        return {
            key: (len(v), _p95(e for e, _ in v), _p95(r for _, r in v))
            for key, v in sorted(errors.items())
        }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def _p95(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[math.ceil(0.95 * len(ordered)) - 1]


def seeds(first: int | None) -> Iterator[int]:
    """Seeds one after the other; the first is drawn unless given. All families take turns."""
    seed = random.SystemRandom().randrange(1, 10**6) if first is None else first
    while True:
        yield seed
        seed += 1


# words


def differences(p: Played) -> Iterator[str]:
    """What differs in one scenario, a line each."""
    if p.problem:
        yield f"  {p.problem}"
    for t in p.compared.missed[:12]:
        yield f"  missed: {_told(t)}"
    for e in p.compared.false[:12]:
        marks = {k: round(v, 3) for k in _MARKS if (v := e.get(k)) is not None}
        yield (
            f"  false: {e['model_in']} for {sorted(victims(e)) or 'nobody'} {e['kind']} "
            f"{e['outcome']} {e['confidence']} ({e['evidence']}) {e['trigger_id']} {marks}"
        )
    for wrong in p.compared.wrong_strata[:12]:
        yield f"  stratum: {wrong}"
    for t, e in p.compared.pairs:
        if (t.kind, t.outcome) != (e["kind"], e["outcome"]):
            yield f"  said {e['kind']} {e['outcome']} {e['trigger_id']}: {_told(t)}"


_MARKS = tuple(f"t{i}_s" for i in range(6))


def _told(t: TrueEvent) -> str:
    marks = {k: round(v, 3) for k, v in t.marks.items()}
    gone = sorted(t.victims) or "nobody"
    return f"{t.model} for {gone} {t.kind} {t.outcome} {t.trigger} {marks}"


def line(p: Played) -> str:
    c = p.compared
    return (
        f"seed {p.drawn.seed} {p.drawn.family} x{p.drawn.speed}: {len(c.pairs)} events "
        f"({c.swaps} swaps), {len(c.missed)} missed, {len(c.false)} false, "
        f"{len(c.wrong_strata)} of {c.requests} strata differ, stood still {p.stood_still_s:.2f} s"
    )


def table(totals: Totals) -> str:
    """The result as Markdown."""
    families = Counter(p.drawn.family for p in totals.played)
    close = sum(p.compared.close for p in totals.played)
    unseen = sum(len(p.compared.unseen) for p in totals.played)
    left_out = sum(p.compared.left_out for p in totals.played)
    kind = totals.attributes()
    rows = [
        ("scenarios", f"{len(totals.played)} of {len(families)} sorts"),
        ("true events", f"{totals.true}, {totals.swaps} of them swaps"),
        ("aborted or failed within two samples", f"{unseen} more, found or not"),
        ("recall", f"{totals.recall:.4f}"),
        ("precision", f"{totals.precision:.4f}"),
        ("confirmed or probable", f"{totals.evident:.2%}"),
        ("kind right", f"{kind['kind']:.2%}"),
        ("outcome right", f"{kind['outcome']:.2%}"),
        ("marks left out because the machine stood still", f"{left_out}"),
        (
            f"scenarios in which it stood still for over {STOOD_STILL_S:g} s",
            f"{sum(p.disturbed for p in totals.played)}",
        ),
        ("requests", f"{totals.requests}"),
        ("strata agree", f"{totals.strata:.3%} ({close} could be either)"),
    ]
    lines = ["| figure | value |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows), ""]
    lines += ["| mark | from | events | error P95 | precision wanted |", "|---|---|---|---|---|"]
    wanted = {"client": "5 ms", "gpu": "1.5 samples", "engine": "1 poll"}
    for (mark, side), (n, error_s, ratio) in totals.marks().items():
        bound = f"{wanted[side]} ({ratio:.0%} of it)"
        lines.append(f"| {mark} | {side} | {n} | {error_s * 1e3:.1f} ms | {bound} |")
    return "\n".join(lines) + "\n"


PAGE = """# How right swaps and strata are

Made by `python -m tests.swap_truth --swaps 1000 --scenarios 50 --write docs/swap-accuracy.md`: it
draws scenarios by seed (here {seeds}), plays each with `tokenswarm run` against a
simulated box, and holds what analysis found against what the simulator knows it did. The box runs
3 to 5 times faster than life; GPU samples come every 50 ms, engine polls every 100 to 200 ms. An
event counts as found when model and victims are right. `python -m tests.swap_truth --seed N --one`
plays one of them.

What cannot be known is not held against either side, and counted. Strata that could be either: a
wait within the client's 5 ms of the rule's bound, two requests of one model sent within these 5 ms,
one who gave up within 1.5 samples of the load that another one then caused, and waits that the
machine made on which all this ran. Victims that could be either: one whose load was complete
within 5 ms of its only client's giving up (it went as a load that is broken off goes), and one that
was evicted for somebody who then did not come, or not for long enough to be seen. Loads that failed
or were broken off within two GPU samples are left out unless they were found.

Sorts of scenarios: {families}.

{table}"""


def page(totals: Totals) -> str:
    """docs/swap-accuracy.md."""
    played = sorted(p.drawn.seed for p in totals.played)
    families = ", ".join(sorted({p.drawn.family.replace("_", " ") for p in totals.played}))
    spoken = f"{played[0]} to {played[-1]}"
    return PAGE.format(seeds=spoken, families=families, table=table(totals))


# the command


def play_all(
    swaps: int, scenarios: int, first: int | None, keep: Path | None = None, redraws: int = 0
) -> Totals:
    """Play scenarios until so many swaps and scenarios are through; prints as it goes.

    Up to `redraws` that differ are put aside and others drawn, where this machine stood still
    while they were played.
    """
    totals = Totals()
    for seed in seeds(first):
        if totals.swaps >= swaps and len(totals.played) >= scenarios:
            break
        played = play_one(seed, keep)
        print("\n".join([line(played), *differences(played)]), flush=True)
        if len(totals.aside) < redraws and played.disturbed and not played.good:
            print(f"  put aside: the machine stood still for {played.stood_still_s:.2f} s")
            totals.aside.append(played)
        else:
            totals.played.append(played)
    return totals


def again(kept: Path) -> Totals:
    """Compare kept runs with the analysis as it is now."""
    totals = Totals()
    for folder in sorted(
        (p for p in kept.iterdir() if p.name.isdigit()), key=lambda p: int(p.name)
    ):
        played = play_again(folder)
        totals.played.append(played)
        print("\n".join([line(played), *differences(played)]), flush=True)
    return totals


def play_one(seed: int, keep: Path | None = None) -> Played:
    """One seed, in a folder that goes unless it is to be kept."""
    folder = Path(tempfile.mkdtemp(prefix="swaps-")) if keep is None else keep / str(seed)
    try:
        return play(draw(seed), folder)
    finally:
        if keep is None:
            shutil.rmtree(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--swaps", type=int, default=100, help="until so many true swaps")
    parser.add_argument("--scenarios", type=int, default=1, help="and so many scenarios")
    parser.add_argument("--seed", type=int, help="the first seed (drawn)")
    parser.add_argument("--one", action="store_true", help="that seed alone")
    parser.add_argument("--write", type=Path, help="write the table to this Markdown file")
    parser.add_argument("--keep", type=Path, help="keep run directories here")
    parser.add_argument("--again", type=Path, help="analyse the runs kept here anew, play nothing")
    args = parser.parse_args()
    if args.again:
        totals = again(args.again)
    elif args.one:
        totals = play_all(0, 1, args.seed, args.keep)
    else:
        totals = play_all(args.swaps, args.scenarios, args.seed, args.keep)
    print(table(totals))
    if args.write:
        args.write.write_text(page(totals))
    short = totals.shortfalls()
    print("\n".join(short) or "as it has to be")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
