"""The Ollama-like server: native API and /v1 on one port."""

import asyncio

from tokenswarm.sim import asked, catalog, http, truth
from tokenswarm.sim.answer import Answer
from tokenswarm.sim.asked import ApiError
from tokenswarm.sim.clock import WallClock, now_s
from tokenswarm.sim.formats import ERROR_TEXT, encode, v1_error_body
from tokenswarm.sim.http import Reply, Request
from tokenswarm.sim.inference import Inference, dice
from tokenswarm.sim.profile import Model, OllamaSpec, Profile
from tokenswarm.sim.runner import Busy, LoadFailed
from tokenswarm.sim.scheduler import Scheduler
from tokenswarm.sim.settings import KnobBoard

HTML_ERROR = b"<html><head><title>%d</title></head><body><h1>upstream error</h1></body></html>\n"


class OllamaServer:
    """One simulated server. `handle` is the app of its Listener."""

    def __init__(
        self,
        profile: Profile,
        scheduler: Scheduler,
        inference: Inference,
        board: KnobBoard,
        log: truth.Writer,
        clock: WallClock,
        seed: int,
    ):
        self._profile, self._scheduler, self._inference = profile, scheduler, inference
        self._version = (profile.ollama or OllamaSpec()).version
        self._board, self._log, self._clock, self._seed = board, log, clock, seed
        self.stopping = False

    async def handle(self, request: Request, reply: Reply) -> None:
        """Answer one request."""
        if request.method == "POST" and request.path in Inference.PATHS:
            await self._infer(request, reply)
        elif request.method == "POST" and request.path == "/api/show":
            self._show(request, reply)
        elif request.method in ("GET", "HEAD"):
            await self._get(request.path, reply)
        else:
            reply.whole(404, b"404 page not found", http.TEXT)

    # about the server

    async def _get(self, path: str, reply: Reply) -> None:
        models = self._profile.models
        if path == "/":
            reply.whole(200, b"Ollama is running", http.TEXT)
        elif path == "/api/version":
            reply.whole(200, encode({"version": self._version}))
        elif path == "/api/tags":
            reply.whole(200, encode(catalog.tags(models)))
        elif path == "/api/ps":
            await self._scheduler.unlocked()
            context_bytes = self._profile.gpu.context_bytes
            runners = self._scheduler.loaded()
            reply.whole(200, encode(catalog.ps(runners, context_bytes, self._clock)))
        elif path == "/v1/models":
            reply.whole(200, encode(catalog.v1_models(models)))
        elif path.startswith("/v1/models/"):
            name = path.removeprefix("/v1/models/")
            found = catalog.find(models, name)
            if found is None:
                reply.whole(404, v1_error_body(404, _not_found(name)))
            else:
                reply.whole(200, encode(catalog.v1_model(found)))
        else:
            reply.whole(404, b"404 page not found", http.TEXT)

    def _show(self, request: Request, reply: Reply) -> None:
        try:
            reply.whole(200, encode(catalog.show(self._find(asked.parse(request).model))))
        except ApiError as e:
            reply.whole(e.status, encode({"error": str(e)}))

    def _find(self, name: str) -> Model:
        model = catalog.find(self._profile.models, name)
        if model is None:
            raise ApiError(404, _not_found(name))
        return model

    # inference

    async def _infer(self, request: Request, reply: Reply) -> None:
        """Arrival, work, truth; whatever happens, one arrival and one request line."""
        answer = Answer(self._log.new_arrival(), request, self._seed)
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
            model = self._find(body.model)
            answer.knobs = self._board.of(model.name)
            if not self._refused(answer, reply):
                await self._inference.answer(answer, body, model, reply)
        except (ApiError, Busy, LoadFailed) as e:
            answer.outcome = "error"
            self._fail(request, reply, _status(e), str(e))
        except asyncio.CancelledError:
            answer.outcome = "unfinished" if self.stopping else "cancelled"
            raise
        finally:
            row = answer.row(self._clock, now_s(), reply.headers_s, reply.status)
            self._log.add(row)

    def _refused(self, answer: Answer, reply: Reply) -> bool:
        """Answer as the knob `http_error` says, for its share of requests."""
        error = answer.knobs.http_error
        if error is None or dice(answer).random() >= error.rate:
            return False
        answer.outcome = "error"
        if error.body == "json":
            self._fail(answer.request, reply, error.status, ERROR_TEXT)
        elif error.body == "html":
            reply.whole(error.status, HTML_ERROR % error.status, http.HTML)
        else:
            reply.whole(error.status, b"", http.TEXT)
        return True

    def _fail(self, request: Request, reply: Reply, status: int, message: str) -> None:
        if reply.status is not None:  # headers are out, as the real server finds too
            reply.finish()
        elif request.path.startswith("/v1/"):
            reply.whole(status, v1_error_body(status, message))
        else:
            reply.whole(status, encode({"error": message}))


def _not_found(name: str) -> str:
    return f"model '{name}' not found"


def _status(error: Exception) -> int:
    if isinstance(error, ApiError):
        return error.status
    return 503 if isinstance(error, Busy) else 500
