"""SGLang: one model a server. Its `/health` generates a token, so it is never asked."""

from dataclasses import dataclass
from typing import Any, ClassVar

from tokenswarm.engines.control import Server
from tokenswarm.engines.openai import OpenAi, done, listed_models, names
from tokenswarm.engines.prometheus import samples
from tokenswarm.engines.protocol import EngineInfo, Knobs, LoadFigures, Residency
from tokenswarm.engines.sheet import Sheet
from tokenswarm.errors import TargetError

RUNNING = "sglang:num_running_reqs"
WAITING = "sglang:num_queue_reqs"
KV_CACHE = "sglang:token_usage"


@dataclass(frozen=True)
class Sglang(OpenAi):
    """Residency from `/ready`; older servers have none and say nothing."""

    engine: ClassVar[str] = "sglang"
    sheet: ClassVar[Sheet] = Sheet(
        title="SGLang",
        told_by="`/server_info` with `version` and a model's path",
        ready="`/ready`; `/v1/models` where older",
        residency="`/ready`",
        load="its start",
        unload="its end",
        sleep=(
            "`/release_memory_occupation` when idle; without a CPU backup weights are loaded "
            "from disk afterwards"
        ),
        timings="metrics with `--enable-metrics`",
        overload="a queue, or 503",
        quirks=(
            "`/health` generates a token, so it is never asked; has Ollama's routes without "
            "counts; its share is of what is free when it starts."
        ),
    )
    knobs: ClassVar[Knobs] = Knobs(
        exact_length={"ignore_eos": True}, min_tokens=True, token_id_prompts=True
    )

    def fingerprint(self, url: str, timeout_s: float) -> EngineInfo | None:
        server = self.server(url, timeout_s)
        facts = _info(server)
        if not facts:
            return None
        return self.info(server, facts["version"], names(listed_models(server) or []))

    def residency(self, url: str, timeout_s: float) -> tuple[Residency, ...] | None:
        server = self.server(url, timeout_s)
        status = server.get("/ready").status
        models = listed_models(server) if status in (200, 503) else None
        if models is None:
            return None
        return tuple(
            Residency(n, "resident" if status == 200 else "loading") for n in names(models)
        )

    def ready(self, url: str, timeout_s: float) -> bool:
        """By `/ready`, which older servers lack; `/health` would generate a token."""
        server = self.server(url, timeout_s)
        reply = server.get("/ready")
        return listed_models(server) is not None if reply.status == 404 else reply.ok

    def sleep_levels(self, url: str, timeout_s: float) -> tuple[int, ...]:
        """Weights outlast a release only with `--enable-weights-cpu-backup`."""
        about = _info(self.server(url, timeout_s))
        if not about.get("enable_memory_saver"):
            return ()
        return (1,) if about.get("enable_weights_cpu_backup") else (2,)

    def sleep(self, url: str, level: int, timeout_s: float) -> None:
        """TargetError when it is serving: a release while it is not idle kills the server."""
        busy = [f for f in self.figures(url, timeout_s) if f.running or f.waiting]
        if busy:
            raise TargetError(f"{url} is serving: a release of its memory now would kill it")
        done(self.server(url, timeout_s), "/release_memory_occupation", {})

    def wake(self, url: str, level: int, timeout_s: float) -> None:
        server = self.server(url, timeout_s)
        done(server, "/resume_memory_occupation", {})
        if level == 2:
            path = _info(server).get("model_path")
            done(server, "/update_weights_from_disk", {"model_path": path})
            server.post("/flush_cache", {})

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


def _info(server: Server) -> dict[str, Any]:
    """What it says of itself; empty when that is not SGLang's."""
    for path in ("/server_info", "/get_server_info"):
        facts = server.get(path).object()
        if "version" in facts and ("model_path" in facts or "tokenizer_path" in facts):
            return facts
    return {}
