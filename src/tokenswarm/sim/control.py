"""The control port: what this is, the GPU as NVML would show it, knobs, the end."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tokenswarm.sim import http
from tokenswarm.sim.clock import WallClock, now_s
from tokenswarm.sim.formats import encode
from tokenswarm.sim.gpu import Gpu
from tokenswarm.sim.http import Listener, Reply, Request
from tokenswarm.sim.knobs import ProfileError
from tokenswarm.sim.settings import KnobBoard


class KnobChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /knobs`: replaces all knobs of one model, or of the server (model absent)."""

    knobs: dict[str, Any]
    model: str | None = None


class Control:
    """GET / and /gpu and /knobs and /truth/path; POST /knobs and /shutdown."""

    def __init__(
        self,
        about: dict[str, Any],
        arrivals: Callable[[], int],
        gpu: Gpu,
        board: KnobBoard,
        clock: WallClock,
        truth: Path | None,
        stop: asyncio.Event,
    ):
        self._about, self._arrivals = about, arrivals
        self._gpu, self._board = gpu, board
        self._clock, self._truth, self._stop = clock, truth, stop
        self.served: Listener | None = None

    async def handle(self, request: Request, reply: Reply) -> None:
        """Answer one request."""
        what = (request.method, request.path)
        if what == ("GET", "/"):
            about = {"simulation": True, **self._about, "arrivals": self._arrivals()}
            reply.whole(200, encode(about))
        elif what == ("GET", "/gpu"):
            now = now_s()
            reply.whole(200, encode([self._gpu.view(now, self._clock.unix(now))]))
        elif what == ("GET", "/truth/path"):
            reply.whole(200, encode({"path": str(self._truth) if self._truth else None}))
        elif what == ("GET", "/knobs"):
            reply.whole(200, encode(self._board.as_json()))
        elif what == ("POST", "/knobs"):
            await self._change(request, reply)
        elif what == ("POST", "/shutdown"):
            reply.whole(200, b'{"stopping":true}')
            self._stop.set()
        else:
            reply.whole(404, b"404 page not found", http.TEXT)

    async def _change(self, request: Request, reply: Reply) -> None:
        try:
            change = msgspec.json.decode(request.body, type=KnobChange)
            self._board.replace(change.model, change.knobs)
        except (msgspec.DecodeError, ProfileError) as e:
            reply.whole(400, encode({"error": str(e)}))
            return
        if self.served is not None:
            await follow_refuse(self.served, self._board)
        reply.whole(200, encode(self._board.as_json()))


async def follow_refuse(listener: Listener, board: KnobBoard) -> None:
    """Listen or not, as the knob `refuse` says."""
    if board.refuse:
        listener.refuse()
    else:
        await listener.open()
