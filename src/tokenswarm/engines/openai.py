"""Any server with OpenAI's API and nothing else that we know; the other adapters build on it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tokenswarm.engines.control import Reply, Server, said
from tokenswarm.engines.news import News
from tokenswarm.engines.protocol import EngineInfo, Knobs, LoadFigures, Residency
from tokenswarm.engines.sheet import Sheet
from tokenswarm.errors import TargetError

POLL_S = 0.05


@dataclass(frozen=True)
class OpenAi:
    """What an adapter does unless its engine does better. `headers` go with every request."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls_verify: bool = True

    engine: ClassVar[str] = "openai"
    sheet: ClassVar[Sheet] = Sheet(
        title="OpenAI's API alone",
        told_by="`/v1/models`",
        ready="`/v1/models` answers",
        residency="does not say",
        load="no way",
        unload="no way",
        sleep="no",
        timings="none",
        overload="its own",
        quirks="Nothing shows a cold start: every request counts as warm.",
    )
    knobs: ClassVar[Knobs] = Knobs()
    news: ClassVar[News | None] = None
    unloads: ClassVar[bool] = False

    def fingerprint(self, url: str, timeout_s: float) -> EngineInfo | None:
        server = self.server(url, timeout_s)
        models = listed_models(server)
        return None if models is None else self.info(server, None, names(models))

    def residency(self, url: str, timeout_s: float) -> tuple[Residency, ...] | None:
        return None

    def figures(self, url: str, timeout_s: float) -> tuple[LoadFigures, ...]:
        return ()

    def prompt_tokens(self, url: str, body: Mapping[str, Any], timeout_s: float) -> int | None:
        return None

    def ready(self, url: str, timeout_s: float) -> bool:
        return listed_models(self.server(url, timeout_s)) is not None

    def load(self, url: str, model: str, timeout_s: float) -> None:
        raise TargetError(f"{self.engine} has no way to load a model by itself: send a request")

    def unload(self, url: str, model: str, timeout_s: float) -> None:
        raise TargetError(f"{self.engine} has no way to unload a model: end the server")

    def sleep_levels(self, url: str, timeout_s: float) -> tuple[int, ...]:
        return ()

    def sleep(self, url: str, level: int, timeout_s: float) -> None:
        raise TargetError(f"{self.engine} cannot sleep")

    def wake(self, url: str, level: int, timeout_s: float) -> None:
        raise TargetError(f"{self.engine} cannot sleep, so it cannot wake up")

    def server(self, url: str, timeout_s: float) -> Server:
        return Server(url, timeout_s, self.headers, self.tls_verify)

    def info(
        self, server: Server, version: object, models: tuple[str, ...], *notes: str
    ) -> EngineInfo:
        """An EngineInfo of this engine; `version` only if the server gave a sane string."""
        known = version[:100] if isinstance(version, str) and version else None
        return EngineInfo(
            self.engine, version=known, url=server.root, models=models, knobs=self.knobs,
            notes=notes,
        )  # fmt: skip


def listed_models(server: Server) -> list[dict[str, Any]] | None:
    """The objects of `/v1/models`; None when that is not what the server answers."""
    data = server.get("/v1/models").object().get("data")
    if not isinstance(data, list):
        return None
    return [m for m in data if isinstance(m, dict) and isinstance(m.get("id"), str)]


def names(models: list[dict[str, Any]]) -> tuple[str, ...]:
    """Ids and aliases, in the server's order, each once."""
    found: dict[str, None] = {}
    for model in models:
        aliases = model.get("aliases")
        for name in (model["id"], *(aliases if isinstance(aliases, list) else ())):
            if isinstance(name, str):
                found[name] = None
    return tuple(found)


def count(value: object) -> int | None:
    """`value` if it is a whole number of 0 or more, as servers give counts and sizes."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def done(server: Server, path: str, payload: object) -> Reply:
    """The answer to a control call; TargetError when it is none of success."""
    reply = server.post(path, payload)
    if not reply.ok:
        raise TargetError(f"{server.root}{path} failed: {said(server, reply)}")
    return reply


def until(true: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Wait until the server says so. TargetError: it does not within `timeout_s`."""
    deadline = time.perf_counter() + timeout_s
    while not true():
        if time.perf_counter() > deadline:
            raise TargetError(f"{what} within {timeout_s:g} s")
        time.sleep(POLL_S)
