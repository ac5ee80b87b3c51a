"""A run's swaps and strata beside the simulator's own knowledge of them."""

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from tokenswarm.sim import truth

CLIENT_S = 0.005
CLOSE_S = 0.5
SEEN_SAMPLES = 2  # a process that lives shorter than that many sample intervals may not be seen
FLOOR_S = 0.05
FACTOR = 3.0
Event = dict[str, Any]
Stratum = Literal["warm", "swap_trigger", "swap_waiter", "swap_collateral"]


@dataclass(frozen=True)
class TrueEvent:
    """One model coming in, as the simulator made it come. Marks are seconds on the run's clock."""

    model: str
    victims: frozenset[str]
    kind: str
    cause: str
    outcome: str
    trigger: str
    marks: dict[str, float]
    load: truth.Load
    maybe: frozenset[str] = frozenset()  # evicted for somebody else who then was not seen to come
    unsure: frozenset[str] = frozenset()  # victims whose own load may as well have been broken off

    @property
    def window(self) -> tuple[float, float]:
        """[t0, t4], for what never was ready until its end."""
        return self.marks["t0"], self.marks.get("t4", self.marks["end"])

    def too_short(self, sample_s: float) -> bool:
        """Whether its process came and died between two GPU samples, so that nobody can know."""
        return too_short(self.load, sample_s)


def too_short(load: truth.Load, sample_s: float) -> bool:
    """Whether `load` never began, or came to nothing before two samples could have shown it."""
    if load.load_unix_ns is None:
        return True
    lasted_s = (load.end_unix_ns - load.load_unix_ns) / 1e9
    return load.outcome in ("aborted", "error") and lasted_s < SEEN_SAMPLES * sample_s


@dataclass
class Compared:
    """What was found of one run."""

    pairs: list[tuple[TrueEvent, Event]] = field(default_factory=list)
    missed: list[TrueEvent] = field(default_factory=list)
    false: list[Event] = field(default_factory=list)
    unseen: list[TrueEvent] = field(default_factory=list)
    errors: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    left_out: int = 0
    requests: int = 0
    close: int = 0
    wrong_strata: list[dict[str, Any]] = field(default_factory=list)

    @property
    def swaps(self) -> int:
        """True events that displaced another model."""
        return sum(bool(t.victims) for t in [*(p[0] for p in self.pairs), *self.missed])


