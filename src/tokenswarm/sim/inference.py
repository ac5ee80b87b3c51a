"""What the server does for a request once its model is known: wait, prefill, say."""

import asyncio
import json
import random
from collections.abc import Iterator
from typing import Any

import msgspec

from tokenswarm.sim import catalog, http
from tokenswarm.sim.answer import Answer
from tokenswarm.sim.asked import ApiError, Body
from tokenswarm.sim.channel import Channel, Mangled, Plain, Whole
from tokenswarm.sim.clock import WallClock, now_s
from tokenswarm.sim.formats import (
    ERROR_TEXT,
    Dialect,
    ErrorForm,
    Native,
    Said,
    UsageForm,
    V1Chat,
    V1Completions,
    durations,
    encode,
)
from tokenswarm.sim.gpu import Gpu
from tokenswarm.sim.http import Reply
from tokenswarm.sim.profile import Model, OllamaSpec, Profile
from tokenswarm.sim.runner import CRASHED, Ask, Grant, Runner
from tokenswarm.sim.scheduler import Scheduler
from tokenswarm.sim.script import Event, script
from tokenswarm.sim.stream import Stream
from tokenswarm.sim.ticker import Ticker
from tokenswarm.sim.words import LOADING, word


def dice(answer: Answer) -> random.Random:
    """Chance of one request: the same for the same seed and arrival number."""
    return random.Random(f"{answer.seed}/{answer.n}")


