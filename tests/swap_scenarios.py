"""Scenarios for swaps, drawn from a seed: a simulated box and the load on it.

Figures are a real box's (loads of 1 to 3 s); the box then runs `speed` times faster. What has to
be told apart is drawn apart: a wait that somebody caused is either short beside the 50 ms of the
rule, or long beside what the model's requests wait anyway.
"""

import random
from dataclasses import dataclass, field
from typing import Any

GB = 10**9
Dict = dict[str, Any]


@dataclass
class Drawn:
    """What one seed stands for. `profile` and `scenario` are YAML documents; the scenario's
    target urls are filled in when the box runs."""

    seed: int
    family: str
    speed: float
    profile: Dict
    scenario: Dict
    targets: dict[str, str] = field(default_factory=dict)  # target -> server of the box


def draw(seed: int) -> Drawn:
    """The scenario of `seed`."""
    dice = random.Random(f"swaps/{seed}")
    family = sorted(FAMILIES)[seed % len(FAMILIES)]
    drawn = Drawn(seed, family, round(dice.uniform(3.0, 5.0), 2), {}, {})
    FAMILIES[family](dice, drawn)
    return drawn


# boxes


def model(dice: random.Random, name: str, size_gb: float, **more: Any) -> Dict:
    """One model of the box; its requests take some 100 to 400 ms of a real box's time."""
    return {
        "name": name,
        "file_bytes": int(size_gb * GB),
        "compute_bytes": 100_000_000,
        "kv_bytes_per_token": 20_000,
        "spawn_s": round(dice.uniform(0.05, 0.2), 3),
        "init_s": round(dice.uniform(0.3, 0.8), 3),
        "prefill_s": round(dice.uniform(0.03, 0.06), 4),
        "token_s": round(dice.uniform(0.008, 0.02), 4),
        "train_context": 8192,
        **more,
    }


def box(dice: random.Random, models: list[Dict], room_gb: float, **ollama: Any) -> Dict:
    """A box with an Ollama-like server whose models share `room_gb`."""
    return {
        "name": "drawn",
        "doc": "drawn from a seed",
        "gpu": {
            "name": "Drawn GPU",
            "vram_total_bytes": int(room_gb * GB),
            "context_bytes": 300_000_000,
            "free_lag_s": round(dice.uniform(0.2, 0.5), 2),
            "loading_slowdown": 1.2,
        },
        "host": {
            "disk_bytes_per_s": dice.choice([2e9, 4e9]),
            "cache_bytes_per_s": dice.choice([6e9, 10e9]),
            "cached": dice.random() < 0.5,
        },
        "ollama": {
            "num_parallel": 8,
            "batch_bytes": 0,
            "fit_ratio": 1.0,
            "context_length": 1024,
            "lock_s": 0.02,
            "kill_s": 0.02,
            **ollama,
        },
        "models": models,
    }


def several(dice: random.Random, count: int) -> list[Dict]:
    """Models of 2.0 to 2.9 GB: with context and caches each takes 2.5 to 3.5 GB."""
    return [model(dice, f"m{i}", round(dice.uniform(2.0, 2.9), 2)) for i in range(count)]


# loads


def scenario(dice: random.Random, drawn: Drawn, names: list[str], **changes: Any) -> Dict:
    """A closed loop over the box's models; `changes` go over it."""
    api = changes.pop("api", "ollama")
    each = changes.pop("each", {})
    return {
        "name": f"drawn-{drawn.seed}",
        "targets": {"box": {"api": api}},
        "models": [
            {
                "name": name.replace(":", "-"),
                "model": name,
                "target": "box",
                "weight": round(dice.uniform(1, 3), 2),
                "prompt": {"kind": "text", "text": "what a request says"},
                "output": {"tokens": dice.choice([8, 16, 24])},
                **each.get(name, {}),
            }
            for name in names
        ],
        "mix": {"order": dice.choice(["weighted", "round_robin"])},
        "load": {
            "kind": "closed",
            "users": dice.randint(2, 6),
            "think_s": round(dice.uniform(0.02, 0.2), 3),
        },
        "duration_s": 12,
        "drain_s": 20,
        "telemetry": {
            "gpu": {"interval_s": 0.05},
            "engine": {"interval_s": dice.choice([0.1, 0.15, 0.2])},
        },
        "seed": dice.randint(1, 10**6),
        **changes,
    }


