"""llama.cpp's server (llama-server, xllamacpp): one model, or a router with a process a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import quote

from tokenswarm.engines.control import Reply, Server, said
from tokenswarm.engines.news import News
from tokenswarm.engines.openai import OpenAi, done, listed_models, names, until
from tokenswarm.engines.prometheus import samples
from tokenswarm.engines.protocol import (
    ANY,
    EngineInfo,
    Knobs,
    LoadFigures,
    Residency,
    ResidencyState,
)
from tokenswarm.engines.sheet import Sheet
from tokenswarm.errors import TargetError

RUNNING = "llamacpp:requests_processing"
WAITING = "llamacpp:requests_deferred"
MAX_ASKED = 16
ROUTER_STATES: dict[str, ResidencyState] = {
    "loaded": "resident",
    "loading": "loading",
    "downloading": "loading",
    "sleeping": "asleep",
    "unloaded": "absent",
}


@dataclass(frozen=True)
class LlamaCpp(OpenAi):
    """How many wait is told with `--metrics` alone; a router tells it of each model.

    After a streamed answer it closes the connection, shortly after the end and without having
    said so (cpp-httplib), so that a request on a kept connection may meet the close.
    """

    engine: ClassVar[str] = "llama-cpp"
    sheet: ClassVar[Sheet] = Sheet(
        title="llama.cpp server",
        told_by="`/props`",
        ready="`/health` is 200",
        residency="`/health` and `/props`; a router's `/v1/models`",
        load="its start; a router's `/models/load`",
        unload="its end; a router's `/models/unload`",
        sleep="by itself when idle (`--sleep-idle-seconds`)",
        timings="`timings` on the last event",
        overload="503 while it loads, else a queue",
        quirks=(
            "Closes the connection after a stream; a router limits models by count and not by"
            " memory."
        ),
    )
    knobs: ClassVar[Knobs] = Knobs(
        exact_length={"ignore_eos": True}, token_id_prompts=True, tokenize=True,
        keeps_connections=False,
    )  # fmt: skip

    news: ClassVar[News | None] = News("/models/sse", b"model_status")  # a router alone has it
    unloads: ClassVar[bool] = True

    def fingerprint(self, url: str, timeout_s: float) -> EngineInfo | None:
        server = self.server(url, timeout_s)
        reply = server.get("/props")
        props = reply.object()
        ours = "build_info" in props or "default_generation_settings" in props
        if not ours and reply.headers.get("server") == "llama.cpp":
            _refuse(server, reply)
        if not ours and props.get("role") != "router":
            return None
        notes = ("a router: its models share a limit by count",) if _is_router(props) else ()
        models = listed_models(server) or []
        return self.info(server, props.get("build_info"), names(models), *notes)

    def residency(self, url: str, timeout_s: float) -> tuple[Residency, ...] | None:
        server = self.server(url, timeout_s)
        if server.get("/health").status == 503:  # it lists its model while it still loads it
            return tuple(Residency(n, "loading") for n in _listed(server) or (ANY,))
        models = listed_models(server)
        if models is None:
            return None
        if _of_router(models):
            return tuple(Residency(m["id"], _router_state(m)) for m in models)
        return tuple(
            Residency(m["id"], "asleep" if _sleeps(server) else "resident") for m in models
        )

    def ready(self, url: str, timeout_s: float) -> bool:
        return self.server(url, timeout_s).get("/health").ok

    def load(self, url: str, model: str, timeout_s: float) -> None:
        """A router alone can. It says that it will, and loads after that."""
        self._move(url, "load", model, "resident", timeout_s)

    def unload(self, url: str, model: str, timeout_s: float) -> None:
        self._move(url, "unload", model, "absent", timeout_s)

    def _move(
        self, url: str, verb: str, model: str, wanted: ResidencyState, timeout_s: float
    ) -> None:
        server = self.server(url, timeout_s)
        if not _of_router(listed_models(server) or []):
            raise TargetError(f"{url} is no router: it cannot {verb} a model")
        done(server, f"/models/{verb}", {"model": model})

        def there() -> bool:
            return Residency(model, wanted) in (self.residency(url, timeout_s) or ())

        until(there, f"{url}: {model} is not {wanted}", timeout_s)

    def figures(self, url: str, timeout_s: float) -> tuple[LoadFigures, ...]:
        """Of the whole server, or of each model that a router has loaded."""
        server = self.server(url, timeout_s)
        models = listed_models(server) or []
        if not _of_router(models):
            found = _busy(server, "", None)
            return () if found is None else (found,)
        held = [m["id"] for m in models if _router_state(m) == "resident"][:MAX_ASKED]
        asked = (_busy(server, f"?model={quote(m, safe='')}&autoload=false", m) for m in held)
        return tuple(figures for figures in asked if figures is not None)

    def prompt_tokens(self, url: str, body: Mapping[str, Any], timeout_s: float) -> int | None:
        server = self.server(url, timeout_s)
        text = body.get("prompt")
        if "messages" in body:
            text = server.post("/apply-template", dict(body)).object().get("prompt")
        if not isinstance(text, str):
            return None
        # as the server does it for a prompt: with BOS, and special tokens read from the text
        asked = {"content": text, "add_special": True, "parse_special": True}
        reply = server.post("/tokenize", {"model": body.get("model"), **asked})
        tokens = reply.object().get("tokens")
        return len(tokens) if isinstance(tokens, list) else None


def _is_router(props: dict[str, Any]) -> bool:
    return props.get("role") == "router"


def _refuse(server: Server, reply: Reply) -> None:
    """A llama.cpp server that does not tell its properties: say why."""
    if reply.status == 503:
        raise TargetError(f"{server.root} is still loading its model: wait for its /health")
    if reply.status in (401, 403):
        raise TargetError(f"{server.root} wants a key: set api_key_env for the target")
    raise TargetError(f"{server.root}/props: unexpected answer {said(server, reply)}")


def _listed(server: Server) -> tuple[str, ...]:
    return names(listed_models(server) or [])


def _sleeps(server: Server) -> bool:
    return server.get("/props").object().get("is_sleeping") is True


def _busy(server: Server, query: str, model: str | None) -> LoadFigures | None:
    """From `/metrics`; from `/slots` where that is switched off, unless the server sleeps, since
    that question wakes it up."""
    page = server.get(f"/metrics{query}")
    text = page.body.decode("utf-8", "replace") if page.ok else ""
    found = {s.name: round(s.value) for s in samples(text, (RUNNING, WAITING))}
    if found:
        return LoadFigures(model, running=found.get(RUNNING), waiting=found.get(WAITING))
    if model is None and (server.get("/health").status == 503 or _sleeps(server)):
        return None
    slots = server.get(f"/slots{query}").json()
    if not isinstance(slots, list):
        return None
    return LoadFigures(model, running=sum(_works(slot) for slot in slots))


def _works(slot: object) -> bool:
    return isinstance(slot, dict) and slot.get("is_processing") is True


def _of_router(models: list[dict[str, Any]]) -> bool:
    return any(isinstance(m.get("status"), dict) for m in models)


def _router_state(model: dict[str, Any]) -> ResidencyState:
    status = model.get("status")
    value = status.get("value") if isinstance(status, dict) else None
    return ROUTER_STATES.get(str(value), "absent")
