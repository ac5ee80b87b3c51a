"""SGLang: one model a server. Its `/health` generates a token, so it is never asked."""

from dataclasses import dataclass
from typing import ClassVar

from tokenswarm.engines.openai import OpenAi, listed_models, names
from tokenswarm.engines.prometheus import samples
from tokenswarm.engines.protocol import EngineInfo, Knobs, LoadFigures, Residency

RUNNING = "sglang:num_running_reqs"
WAITING = "sglang:num_queue_reqs"
KV_CACHE = "sglang:token_usage"


@dataclass(frozen=True)
class Sglang(OpenAi):
    """Residency from `/ready`; older servers have none and say nothing."""

    engine: ClassVar[str] = "sglang"
    knobs: ClassVar[Knobs] = Knobs(
        exact_length={"ignore_eos": True}, min_tokens=True, token_id_prompts=True
    )

    def fingerprint(self, url: str, timeout_s: float) -> EngineInfo | None:
        server = self.server(url, timeout_s)
        for path in ("/server_info", "/get_server_info"):
            facts = server.get(path).object()
            if "version" in facts and ("model_path" in facts or "tokenizer_path" in facts):
                return self.info(server, facts["version"], names(listed_models(server) or []))
        return None

    def residency(self, url: str, timeout_s: float) -> tuple[Residency, ...] | None:
        server = self.server(url, timeout_s)
        status = server.get("/ready").status
        models = listed_models(server) if status in (200, 503) else None
        if models is None:
            return None
        return tuple(
            Residency(n, "resident" if status == 200 else "loading") for n in names(models)
        )

    def figures(self, url: str, timeout_s: float) -> tuple[LoadFigures, ...]:
        """Of the whole server: ranks are added up, their KV use is the fullest one's."""
        page = self.server(url, timeout_s).get("/metrics")
        values: dict[str, list[float]] = {RUNNING: [], WAITING: [], KV_CACHE: []}
        text = page.body.decode("utf-8", "replace") if page.ok else ""
        model = None
        for s in samples(text, values):
            values[s.name].append(s.value)
            model = s.labels.get("model_name", model)
        if not any(values.values()):
            return ()
        running, waiting, kv = values[RUNNING], values[WAITING], values[KV_CACHE]
        return (
            LoadFigures(
                model,
                running=round(sum(running)) if running else None,
                waiting=round(sum(waiting)) if waiting else None,
                kv_cache_ratio=max(kv) if kv else None,
            ),
        )