@dataclass(frozen=True)
class Told:
    """The truth of one run: `slugs` are the scenario's names by request id, `seen` what the
    client measured."""

    told: truth.Truth
    t0_unix_ns: int
    slugs: dict[str, str]
    seen: "dict[str, Lengths]"
    sample_s: float = 0.05

    def s(self, unix_ns: int | None) -> float | None:
        return None if unix_ns is None else (unix_ns - self.t0_unix_ns) / 1e9

    def stood_still(self) -> list[tuple[float, float]]:
        """When the simulation got no processor time; seconds on the run's clock."""
        lags = ((self.s(x.due_unix_ns), self.s(x.unix_ns)) for x in self.told.lags)
        return [(due, at) for due, at in lags if due is not None and at is not None]

    @property
    def ours(self) -> list[truth.Request]:
        return [r for r in self.told.requests if r.request_id in self.slugs]

    def events(self) -> list[TrueEvent]:
        """Loads and wake-ups that one of our requests caused and that reached the GPU, by t0."""
        by_n = {r.n: r for r in self.ours}
        names = {r.model: self.slugs[r.request_id or ""] for r in self.ours}
        found = []
        for load in self.told.loads:
            if load.trigger not in by_n or load.load_unix_ns is None:
                continue
            found.append(self._event(load, by_n[load.trigger], names))
        return sorted(found, key=lambda e: e.marks["t0"])

    def _event(
        self, load: truth.Load, trigger: truth.Request, names: dict[str | None, str]
    ) -> TrueEvent:
        began = min(load.freed_unix_ns or load.load_unix_ns or 0, load.load_unix_ns or 0)
        marks = {
            "t0": load.demand_unix_ns,
            "t1": load.killed_unix_ns,
            "t2": began if load.freed_unix_ns else None,
            "t3": load.load_unix_ns,
            "t4": load.ready_unix_ns,
            "t5": trigger.first_token_unix_ns,
            "end": load.end_unix_ns,
        }
        for_nothing = frozenset(
            names.get(m, m)
            for x in self.told.loads
            if x.load != load.load and too_short(x, self.sample_s) and x.killed_unix_ns is not None
            for m in x.displaced
            if x.killed_unix_ns <= load.end_unix_ns and x.end_unix_ns >= (load.demand_unix_ns or 0)
        )
        outcome = "partial_offload" if load.outcome == "ok" and load.partial else load.outcome
        gone = {names.get(m, m) for m in load.displaced if m != load.model}
        return TrueEvent(
            model=self.slugs[trigger.request_id or ""],
            victims=frozenset(gone),
            kind=load.kind,
            cause=load.cause,
            outcome=outcome,
            trigger=trigger.request_id or "",
            marks={k: (v - self.t0_unix_ns) / 1e9 for k, v in marks.items() if v is not None},
            load=load,
            maybe=for_nothing,
            unsure=frozenset(names.get(m, m) for m in load.displaced if self._unused(m, load)),
        )

    def _unused(self, model: str, by: truth.Load) -> bool:
        """Whether the load of `model` that `by` displaced was complete in the moment in which its
        only client gave up: it went as one goes that was broken off."""
        before = [
            x
            for x in self.told.loads
            if x.model == model and x.ready_unix_ns and x.ready_unix_ns <= (by.killed_unix_ns or 0)
        ]
        if not before:
            return False
        last = max(before, key=lambda x: x.ready_unix_ns or 0)
        mine = [r for r in self.ours if r.n == last.trigger or r.load == last.load]
        if any(r.first_token_unix_ns for r in mine) or not mine:
            return False
        late_s = (abs(r.end_unix_ns - (last.ready_unix_ns or 0)) / 1e9 - r.late_s for r in mine)
        return all(s <= CLIENT_S for s in late_s)


# events


def compare_events(
    true: list[TrueEvent],
    found: list[Event],
    sample_s: float,
    stood_still: list[tuple[float, float]],
    out: Compared,
) -> None:
    """Pair events of one model that overlap, those of one trigger first. Marks near a moment in
    which the machine stood still are left out."""
    left = list(found)
    for by_trigger in (True, False):
        paired = {id(t) for t, _ in out.pairs}
        for t in true:
            if id(t) in paired:
                continue
            fit = [e for e in left if _same(t, e, by_trigger)]
            if by_trigger and t.too_short(sample_s):
                fit = [e for e in fit if not any(_nearer(u, t, e) for u in true)]
            if fit:
                best = min(fit, key=lambda e: abs(e["t0_s"] - t.marks["t0"]))
                left.remove(best)
                out.pairs.append((t, best))
    paired = {id(t) for t, _ in out.pairs}
    left_out = [t for t in true if id(t) not in paired]
    out.unseen += [t for t in left_out if t.too_short(sample_s)]
    out.missed += [t for t in left_out if not t.too_short(sample_s)]
    out.false += left
    for t, e in out.pairs:
        for mark, side, error_s in mark_errors(t, e):
            lo, hi = sorted((t.marks[mark], e[f"{mark}_s"]))
            if any(due <= hi + CLIENT_S and at >= lo - CLIENT_S for due, at in stood_still):
                out.left_out += 1
            else:
                out.errors.setdefault((mark, side), []).append(error_s)


def _nearer(u: TrueEvent, t: TrueEvent, e: Event) -> bool:
    """Whether `e`, which has the trigger of `t`, shows the load of `u`: requests of one moment may
    be taken for each other, their loads lie apart."""
    if u is t or u.model != t.model or e.get("t3_s") is None:
        return False
    at: float = e["t3_s"]
    return abs(u.marks["t3"] - at) < abs(t.marks["t3"] - at)


