"""Stays: the intervals in which a model's weights were in device memory, as one side saw it.

A side looks only now and then, so each end of a stay is a pair: the last look before the change
and the first look after it.
"""

import itertools
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tokenswarm.analysis.columns import Bools, Columns, Floats, Ints, floats, run_seconds, texts
from tokenswarm.analysis.requests import Requests

Side = Literal["engine", "gpu"]
HELD = ("resident", "partial")
PRESENT_RATIO = 0.25
"""A process holds its model while it has this share of the most memory it ever had: below it,
it is starting, or asleep with its context only."""

FULL_RATIO = 0.98
PLATEAU = 0.01
"""Memory that stands still moves by less from sample to sample."""
FILLING_S = 30.0
"""What a process takes later is its work, not its weights."""

CRASHED_S = 0.5
"""A process that dies takes the requests that it serves along, and its memory is gone within this
time."""
CUT_S = 0.1
"""A client knows as soon after the death of the process."""

AROUND = 5
"""More samples than a hole in a process's rows that is closed."""

ONE_STAMP_S = 0.002

ONE_LOOK_S = 0.05
"""Rows of one poll lie so close together, polls do not."""


@dataclass(frozen=True, slots=True)
class Stay:
    """One model in device memory from (after_s, start_s] to (last_s, end_s], run seconds.

    `after_s` is -inf when the model was there at the first look, `end_s` inf when it was there
    at the last. `target` is None on the GPU's side. `birth_s`: first sign of the model coming
    (a loading state, the process's first memory). `woke`: it was asleep before. `process`: a
    new process came with it. `size_bytes`: the most that it held, of
    `whole_bytes` as the engine says. `low_s`: the first look at
    which its memory was gone; `end_s` is the first with less of it. `level`: how deep it had slept
    before. `expires_s`: when it was to go by itself, as the engine said at `told_s`.
    """

    side: Side
    model: str
    target: str | None
    after_s: float
    start_s: float
    last_s: float
    end_s: float
    birth_s: float | None = None
    woke: bool = False
    process: bool = False
    partial: bool = False
    size_bytes: int | None = None
    whole_bytes: int | None = None
    device: tuple[str, str] | None = None
    context: int | None = None
    full_s: float | None = None
    low_s: float | None = None
    level: int | None = None
    told_s: float | None = None
    expires_s: float | None = None

    @property
    def came(self) -> bool:
        """Whether the run saw it come (else it was there from the start)."""
        return self.after_s > -np.inf

    @property
    def went(self) -> bool:
        return self.end_s < np.inf


def engine_stays(residency: Columns, polls: Columns, t0_unix_ns: int) -> list[Stay]:
    """Stays as the engines say, from rows of `residency`; `polls` are rows of `engine`, whose
    answered ones tell how old the last look before a change was."""
    at = run_seconds(residency, t0_unix_ns)
    target, model = texts(residency, "target"), texts(residency, "model")
    looks = _looks(polls, t0_unix_ns, target, at)
    stays: list[Stay] = []
    for t, m in sorted(set(zip(target, model, strict=True))):
        rows = np.flatnonzero((target == t) & (model == m))
        rows = rows[np.argsort(at[rows], kind="stable")]
        states = list(texts(residency, "state")[rows])
        sizes = floats(residency, "vram_bytes")[rows]
        contexts = floats(residency, "context_length")[rows]
        found = _runs(t, m, at[rows], states, sizes, contexts, looks[t])
        more = {name: _optional(residency, name)[rows] for name in MORE}
        stays += [_told_more(s, at[rows], states, more) for s in found]
    return sorted(stays, key=lambda s: s.start_s)


def _optional(columns: Columns, name: str) -> Floats:
    """A column that runs of earlier versions lack."""
    return floats(columns, name) if name in columns else np.full(len(columns["time_ns"]), np.nan)