class Inference:
    """Chat, generate, completions, embeddings; preload and unload."""

    PATHS = frozenset(
        {
            "/api/chat",
            "/api/generate",
            "/api/embed",
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/embeddings",
        }
    )

    def __init__(
        self, profile: Profile, gpu: Gpu, scheduler: Scheduler, clock: WallClock, speed: float
    ):
        self._ollama = profile.ollama or OllamaSpec()
        self._gpu, self._scheduler = gpu, scheduler
        self._clock, self._speed, self._ticker = clock, speed, Ticker()

    async def answer(self, answer: Answer, body: Body, model: Model, reply: Reply) -> None:
        """Serve one request; ApiError, Busy or LoadFailed when nothing can be served."""
        path = answer.request.path
        if path in ("/api/embed", "/v1/embeddings"):
            await self._embed(answer, body, model, reply)
        elif path.startswith("/api/") and not body.messages and not body.prompt:
            await self._preload(answer, body, model, reply)
        else:
            await self._generate(answer, body, model, reply)

    async def _generate(self, answer: Answer, body: Body, model: Model, reply: Reply) -> None:
        native = answer.request.path.startswith("/api/")
        if answer.request.path == "/v1/chat/completions" and not body.messages:
            raise ApiError(400, "[] is too short - 'messages'")
        self._plan(answer, body, model, native)
        dialect = self._dialect(answer, body)
        if answer.knobs.early_headers and answer.stream:
            reply.begin(200, dialect.content_type)
            reply.flush_headers()
        grant = await self._acquire(answer, body, model, dialect, reply)
        try:
            async with grant.runner.slots:
                if grant.runner.dead:
                    raise ApiError(500, CRASHED)
                await self._decode(answer, grant.runner, dialect, reply)
        finally:
            self._scheduler.release(grant.runner)

    def _plan(self, answer: Answer, body: Body, model: Model, native: bool) -> None:
        """How many tokens come and why they end."""
        knobs, limit = answer.knobs, body.output_limit(native)
        eos = knobs.eos
        if isinstance(eos, tuple):
            eos = dice(answer).randint(*eos)
        if eos is None and limit is None:
            eos = model.natural_tokens
        ends = [x for x in (eos, limit) if x is not None]
        answer.wanted = min(ends)
        answer.finish_reason = "stop" if eos is not None and eos <= answer.wanted else "length"
        answer.stream = body.stream if body.stream is not None else native
        answer.prompt_tokens = body.prompt_words() + (0 if body.raw else model.template_tokens)

    def _dialect(self, answer: Answer, body: Body) -> Dialect:
        knobs = answer.knobs
        path, name = answer.request.path, knobs.wrong_model_name or body.model
        if path.startswith("/api/"):
            chat = path == "/api/chat"
            return Native(name, chat, context=not chat and not body.raw)
        usage = UsageForm(
            body.include_usage, answer.prompt_tokens, knobs.continuous_usage, knobs.usage_on_finish
        )
        unix_ns = self._clock.unix(now_s())
        form = V1Chat if path == "/v1/chat/completions" else V1Completions
        return form(name, answer.n * 37 + answer.seed, unix_ns, usage)

    async def _acquire(
        self, answer: Answer, body: Body, model: Model, dialect: Dialect | None, reply: Reply
    ) -> Grant:
        """Wait for the runner; stamps what the answer waited for."""
        wanted = (body.options.num_ctx if body.options else None) or 0
        context = wanted if wanted > 0 else self._ollama.context_length
        keep_alive_s = body.keep_alive_s(self._speed)
        ask = Ask(
            answer.n,
            model,
            min(context, model.train_context),
            keep_alive_s,
            answer.request.arrived_s,
            load_crashes=random.Random(f"load {answer.seed}/{answer.n}").random()
            < answer.knobs.load_crash_rate,
        )
        if answer.knobs.loading_text and answer.stream and dialect is not None:
            grant = await self._acquire_talking(ask, dialect, reply)
        else:
            grant = await self._scheduler.acquire(ask)
        answer.granted_s = now_s()
        answer.role, answer.load = grant.role, grant.load
        answer.waited_for_others(grant.locked_s)
        return grant

    async def _acquire_talking(self, ask: Ask, dialect: Dialect, reply: Reply) -> Grant:
        """As a proxy does that streams text while the model is being loaded."""
        task = asyncio.ensure_future(self._scheduler.acquire(ask))
        first = True
        try:
            while True:
                done, _ = await asyncio.wait({task}, timeout=self._ollama.poll_s)
                if done:
                    return task.result()
                if reply.status is None:
                    reply.begin(200, dialect.content_type)
                text_ns = self._clock.unix(now_s())
                reply.send(dialect.token(LOADING, "reasoning_content", first, 0, text_ns))
                first = False
        except asyncio.CancelledError:
            task.cancel()
            raise

    async def _decode(self, answer: Answer, runner: Runner, dialect: Dialect, reply: Reply) -> None:
        """Prefill, then the tokens, streamed or all at once."""
        model = self._as_loaded(runner)
        answer.started_s = now_s()
        prefill_s = model.prefill_s
        if model.prefill_tokens_per_s:
            prefill_s += answer.prompt_tokens / model.prefill_tokens_per_s
        first_s = answer.started_s + prefill_s + answer.knobs.slow_headers_s
        answer.prompt_done_s = answer.started_s + prefill_s
        if answer.stream and reply.status is None:
            reply.begin(200, dialect.content_type)
        events = self._until_crash(answer, runner, script(answer, dialect, self._clock))
        channel = self._channel(answer, dialect, reply)
        form: ErrorForm = "swallowed" if dialect.done() else "object"
        stream = Stream(
            answer, model, self._gpu, self._ticker, events, channel, lambda: dialect.error(form)
        )
        self._gpu.begin_stream(model.name, answer.started_s)
        runner.serving.add(stream)
        try:
            await stream.run(first_s)
        finally:
            runner.serving.discard(stream)
            self._gpu.end_stream(model.name, now_s())
        if not answer.stream:
            self._reply_whole(answer, dialect, reply)

    def _as_loaded(self, runner: Runner) -> Model:
        """The model, slower by the share of it that is left to the CPU."""
        model, away = runner.model, 1 - runner.vram_bytes / runner.size_bytes
        if away <= 0:
            return model
        factor = 1 + away * self._ollama.offload_slowdown
        return msgspec.structs.replace(
            model, token_s=model.token_s * factor, prefill_s=model.prefill_s * factor
        )

    def _until_crash(
        self, answer: Answer, runner: Runner, events: Iterator[Event]
    ) -> Iterator[Event]:
        """`events` until the knob `crash` has the process die."""
        crash = answer.knobs.crash
        if crash is None or dice(answer).random() >= crash.rate:
            yield from events
            return
        said = 0
        for event in events:
            if said >= crash.token:
                self._scheduler.crash(runner)
                return
            said += event[1]
            yield event

    def _channel(self, answer: Answer, dialect: Dialect, reply: Reply) -> Channel:
        if not answer.stream:
            return Whole(answer.made_s)
        if answer.knobs.mangles:
            sse = dialect.content_type == http.SSE
            return Mangled(reply, answer.tokens_s, answer.knobs, sse, dice(answer))
        return Plain(reply, answer.tokens_s)

    def _reply_whole(self, answer: Answer, dialect: Dialect, reply: Reply) -> None:
        """One JSON body after all the tokens; knobs that end a stream early fail it."""
        if answer.ending == "reset":
            reply.reset()
        elif answer.ending == "cut":
            reply.cut()
        elif answer.knobs.empty_200:
            reply.whole(200, b"")
        elif answer.outcome != "ok":
            raise ApiError(500, ERROR_TEXT)
        else:
            body = dialect.whole(_said(answer), answer.summary(now_s()))
            answer.tokens_s.append(now_s())
            reply.whole(200, body)

    async def _preload(self, answer: Answer, body: Body, model: Model, reply: Reply) -> None:
        """An empty prompt loads the model, with keep_alive 0 unloads it."""
        native = Native(body.model, answer.request.path == "/api/chat", context=False)
        answer.stream = False
        if body.keep_alive_s(self._speed) == 0:
            self._scheduler.expire(model)
            reason = "unload"
        else:
            grant = await self._acquire(answer, body, model, None, reply)
            self._scheduler.release(grant.runner)
            reason = "load"
        answer.outcome, answer.finish_reason, answer.finished = "ok", reason, True
        reply.whole(200, native.short(reason, self._clock.unix(now_s())))

    async def _embed(self, answer: Answer, body: Body, model: Model, reply: Reply) -> None:
        answer.stream = False
        inputs = [body.input] if isinstance(body.input, str) else body.input
        if inputs is None:
            raise ApiError(400, "invalid input")
        answer.prompt_tokens = body.prompt_words()
        grant = await self._acquire(answer, body, model, None, reply)
        try:
            async with grant.runner.slots:
                answer.started_s = now_s()
                rate = model.prefill_tokens_per_s
                more_s = answer.prompt_tokens / rate if rate else 0.0
                await asyncio.sleep(model.prefill_s + more_s)
        finally:
            self._scheduler.release(grant.runner)
        answer.outcome = "ok"
        vectors = [catalog.embedding(model, text) for text in inputs]
        reply.whole(200, encode(self._embeddings(answer, body, vectors)))

    def _embeddings(self, answer: Answer, body: Body, vectors: list[list[float]]) -> dict[str, Any]:
        name, tokens = answer.knobs.wrong_model_name or body.model, answer.prompt_tokens
        if answer.request.path == "/api/embed":
            summary = answer.summary(now_s())
            counts = durations(
                total_duration=summary.total_s,
                load_duration=summary.load_s,
                prompt_eval_count=tokens,
            )
            return {"model": name, "embeddings": vectors, **counts}
        packed = body.encoding_format == "base64"
        data = [
            {
                "object": "embedding",
                "embedding": catalog.base64_floats(v) if packed else v,
                "index": i,
            }
            for i, v in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "model": name, "usage": usage}


def _said(answer: Answer) -> Said:
    knobs = answer.knobs
    words = [word(answer.n + answer.seed, i, knobs.split_utf8) for i in range(answer.tokens)]
    text = [json.loads(b'"' + w + b'"') for w in words]
    if knobs.tool_call:
        return Said(tool="".join(text))
    if knobs.reasoning is None:
        return Said(content="".join(text))
    at = knobs.reasoning.tokens
    return Said("".join(text[at:]), "".join(text[:at]), knobs.reasoning.field)