def _same(t: TrueEvent, e: Event, by_trigger: bool) -> bool:
    gone = victims(e)
    if t.model != e["model_in"] or not t.victims - t.unsure <= gone <= t.victims | t.maybe:
        return False
    if by_trigger:
        return bool(t.trigger == e["trigger_id"])
    lo, hi = t.window
    end = max(e.get(f"t{i}_s") or e["t0_s"] for i in range(6))
    return bool(e["t0_s"] <= hi + CLOSE_S and end >= lo - CLOSE_S)


def victims(e: Event) -> frozenset[str]:
    out = e["model_out"]
    return frozenset() if out == "none" else frozenset(out.split("-and-"))


def mark_errors(t: TrueEvent, e: Event) -> Iterator[tuple[str, str, float]]:
    """Mark, the side that gave it, |found - true| in seconds."""
    for mark in ("t0", "t1", "t2", "t3", "t4", "t5"):
        at, side = e.get(f"{mark}_s"), e["marks_from"].get(mark)
        if at is not None and side is not None and mark in t.marks:
            yield mark, side, abs(at - t.marks[mark])


# strata


def true_strata(told: Told, events: list[TrueEvent]) -> dict[str, tuple[Stratum, bool]]:
    """By request id: the stratum by what the simulator knows, and whether it is a close call.

    Trigger and waiter: as the simulator served them; one that gave up before its model came is a
    waiter if a load of that model was being waited for. Collateral: another model's load held it
    up, and its wait or longest gap exceeds max(50 ms, 3 x P99 of undisturbed ones of its model).
    Close: within the client's precision of that bound, or the machine rather than the box made it,
    or those that the bound comes from, wait, or its model has no undisturbed request.
    """
    triggers = {e.load.trigger for e in events}
    mine = defaultdict(list)
    for r in told.ours:
        mine[told.slugs[r.request_id or ""]].append(r)
    found: dict[str, tuple[Stratum, bool]] = {}
    for rows in mine.values():
        calm = [r for r in rows if _calm(told, r, events)]
        for r in rows:
            stratum = _own(told, r, events, triggers)
            if stratum is None:
                found[r.request_id or ""] = _held(told, r, calm)
            else:
                found[r.request_id or ""] = stratum, False
    return found


def _own(
    told: Told, r: truth.Request, events: list[TrueEvent], triggers: set[int | None]
) -> Stratum | None:
    """The stratum unless it depends on how long it waited for another model."""
    if r.n in triggers:
        return "swap_trigger"
    if r.stratum in ("swap_trigger", "swap_waiter"):
        return r.stratum
    others = False
    at, end = told.s(r.arrival_unix_ns) or 0.0, told.s(r.end_unix_ns) or 0.0
    for e in events:
        lo, hi = e.window
        if e.load.model == r.model and e.load.server == r.server:
            if r.granted_unix_ns is None and r.http_status is None and lo <= at <= hi:
                return "swap_waiter"
        else:
            others = others or (at <= hi and end >= lo)
    return None if others else "warm"


def _held(told: Told, r: truth.Request, calm: list[truth.Request]) -> tuple[Stratum, bool]:
    """By what the simulator wrote, and whether what the client saw would say the same."""
    gave_up = r.granted_unix_ns is None and r.outcome in ("cancelled", "error")
    true, seen = Lengths.true(r), told.seen[r.request_id or ""]
    causes = (r.held_wait_s or (true.wait_s if gave_up else 0.0), r.held_stall_s)
    views = (
        (true, [Lengths.true(c) for c in calm]),
        (seen, [told.seen[c.request_id or ""] for c in calm]),
        (true, [told.seen[c.request_id or ""] for c in calm]),
    )
    margins = (0.0, -CLIENT_S - r.late_s, CLIENT_S + r.late_s)
    hits = [one.hit(many, causes, margin) for one, many in views for margin in margins]
    disturbed = not calm or r.late_s > CLIENT_S or one_off(true, seen)
    return ("swap_collateral" if hits[0] else "warm"), disturbed or len(set(hits)) > 1


