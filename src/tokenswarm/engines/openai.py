"""Any server with OpenAI's API and nothing else that we know; the other adapters build on it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tokenswarm.engines.control import Server
from tokenswarm.engines.news import News
from tokenswarm.engines.protocol import EngineInfo, Knobs, LoadFigures, Residency


@dataclass(frozen=True)
class OpenAi:
    """What an adapter does unless its engine does better. `headers` go with every request."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls_verify: bool = True

    engine: ClassVar[str] = "openai"
    knobs: ClassVar[Knobs] = Knobs()
    news: ClassVar[News | None] = None

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
