"""llama-swap: a proxy that starts and stops one server a model; told by `/running`."""

from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import quote

from tokenswarm.engines.control import Server
from tokenswarm.engines.news import News
from tokenswarm.engines.openai import OpenAi, done, listed_models, names, until
from tokenswarm.engines.protocol import EngineInfo, Knobs, Residency, ResidencyState
from tokenswarm.engines.sheet import Sheet
from tokenswarm.errors import TargetError

STATES: dict[str, ResidencyState] = {"ready": "resident", "starting": "loading"}
NOTE = "llama-swap answers 429 above its concurrencyLimit (10 a model by default)"


@dataclass(frozen=True)
class LlamaSwap(OpenAi):
    """Which knobs work depends on the servers behind it, so it promises none."""

    engine: ClassVar[str] = "llama-swap"
    sheet: ClassVar[Sheet] = Sheet(
        title="llama-swap",
        told_by="`/running`",
        ready="`/running` answers",
        residency="`/running`, news from `/api/events`",
        load="a request of one token",
        unload="`/api/models/unload/MODEL`",
        sleep="no",
        timings="those of the server behind it",
        overload="429 above 10 requests a model",
        quirks=(
            "Takes requests out of order to swap less; with `sendLoadingState` it streams "
            "text while it loads."
        ),
    )
    knobs: ClassVar[Knobs] = Knobs()
    news: ClassVar[News | None] = News("/api/events", b"modelStatus")
    unloads: ClassVar[bool] = True

    def fingerprint(self, url: str, timeout_s: float) -> EngineInfo | None:
        server = self.server(url, timeout_s)
        if _running(server) is None:
            return None
        version = server.get("/api/version").object().get("version")
        return self.info(server, version, names(listed_models(server) or []), NOTE)

    def residency(self, url: str, timeout_s: float) -> tuple[Residency, ...] | None:
        server = self.server(url, timeout_s)
        running = _running(server)
        if running is None:
            raise TargetError(f"{server.root}/running: not a list of models")
        return tuple(
            Residency(m["model"], STATES.get(str(m.get("state")), "absent")) for m in running
        )

    def ready(self, url: str, timeout_s: float) -> bool:
        return _running(self.server(url, timeout_s)) is not None

    def load(self, url: str, model: str, timeout_s: float) -> None:
        """By a request of one token: there is no other way."""
        asked = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
        done(self.server(url, timeout_s), "/v1/chat/completions", asked)

    def unload(self, url: str, model: str, timeout_s: float) -> None:
        done(self.server(url, timeout_s), f"/api/models/unload/{quote(model, safe='')}", {})

        def gone() -> bool:
            there = self.residency(url, timeout_s) or ()
            return all(r.state == "absent" for r in there if r.model == model)

        until(gone, f"{url}: {model} did not go", timeout_s)


def _running(server: Server) -> list[dict[str, Any]] | None:
    running = server.get("/running").object().get("running")
    if not isinstance(running, list):
        return None
    return [m for m in running if isinstance(m, dict) and isinstance(m.get("model"), str)]