def crowded(dice: random.Random, drawn: Drawn) -> None:
    """Three models, room for two."""
    models = several(dice, 3)
    drawn.profile = box(dice, models, 7.2)
    drawn.scenario = scenario(dice, drawn, [m["name"] for m in models])


def single_room(dice: random.Random, drawn: Drawn) -> None:
    """Two models, room for one: each change of the model is a swap."""
    models = several(dice, 2)
    drawn.profile = box(dice, models, 4.5)
    drawn.scenario = scenario(dice, drawn, [m["name"] for m in models])


def pressure(dice: random.Random, drawn: Drawn) -> None:
    """A large model that throws out two small ones at once, and is thrown out by each."""
    models = [*several(dice, 2), model(dice, "large", 5.0)]
    drawn.profile = box(dice, models, 7.2)
    drawn.scenario = scenario(dice, drawn, [m["name"] for m in models])


def many(dice: random.Random, drawn: Drawn) -> None:
    """Five models in an open loop, two at a time by max_loaded_models."""
    models = several(dice, 5)
    drawn.profile = box(dice, models, 40.0, max_loaded_models=2)
    load = {"kind": "open", "rate": round(dice.uniform(2, 4), 1), "arrivals": "poisson"}
    drawn.scenario = scenario(dice, drawn, [m["name"] for m in models], load=load)


def expiring(dice: random.Random, drawn: Drawn) -> None:
    """Models that go by themselves after a short keep_alive: cold starts, no swaps."""
    models = several(dice, 3)
    drawn.profile = box(dice, models, 40.0, keep_alive_s=round(dice.uniform(1.0, 2.5), 2))
    load = {"kind": "closed", "users": 2, "think_s": round(dice.uniform(0.5, 0.9), 2)}
    drawn.scenario = scenario(dice, drawn, [m["name"] for m in models], load=load)


def pinned(dice: random.Random, drawn: Drawn) -> None:
    """One model stays for ever, the others take turns beside it."""
    models = several(dice, 3)
    drawn.profile = box(dice, models, 7.2)
    each = {"m0": {"keep_alive": -1}, "m1": {"keep_alive": "10m"}}
    drawn.scenario = scenario(dice, drawn, [m["name"] for m in models], each=each)


def hasty(dice: random.Random, drawn: Drawn) -> None:
    """Clients that give up: some loads are aborted."""
    models = several(dice, 3)
    drawn.profile = box(dice, models, 7.2)
    drawn.scenario = scenario(dice, drawn, [m["name"] for m in models])
    patience_s = round(dice.uniform(0.7, 1.0), 2)
    drawn.scenario["targets"]["box"]["total_timeout_s"] = patience_s


def offloaded(dice: random.Random, drawn: Drawn) -> None:
    """A model that is larger than the GPU: a part of it stays with the CPU."""
    models = [*several(dice, 2), model(dice, "huge", 6.5)]
    drawn.profile = box(dice, models, 6.0, offload=True, offload_slowdown=2.0)
    drawn.scenario = scenario(dice, drawn, [m["name"] for m in models])


def crashing(dice: random.Random, drawn: Drawn) -> None:
    """Processes that die in mid-stream."""
    models = several(dice, 3)
    models[0]["knobs"] = {"crash": {"token": 4, "rate": 0.08}}
    drawn.profile = box(dice, models, 7.2)
    drawn.scenario = scenario(dice, drawn, [m["name"] for m in models])


def failing(dice: random.Random, drawn: Drawn) -> None:
    """Processes that die before they are ready."""
    models = several(dice, 3)
    models[1]["knobs"] = {"load_crash_rate": 0.25}
    drawn.profile = box(dice, models, 7.2)
    drawn.scenario = scenario(dice, drawn, [m["name"] for m in models])


