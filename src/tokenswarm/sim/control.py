"""The control port: what this is, the GPU as NVML would show it, knobs, servers, the end."""

import asyncio
from pathlib import Path
from typing import Any, Literal

import msgspec

from tokenswarm.sim import http
from tokenswarm.sim.clock import now_s
from tokenswarm.sim.fleet import Box, Fleet
from tokenswarm.sim.formats import encode
from tokenswarm.sim.http import Reply, Request
from tokenswarm.sim.knobs import ProfileError


class KnobChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /knobs`: replaces all knobs of one model, or of the server (model absent)."""

    knobs: dict[str, Any]
    model: str | None = None


class ServerChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /servers`: end, kill, start or restart the process of a server of one model.

    `port`: where it listens from now on, for a server that is down."""

    server: str
    action: Literal["stop", "kill", "start", "restart"]
    port: int | None = None


class Control:
    """GET / and /gpu and /knobs and /servers and /truth/path; POST /knobs, /servers and
    /shutdown."""

    def __init__(
        self,
        about: dict[str, Any],
        box: Box,
        fleet: Fleet,
        truth: Path | None,
        stop: asyncio.Event,
    ):
        self._about, self._box, self._fleet = about, box, fleet
        self._gpu, self._board, self._clock = box.gpu, box.board, box.clock
        self._truth, self._stop = truth, stop

    async def handle(self, request: Request, reply: Reply) -> None:
        """Answer one request."""
        what = (request.method, request.path)
        if what == ("GET", "/"):
            about = {"simulation": True, **self._about, "arrivals": self._box.log.arrivals}
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
        elif what == ("GET", "/servers"):
            reply.whole(200, encode(self._fleet.states()))
        elif what == ("POST", "/servers"):
            self._act(request, reply)
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
        await self._fleet.follow_knobs()
        reply.whole(200, encode(self._board.as_json()))

    def _act(self, request: Request, reply: Reply) -> None:
        try:
            change = msgspec.json.decode(request.body, type=ServerChange)
            if change.server not in self._fleet.singles:
                known = ", ".join(self._fleet.singles) or "none"
                raise ProfileError(f"no server {change.server!r}; there are {known}")
        except (msgspec.DecodeError, ProfileError) as e:
            reply.whole(400, encode({"error": str(e)}))
            return
        if change.action != "start":
            self._fleet.stop(change.server, "crash" if change.action == "kill" else "control")
        if change.action in ("start", "restart"):
            self._fleet.start(change.server, change.port)
        reply.whole(200, encode(self._fleet.states()[change.server]))
