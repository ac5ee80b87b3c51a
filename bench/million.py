"""A run on paper with as many requests as wanted: its spool and manifest, made without a server.

Three models, room for two. Every `TURN_S` the one that is out displaces the one that has been in
longest, loads for `LOAD_S` and keeps its own requests waiting meanwhile. GPU samples at 20 Hz,
polls at 2 Hz. Times are run seconds; the same seed makes the same run.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenswarm.clock import new_run_id
from tokenswarm.store.frame import Pair
from tokenswarm.store.rundir import Manifest, RunDir
from tokenswarm.store.schema import MEASUREMENTS
from tokenswarm.store.spool import Writer

GIB = 2**30
MODELS = ("tinyllama", "qwen2-5_3b", "yi_6b")
BYTES = (1 * GIB, 3 * GIB, 6 * GIB)
TTFT_S = (0.045, 0.085, 0.14)
GAP_US = (4_000, 7_000, 12_000)
TURN_S, LOAD_S, EVICT_S = 12.0, 1.2, 0.15
GPU_HZ, POLL_HZ = 20, 2
T0_NS = 1_795_000_000_000_000_000
RATE = 500.0
FRAME_ROWS = 500
BLOCK_ROWS = 20_000

Array = NDArray[Any]
Cells = dict[str, Array | list[Any] | object]


def make(
    parent: Path, requests: int, tokens: int, rate: float = RATE, workers: int = 2, seed: int = 1
) -> RunDir:
    """Write a run of `requests`, about `tokens` each, at `rate` a second, below `parent`."""
    run = RunDir.create(parent, new_run_id(time.time_ns()))
    duration_s = requests / rate
    spans = [len(range(i, requests, workers)) for i in range(workers)]
    ended = {f"w{i}": _worker(run, i, n, duration_s, tokens, seed) for i, n in enumerate(spans)}
    with Writer(run.spool, "sampler") as writer:
        for pairs in _samples(run.path.name, duration_s):
            _append(writer, pairs)
    run.write_manifest(_manifest(run.path.name, duration_s, ended, seed, rate))
    return run


def telemetry(parent: Path, count: int) -> RunDir:
    """A run without requests: about `count` rows of ticks, generator and GPU samples."""
    run = RunDir.create(parent, new_run_id(time.time_ns()))
    duration_s = count / (4 + 3 * GPU_HZ)
    with Writer(run.spool, "w0") as writer:
        _append(writer, _generator(run.path.name, 0, duration_s))
        rows_left = count - writer.next_seq
        for pairs in _samples(run.path.name, duration_s):
            _append(writer, pairs[: max(0, rows_left)])
            rows_left -= len(pairs)
    run.write_manifest(_manifest(run.path.name, duration_s, {"w0": writer.next_seq}, 1))
    return run


def _manifest(
    run_id: str, duration_s: float, ended: dict[str, int], seed: int, rate: float = RATE
) -> Manifest:
    end = T0_NS + round((duration_s + TURN_S) * 1e9)
    models = [{"name": m, "target": "box", "model": m, "slo": {"ttft_s": 0.5}} for m in MODELS]
    return Manifest(
        run_id=run_id, t0_unix_ns=T0_NS, load_end_unix_ns=T0_NS + round(duration_s * 1e9),
        end_unix_ns=end, tokenswarm="bench", python="", platform="", host="bench", simulated=True,
        seed=seed, ended=ended,
        scenario={"name": "million", "duration_s": duration_s, "models": models,
                  "load": {"kind": "open", "rate": rate}},
        targets={"box": {"engine": "ollama", "version": "0", "simulated": True}},
        telemetry={"gpu": {"kind": "sim"}},
    )  # fmt: skip


def _append(writer: Writer, pairs: list[Pair]) -> None:
    for i in range(0, len(pairs), FRAME_ROWS):
        writer.append(pairs[i : i + FRAME_ROWS])


def rows(measurement: str, count: int, cells: Cells) -> list[Pair]:
    """`count` rows of `measurement`: arrays and lists one value a row, everything else the same."""
    columns = MEASUREMENTS[measurement].columns
    assert not set(cells) - set(columns), set(cells) - set(columns)
    whole = []
    for name in columns:
        cell = cells.get(name)
        if isinstance(cell, np.ndarray):
            cell = cell.tolist()
        whole.append(cell if isinstance(cell, list) else [cell] * count)
    return [(measurement, list(row)) for row in zip(*whole, strict=True)]


def _ns(at_s: Array) -> Array:
    return T0_NS + np.round(at_s * 1e9).astype(np.int64)


def absent(turn: Array) -> Array:
    """The model that is out during each turn; the one out in the turn before comes in for it."""
    return turn % len(MODELS)


# -- requests -------------------------------------------------------------------------------------
def _worker(run: RunDir, index: int, mine: int, duration_s: float, tokens: int, seed: int) -> int:
    rng = np.random.default_rng([seed, index])
    sent = np.sort(rng.uniform(0, duration_s, mine))
    with Writer(run.spool, f"w{index}") as writer:
        for at in range(0, mine, BLOCK_ROWS):
            block = sent[at : at + BLOCK_ROWS]
            _append(writer, _requests(run.path.name, index, at, block, tokens, rng))
        _append(writer, _generator(run.path.name, index, duration_s))
        return writer.next_seq


def _waits(sent: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """(model, seconds until the model was ready) of requests sent at `sent`."""
    turn = (sent / TURN_S).astype(np.int64)
    out = absent(turn)
    model = (out + rng.integers(1, len(MODELS), len(sent))) % len(MODELS)
    since = sent - turn * TURN_S
    comes_in = model == (out + len(MODELS) - 1) % len(MODELS)
    return model, np.where(comes_in & (since < LOAD_S), LOAD_S - since, 0.002)


def _gaps(model: Array, tokens: int, rng: np.random.Generator) -> tuple[list[list[int]], Array]:
    """Token gaps of each request in us with the first one's 0, and their number."""
    count = rng.integers(max(2, tokens // 2), tokens * 3 // 2 + 1, len(model))
    usual = np.repeat(np.asarray(GAP_US)[model], count)
    flat = np.maximum(0, rng.normal(usual, usual / 8)).astype(np.int64)
    ends = np.cumsum(count)
    flat[ends - count] = 0
    whole, last = flat.tolist(), 0
    lists = []
    for end in ends.tolist():
        lists.append(whole[last:end])
        last = end
    return lists, count


def _requests(
    run_id: str, worker: int, first: int, sent: Array, tokens: int, rng: np.random.Generator
) -> list[Pair]:
    n = len(sent)
    model, load = _waits(sent, rng)
    gaps, count = _gaps(model, tokens, rng)
    ttft = load + np.asarray(TTFT_S)[model] * rng.uniform(0.9, 1.4, n)
    span = np.array([sum(g) for g in gaps]) / 1e6
    failed = rng.random(n) < 0.002
    kinds: list[object] = ["in_stream" if f else None for f in failed]
    texts: list[object] = [
        f"busy: <script>{i}</script>" if k else None for i, k in enumerate(kinds)
    ]
    t_first, t_last = sent + ttft, sent + ttft + span
    cells: Cells = {
        "time_ns": _ns(t_last), "run_id": run_id, "model": np.asarray(MODELS)[model],
        "target": "box", "engine": "ollama", "worker": f"w{worker}", "endpoint": "chat",
        "status": np.where(failed, "error", "ok"), "phase": "steady",
        "id": [f"w{worker}-{i}" for i in range(first, first + n)],
        "plan_index": np.arange(first, first + n), "t_intended_s": sent, "t_sent_s": sent,
        "t_headers_s": sent + load, "t_first_event_s": t_first, "t_first_token_s": t_first,
        "t_first_visible_s": t_first, "t_last_token_s": t_last, "t_end_s": t_last + 1e-4,
        "ttft_s": ttft, "ttft_user_s": ttft, "e2e_s": ttft + span, "tpot_s": span / (count - 1),
        "itl_p50_s": span / (count - 1), "itl_p95_s": span / (count - 1) * 1.2,
        "itl_p99_s": span / (count - 1) * 1.3,
        "max_stall_s": np.array([max(g) for g in gaps]) / 1e6,
        "prompt_tokens": rng.integers(8, 512, n), "output_tokens": count, "token_events": count,
        "token_source": "native", "output_tokens_wanted": count, "server_total_s": ttft + span,
        "server_load_s": load, "server_prompt_eval_s": ttft - load, "server_eval_s": span,
        "http_status": 200, "error_kind": kinds,
        "error_text": texts, "finish_reason": "stop", "bytes_received": count * 120,
        "slo_ok": (ttft <= 0.5) & ~failed, "gaps_us": gaps,
    }  # fmt: skip
    return rows("request", n, cells)


def _generator(run_id: str, worker: int, duration_s: float) -> list[Pair]:
    at = np.arange(1, int(duration_s) + 1, dtype=np.float64)
    n = len(at)
    common: Cells = {"time_ns": _ns(at), "run_id": run_id, "worker": f"w{worker}"}
    said: Cells = {
        "loop_lag_s": 0.002, "late_starts": 0, "late_max_s": 0.001, "cpu_ratio": 0.4, "users": 64,
        "rss_bytes": 90_000_000, "records_written": 1, "records_waiting": 0, "records_dropped": 0,
    }  # fmt: skip
    made = rows("generator", n, common | said)
    for i, model in enumerate(MODELS):
        each: Cells = {"time_ns": _ns(at) + i + 1, "model": model, "target": "box",
                       "engine": "ollama", "token_events": 9000, "started": 83, "done": 83,
                       "failed": 0, "in_flight": 20, "interval_s": 1.0}  # fmt: skip
        made += rows("tick", n, common | each)
    return made


# -- what samplers saw ----------------------------------------------------------------------------
def held(model: int, at: Array) -> Array:
    """Bytes that `model` holds at each moment: filling while it loads, gone once displaced."""
    turn = (at / TURN_S).astype(np.int64)
    since = at - turn * TURN_S
    out = absent(turn) == model
    comes_in = (absent(turn) + len(MODELS) - 1) % len(MODELS) == model
    share = np.clip((since - EVICT_S) / (LOAD_S - EVICT_S), 0, 1)
    kept = np.where(out, since < EVICT_S, np.where(comes_in, share * 0.95 + 0.05, 1.0))
    kept = np.where(comes_in & (since < EVICT_S), 0.0, kept)
    return np.asarray(kept * BYTES[model], dtype=np.int64)


def _samples(run_id: str, duration_s: float) -> Iterator[list[Pair]]:
    parts: tuple[tuple[int, Callable[[str, Array], list[Pair]]], ...] = (
        (GPU_HZ, _gpu),
        (POLL_HZ, _polls),
    )
    for hz, made in parts:
        times = np.arange(0, duration_s, 1 / hz)
        for i in range(0, len(times), BLOCK_ROWS):
            yield made(run_id, times[i : i + BLOCK_ROWS])


def _gpu(run_id: str, at: Array) -> list[Pair]:
    used = [held(i, at) for i in range(len(MODELS))]
    common: Cells = {"run_id": run_id, "host": "bench", "gpu": "gpu0"}
    said: Cells = {
        "time_ns": _ns(at), "vram_total_bytes": 12 * GIB, "vram_used_bytes": sum(used) + GIB // 2,
        "util_ratio": 0.7, "power_w": 300.0, "source": "sim",
    }  # fmt: skip
    made = rows("gpu", len(at), common | said)
    for i, model in enumerate(MODELS):
        there = used[i] > 0
        turn = (at[there] / TURN_S).astype(np.int64)
        came = turn - (turn - 1 - i) % len(MODELS)  # the turn in which it came in
        each: Cells = {"time_ns": _ns(at[there]) + i + 1, "model": model, "container": "none",
                       "pid": 1000 + 10 * came + i, "vram_used_bytes": used[i][there]}  # fmt: skip
        made += rows("gpu_process", int(there.sum()), common | each)
    return made


def _polls(run_id: str, at: Array) -> list[Pair]:
    common: Cells = {"run_id": run_id, "target": "box", "engine": "ollama"}
    poll: Cells = {"time_ns": _ns(at), "model": "none", "poll_s": 0.003, "poll_ok": True}
    made = rows("engine", len(at), common | poll)
    for i, model in enumerate(MODELS):
        ready = held(i, at) >= BYTES[i]
        each: Cells = {
            "time_ns": _ns(at) + i + 1, "model": model,
            "state": np.where(ready, "resident", "absent"),
            "vram_bytes": [BYTES[i] if r else None for r in ready],
        }  # fmt: skip
        made += rows("residency", len(at), common | each)
    return made
