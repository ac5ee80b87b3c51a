"""vLLM: one model a server; asleep it answers `/health` with 200 and lets requests hang."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tokenswarm.engines.control import Server
from tokenswarm.engines.openai import OpenAi, count, done, listed_models, names
from tokenswarm.engines.prometheus import Sample, samples
from tokenswarm.engines.protocol import EngineInfo, Knobs, LoadFigures, Residency, ResidencyState
from tokenswarm.engines.sheet import Sheet

RUNNING = "vllm:num_requests_running"
WAITING = "vllm:num_requests_waiting"
KV_CACHE = "vllm:kv_cache_usage_perc"
SLEEP = "vllm:engine_sleep_state"
LEVELS = {"weights_offloaded": 1, "discard_all": 2}
SLEEP_GOING_ON = "vllm:sleep_mode_operations_in_flight"
# what of a request's body decides how its prompt is tokenized
PROMPT_FIELDS = ("model", "messages", "prompt", "chat_template_kwargs")


@dataclass(frozen=True)
class Vllm(OpenAi):
    """Residency from `/is_sleeping` (development mode) or the metric of sleep mode; a server
    without either always holds its model."""

    engine: ClassVar[str] = "vllm"
    sheet: ClassVar[Sheet] = Sheet(
        title="vLLM",
        told_by="`/version` with `owned_by: vllm` or `vllm:` metrics",
        ready="`/health` is 200",
        residency="`/is_sleeping`, else the sleep metric; without either always resident",
        load="its start",
        unload="its end",
        sleep="`/sleep?level=`; level 2 wakes weights, reloads them, then wakes the cache",
        timings="metrics of its own",
        overload="a growing queue",
        quirks=(
            "Asleep `/health` is 200 and requests hang; the level is read from the query "
            "alone; its share is of the whole GPU, and a start while another changes its "
            "memory fails."
        ),
    )
    knobs: ClassVar[Knobs] = Knobs(
        exact_length={"ignore_eos": True}, min_tokens=True, token_id_prompts=True, tokenize=True
    )

    def fingerprint(self, url: str, timeout_s: float) -> EngineInfo | None:
        server = self.server(url, timeout_s)
        version = server.get("/version").object().get("version")
        if version is None:
            return None
        models = listed_models(server) or []
        owned = any(m.get("owned_by") == "vllm" for m in models)
        if not owned and b"\nvllm:" not in server.get("/metrics").body:
            return None
        return self.info(server, version, names(models))

    def residency(self, url: str, timeout_s: float) -> tuple[Residency, ...] | None:
        server = self.server(url, timeout_s)
        models = listed_models(server)
        if models is None:
            return None
        state, level = _state(server)
        return tuple(Residency(name, state, sleep_level=level) for name in names(models))

    def figures(self, url: str, timeout_s: float) -> tuple[LoadFigures, ...]:
        """One a model; engines of one model (data parallel) are added up, their KV use averaged."""
        page = self.server(url, timeout_s).get("/metrics")
        values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for s in samples(_text(page.body), (RUNNING, WAITING, KV_CACHE)) if page.ok else ():
            values[s.labels.get("model_name", "")][s.name].append(s.value)
        return tuple(
            LoadFigures(
                model or None,
                running=_total(by_name[RUNNING]),
                waiting=_total(by_name[WAITING]),
                kv_cache_ratio=_mean(by_name[KV_CACHE]),
            )
            for model, by_name in values.items()
        )

    def ready(self, url: str, timeout_s: float) -> bool:
        return self.server(url, timeout_s).get("/health").ok

    def sleep_levels(self, url: str, timeout_s: float) -> tuple[int, ...]:
        """Development mode shows `/is_sleeping`; without `--enable-sleep-mode` sleeping fails."""
        about = self.server(url, timeout_s).get("/is_sleeping").object()
        return (1, 2) if "is_sleeping" in about else ()

    def sleep(self, url: str, level: int, timeout_s: float) -> None:
        """What it is serving is aborted. The level goes into the query: a body is ignored."""
        done(self.server(url, timeout_s), f"/sleep?level={level}&mode=abort", {})

    def wake(self, url: str, level: int, timeout_s: float) -> None:
        server = self.server(url, timeout_s)
        if level == 1:
            done(server, "/wake_up", {})
            return
        done(server, "/wake_up?tags=weights", {})
        try:
            done(server, "/collective_rpc", {"method": "reload_weights"})
        finally:  # without its cache it would take requests and die of them
            done(server, "/wake_up?tags=kv_cache", {})
        server.post("/reset_prefix_cache", {})  # what the cache holds is of the old weights

    def prompt_tokens(self, url: str, body: Mapping[str, Any], timeout_s: float) -> int | None:
        asked = {key: body[key] for key in PROMPT_FIELDS if key in body}
        return count(self.server(url, timeout_s).post("/tokenize", asked).object().get("count"))


def _state(server: Server) -> tuple[ResidencyState, int | None]:
    """Where its weights are, and how deep it sleeps, where it says so.

    Asleep also while it is only partly awake; loading while it wakes up; partial while some of
    its engines (data parallel) sleep and others do not."""
    flag = server.get("/is_sleeping").object().get("is_sleeping")
    if flag is False:
        return "resident", None
    page = server.get("/metrics")
    found = list(samples(_text(page.body), (SLEEP, SLEEP_GOING_ON)) if page.ok else ())
    awake = [s.value for s in found if s.labels.get("sleep_state") == "awake"]
    if flag is None and 0 not in awake:
        return "resident", None
    if any(s.name == SLEEP_GOING_ON and _wakes(s) for s in found):
        return "loading", None
    levels = [LEVELS.get(s.labels.get("sleep_state", "")) for s in found if s.value > 0]
    level = max((level for level in levels if level is not None), default=None)
    return ("partial", None) if any(awake) and 0 in awake else ("asleep", level)


def _wakes(sample: Sample) -> bool:
    return sample.value > 0 and "wake" in sample.labels.get("operation", "")


def _text(body: bytes) -> str:
    return body.decode("utf-8", "replace")


def _total(values: list[float]) -> int | None:
    return round(sum(values)) if values else None


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
