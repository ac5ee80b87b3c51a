"""One request on its way through the server: what was asked, decided and stamped."""

from dataclasses import dataclass, field
from typing import Literal

from tokenswarm.sim import truth
from tokenswarm.sim.clock import WallClock
from tokenswarm.sim.formats import Summary
from tokenswarm.sim.http import Request
from tokenswarm.sim.knobs import PLAIN, Knobs

COLLATERAL_S = 0.05  # a shorter wait is no collateral damage (design: max(50 ms, 3 x warm P99))

Ending = Literal["finish", "cut", "reset"]


@dataclass(slots=True, eq=False)
class Answer:
    """perf_counter seconds; None until it happened. `tokens_s`: one a token event written,
    `made_s`: one a token event of an answer that is not streamed."""

    n: int
    request: Request
    seed: int
    model: str | None = None
    stream: bool = True
    knobs: Knobs = PLAIN
    wanted: int = 0
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    granted_s: float | None = None
    started_s: float | None = None
    prompt_done_s: float | None = None
    tokens_s: list[float] = field(default_factory=list)
    made_s: list[float] = field(default_factory=list)
    tokens: int = 0
    ending: Ending = "finish"
    outcome: truth.Outcome = "unfinished"
    finished: bool = False
    role: truth.Stratum | None = None
    load: int | None = None
    held_wait_s: float = 0.0
    held_stall_s: float = 0.0
    late_s: float = 0.0
    asked_seed: int | None = None  # who asks with a seed hears the same words each time
    server: str = "ollama"

    def waited_for_others(self, seconds: float) -> None:
        """Another model's load or eviction held this request up before it began."""
        self.held_wait_s = max(self.held_wait_s, seconds)

    def stalled_for_others(self, seconds: float) -> None:
        """Another model's load made one token come so much later."""
        self.held_stall_s = max(self.held_stall_s, seconds)

    @property
    def collateral_s(self) -> float:
        return max(self.held_wait_s, self.held_stall_s)

    def summary(self, now: float) -> Summary:
        """Counts and durations as Ollama would say them at `now`."""
        granted = now if self.granted_s is None else self.granted_s
        started = granted if self.started_s is None else self.started_s
        prompt_done = started if self.prompt_done_s is None else self.prompt_done_s
        # llama.cpp counts decoding from the first token on, and at least a microsecond
        made_s = self.made_s or self.tokens_s
        eval_s = max(1e-6, made_s[-1] - made_s[0]) if made_s else 0.0
        said = None if self.knobs.no_usage else self.tokens + self.knobs.wrong_usage
        return Summary(
            finish_reason=self.finish_reason,
            prompt_tokens=self.prompt_tokens,
            output_tokens=said,
            total_s=now - self.request.arrived_s,
            load_s=granted - self.request.arrived_s,
            prompt_s=prompt_done - started,
            eval_s=eval_s,
        )

    def stratum(self) -> truth.Stratum:
        if self.role is not None:
            return self.role
        return "swap_collateral" if self.collateral_s >= COLLATERAL_S else "warm"

    def arrival(self, clock: WallClock) -> truth.Arrival:
        return truth.Arrival(
            n=self.n,
            request_id=self.request.headers.get("x-request-id"),
            path=self.request.path,
            model=self.model,
            unix_ns=clock.unix(self.request.arrived_s),
        )

    def row(
        self, clock: WallClock, now: float, headers_s: float | None, status: int | None
    ) -> truth.Request:
        """The truth of this request at its end."""
        tokens_ns = [clock.unix(t) for t in self.tokens_s]
        return truth.Request(
            n=self.n,
            request_id=self.request.headers.get("x-request-id"),
            path=self.request.path,
            model=self.model,
            stream=self.stream,
            arrival_unix_ns=clock.unix(self.request.arrived_s),
            granted_unix_ns=clock.maybe(self.granted_s),
            started_unix_ns=clock.maybe(self.started_s),
            headers_unix_ns=clock.maybe(headers_s),
            first_token_unix_ns=tokens_ns[0] if tokens_ns else None,
            last_token_unix_ns=tokens_ns[-1] if tokens_ns else None,
            end_unix_ns=clock.unix(now),
            token_unix_ns=tokens_ns,
            prompt_tokens=self.prompt_tokens or None,
            output_tokens=self.tokens,
            http_status=status,
            outcome=self.outcome,
            finish_reason=self.finish_reason if self.finished else None,
            stratum=self.stratum(),
            load=self.load,
            collateral_wait_s=round(self.collateral_s, 6),
            held_wait_s=round(self.held_wait_s, 6),
            held_stall_s=round(self.held_stall_s, 6),
            late_s=round(self.late_s, 6),
            server=self.server,
        )
