"""The vLLM-like server: development endpoints for sleep and wake-up, metrics."""

from collections.abc import Iterator
from urllib.parse import parse_qs

import msgspec

from tokenswarm.sim import asked
from tokenswarm.sim.asked import ApiError
from tokenswarm.sim.chunks import error_body
from tokenswarm.sim.formats import encode
from tokenswarm.sim.gpu import OutOfVram
from tokenswarm.sim.http import Reply, Request
from tokenswarm.sim.single import Handler, SingleServer, refusal


class VllmServer(SingleServer):
    """vLLM with its development endpoints. Asleep, `/health` is 200 and requests hang."""

    def routes(self) -> dict[tuple[str, str], Handler]:
        return super().routes() | {
            ("GET", "/health"): self._ok,
            ("GET", "/ping"): self._ok,
            ("POST", "/ping"): self._ok,
            ("GET", "/version"): self._version,
            ("GET", "/is_sleeping"): self._is_sleeping,
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/sleep"): self._sleep,
            ("POST", "/wake_up"): self._wake_up,
            ("POST", "/collective_rpc"): self._rpc,
            ("POST", "/reload_weights"): self._reload,
        }

    def gauges(self) -> Iterator[tuple[str, str, float]]:
        running, waiting, kv = self._figures
        instance = self.instance
        labels = f'engine="0",model_name="{instance.model.name}"'
        level = 0 if instance.awake else instance.level
        yield "vllm:num_requests_running", labels, running
        yield "vllm:num_requests_waiting", labels, waiting
        for at, state in enumerate(("awake", "weights_offloaded", "discard_all")):
            value = float(level == at)
            yield "vllm:engine_sleep_state", f'{labels},sleep_state="{state}"', value
        yield "vllm:kv_cache_usage_perc", labels, kv
        for kind, tokens in self._tokens.items():
            yield f"vllm:{kind}_tokens_total", labels, float(tokens)

    async def _ok(self, request: Request, reply: Reply) -> None:
        reply.whole(200, b"", "application/json")

    async def _version(self, request: Request, reply: Reply) -> None:
        reply.whole(200, b'{"version":"0.24.0"}', "application/json")

    async def _is_sleeping(self, request: Request, reply: Reply) -> None:
        asleep = not self.instance.awake
        reply.whole(200, encode({"is_sleeping": asleep}), "application/json")

    async def _tokenize(self, request: Request, reply: Reply) -> None:
        try:
            body = asked.parse(request)
        except ApiError as e:
            reply.whole(e.status, refusal(e), "application/json")
            return
        model = self.instance.model
        tokens = body.prompt_words() + (model.template_tokens if body.messages else 0)
        about = {"count": tokens, "max_model_len": model.train_context}
        said = {**about, "tokens": list(range(10, 10 + tokens)), "token_strs": None}
        reply.whole(200, encode(said), "application/json")

    async def _sleep(self, request: Request, reply: Reply) -> None:
        asked_for = parse_qs(request.query)
        level = asked_for.get("level", ["1"])[0]
        mode = asked_for.get("mode", ["abort"])[0]
        if level not in ("1", "2") or mode not in ("abort", "wait"):
            message = f"level={level} mode={mode}: simulated are level 1 and 2, mode abort and wait"
            reply.whole(400, error_body(400, message, "BadRequestError"), "application/json")
            return
        if self.instance.awake:
            if mode == "abort":
                self.abort_all()
            await self.instance.sleep(1 if level == "1" else 2, "control")
        said = {"status": "sleeping", "level": int(level)}
        reply.whole(200, encode(said), "application/json")

    async def _wake_up(self, request: Request, reply: Reply) -> None:
        instance = self.instance
        if instance.state == "asleep":
            coming = instance.coming or instance.want("control", request.arrived_s, None)
            try:
                await instance.wake(coming)
            except OutOfVram as e:
                reply.whole(500, error_body(500, str(e), "InternalServerError"), "application/json")
                instance.stop("crash")
                return
        reply.whole(200, b'{"status":"awake","tags":null}', "application/json")

    async def _rpc(self, request: Request, reply: Reply) -> None:
        try:
            method = msgspec.json.decode(request.body)["method"]
        except (msgspec.DecodeError, KeyError, TypeError):
            method = None
        if method != "reload_weights":
            message = f"collective_rpc {method!r}: simulated is reload_weights"
            reply.whole(400, error_body(400, message, "BadRequestError"), "application/json")
            return
        await self._reload(request, reply)

    async def _reload(self, request: Request, reply: Reply) -> None:
        await self.instance.reload_weights()
        reply.whole(200, b'{"results":[null]}', "application/json")
