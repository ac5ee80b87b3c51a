"""What was observed of a solution, in short sentences, each by a written rule."""

from collections.abc import Iterator

from tokenswarm.compare.comparison import Change, Solution
from tokenswarm.compare.value import LoadFigures
from tokenswarm.report import units

SLOWER = 3.0
"""A first call so many times as long as the next one is told."""
EVEN, UNEVEN = 1.1, 1.25
"""P95 over mean latency up to which latency is called even, and from which uneven."""
GAIN = 1.2


def traits(s: Solution) -> list[str]:
    """In the order in which a reader wants them."""
    return [*_several(s), *_first_calls(s), *_changes(s), *_latency(s)]


def _several(s: Solution) -> Iterator[str]:
    many = f"{len(s.served)} of {units.many(len(s.wanted), 'model')} at once"
    yield f"serves {many}{', loaded by demand' if s.several == 'by demand' else ''}"
    for refused in s.refused:
        what = "beyond these, " if refused.beyond else ""
        yield f"{what}{refused.server} does not start: {refused.why}"
    for model in s.models:
        if model.model_reply is not None:
            yield f"asked for {model.model}, it answered as {model.model_reply[:60]}"
    kept = sum(m.kv_bytes or 0 for m in s.models)
    if kept:
        yield f"reserves {units.size(kept)} for KV caches at its start"


def _first_calls(s: Solution) -> Iterator[str]:
    for m in s.models:
        if m.first_call_s and m.cached_call_s and m.first_call_s >= SLOWER * m.cached_call_s:
            slower = units.digits(m.first_call_s / m.cached_call_s)
            yield f"the first call of {m.model} takes {slower} times as long as the next"


def _changes(s: Solution) -> Iterator[str]:
    swapped = [c for c in s.changes if c.action == "visit" and c.absent_before]
    if swapped:
        yield "throws models out to make room for others"
    for c in s.changes:
        if c.action.startswith("sleep") and c.leave_s.value is not None:
            yield _slept(c)


def _slept(c: Change) -> str:
    freed = f", gives back {units.size(c.freed_bytes)}" if c.freed_bytes else ""
    said = f"{c.model} sleeps at level {c.action[-1]} in {units.seconds(c.leave_s.value)}{freed}"
    said += f", is back in {units.seconds(c.return_s.value)}"
    if c.canary is not None and c.canary[0] < c.canary[1]:
        said += f"; its text was another one afterwards in {c.canary[1] - c.canary[0]} of "
        said += f"{c.canary[1]} times"
    return said


def _latency(s: Solution) -> Iterator[str]:
    if s.single and s.single.mean_e2e_s.value and s.single.p95_e2e_s.value:
        ratio = s.single.p95_e2e_s.value / s.single.mean_e2e_s.value
        if ratio <= EVEN or ratio >= UNEVEN:
            word = "even" if ratio <= EVEN else "uneven"
            yield f"{word} latency: P95 is {units.digits(ratio)} times the mean"
    if s.single and s.together and s.single.users < s.together.users:
        yield from _gain(s.single, s.together)


def _gain(single: LoadFigures, together: LoadFigures) -> Iterator[str]:
    if single.tok_s.value and together.tok_s.value:
        gain = together.tok_s.value / single.tok_s.value
        word = "gains" if gain >= GAIN else "gains little"
        yield (
            f"{word} from concurrent requests: {units.digits(gain)} times the tok/s with "
            f"{together.users} users on {units.many(len(together.models), 'model')}"
        )