@dataclass(frozen=True)
class Lengths:
    """Seconds that a request waited for its first token (or its end), and its longest gap."""

    wait_s: float
    stall_s: float

    @classmethod
    def true(cls, r: truth.Request) -> "Lengths":
        until = r.first_token_unix_ns or r.end_unix_ns
        gaps = (b - a for a, b in pairwise(r.token_unix_ns))
        return cls((until - r.arrival_unix_ns) / 1e9, max(gaps, default=0) / 1e9)

    def hit(self, calm: "list[Lengths]", causes: tuple[float, float], margin: float) -> bool:
        """Whether a wait that another model caused is longer than the rule allows."""
        waits, stalls = [c.wait_s for c in calm], [c.stall_s for c in calm]
        late = self.wait_s > _bound(waits) + margin and causes[0] > FLOOR_S / 2
        return late or (self.stall_s > _bound(stalls) + margin and causes[1] > FLOOR_S / 2)


def one_off(true: Lengths, seen: Lengths) -> bool:
    """Whether the client saw another wait than the box made: the machine between them did that."""
    off_s = max(abs(true.wait_s - seen.wait_s), abs(true.stall_s - seen.stall_s))
    return off_s > CLIENT_S


def _one_moment(r: truth.Request, told: Told) -> bool:
    """Whether another request for its model came at the same time, as far as clients can tell: the
    box took them in late by `late_s`."""
    others = (o for o in told.ours if o.model == r.model and o.n != r.n)
    return any(
        abs(o.arrival_unix_ns - r.arrival_unix_ns) / 1e9 <= CLIENT_S + max(o.late_s, r.late_s)
        for o in others
    )


def _calm(told: Told, r: truth.Request, events: list[TrueEvent]) -> bool:
    """Served well, and no event was under way."""
    if r.outcome != "ok" or r.stratum != "warm":
        return False
    at, end = told.s(r.arrival_unix_ns) or 0.0, told.s(r.end_unix_ns) or 0.0
    return not any(at <= e.window[1] and end >= e.window[0] for e in events)


def _bound(usual: list[float]) -> float:
    ordered = sorted(usual)
    p99 = ordered[math.ceil(0.99 * len(ordered)) - 1] if ordered else 0.0
    return max(FLOOR_S, FACTOR * p99)


def _changed_hands(r: truth.Request, told: Told, events: list[TrueEvent], within_s: float) -> bool:
    """Whether somebody who waited for its model gave up as the load began: by a look at the GPU,
    the one or the other brought the model in."""
    began = [e.marks["t3"] for e in events if e.load.model == r.model and "t3" in e.marks]
    gone = [
        told.s(o.end_unix_ns) or 0.0
        for o in told.ours
        if o.model == r.model and o.n <= r.n and o.granted_unix_ns is None and o.outcome != "ok"
    ]
    return any(abs(a - b) <= within_s for a in began for b in gone)


def compare_strata(
    told: Told, events: list[TrueEvent], ours: dict[str, str], out: Compared, sample_s: float = 0.05
) -> None:
    """Count requests and those whose strata differ."""
    rows = {r.request_id: r for r in told.ours}
    unseen = {t.load.trigger for t in out.unseen}
    without = true_strata(told, [e for e in events if e not in out.unseen])
    for request_id, (stratum, close) in true_strata(told, events).items():
        out.requests += 1
        said = ours.get(request_id)
        if said == stratum:
            continue
        r = rows[request_id]
        if (
            (close and {said, stratum} == {"warm", "swap_collateral"})
            or (
                {said, stratum} == {"swap_trigger", "swap_waiter"}
                and (_one_moment(r, told) or _changed_hands(r, told, events, 1.5 * sample_s))
            )
            or r.n in unseen
            or said == without[request_id][0]
        ):
            out.close += 1
            continue
        out.wrong_strata.append(
            {
                "id": request_id,
                "model": told.slugs[request_id],
                "ours": said,
                "sent_s": told.s(r.arrival_unix_ns),
                "true": stratum,
                "seen": told.seen[request_id],
                "was": Lengths.true(r),
                "held_wait_s": r.held_wait_s,
                "held_stall_s": r.held_stall_s,
                "late_s": r.late_s,
                "outcome": r.outcome,
                "load": r.load,
            }
        )
