"""llama-cpp-python's server: one model at a time, and unknown names get the default one."""

from dataclasses import dataclass
from typing import ClassVar

from tokenswarm.engines.openai import OpenAi, listed_models, names
from tokenswarm.engines.protocol import EngineInfo, Knobs, Residency
from tokenswarm.engines.sheet import Sheet

TITLE = "llama.cpp Python API"
NOTE = (
    "llama-cpp-python serves one request at a time, cancels a stream when another request comes "
    "(start it with interrupt_requests=false), and answers unknown models with its default one"
)


@dataclass(frozen=True)
class LlamaCppPython(OpenAi):
    """No metrics, no usage in streams; `min_tokens` forces the output length. Of several models it
    holds one and does not say which; an only one it loads at its start and keeps.

    An X-Request-Id that is no UUID is refused with an empty HTTP 400.
    """

    engine: ClassVar[str] = "llama-cpp-python"
    sheet: ClassVar[Sheet] = Sheet(
        title="llama-cpp-python server",
        told_by="the title of `/openapi.json`",
        ready="`/v1/models` answers",
        residency="an only model is resident; of several it does not say",
        load="a request",
        unload="no way",
        sleep="no",
        timings="none, and no usage in streams",
        overload=(
            "one request at a time; a new one cancels the last unless `interrupt_requests=false`"
        ),
        quirks=(
            "Answers for a model it does not have with its first one; stands still while it loads."
        ),
    )
    knobs: ClassVar[Knobs] = Knobs(
        exact_length={}, min_tokens=True, stream_usage=False, request_ids=False
    )

    def fingerprint(self, url: str, timeout_s: float) -> EngineInfo | None:
        server = self.server(url, timeout_s)
        about = server.get("/openapi.json").object().get("info")
        if not isinstance(about, dict) or TITLE not in str(about.get("title")):
            return None
        return self.info(server, about.get("version"), names(listed_models(server) or []), NOTE)

    def residency(self, url: str, timeout_s: float) -> tuple[Residency, ...] | None:
        models = names(listed_models(self.server(url, timeout_s)) or [])
        return (Residency(models[0], "resident"),) if len(models) == 1 else None
