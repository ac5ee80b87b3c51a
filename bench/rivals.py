"""Other load testers beside tokenswarm, on one server: what each takes of the CPU for a token, and
how far the mean TTFT that it reports is from the server's own.

Give the command of each that is to be measured; what is not given is left out. They want a folder
with a tokenizer (`python -m bench.random_models` writes one).
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench import worker
from bench.measure import CLIENT_CORE, OTHERS_RATIO, SERVER_CORE, idle_s
from bench.server import BenchError, Server, Timing, pinned
from tokenswarm.report.compat import by_model
from tokenswarm.scenario.model import SyntheticPrompt
from tokenswarm.store.rundir import RunDir

LIMIT_S = 300.0
PROMPT = 64
SMALL = 4  # a first run has a fourth of the requests: its cost is that of starting


@dataclass(frozen=True, slots=True)
class Asked:
    """One load: what a client is told."""

    url: str
    requests: int
    streams: int
    tokens: int
    tokenizer: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Said:
    """What a client says of its requests."""

    requests: int
    ttft_ms: float
    itl_ms: float


@dataclass(frozen=True, slots=True)
class Client:
    """`argv` follows its command; `said` reads what it left in the folder."""

    argv: Callable[[Asked], list[str]]
    said: Callable[[Asked], Said]


class Seen(msgspec.Struct, frozen=True):
    """One run. `ttft_ms`, `itl_ms`: the client's means; `off` ones: minus the server's own.
    `peak_bytes`: of its largest process."""

    client: str
    requests: int
    ttft_ms: float
    ttft_off_ms: float
    itl_off_ms: float
    cpu_s: float
    tokens: int
    peak_bytes: int
    others_ratio: float


# -- the clients
def _vllm(a: Asked) -> list[str]:
    prompt = " ".join(f"t{i}" for i in range(3, 3 + PROMPT))
    data = a.folder / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for _ in range(a.requests)))
    return ["--backend", "openai-chat", "--base-url", a.url, "--endpoint", "/v1/chat/completions",
            "--model", "bench", "--tokenizer", a.tokenizer, "--dataset-name", "custom",
            "--dataset-path", str(data), "--skip-chat-template", "--ignore-eos",
            "--custom-output-len", str(a.tokens), "--num-prompts", str(a.requests),
            "--max-concurrency", str(a.streams), "--disable-tqdm", "--save-result",
            "--result-dir", str(a.folder), "--result-filename", "vllm.json"]  # fmt: skip


def _vllm_said(a: Asked) -> Said:
    found = _json(a.folder / "vllm.json")
    return Said(found["completed"], found["mean_ttft_ms"], found["mean_tpot_ms"])


def _guidellm(a: Asked) -> list[str]:
    return ["run", "--backend", f"kind=openai_http,target={a.url},model=bench",
            "--profile", f"kind=concurrent,streams={a.streams}",
            "--constraint", f"kind=max_requests,count={a.requests}",
            "--tokenizer", f"kind=hf_auto,model={a.tokenizer}",
            "--data", f"kind=synthetic_text,prompt_tokens={PROMPT},output_tokens={a.tokens}",
            "--output", f"kind=json,path={a.folder / 'guidellm.json'}",
            "--disable-console"]  # fmt: skip


def _guidellm_said(a: Asked) -> Said:
    metrics = _json(a.folder / "guidellm.json")["benchmarks"][0]["metrics"]
    ttft = metrics["time_to_first_token_ms"]["successful"]
    itl = metrics["inter_token_latency_ms"]["successful"]
    return Said(ttft["count"], ttft["mean"], itl["mean"])


def _aiperf(a: Asked) -> list[str]:
    return ["profile", "--model", "bench", "--url", a.url, "--endpoint-type", "chat",
            "--streaming", "--concurrency", str(a.streams), "--request-count", str(a.requests),
            "--tokenizer", a.tokenizer, "--synthetic-input-tokens-mean", str(PROMPT),
            "--output-tokens-mean", str(a.tokens), "--extra-inputs", "ignore_eos:true",
            "--ui", "none", "--artifact-dir", str(a.folder / "aiperf")]  # fmt: skip


def _aiperf_said(a: Asked) -> Said:
    found = _json(a.folder / "aiperf" / "profile_export_aiperf.json")
    ttft, itl = found["time_to_first_token"]["avg"], found["inter_token_latency"]["avg"]
    return Said(int(found["request_count"]["avg"]), ttft, itl)


def _genai_bench(a: Asked) -> list[str]:
    return ["benchmark", "--api-backend", "openai", "--api-base", a.url, "--api-key", "none",
            "--api-model-name", "bench", "--model-tokenizer", a.tokenizer,
            "--task", "text-to-text", "--traffic-scenario", f"D({PROMPT},{a.tokens})",
            "--num-concurrency", str(a.streams), "--max-requests-per-run", str(a.requests),
            "--max-time-per-run", str(int(LIMIT_S / 60)), "--metrics-time-unit", "ms",
            "--experiment-base-dir", str(a.folder / "genai-bench")]  # fmt: skip


def _genai_bench_said(a: Asked) -> Said:
    (file,) = (a.folder / "genai-bench").glob("*/*_num_concurrency_*.json")
    found = _json(file)["aggregated_metrics"]
    stats = found["stats"]
    requests = found["num_completed_requests"]
    return Said(requests, stats["ttft"]["mean"], stats["tpot"]["mean"])


def _inference_perf(a: Asked) -> list[str]:
    config = {
        "load": {"type": "concurrent", "num_workers": 1,
                 "stages": [{"num_requests": a.requests, "concurrency_level": a.streams}]},
        "api": {"type": "chat", "streaming": True},
        "server": {"type": "vllm", "model_name": "bench", "base_url": a.url, "ignore_eos": True},
        "tokenizer": {"pretrained_model_name_or_path": a.tokenizer},
        "data": {"type": "mock"},
        "storage": {"local_storage": {"path": str(a.folder / "inference-perf")}},
    }  # fmt: skip
    file = a.folder / "inference-perf.yaml"
    file.write_bytes(msgspec.yaml.encode(config))
    return ["-c", str(file)]


def _inference_perf_said(a: Asked) -> Said:
    found = _json(a.folder / "inference-perf" / "summary_lifecycle_metrics.json")["successes"]
    ttft = found["latency"]["time_to_first_token"]["mean"]
    itl = found["latency"]["time_per_output_token"]["mean"]
    return Said(found["count"], ttft * 1e3, itl * 1e3)


def _tokenswarm(a: Asked) -> list[str]:
    content = worker.scenario("openai", a.url, a.streams, LIMIT_S, a.tokens)
    model = msgspec.structs.replace(content.models[0], prompt=SyntheticPrompt(tokens=PROMPT))
    content = msgspec.structs.replace(content, models=[model], max_requests=a.requests)
    return ["run", str(worker.write(a.folder, content)), "--out", str(a.folder / "runs")]


def _tokenswarm_said(a: Asked) -> Said:
    (run,) = (a.folder / "runs").iterdir()
    f = by_model(RunDir.open(run))["all models"]
    if f.ttft_ms.mean is None or f.tpot_ms.mean is None:
        raise BenchError("tokenswarm measured nothing")
    return Said(f.completed, f.ttft_ms.mean, f.tpot_ms.mean)


CLIENTS = {
    "tokenswarm": Client(_tokenswarm, _tokenswarm_said),
    "vllm": Client(_vllm, _vllm_said),
    "guidellm": Client(_guidellm, _guidellm_said),
    "aiperf": Client(_aiperf, _aiperf_said),
    "genai-bench": Client(_genai_bench, _genai_bench_said),
    "inference-perf": Client(_inference_perf, _inference_perf_said),
}
OURS = f"{sys.executable} -m tokenswarm"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    for name in CLIENTS:
        default = OURS if name == "tokenswarm" else ""
        parser.add_argument(f"--{name}", metavar="COMMAND", default=default,
                            help="its command" + (" (ours)" if default else ""))  # fmt: skip
    parser.add_argument("--tokenizer", default="", help="folder with a tokenizer")
    parser.add_argument("--requests", type=int, default=800)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--itl-ms", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write every figure to this file")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; there is no budget: 0."""
    commands = {name: shlex.split(getattr(arguments, name.replace("-", "_"))) for name in CLIENTS}
    wanted = [name for name, command in commands.items() if command]
    small: dict[str, list[Seen]] = {name: [] for name in wanted}
    large: dict[str, list[Seen]] = {name: [] for name in wanted}
    for number in range(arguments.rounds):
        turn = number % len(wanted)
        for name in wanted[turn:] + wanted[:turn]:
            for seen, requests in (
                (small, max(1, arguments.requests // SMALL)), (large, arguments.requests),
            ):  # fmt: skip
                seen[name].append(measure(name, commands[name], arguments, requests))
                print(line(seen[name][-1]), file=sys.stderr, flush=True)
    print(table(small, large))
    left_out = [name for name in CLIENTS if name not in wanted]
    if left_out:
        print(f"left out, for want of a command: {', '.join(left_out)}")
    if arguments.json:
        content = {"small": small, "large": large}
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
    return 0


def measure(name: str, command: list[str], arguments: argparse.Namespace, requests: int) -> Seen:
    """One run of one client against a server of its own."""
    timing = Timing(tokens=arguments.tokens, itl_ms=arguments.itl_ms)
    with (
        tempfile.TemporaryDirectory(prefix="tokenswarm-bench-") as folder,
        Server("openai", timing, SERVER_CORE) as server,
    ):
        asked = Asked(server.url, requests, arguments.streams, arguments.tokens,
                      arguments.tokenizer, Path(folder))  # fmt: skip
        argv = [*command, *CLIENTS[name].argv(asked)]
        cpu_s, peak_bytes, others = play(name, argv, asked.folder)
        said = CLIENTS[name].said(asked)
        rows = [row for row in server.log() if row.tokens == arguments.tokens]
        tokens = server.stats().tokens
    ttft = statistics.mean((r.first_ns - r.received_ns) / 1e6 for r in rows)
    itl = statistics.mean((r.last_ns - r.first_ns) / 1e6 / (r.tokens - 1) for r in rows)
    return Seen(name, said.requests, said.ttft_ms, said.ttft_ms - ttft, said.itl_ms - itl, cpu_s,
                tokens, peak_bytes, others)  # fmt: skip


def play(name: str, argv: list[str], folder: Path) -> tuple[float, int, float]:
    """CPU seconds and peak memory of a command run to its end on the clients' core, and the share
    of that core that someone else used. What it leaves where it runs, it leaves in `folder`."""
    with tempfile.TemporaryFile() as output:
        began_s, idle = time.monotonic(), idle_s(CLIENT_CORE)
        with pinned(CLIENT_CORE):
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output,
                                       stderr=output, cwd=folder)  # fmt: skip
        status, used = _ended(process.pid, name)
        process.returncode = status
        took_s, idle = time.monotonic() - began_s, idle_s(CLIENT_CORE) - idle
        if status:
            output.seek(0)
            said = output.read().decode(errors="replace")[-2000:]
            raise BenchError(f"{name} ended with {status}: {said}")
    cpu_s = used.ru_utime + used.ru_stime
    return cpu_s, used.ru_maxrss * 1024, max(0.0, 1 - (idle + cpu_s) / took_s)


def _ended(pid: int, name: str) -> tuple[int, Any]:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        found, status, used = os.wait4(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), used
        time.sleep(0.05)
    os.kill(pid, 9)
    os.wait4(pid, 0)
    raise BenchError(f"{name} did not end in {LIMIT_S:.0f} s")


def table(small: dict[str, list[Seen]], large: dict[str, list[Seen]]) -> str:
    """Medians over the rounds; CPU a token from what the larger run took beyond the smaller."""
    lines = [f"{'client':<16}{'us/token':>10}{'x ours':>8}{'start s':>9}{'TTFT off ms':>13}"
             f"{'ITL off us':>12}{'MiB':>7}"]  # fmt: skip
    ours = cost(small["tokenswarm"], large["tokenswarm"])[0] if "tokenswarm" in small else None
    for name in small:
        us, start_s = cost(small[name], large[name])
        times = "-" if not ours else f"{us / ours:.1f}"
        off, itl = (statistics.median(getattr(s, f) for s in large[name])
                    for f in ("ttft_off_ms", "itl_off_ms"))  # fmt: skip
        peak = statistics.median(s.peak_bytes for s in large[name]) / 2**20
        lines.append(f"{name:<16}{us:>10.1f}{times:>8}{start_s:>9.1f}{off:>+13.2f}"
                     f"{itl * 1e3:>+12.1f}{peak:>7.0f}")  # fmt: skip
    return "\n".join(lines)


def cost(small: list[Seen], large: list[Seen]) -> tuple[float, float]:
    """Microseconds a token, and the CPU seconds that are there without any; medians of rounds."""
    each = [(b.cpu_s - a.cpu_s) / (b.tokens - a.tokens) for a, b in zip(small, large, strict=True)]
    starts = [a.cpu_s - us * a.tokens for a, us in zip(small, each, strict=True)]
    return statistics.median(each) * 1e6, statistics.median(starts)


def line(seen: Seen) -> str:
    """One run, as it ends."""
    others = f", others used {seen.others_ratio:.0%}" if seen.others_ratio > OTHERS_RATIO else ""
    return (f"{seen.client}: {seen.requests} requests, TTFT {seen.ttft_ms:.2f} ms "
            f"({seen.ttft_off_ms:+.2f}), {seen.cpu_s:.2f} s CPU{others}")  # fmt: skip


def _json(path: Path) -> Any:
    return json.loads(path.read_text())
