"""A server of one model with OpenAI's API, as vLLM and SGLang are: requests, sleep, metrics."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Iterator

from tokenswarm.sim import asked, truth
from tokenswarm.sim.answer import Answer
from tokenswarm.sim.asked import ApiError, Body
from tokenswarm.sim.channel import Channel, Plain, Whole
from tokenswarm.sim.chunks import Chunks, Head, SglangChat, VllmChat, VllmText, error_body
from tokenswarm.sim.clock import WallClock, now_s
from tokenswarm.sim.formats import encode
from tokenswarm.sim.gpu import Gpu
from tokenswarm.sim.http import Reply, Request
from tokenswarm.sim.instance import Instance
from tokenswarm.sim.script import Event
from tokenswarm.sim.settings import KnobBoard
from tokenswarm.sim.stream import Stream
from tokenswarm.sim.switcher import Switcher
from tokenswarm.sim.ticker import Ticker
from tokenswarm.sim.words import escaped, word

GARBAGE = escaped("!")
CREATED = 1767225600
Handler = Callable[[Request, Reply], Awaitable[None]]


class SingleServer:
    """One simulated server. `handle` is the app of its Listener; engines add `routes`."""

    PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})
    HEADERS_AT_ONCE = True

    def __init__(
        self,
        instance: Instance,
        gpu: Gpu,
        switcher: Switcher | None,
        board: KnobBoard,
        log: truth.Writer,
        clock: WallClock,
        seed: int,
    ):
        self.instance, self._gpu, self._switcher = instance, gpu, switcher
        self._board, self._log, self._clock, self._seed = board, log, clock, seed
        self._ticker = Ticker()
        self._slots = asyncio.Semaphore(instance.spec.max_running)
        self._waiting = 0
        self._streams: dict[Stream, tuple[Answer, Chunks]] = {}
        self._tokens = {"prompt": 0, "generation": 0}
        self.stopping = False
        self._routes = self.routes()

    def routes(self) -> dict[tuple[str, str], Handler]:
        """What answers which method and path, beside inference."""
        return {("GET", "/v1/models"): self._models, ("GET", "/metrics"): self._metrics}

    async def handle(self, request: Request, reply: Reply) -> None:
        """Answer one request."""
        route = self._routes.get((request.method, request.path))
        if request.method == "POST" and request.path in self.PATHS:
            await self._infer(request, reply)
        elif route is not None:
            await route(request, reply)
        else:
            reply.whole(404, b'{"detail":"Not Found"}', "application/json")

    # about the server

    async def _models(self, request: Request, reply: Reply) -> None:
        spec, model = self.instance.spec, self.instance.model
        about = {"id": model.name, "object": "model", "created": CREATED, "owned_by": spec.engine}
        about |= {"root": f"models/{model.name}", "max_model_len": model.train_context}
        reply.whole(200, encode({"object": "list", "data": [about]}), "application/json")

    async def _metrics(self, request: Request, reply: Reply) -> None:
        text = "".join(
            f"# TYPE {name} gauge\n{name}{{{labels}}} {value}\n"
            for name, labels, value in self.gauges()
        )
        reply.whole(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")

    def gauges(self) -> Iterator[tuple[str, str, float]]:
        """Name, labels and value of each metric."""
        yield from ()

    @property
    def _figures(self) -> tuple[float, float, float]:
        """Running, waiting and the share of the KV cache in use."""
        per_token = self.instance.model.kv_bytes_per_token
        held = sum(a.prompt_tokens + a.tokens for a, _ in self._streams.values())
        used = min(1.0, held * per_token / self.instance.kv_bytes)
        return float(self.instance.running), float(self._waiting), round(used, 6)

    # inference

    async def _infer(self, request: Request, reply: Reply) -> None:
        """Arrival, work, truth; whatever happens, one arrival and one request line."""
        answer = Answer(self._log.new_arrival(), request, self._seed)
        answer.server, pid = self.instance.spec.name, self.instance.pid
        problem: ApiError | None = None
        try:
            body = asked.parse(request)
            answer.model = body.model
        except ApiError as e:
            problem = e
        self._log.add(answer.arrival(self._clock))
        try:
            if problem is not None:
                raise problem
            self._plan(answer, body)
            await self._answer(answer, body, reply)
        except ApiError as e:
            answer.outcome = "error"
            reply.whole(e.status, refusal(e), "application/json")
        except asyncio.CancelledError:
            died = self.instance.pid != pid
            answer.outcome = "unfinished" if self.stopping else "cut" if died else "cancelled"
            raise
        finally:
            self._log.add(answer.row(self._clock, now_s(), reply.headers_s, reply.status))

    def _plan(self, answer: Answer, body: Body) -> None:
        """How many tokens come and why they end; ApiError for what cannot be served."""
        model, limit = self.instance.model, body.max_completion_tokens or body.max_tokens
        answer.asked_seed = body.seed
        if body.model != model.name:
            raise ApiError(404, f"The model `{body.model}` does not exist.")
        if answer.request.path == "/v1/chat/completions" and not body.messages:
            raise ApiError(400, "messages: field required")
        answer.knobs = self._board.of(model.name)
        chat = answer.request.path == "/v1/chat/completions"
        answer.prompt_tokens = body.prompt_words() + (model.template_tokens if chat else 0)
        room = model.train_context - answer.prompt_tokens
        if (limit or 1) > room:
            raise ApiError(
                400,
                f"max_tokens={limit} cannot be greater than "
                f"max_model_len=max_total_tokens={model.train_context}.",
            )
        natural = room if body.ignore_eos else min(room, self._eos(answer))
        answer.wanted = natural if limit is None else min(limit, natural)
        answer.finish_reason = "length" if answer.wanted in (limit, room) else "stop"
        answer.stream = bool(body.stream)

    def _eos(self, answer: Answer) -> int:
        eos = answer.knobs.eos
        if isinstance(eos, tuple):
            return random.Random(f"{answer.seed}/{answer.n}").randint(*eos)
        return self.instance.model.natural_tokens if eos is None else eos

    async def _answer(self, answer: Answer, body: Body, reply: Reply) -> None:
        if answer.stream and self.HEADERS_AT_ONCE:
            reply.begin(200, "text/event-stream; charset=utf-8")
            reply.flush_headers()
        self._waiting += 1
        try:
            await self._admitted(answer)
        finally:
            self._waiting -= 1
        try:
            async with self._slots:
                await self._decode(answer, body, reply)
        finally:
            self.instance.end()

    async def _admitted(self, answer: Answer) -> None:
        """Wait until the model is on the GPU; the first who waits has it woken."""
        instance = self.instance
        if not instance.awake:
            answer.role = "swap_waiter"
            if instance.coming is None:
                answer.role = "swap_trigger"
                coming = instance.want("demand", answer.request.arrived_s, answer.n)
                if self._switcher is not None:
                    self._switcher.demand(instance, coming)
            answer.load = instance.coming.load if instance.coming else None
        await instance.admit()
        answer.granted_s = now_s()

    async def _decode(self, answer: Answer, body: Body, reply: Reply) -> None:
        model = self.instance.model
        answer.started_s = now_s()
        prefill_s = model.prefill_s
        if model.prefill_tokens_per_s:
            prefill_s += answer.prompt_tokens / model.prefill_tokens_per_s
        answer.prompt_done_s = answer.started_s + prefill_s
        if answer.stream and reply.status is None:
            reply.begin(200, "text/event-stream; charset=utf-8")
        chunks = self._chunks(answer, body)
        channel: Channel = Plain(reply, answer.tokens_s) if answer.stream else Whole(answer.made_s)
        events = self._events(answer, chunks)
        stream = Stream(answer, model, self._gpu, self._ticker, events, channel, list)
        self._streams[stream] = (answer, chunks)
        self._gpu.begin_stream(model.name, answer.started_s)
        try:
            await stream.run(answer.prompt_done_s + answer.knobs.slow_headers_s)
        finally:
            del self._streams[stream]
            self._gpu.end_stream(model.name, now_s())
            self._tokens["prompt"] += answer.prompt_tokens
            self._tokens["generation"] += answer.tokens
        if not answer.stream:
            answer.tokens_s.append(now_s())
            text = json.loads(b'"' + b"".join(self._texts(answer, answer.tokens)) + b'"')
            whole = chunks.whole(text, answer.finish_reason, answer.tokens)
            reply.whole(200, whole, "application/json")

    def _chunks(self, answer: Answer, body: Body) -> Chunks:
        options = body.stream_options or asked.StreamOptions()
        chat = answer.request.path == "/v1/chat/completions"
        kind = b"chat.completion.chunk" if chat else b"text_completion"
        unix_ns = self._clock.unix(now_s())
        head = Head(kind, answer.n + answer.seed, unix_ns, body.model, answer.prompt_tokens)
        made = (SglangChat if self.instance.spec.engine == "sglang" else VllmChat) if chat else None
        return (made or VllmText)(
            head, usage=options.include_usage, continuous=options.continuous_usage_stats
        )

    def _events(self, answer: Answer, chunks: Chunks) -> Iterator[Event]:
        if role := chunks.role():
            yield (role, 0, 0, 0.0)
        for i, text in enumerate(self._texts(answer, answer.wanted), start=1):
            last = i == answer.wanted
            answer.tokens = i
            token = chunks.token(text, i, answer.finish_reason if last else None)
            yield (token, 1, 0 if last else 1, 0.0)
        answer.outcome, answer.finished = "ok", True
        for payload in chunks.finish(answer.finish_reason, answer.tokens):
            yield (payload, 0, 0, 0.0)

    def _texts(self, answer: Answer, tokens: int) -> Iterator[bytes]:
        """Words; from weights that are not there, garbage."""
        good, asked_seed = self.instance.weights_good, answer.asked_seed
        seed = answer.n + answer.seed if asked_seed is None else asked_seed
        for i in range(tokens):
            yield word(seed, i) if good else GARBAGE

    def abort_all(self) -> None:
        """End every answer with finish_reason `abort`, as sleeping does."""
        for stream, (answer, chunks) in list(self._streams.items()):
            answer.finish_reason, answer.finished = "abort", True
            stream.end_with(chunks.cut("abort", answer.tokens), "error")


def refusal(error: ApiError) -> bytes:
    """The body of an answer that says why a request is not served."""
    if error.status == 404:
        return error_body(404, str(error), "NotFoundError", "model")
    return error_body(error.status, str(error), "BadRequestError", "max_tokens")
