"""What an answer says, event by event, with the knobs that change its meaning."""

from collections.abc import Iterator

from tokenswarm.sim.answer import Answer
from tokenswarm.sim.clock import WallClock, now_s
from tokenswarm.sim.formats import Dialect
from tokenswarm.sim.knobs import PLAIN
from tokenswarm.sim.words import REPEATED, word

# A payload, the tokens it carries (0: it is no token event), then the time to the next event:
# token intervals and seconds.
Event = tuple[bytes, int, int, float]

_STOPS = (
    "token_repeat_guard",
    "done_after_cut",
    "error_object_at",
    "error_line_at",
    "swallowed_error_at",
    "abort_at",
    "cut_at",
    "reset_at",
)


def script(answer: Answer, dialect: Dialect, clock: WallClock) -> Iterator[Event]:
    """The events of a streamed answer; each payload is made when its time has come. Sets
    answer.tokens, .ending, .outcome and .finish_reason as it goes."""
    knobs = answer.knobs
    if knobs.empty_200:
        answer.outcome = "error"
        return
    stop, limit = _stop(answer)
    if knobs.role_only_first:
        yield (dialect.role(clock.unix(now_s())), 0, 0, 0.0)
    tell = _tool_call if knobs.tool_call else _tokens
    yield from tell(answer, dialect, clock, limit, limit if stop else limit - 1)
    if stop is None:
        answer.outcome, answer.finished = "ok", True
        yield from _tail(answer, dialect, clock)
    else:
        yield from _stopped(stop, answer, dialect, clock)


def _stop(answer: Answer) -> tuple[str | None, int]:
    """The knob that ends this answer early, and after how many tokens."""
    set_ones = ((getattr(answer.knobs, name), name) for name in _STOPS)
    early = [(at, name) for at, name in set_ones if at is not None and at <= answer.wanted]
    if not early:
        return None, answer.wanted
    at, name = min(early)
    return name, at


def _tokens(
    answer: Answer, dialect: Dialect, clock: WallClock, limit: int, gaps: int
) -> Iterator[Event]:
    """`limit` tokens; after the last of `gaps` there is no interval to wait."""
    if answer.knobs == PLAIN:
        yield from _plain_tokens(answer, dialect, clock, limit, gaps)
        return
    knobs, stall = answer.knobs, answer.knobs.stall_at
    per, seed = knobs.tokens_per_chunk, answer.n + answer.seed
    thinking = min(knobs.reasoning.tokens, limit) if knobs.reasoning else 0
    field = knobs.reasoning.field if knobs.reasoning else ""
    first = not knobs.role_only_first
    at = 0
    while at < limit:
        end = min(at + per, thinking if at < thinking else limit)
        text = b"".join(_text(answer, seed, i) for i in range(at, end))
        extra_s = stall.for_s if stall and at < stall.token <= end else 0.0
        kind = field if at < thinking else "content"
        answer.tokens = end
        payload = dialect.token(text, kind, first, end, clock.unix(now_s()))
        yield (payload, end - at, min(per, max(0, gaps + 1 - end)), extra_s)
        first, at = False, end


def _plain_tokens(
    answer: Answer, dialect: Dialect, clock: WallClock, limit: int, gaps: int
) -> Iterator[Event]:
    """The same without knobs: this is where a server under load spends its time."""
    seed, token, unix = answer.n + answer.seed, dialect.token, clock.unix
    for i in range(limit):
        answer.tokens = i + 1
        payload = token(word(seed, i), "content", i == 0, i + 1, unix(now_s()))
        yield (payload, 1, 1 if i < gaps else 0, 0.0)


def _text(answer: Answer, seed: int, index: int) -> bytes:
    knobs = answer.knobs
    if knobs.token_repeat_guard is not None:
        return REPEATED
    if knobs.empty_chunks and (index + 1) % knobs.empty_chunks == 0:
        return b""
    if knobs.giant_event and index == min(1, answer.wanted - 1):
        return b"x" * knobs.giant_event
    return word(seed, index, knobs.split_utf8)


def _tool_call(
    answer: Answer, dialect: Dialect, clock: WallClock, limit: int, gaps: int
) -> Iterator[Event]:
    """The tokens as a tool call: piece by piece on /v1, whole at the end on native."""
    seed = answer.n + answer.seed
    texts = [word(seed, i) for i in range(limit)]
    if limit and (limit == 1 or dialect.done() == b""):
        yield (b"", 0, limit - 1, 0.0)
        answer.tokens = limit
        payload = dialect.whole_tool(b"".join(texts), clock.unix(now_s()))
        yield (payload, limit, gaps + 1 - limit, 0.0)
    else:
        for i, text in enumerate(texts):
            place = "first" if i == 0 else "last" if i == limit - 1 else "middle"
            answer.tokens = i + 1
            yield (dialect.tool(text, place), 1, int(i < gaps), 0.0)  # type: ignore[arg-type]
    answer.finish_reason = "tool_calls" if dialect.done() else answer.finish_reason


def _tail(answer: Answer, dialect: Dialect, clock: WallClock) -> Iterator[Event]:
    now = now_s()
    for payload in dialect.finish(answer.summary(now), clock.unix(now)):
        yield (payload, 0, 0, 0.0)
    if not answer.knobs.no_done:
        yield (dialect.done(), 0, 0, 0.0)


def _stopped(stop: str, answer: Answer, dialect: Dialect, clock: WallClock) -> Iterator[Event]:
    """How it ends when it ends early."""
    answer.outcome = "error"
    if stop == "abort_at":
        answer.finish_reason, answer.finished = "abort", True
        yield from _tail(answer, dialect, clock)
    elif stop in ("cut_at", "reset_at"):
        answer.ending = answer.outcome = "cut" if stop == "cut_at" else "reset"
    elif stop == "token_repeat_guard":
        answer.outcome = "cut"
    elif stop == "done_after_cut":
        answer.outcome = "cut"
        yield (dialect.done(), 0, 0, 0.0)
    else:
        form = {"error_object_at": "object", "error_line_at": "line"}.get(stop, "swallowed")
        for payload in dialect.error(form):  # type: ignore[arg-type]
            yield (payload, 0, 0, 0.0)
        if form == "object" and not answer.knobs.no_done:
            yield (dialect.done(), 0, 0, 0.0)
