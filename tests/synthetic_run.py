"""A small Ollama-like server on paper: rows of a run whose every load is known.

One scheduler serves requests in order of arrival; `slots` models fit into memory; a request for
another evicts the one used longest ago, once its requests have ended, and then loads, while
everybody behind it waits. Times are run seconds.
"""

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tokenswarm.store.rundir import Manifest, RunDir
from tokenswarm.store.schema import MEASUREMENTS
from tokenswarm.store.spool import Writer

T0_NS = 1_795_000_000_000_000_000
RUN_ID = "20261122t163015z-k3f9qa"
GIB = 2**30
SIZES = {"tinyllama": 1 * GIB, "qwen": 3 * GIB, "yi": 6 * GIB}
Row = list[Any]


def ns(at_s: float) -> int:
    """Wall clock in ns at `at_s` on the run's clock."""
    return T0_NS + round(at_s * 1e9)


def row(measurement: str, **values: Any) -> Row:
    """A row of `measurement`: `at_s` becomes time_ns, tags default to `none`, fields to None."""
    m = MEASUREMENTS[measurement]
    time_ns = ns(values.pop("at_s", 0.0))
    cells = {"run_id": RUN_ID} | values
    unknown = set(cells) - set(m.columns)
    assert not unknown, unknown
    tags = [cells.get(tag, "none") for tag in m.tags]
    return [time_ns, *tags, *(cells.get(f.name) for f in m.fields)]


def request(
    model: str,
    sent: float,
    ttft: float | None = 0.05,
    tokens: int = 4,
    gap_s: float = 0.01,
    **more: Any,
) -> Row:
    """One streamed request; without `ttft` it never saw a token and ends after `end` seconds."""
    end = more.pop("end", 1.0)
    cells: dict[str, Any] = {
        "target": "box", "engine": "ollama", "worker": "w0", "endpoint": "chat", "status": "ok",
        "phase": "steady", "id": f"{model}@{sent:g}", "t_sent_s": sent, "t_end_s": sent + end,
        "t_intended_s": sent, "prompt_tokens": 10, "token_events": 0,
    }  # fmt: skip
    if ttft is not None:
        gaps = [0] + [round(gap_s * 1e6)] * (tokens - 1)
        last = sent + ttft + sum(gaps) / 1e6
        cells |= {
            "t_first_token_s": sent + ttft, "t_last_token_s": last, "t_end_s": last,
            "ttft_s": ttft, "ttft_user_s": ttft, "e2e_s": last - sent,
            "tpot_s": gap_s if tokens > 1 else None, "max_stall_s": gap_s if tokens > 1 else None,
            "output_tokens": tokens, "token_events": tokens, "token_source": "native",
            "gaps_us": gaps,
        }  # fmt: skip
    cells |= more
    return row("request", model=model, at_s=cells["t_end_s"], **cells)


@dataclass
class Load:
    """The truth of one load."""

    model: str
    victim: str | None
    trigger: str
    t0: float
    evict: float
    start: float
    ready: float


@dataclass
class Story:
    """Rows by measurement, and the truth behind them."""

    rows: dict[str, list[Row]] = field(default_factory=dict)
    loads: list[Load] = field(default_factory=list)
    duration_s: float = 0.0

    def put(self, measurement: str, made: Row) -> None:
        self.rows.setdefault(measurement, []).append(made)

    def pairs(self) -> list[tuple[str, Row]]:
        """Every row with its measurement, by time."""
        flat = [(name, made) for name, rows in self.rows.items() for made in rows]
        return sorted(flat, key=lambda p: p[1][0])


def story(
    *,
    seed: int = 1,
    users: int = 4,
    duration_s: float = 60.0,
    slots: int = 2,
    think_s: float = 0.3,
    weights: tuple[float, float, float] = (6, 3, 1),
) -> Story:
    """A closed loop of `users` over three models, of which `slots` fit."""
    rng = random.Random(seed)
    told = Story()
    server = _Server(slots)
    queue = [(rng.uniform(0, 1), u) for u in range(users)]
    heapq.heapify(queue)
    number = 0
    while queue:
        sent, user = heapq.heappop(queue)
        if sent > duration_s:
            continue
        number += 1
        model = rng.choices(list(SIZES), weights)[0]
        name = f"w0-{number}"
        ready = server.grant(model, sent, name, told.loads)
        ttft = ready - sent + 0.02 * SIZES[model] / GIB * rng.uniform(0.9, 1.3) + 0.02
        gap = 0.004 + 0.003 * SIZES[model] / GIB
        made = request(
            model,
            sent,
            ttft,
            rng.randint(40, 80),
            gap,
            id=name,
            server_load_s=ready - sent,
            slo_ok=ttft <= 0.5,
        )
        told.put("request", made)
        end = (made[0] - T0_NS) / 1e9
        server.busy[model] = max(server.busy.get(model, 0.0), end)
        heapq.heappush(queue, (end + rng.expovariate(1 / think_s), user))
    told.duration_s = max(duration_s, *((r[0] - T0_NS) / 1e9 for r in told.rows["request"]))
    _watch(told)
    return told


