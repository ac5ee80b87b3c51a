"""Ollama: told by `/api/version` and `/api/ps` together, since SGLang imitates the rest."""

import re
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from tokenswarm.engines.control import Server, said
from tokenswarm.engines.openai import OpenAi, count, done, until
from tokenswarm.engines.protocol import EngineInfo, Knobs, Residency
from tokenswarm.engines.sheet import Sheet
from tokenswarm.errors import TargetError

NEVER_S = 10 * 365 * 86400.0
FROM_BLOB = re.compile(r"^FROM .*sha256-([0-9a-f]{64})\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Ollama(OpenAi):
    """It has no way to force an output length, to count tokens or to say how busy it is."""

    engine: ClassVar[str] = "ollama"
    sheet: ClassVar[Sheet] = Sheet(
        title="Ollama",
        told_by="`/api/version` and `/api/ps` together",
        ready="`/api/version` answers",
        residency="`/api/ps`; omits what is loading, may block during a load",
        load="a request, or one without a prompt",
        unload="`keep_alive: 0`, then until `/api/ps` no longer lists it",
        sleep="no",
        timings="`*_duration` of the native API; `load_duration` counts all waiting",
        overload="503 for models that have to be loaded, endless queues for others",
        quirks=(
            "Ends loads whose client has gone; `num_ctx` in a request loads anew; the "
            "shortest keep-alive goes first, not the least used."
        ),
    )
    knobs: ClassVar[Knobs] = Knobs(keep_alive=True)
    unloads: ClassVar[bool] = True

    def fingerprint(self, url: str, timeout_s: float) -> EngineInfo | None:
        server = self.server(url, timeout_s)
        version = server.get("/api/version").object().get("version")
        if version is None or _models(server, "/api/ps") is None:
            return None
        there = _models(server, "/api/tags") or []
        return self.info(server, version, tuple(m["name"] for m in there))

    def residency(self, url: str, timeout_s: float) -> tuple[Residency, ...] | None:
        """What `/api/ps` lists. It omits a model that is loading, and may block during a load."""
        server = self.server(url, timeout_s)
        reply = server.get("/api/ps")
        if not isinstance(reply.object().get("models"), list):
            raise TargetError(f"{server.root}/api/ps: not a list of models: {said(server, reply)}")
        return tuple(_residency(m) for m in _named(reply.object()["models"]))

    def ready(self, url: str, timeout_s: float) -> bool:
        return self.server(url, timeout_s).get("/api/version").ok

    def load(self, url: str, model: str, timeout_s: float) -> None:
        """By an empty prompt. Its answer holds no duration: time the call."""
        done(self.server(url, timeout_s), "/api/generate", {"model": model, "stream": False})

    def unload(self, url: str, model: str, timeout_s: float) -> None:
        """By `keep_alive: 0`, whose answer comes before the model has gone."""
        asked = {"model": model, "keep_alive": 0, "stream": False}
        done(self.server(url, timeout_s), "/api/generate", asked)

        def gone() -> bool:
            there = self.residency(url, timeout_s) or ()
            return not any(same_model(model, r.model) for r in there)

        until(gone, f"{url}: {model} did not go", timeout_s)

    def blob(self, url: str, model: str, timeout_s: float) -> str | None:
        """The 64 hex digits of the file with the model's weights, which is what a runner's command
        line names; None when the server does not tell."""
        shown = self.server(url, timeout_s).post("/api/show", {"model": model}).object()
        found = FROM_BLOB.search(str(shown.get("modelfile")))
        return found[1] if found else None


def same_model(one: str, other: str) -> bool:
    """Whether two names mean one model: `:latest` goes without saying."""
    return _full(one) == _full(other)


def _full(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _residency(model: dict[str, Any]) -> Residency:
    vram, size = count(model.get("size_vram")), count(model.get("size"))
    partial = vram is not None and size is not None and vram < size
    return Residency(
        model["name"], "partial" if partial else "resident", vram_bytes=vram, size_bytes=size,
        context_length=count(model.get("context_length")),
        expires_s=_from_now(model.get("expires_at")),
    )  # fmt: skip


def _from_now(moment: Any) -> float | None:
    """Seconds from now to an RFC 3339 time; None for anything else, and for never (a model that
    was asked to stay expires in some centuries)."""
    try:
        left_s = datetime.fromisoformat(moment).timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
        return None
    return left_s if left_s < NEVER_S else None


def _models(server: Server, path: str) -> list[dict[str, Any]] | None:
    models = server.get(path).object().get("models")
    return _named(models) if isinstance(models, list) else None


def _named(models: list[Any]) -> list[dict[str, Any]]:
    return [m for m in models if isinstance(m, dict) and isinstance(m.get("name"), str)]