def sleep_levels(residency: Columns) -> dict[tuple[str, str], int]:
    """How deep each (target, model) sleeps, where its engine never told another level."""
    told: dict[tuple[str, str], set[int]] = {}
    level = _optional(residency, "sleep_level")
    target, model = texts(residency, "target"), texts(residency, "model")
    for i in np.flatnonzero(~np.isnan(level)):
        told.setdefault((str(target[i]), str(model[i])), set()).add(int(level[i]))
    return {key: next(iter(levels)) for key, levels in told.items() if len(levels) == 1}


MORE = ("sleep_level", "expires_s", "size_bytes")


def _told_more(s: Stay, at: Floats, states: list[str], more: dict[str, Floats]) -> Stay:
    """`s` with how deep its model had slept before, when it was to go by itself, and its size."""
    levels, left, sizes = (more[name] for name in MORE)
    first, past = (int(np.searchsorted(at, edge)) for edge in (s.start_s, s.end_s))
    slept = first
    while slept and states[slept - 1] in ("asleep", "loading"):
        slept -= 1
    s = replace(s, level=_largest(levels[slept:first]), whole_bytes=_largest(sizes[first:past]))
    known = first + np.flatnonzero(~np.isnan(left[first:past]))
    if not len(known):
        return s
    last = int(known[-1])
    return replace(s, told_s=float(at[last]), expires_s=float(at[last] + left[last]))


@dataclass(frozen=True, slots=True)
class _Looks:
    """Every moment at which a target answered, sorted, and when it had been asked."""

    at_s: Floats
    asked_s: Floats

    def before(self, at_s: float) -> float:
        """When the last answer before the one at `at_s` was asked for (what it says is no
        younger than that for sure), -inf when there was none."""
        i = int(np.searchsorted(self.at_s, at_s - ONE_LOOK_S, side="left"))
        return float(self.asked_s[i - 1]) if i else -np.inf


def _looks(polls: Columns, t0_unix_ns: int, target: object, at: Floats) -> dict[str, _Looks]:
    poll_at, poll_of = run_seconds(polls, t0_unix_ns), texts(polls, "target")
    took = np.nan_to_num(floats(polls, "poll_s"))
    answered = floats(polls, "poll_ok") != 0
    targets = np.asarray(target, dtype=object)
    found = {}
    for t in set(targets):
        mine = (poll_of == t) & answered
        when = np.concatenate([at[targets == t], poll_at[mine]])
        asked = np.concatenate([at[targets == t], (poll_at - took)[mine]])
        order = np.argsort(when, kind="stable")
        # the rows of one poll are stamped ns apart: each was asked for when the first one was
        asked = np.minimum.accumulate(asked[order][::-1])[::-1]
        found[t] = _Looks(when[order], asked)
    return found


def _runs(
    target: str,
    model: str,
    at: Floats,
    states: list[str],
    sizes: Floats,
    contexts: Floats,
    looks: _Looks,
) -> list[Stay]:
    held = np.array([s in HELD for s in states], dtype=np.bool_)
    stays = []
    for first, past in _same_context(_spans(held), contexts):
        ends = past < len(held)
        before = states[first - 1] if first else None
        loading = _loading_since(states, at, first)
        stays.append(
            Stay(
                side="engine",
                model=model,
                target=target,
                after_s=looks.before(float(at[first])),
                start_s=float(at[first]),
                last_s=looks.before(float(at[past])) if ends else float(looks.at_s[-1]),
                end_s=float(at[past]) if ends else np.inf,
                birth_s=loading,
                woke=before == "asleep",
                partial="partial" in states[first:past],
                size_bytes=_largest(sizes[first:past]),
                context=_largest(contexts[first:past]),
            )
        )
    return stays


def _same_context(spans: list[tuple[int, int]], contexts: Floats) -> list[tuple[int, int]]:
    """`spans`, parted where a model was there again with another context length: a reload too
    quick for the polls."""
    out = []
    for first, past in spans:
        known = first + np.flatnonzero(~np.isnan(contexts[first:past]))
        cuts = known[1:][np.diff(contexts[known]) != 0]
        edges = [first, *(int(c) for c in cuts), past]
        out += list(itertools.pairwise(edges))
    return out