class _Server:
    """The scheduler: who is in memory, until when each is busy, until when nobody gets through."""

    def __init__(self, slots: int):
        self.slots = slots
        self.used: dict[str, float] = {}  # model -> last use
        self.busy: dict[str, float] = {}
        self.free_at = 0.0

    def grant(self, model: str, sent: float, name: str, loads: list[Load]) -> float:
        at = max(sent + 0.003, self.free_at)
        if model not in self.used:
            at = self._load(model, sent, at, name, loads)
        self.used[model] = at
        return at

    def _load(self, model: str, sent: float, at: float, name: str, loads: list[Load]) -> float:
        victim = min(self.used, key=self.used.__getitem__) if len(self.used) >= self.slots else None
        start = at
        if victim is not None:
            at = max(at, self.busy[victim])
            start = at + 0.15
            del self.used[victim]
        ready = start + 0.3 + 0.25 * SIZES[model] / GIB
        loads.append(Load(model, victim, name, sent, at, start, ready))
        self.free_at = ready
        return ready


def _watch(told: Story) -> None:
    """What a poller (2 Hz) and a GPU sampler (20 Hz) see of the loads."""
    for i in range(int(told.duration_s * 2) + 2):
        at = i / 2 + 0.013
        told.put("engine", row("engine", at_s=at, target="box", engine="ollama", poll_ok=True))
        for model, size in SIZES.items():
            held = _memory(told.loads, model, at, ready_only=True)
            told.put(
                "residency",
                row(
                    "residency", at_s=at + 1e-6, target="box", engine="ollama", model=model,
                    state="resident" if held else "absent", vram_bytes=size if held else None,
                ),
            )  # fmt: skip
    for i in range(int(told.duration_s * 20) + 2):
        at = i / 20
        used = {m: _memory(told.loads, m, at) for m in SIZES}
        told.put(
            "gpu",
            row(
                "gpu", at_s=at, host="box", gpu="gpu0", source="sim", vram_total_bytes=12 * GIB,
                vram_used_bytes=GIB // 2 + sum(used.values()),
            ),
        )  # fmt: skip
        for model, held in used.items():
            if held:
                pid = 100 + sum(k.start <= at for k in told.loads if k.model == model)
                told.put(
                    "gpu_process",
                    row(
                        "gpu_process", at_s=at, host="box", gpu="gpu0", model=model, pid=pid,
                        vram_used_bytes=held,
                    ),
                )  # fmt: skip


def _memory(loads: Sequence[Load], model: str, at: float, *, ready_only: bool = False) -> int:
    """Bytes that `model` holds at `at`: filling from load start to ready, gone when evicted."""
    coming = [k for k in loads if k.model == model and k.start <= at]
    going = [k for k in loads if k.victim == model and k.evict <= at]
    if not coming or (going and going[-1].evict >= coming[-1].start):
        return 0
    load = coming[-1]
    if at >= load.ready:
        return SIZES[model]
    share = (at - load.start) / (load.ready - load.start)
    return 0 if ready_only else int(SIZES[model] * (0.05 + 0.95 * share))


def polls_of_generator(seconds: int, **more: Any) -> list[Row]:
    """What a load generator in order says of itself each second."""
    said = {"loop_lag_s": 0.004, "late_starts": 0, "cpu_ratio": 0.2, "records_dropped": 0} | more
    return [row("generator", at_s=i + 1.0, worker="w0", **said) for i in range(seconds)]


def scenario(**more: Any) -> dict[str, Any]:
    """A scenario object such as a manifest holds."""
    models = [{"name": m, "target": "box", "model": m, "slo": {"ttft_s": 0.5}} for m in SIZES]
    return {
        "name": "three-models",
        "targets": {"box": {"api": "ollama", "url": "http://127.0.0.1:1"}},
        "models": models,
        "load": {"kind": "closed", "users": 4, "think_s": 0.3},
        "duration_s": 60.0,
        "gates": [],
    } | more


def manifest(told: Story, *, ended: bool = True, **more: Any) -> Manifest:
    """The manifest of `told`; not `ended`: the run was killed."""
    values: dict[str, Any] = {
        "run_id": RUN_ID, "t0_unix_ns": T0_NS, "tokenswarm": "0.1.0", "python": "3.11.2",
        "platform": "Linux", "host": "box", "scenario": scenario(), "simulated": True, "seed": 7,
        "targets": {"box": {"engine": "ollama", "version": "0.33.0", "simulated": True}},
        "telemetry": {"gpu": {"kind": "sim"}},
    }  # fmt: skip
    if ended:
        values["load_end_unix_ns"] = ns(min(60.0, told.duration_s))
        values["end_unix_ns"] = ns(told.duration_s)
    return Manifest(**(values | more))


def write_run(parent: Path, told: Story, facts: Manifest | None = None) -> RunDir:
    """A run directory of `told`: manifest and spool (one worker, one sampler)."""
    run = RunDir.create(parent, RUN_ID)
    workers = ("request", "tick", "generator")
    mine = [p for p in told.pairs() if p[0] in workers]
    theirs = [p for p in told.pairs() if p[0] not in workers]
    for source, pairs in (("w0", mine), ("sampler", theirs)):
        with Writer(run.spool, source, check=True) as writer:
            for i in range(0, len(pairs), 500):
                writer.append(pairs[i : i + 500])
    facts = facts or manifest(told)
    if facts.end_unix_ns is not None and not facts.ended:
        facts = msgspec.structs.replace(facts, ended={"w0": len(mine)})
    run.write_manifest(facts)
    return run
