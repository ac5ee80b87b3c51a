"""Residency events: every change of what is in device memory, as each side saw it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tokenswarm.analysis.coldstarts import Coldstart
from tokenswarm.analysis.crowd import NOBODY, Crowd, by_model
from tokenswarm.analysis.figures import Change
from tokenswarm.analysis.requests import Requests
from tokenswarm.analysis.residency import Stay, crashed
from tokenswarm.analysis.slopes import Dip, Move, dips
from tokenswarm.analysis.vram import Line


def changes(
    requests: Requests,
    stays: Sequence[Stay],
    lines: Sequence[Line],
    displaced: Sequence[Stay],
    starts: Sequence[Coldstart],
) -> list[Change]:
    """Every change, by time. `displaced` are the stays that an event brought to an end."""
    causes = {
        "pressure": by_model(displaced),
        "reconfig": by_model([c.own for c in starts if c.own]),
        "control": by_model([c.slept for c in starts if c.slept]),
    }
    woke = [s for s in stays if s.woke]
    found = [_arrival(s) for s in stays if s.came]
    found += [_departure(requests, s, causes, woke) for s in stays if s.went]
    found += line_changes(lines, starts)
    return sorted(found, key=lambda c: c.at_s)


def _arrival(s: Stay) -> Change:
    begin = s.after_s if s.birth_s is None else s.birth_s
    return Change(
        at_s=begin,
        end_s=s.start_s if s.full_s is None else s.full_s,
        what="wake" if s.woke else "arrive",
        bytes=s.size_bytes,
        **_where(s),
    )


def _departure(
    requests: Requests,
    s: Stay,
    causes: Mapping[str, Mapping[str, Crowd]],
    woke: Sequence[Stay],
) -> Change:
    slept = any(n.side == s.side and n.model == s.model and n.after_s >= s.last_s for n in woke)
    return Change(
        at_s=s.last_s,
        end_s=s.end_s,
        what="sleep" if slept else "leave",
        bytes=s.size_bytes,
        cause=_cause(requests, s, causes),
        **_where(s),
    )


def _cause(requests: Requests, s: Stay, causes: Mapping[str, Mapping[str, Crowd]]) -> str:
    def among(others: Crowd) -> bool:
        return bool(np.any((others.last_s <= s.end_s) & (s.last_s <= others.end_s)))

    known = next((c for c, of in causes.items() if among(of.get(s.model, NOBODY))), None)
    if known:
        return known
    if crashed(requests, s):
        return "crash"
    return "idle" if _idle(requests, s) else "unknown"


def _idle(requests: Requests, s: Stay) -> bool:
    """Whether nobody was being served by the model when it left."""
    mine = [i for (_, m), i in requests.groups.items() if m == s.model]
    rows = np.concatenate([np.zeros(0, np.int64), *mine])
    busy = (requests.t_sent[rows] < s.last_s) & (requests.t_last[rows] > s.end_s)
    return not bool(busy.any())


def _where(s: Stay) -> dict[str, Any]:
    device = "-".join(s.device) if s.device else None
    return {"side": s.side, "model": s.model, "target": s.target, "device": device}


def line_changes(lines: Sequence[Line], starts: Sequence[Coldstart] = ()) -> list[Change]:
    """What memory without a model's name shows: of a cold start, its models; else sleeps and
    wakes where as much comes back, else something that arrives or leaves."""
    came = {c.arrival.move: c.arrival.model for c in starts if c.arrival.move}
    went = {c.arrival.fall: c.arrival.displaced for c in starts if c.arrival.fall}
    models = {**came, **went}
    found = []
    for line in lines:
        pairs = {(d.fall, d.rise): d for d in dips(line.moves)}
        of = {move: d for (fall, rise), d in pairs.items() for move in (fall, rise)}
        found += [
            _moved(line, m, None if m in models else of.get(m), models.get(m)) for m in line.moves
        ]
    return found


def _moved(line: Line, m: Move, dip: Dip | None, model: str | None) -> Change:
    came = m.bytes > 0
    asleep = "wake" if came else "sleep"
    return Change(
        at_s=m.start_s,
        end_s=m.end_s,
        what=asleep if dip else ("arrive" if came else "leave"),
        side="gpu",
        model=model,
        device=line.device,
        cause="pressure" if model and not came else None,
        bytes=abs(m.bytes),
        level=dip.level if dip else None,
        lower_bound=bool(dip and dip.lower_bound),
    )
