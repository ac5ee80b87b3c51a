"""One answer's events on an absolute schedule: a late write does not delay the next one."""

import asyncio
from collections.abc import Iterator

from tokenswarm.sim.answer import Answer
from tokenswarm.sim.channel import Channel
from tokenswarm.sim.gpu import Gpu
from tokenswarm.sim.profile import Model
from tokenswarm.sim.script import Event
from tokenswarm.sim.ticker import Entry, Ticker


class Stream:
    """Drives `events` into `channel`; token intervals follow what else the GPU does."""

    def __init__(
        self,
        answer: Answer,
        model: Model,
        gpu: Gpu,
        ticker: Ticker,
        events: Iterator[Event],
        channel: Channel,
    ):
        self._answer, self._model, self._gpu = answer, model, gpu
        self._ticker, self._events, self._channel = ticker, events, channel
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._due_s = 0.0
        self._timer: Entry = []

    async def run(self, first_s: float) -> None:
        """Send the first event at `first_s`; returns when all is written."""
        self._due_s = first_s
        self._timer = self._ticker.at(first_s, self._tick)
        try:
            await self._ended
        finally:
            self._timer.clear()

    def _tick(self) -> None:
        try:
            for payload, tokens, gap, extra_s in self._events:
                self._channel.send(payload, tokens)
                if gap or extra_s:
                    self._due_s += gap * self._interval_s() + extra_s
                    self._timer = self._ticker.at(self._due_s, self._tick)
                    return
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
            self._answer.waited_for_others(interval_s * (slowed - 1))
        return interval_s * slowed