def reconfigured(dice: random.Random, drawn: Drawn) -> None:
    """Two sorts of requests that want one model with different contexts, and another model."""
    models = several(dice, 2)
    drawn.profile = box(dice, models, 8.0)
    drawn.scenario = scenario(dice, drawn, ["m0", "m1"], load={"kind": "closed", "users": 2})
    long = {**drawn.scenario["models"][0], "name": "m0-long", "options": {"num_ctx": 4096}}
    drawn.scenario["models"].append({**long, "weight": 0.5})
    drawn.scenario["load"]["think_s"] = round(dice.uniform(0.1, 0.3), 3)


def locked(dice: random.Random, drawn: Drawn) -> None:
    """Starting a runner holds up every request: head-of-line blocking of resident models."""
    models = several(dice, 3)
    drawn.profile = box(dice, models, 7.2, lock_s=round(dice.uniform(0.9, 1.3), 2))
    for each in drawn.profile["models"]:
        each["spawn_s"] = 1.4  # the lock is a part of it
    drawn.scenario = scenario(dice, drawn, [m["name"] for m in models])


def stalling(dice: random.Random, drawn: Drawn) -> None:
    """Copying weights stalls the streams of other models."""
    models = several(dice, 3)
    drawn.profile = box(dice, models, 7.2)
    drawn.profile["gpu"]["loading_slowdown"] = 40.0
    drawn.scenario = scenario(dice, drawn, [m["name"] for m in models])


def slow_prompts(dice: random.Random, drawn: Drawn) -> None:
    """Long prompts take long by themselves: nobody else is to blame."""
    models = several(dice, 3)
    for each in models:
        each["prefill_tokens_per_s"] = 400.0
    drawn.profile = box(dice, models, 7.2)
    prompt = {"kind": "synthetic", "tokens": {"mean": 120, "std": 80, "min": 8, "max": 400}}
    each_one = {m["name"]: {"prompt": prompt} for m in models}
    drawn.scenario = scenario(dice, drawn, [m["name"] for m in models], each=each_one)


def roomy(dice: random.Random, drawn: Drawn) -> None:
    """Everything fits: first cold starts and nothing else."""
    models = several(dice, 3)
    drawn.profile = box(dice, models, 40.0)
    drawn.scenario = scenario(dice, drawn, [m["name"] for m in models], duration_s=5)


def _vllm(dice: random.Random, drawn: Drawn, ratio: float, asleep: bool) -> None:
    models = [model(dice, f"v{i}", round(dice.uniform(2, 4), 1)) for i in range(3)]
    profile = box(dice, models, 30.0)
    profile["ollama"] = None
    profile["servers"] = [
        {
            "name": m["name"],
            "engine": "vllm",
            "model": m["name"],
            "memory_ratio": ratio,
            "asleep": asleep and i > 0,
            "sleep_bytes_per_s": 3e9,
            "wake_bytes_per_s": 3e9,
            "discard_s": 0.06,
        }
        for i, m in enumerate(models)
    ]
    drawn.profile = profile
    drawn.scenario = scenario(dice, drawn, [m["name"] for m in models], api="openai")
    drawn.scenario["targets"] = {m["name"]: {"api": "openai"} for m in models}
    for m in drawn.scenario["models"]:
        m["target"] = m["model"]
    drawn.targets = {m["name"]: m["name"] for m in models}


def sleeping(dice: random.Random, drawn: Drawn) -> None:
    """vLLM servers that take turns, asleep at level 1."""
    _vllm(dice, drawn, 0.8, asleep=True)
    drawn.profile["switcher"] = {"awake": 1, "level": 1}


def sleeping_deeply(dice: random.Random, drawn: Drawn) -> None:
    """The same at level 2: weights are read again after waking."""
    _vllm(dice, drawn, 0.8, asleep=True)
    drawn.profile["switcher"] = {"awake": 1, "level": 2}


def reserved(dice: random.Random, drawn: Drawn) -> None:
    """vLLM servers that all fit: a flat line, no event."""
    _vllm(dice, drawn, 0.3, asleep=False)
    drawn.scenario["duration_s"] = 5


FAMILIES = {
    f.__name__: f
    for f in (
        crowded, single_room, pressure, many, expiring, pinned, hasty, offloaded, crashing,
        failing, reconfigured, locked, stalling, slow_prompts, roomy, sleeping, sleeping_deeply,
        reserved,
    )
}  # fmt: skip
