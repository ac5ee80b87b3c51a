"""One answer's events on an absolute schedule: a late write does not delay the next one."""

import asyncio
from collections.abc import Callable, Iterator

from tokenswarm.sim.answer import Answer
from tokenswarm.sim.channel import Channel
from tokenswarm.sim.clock import now_s
from tokenswarm.sim.gpu import Gpu
from tokenswarm.sim.profile import Model
from tokenswarm.sim.script import Event
from tokenswarm.sim.ticker import Entry, Ticker
from tokenswarm.sim.truth import Outcome


class Stream:
    """Drives `events` into `channel`; token intervals follow what else the GPU does.
    `last_words`: what the server says when the model's process dies."""

    def __init__(
        self,
        answer: Answer,
        model: Model,
        gpu: Gpu,
        ticker: Ticker,
        events: Iterator[Event],
        channel: Channel,
        last_words: Callable[[], list[bytes]],
    ):
        self._answer, self._model, self._gpu = answer, model, gpu
        self._ticker, self._events, self._channel = ticker, events, channel
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._due_s = 0.0
        self._timer: Entry = []
        self._last_words, self._over = last_words, False

    async def run(self, first_s: float) -> None:
        """Send the first event at `first_s`; returns when all is written."""
        self._due_s = first_s
        self._timer = self._ticker.at(first_s, self._tick)
        try:
            await self._ended
        finally:
            self._timer.clear()

    def fail(self) -> None:
        """The model's process died: say so as the server does, and end."""
        self.end_with(self._last_words(), "error")

    def end_with(self, payloads: list[bytes], outcome: Outcome) -> None:
        """Say no more than `payloads`; does nothing when all was said."""
        if self._over:
            return
        self._over, self._answer.outcome = True, outcome
        self._timer.clear()
        for payload in payloads:
            self._channel.send(payload, 0)
        self._channel.finish(self._answer.ending, self._end)

    def _tick(self) -> None:
        self._answer.late_s = max(self._answer.late_s, now_s() - self._due_s)
        try:
            for payload, tokens, gap, extra_s in self._events:
                if self._over:  # what is said may be what ends it
                    return
                self._channel.send(payload, tokens)
                if gap or extra_s:
                    self._due_s += gap * self._interval_s() + extra_s
                    self._timer = self._ticker.at(self._due_s, self._tick)
                    return
            if not self._over:
                self._over = True
                self._channel.finish(self._answer.ending, self._end)
        except Exception as e:  # the boundary of a loop callback: the request's task gets it
            if not self._ended.done():
                self._ended.set_exception(e)

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _interval_s(self) -> float:
        model = self._model
        interval_s = model.token_s * self._gpu.stretch(model.name, model.batch_slowdown)
        slowed = self._gpu.slowed_by_load(model.name)
        if slowed > 1:
            self._answer.stalled_for_others(interval_s * (slowed - 1))
        return interval_s * slowed
