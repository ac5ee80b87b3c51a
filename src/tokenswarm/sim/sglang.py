"""The SGLang-like server: its memory saver, readiness and metrics."""

import asyncio
from collections.abc import Iterator
from typing import Any

from tokenswarm.sim.formats import encode
from tokenswarm.sim.gpu import OutOfVram
from tokenswarm.sim.http import Reply, Request
from tokenswarm.sim.single import Handler, SingleServer


class SglangServer(SingleServer):
    """SGLang with its memory saver. `/health` generates a token, so it is slow."""

    HEADERS_AT_ONCE = False
    HEALTH_S = 1.0

    def routes(self) -> dict[tuple[str, str], Handler]:
        return super().routes() | {
            ("GET", "/"): self._root,
            ("GET", "/ready"): self._ready,
            ("GET", "/health"): self._health,
            ("GET", "/health_generate"): self._health,
            ("GET", "/server_info"): self._info,
            ("GET", "/get_server_info"): self._info,
            ("POST", "/release_memory_occupation"): self._release,
            ("POST", "/resume_memory_occupation"): self._resume,
            ("POST", "/update_weights_from_disk"): self._update,
        }

    def gauges(self) -> Iterator[tuple[str, str, float]]:
        running, waiting, kv = self._figures
        labels = f'model_name="{self.instance.model.name}",tp_rank="0"'
        yield "sglang:num_running_reqs", labels, running
        yield "sglang:num_queue_reqs", labels, waiting
        yield "sglang:token_usage", labels, kv

    async def _root(self, request: Request, reply: Reply) -> None:
        reply.whole(200, b'"SGLang is running"', "application/json")

    async def _ready(self, request: Request, reply: Reply) -> None:
        reply.whole(200 if self.instance.awake else 503, b"", "application/json")

    async def _health(self, request: Request, reply: Reply) -> None:
        await self.instance.admit()
        self.instance.end()
        await asyncio.sleep(self.HEALTH_S / self._board.speed)
        reply.whole(200, b"", "application/json")

    async def _info(self, request: Request, reply: Reply) -> None:
        spec = self.instance.spec
        about: dict[str, Any] = {
            "model_path": f"models/{self.instance.model.name}",
            "version": "0.5.23",
        }
        about |= {"enable_memory_saver": True, "enable_weights_cpu_backup": spec.weights_backup}
        said = {**about, "mem_fraction_static": spec.memory_ratio}
        reply.whole(200, encode(said), "application/json")

    async def _release(self, request: Request, reply: Reply) -> None:
        """The server must be idle; it dies of the assertion otherwise."""
        if self.instance.running:
            self.instance.stop("crash")
            return
        if self.instance.awake:
            await self.instance.sleep(1 if self.instance.spec.weights_backup else 2, "control")
        reply.whole(200, b"null", "application/json")

    async def _resume(self, request: Request, reply: Reply) -> None:
        instance = self.instance
        if instance.state == "asleep":
            coming = instance.coming or instance.want("control", request.arrived_s, None)
            try:
                await instance.wake(coming)
            except OutOfVram:
                instance.stop("crash")
                return
        reply.whole(200, b"null", "application/json")

    async def _update(self, request: Request, reply: Reply) -> None:
        await self.instance.reload_weights()
        reply.whole(200, b'{"success":true,"message":"Succeeded"}', "application/json")