def _loading_since(states: list[str], at: Floats, first: int) -> float | None:
    i = first
    while i and states[i - 1] == "loading":
        i -= 1
    return float(at[i]) if i < first else None


def _largest(sizes: Floats) -> int | None:
    known = sizes[~np.isnan(sizes)]
    return int(known.max()) if len(known) else None


def _spans(mask: Bools) -> list[tuple[int, int]]:
    """[first, past) of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def process_stays(processes: Columns, gpu: Columns, t0_unix_ns: int) -> list[Stay]:
    """Stays as the GPU shows them, from rows of `gpu_process` whose model is known. Rows of
    `gpu` tell when there was a sample without the process."""
    at = run_seconds(processes, t0_unix_ns)
    keys = [texts(processes, k) for k in ("host", "gpu", "model")]
    pid, used = floats(processes, "pid"), floats(processes, "vram_used_bytes")
    looks = _samples(processes, gpu, t0_unix_ns)
    stays: list[Stay] = []
    for host, device, model in sorted(set(zip(*keys, strict=True))):
        if model == "none":
            continue
        rows = np.flatnonzero((keys[0] == host) & (keys[1] == device) & (keys[2] == model))
        when = looks[(host, device)]
        step = _usual_step(when)
        for mine in _apart_by(pid, rows):
            near = _around(when, at[mine])
            held = memory_at(near, at[mine], used[mine], step)
            stays += _process_runs(model, (host, device), near, held)
    return _merged(sorted(stays, key=lambda s: s.start_s))


def _apart_by(keys: Floats, rows: Ints) -> list[Ints]:
    """`rows` in groups of equal `keys`, each in the order in which they were."""
    order = rows[np.argsort(keys[rows], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(keys[order])) + 1)


def _around(when: Floats, at: Floats) -> Floats:
    """The samples from a few before the first of `at` to a few after the last, which is all that
    a process shows up in."""
    first = int(np.searchsorted(when, at.min())) - AROUND
    return when[max(0, first) : int(np.searchsorted(when, at.max())) + AROUND]


def _merged(stays: list[Stay]) -> list[Stay]:
    """One stay for processes of one model whose times overlap (a model spread over GPUs)."""
    out: list[Stay] = []
    last: dict[str, int] = {}
    for stay in stays:
        i = last.get(stay.model, -1)
        if i >= 0 and stay.start_s < out[i].end_s:
            if stay.end_s > out[i].end_s:
                out[i] = replace(out[i], last_s=stay.last_s, end_s=stay.end_s)
        else:
            last[stay.model] = len(out)
            out.append(stay)
    return out


def _samples(processes: Columns, gpu: Columns, t0_unix_ns: int) -> dict[tuple[str, str], Floats]:
    """Sample times of each (host, gpu), of both measurements together."""
    out: dict[tuple[str, str], Floats] = {}
    for rows in (processes, gpu):
        at, host, device = run_seconds(rows, t0_unix_ns), texts(rows, "host"), texts(rows, "gpu")
        for key in set(zip(host, device, strict=True)):
            mine = at[(host == key[0]) & (device == key[1])]
            out[key] = np.unique(np.concatenate([out.get(key, np.zeros(0)), mine]))
    return {key: _apart(at) for key, at in out.items()}


def _apart(at: Floats) -> Floats:
    """Each look once: its rows are stamped ns apart, the first one stands for it."""
    return at[np.diff(at, prepend=-np.inf) > ONE_STAMP_S]


def memory_at(when: Floats, at: Floats, used: Floats, usual_step_s: float | None = None) -> Floats:
    """Bytes of one process at the samples `when`, from its rows; 0 where a sample lacks it.
    `usual_step_s`: between two samples, where `when` are few of many.

    The rows of one sample may be stamped some ns apart, so a sample counts as showing the
    process when a row of it lies within three quarters of the usual interval. A row without a
    figure (a GPU that does not say) counts as 1 byte: the process is there.
    """
    order = np.argsort(at)
    at, used = at[order], used[order]
    step = min(_usual_step(at), _usual_step(when) if usual_step_s is None else usual_step_s)
    after = np.minimum(np.searchsorted(at, when), len(at) - 1)
    before = np.maximum(after - 1, 0)
    near = np.where(np.abs(when - at[before]) <= np.abs(at[after] - when), before, after)
    shown = np.abs(at[near] - when) <= step * 0.75
    return np.where(shown, np.nan_to_num(used[near], nan=1.0), 0.0)


def _usual_step(at: Floats) -> float:
    """The usual time between two looks; rows of one look lie ns apart."""
    steps = np.diff(at)
    steps = steps[steps > ONE_STAMP_S]
    return float(np.median(steps)) if len(steps) else 0.05


def _closed(held: Bools, used: Floats) -> Bools:
    """`held` without holes of one or two samples that lack the process: the same one does not go
    and come back. One that is shown with little memory sleeps."""
    closed = held.copy()
    for first, past in _spans(~held):
        shown = np.any(used[first:past] > 0)
        if past - first <= 2 and first and past < len(held) and not shown:
            closed[first:past] = True
    return closed


def _full_s(when: Floats, used: Floats) -> float:
    """The first sample with nearly all that the process held in its first half minute."""
    soon = used[when <= when[0] + FILLING_S]
    return float(when[int(np.argmax(soon >= FULL_RATIO * soon.max()))])


def _foot(used: Floats, first: int) -> int:
    """The first sample of the rise that `first` lies in."""
    i = first
    while i > 1 and used[i - 1] > used[i - 2] * (1 + PLATEAU):
        i -= 1
    return i


def _edge(used: Floats, past: int) -> int:
    """The last sample before the fall that `past` lies in."""
    i = past
    while i > 0 and used[i - 1] > used[i] * (1 + PLATEAU):
        i -= 1
    return i


def _process_runs(model: str, device: tuple[str, str], when: Floats, used: Floats) -> list[Stay]:
    full = _closed((used >= PRESENT_RATIO * used.max()) & (used > 0), used)
    stays = []
    for first, past in _spans(full):
        born = first
        while born and used[born - 1] > 0:
            born -= 1
        process = not any(full[born:first]) and born > 0
        if first and not process:  # awake: from the first sample off the plateau
            born = _foot(used, first)
        last, gone = past - 1, past
        if past < len(used) and used[past] > 0:  # asleep: from the first sample off the plateau
            last = max(first, _edge(used, past))
            gone = last + 1
        stays.append(
            Stay(
                side="gpu",
                model=model,
                target=None,
                after_s=float(when[born - 1 if process else first - 1]) if first else -np.inf,
                start_s=float(when[first]),
                last_s=float(when[last]),
                end_s=float(when[gone]) if past < len(used) else np.inf,
                birth_s=float(when[born]),
                woke=first > 0 and not process,
                process=process,
                size_bytes=int(used[first:past].max()),
                device=device,
                full_s=_full_s(when[first:past], used[first:past]),
                low_s=float(when[past]) if past < len(used) else None,
            )
        )
    return stays


def crashed(requests: Requests, stay: Stay) -> bool:
    """Whether the model left because its process died: a request that it was serving failed then,
    and it gave nobody a token after that.

    A request that failed without a token later than that waited for another load of the model.
    """
    rows = requests.errors
    ended, first = requests.t_end[rows], requests.t_first[rows]
    near = (ended >= stay.last_s - CRASHED_S) & (ended <= stay.end_s + CUT_S)
    mine = np.asarray(requests.model[rows] == stay.model, dtype=np.bool_)
    spoken_to = (requests.t_sent[rows] < stay.end_s) & ~(first > stay.end_s)
    failed = ended[near & mine & spoken_to]
    if not len(failed):
        return False
    after, until = failed.max() + CUT_S, stay.last_s
    mine_in = (rows for (_, model), rows in requests.groups.items() if model == stay.model)
    spoke = (at[rows] for rows in mine_in for at in (requests.t_first, requests.t_last))
    return not any(np.any((at > after) & (at < until)) for at in spoke)
