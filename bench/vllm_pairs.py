"""`python -m bench.vllm_pairs`: vllm bench serve and tokenswarm in alternating pairs.

Both send the same prompts in the same order, want the same lengths and keep as many requests in
flight, against the same server. Figures are those of `vllm bench serve`, ours by
`tokenswarm report --compat vllm`; medians over the pairs, and how far they are apart. Below stand
what the server itself says of its TTFT, and what each client took of the CPU for a token.

    python -m bench.vllm_pairs --model tinyllama-1.1b --tokenizer DIR/tokenizer \
        --url http://127.0.0.1:40001 [-- COMMAND OF A SERVER TO BE STARTED]
"""

import argparse
import json
import os
import random
import resource
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from tokenswarm.engines import adapter
from tokenswarm.engines.control import Server
from tokenswarm.engines.prometheus import samples
from tokenswarm.launch.process import ProcessLauncher
from tokenswarm.launch.ready import await_ready, refuse_taken
from tokenswarm.launch.start import Start
from tokenswarm.report.compat import by_model
from tokenswarm.scenario.load import load, resolve
from tokenswarm.scenario.plan import Plan
from tokenswarm.store.rundir import RunDir

VLLM = "python3 -m vllm.entrypoints.cli.main bench serve"
MEANS = {"tok_s": "output_throughput", "tpot_ms": "mean_tpot_ms", "ttft_ms": "mean_ttft_ms",
         "tpot_p50_ms": "median_tpot_ms", "ttft_p50_ms": "median_ttft_ms"}  # fmt: skip
ALLOWED = {"tok_s": (0.03, 0.0), "tpot_ms": (0.03, 0.0), "ttft_ms": (0.03, 2.0),
           "tpot_p50_ms": (0.03, 0.0), "ttft_p50_ms": (0.03, 2.0)}  # fmt: skip
"""Figure -> the share and the amount that the medians may be apart, whichever is more."""
RUN_S = 300.0
SERVER_TTFT = "vllm:time_to_first_token_seconds"
WARM_UP = 4  # the run before the pairs has a fourth of the requests


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m bench.vllm_pairs", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    p.add_argument("--url", default="http://127.0.0.1:40001")
    p.add_argument("--model", required=True, help="the server's name of it")
    p.add_argument("--tokenizer", required=True, help="folder for vllm bench serve")
    p.add_argument("--pairs", type=int, default=3)
    p.add_argument("--requests", type=int, default=400)
    p.add_argument("--concurrency", type=int, default=32)
    p.add_argument("--input", type=int, default=64, help="words of a prompt")
    p.add_argument("--output", type=int, default=64, help="tokens of an answer")
    p.add_argument("--words", type=int, default=31000,
                   help="prompts are words t3 to tN, one token each to dummy ones")  # fmt: skip
    p.add_argument("--vllm", default=VLLM, help="its command (%(default)s)")
    p.add_argument("--vllm-path", default="", help="PYTHONPATH for it and the server")
    p.add_argument("--out", type=Path, default=Path("runs/vllm-pairs"))
    p.add_argument("server", nargs="*", help="command of a server to be started, after --")
    return p


def main() -> int:
    a = parser().parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    scenario = write_scenario(a)
    dataset = write_dataset(a, scenario)
    server = start(a) if a.server else None
    try:
        small = pair(a, scenario, dataset, "warm-up", max(1, a.requests // WARM_UP), 0)
        rounds = [pair(a, scenario, dataset, f"pair-{i + 1}", a.requests, i)
                  for i in range(a.pairs)]  # fmt: skip
    finally:
        if server is not None:
            server.stop()
    (a.out / "pairs.json").write_text(json.dumps([small, *rounds], indent=1) + "\n")
    code = verdict(a, rounds)
    beside(a, small, rounds)
    return code


def start(a: argparse.Namespace) -> Any:
    """The server to be measured, ready."""
    port = urlsplit(a.url).port or 80
    refuse_taken("server", port)
    environment = {"PYTHONPATH": a.vllm_path} if a.vllm_path else {}
    what = Start(name="server", argv=tuple(a.server), log=a.out / "server.log",
                 environment=environment, port=port)  # fmt: skip
    server = ProcessLauncher().start(what)
    took = await_ready(server, lambda: adapter("vllm").ready(a.url, 5.0), RUN_S)
    print(f"server ready after {took:.1f} s", flush=True)
    return server


def write_scenario(a: argparse.Namespace) -> Path:
    """The scenario of one run, with a file of prompts."""
    dice = random.Random(20261128)
    texts = [" ".join(f"t{dice.randint(3, a.words)}" for _ in range(a.input))
             for _ in range(a.requests)]  # fmt: skip
    (a.out / "prompts.txt").write_text("\n".join(texts) + "\n")
    made = {
        "name": "vllm-pairs",
        "targets": {"box": {"api": "openai", "engine": "vllm", "url": a.url}},
        "models": [{"name": "model", "target": "box", "model": a.model,
                    "prompt": {"kind": "file", "path": "prompts.txt"},
                    "output": {"tokens": a.output}, "options": {"temperature": 0}}],
        "load": {"kind": "closed", "users": a.concurrency},
        "duration_s": RUN_S, "max_requests": a.requests, "seed": 7,
        "telemetry": {"gpu": {"source": "none"}},
    }  # fmt: skip
    path: Path = a.out / "scenario.yaml"
    path.write_text(yaml.safe_dump(made, sort_keys=False))
    return path


def write_dataset(a: argparse.Namespace, scenario: Path) -> Path:
    """The same prompts in the order in which tokenswarm will send them, for vllm bench serve."""
    plan = Plan(resolve(load(scenario), scenario.parent))
    prompts = [plan.request(i).prompt for i in range(a.requests)]
    path: Path = a.out / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts))
    return path


def pair(
    a: argparse.Namespace, scenario: Path, dataset: Path, name: str, requests: int, number: int
) -> dict[str, dict[str, float]]:
    """One run of each; who goes first changes from pair to pair."""
    sides = {"vllm": lambda: theirs(a, dataset, name, requests),
             "tokenswarm": lambda: ours(a, scenario, name, requests)}  # fmt: skip
    order = list(sides) if number % 2 == 0 else list(reversed(sides))
    found = {side: counted(a, sides[side]) for side in order}
    for side in sides:
        said = ", ".join(f"{k} {v:.2f}" for k, v in found[side].items())
        print(f"{name}, {side}: {said}", flush=True)
    return found


def counted(a: argparse.Namespace, run: Callable[[], dict[str, float]]) -> dict[str, float]:
    """The figures of `run`, with the server's own mean TTFT, where it has it, and the CPU seconds
    that the client took from its start to its end."""
    before, cpu_s = server_ttft(a.url), children_s()
    found = run()
    after = server_ttft(a.url)
    found["cpu_s"] = children_s() - cpu_s
    if count := after[1] - before[1]:
        found["server_ttft_ms"] = (after[0] - before[0]) / count * 1e3
    return found


def server_ttft(url: str) -> tuple[float, float]:
    """Seconds and requests, since its start, of the server's own measure."""
    page = Server(url, 10.0).get("/metrics").body.decode("utf-8", "replace")
    names = (f"{SERVER_TTFT}_sum", f"{SERVER_TTFT}_count")
    found = list(samples(page, names))
    sum_s, count = (sum(s.value for s in found if s.name == name) for name in names)
    return sum_s, count


def children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def ours(a: argparse.Namespace, scenario: Path, name: str, requests: int) -> dict[str, float]:
    out = a.out / "runs" / name
    command = [sys.executable, "-m", "tokenswarm", "run", str(scenario), "--out", str(out),
               "--max-requests", str(requests)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=False)
    runs = sorted(p for p in out.glob("*") if (p / "summary.json").is_file())
    if not runs:
        raise SystemExit(f"tokenswarm run failed ({done.returncode}): {done.stderr[-2000:]}")
    f = by_model(RunDir.open(runs[-1]))["all models"]
    refuse_failures("tokenswarm", f.completed, requests)
    return {"tok_s": number_of(f.output_throughput), "tpot_ms": number_of(f.tpot_ms.mean),
            "ttft_ms": number_of(f.ttft_ms.mean), "tpot_p50_ms": number_of(f.tpot_ms.median),
            "ttft_p50_ms": number_of(f.ttft_ms.median)}  # fmt: skip


def theirs(a: argparse.Namespace, dataset: Path, name: str, requests: int) -> dict[str, float]:
    folder = a.out / "vllm"
    folder.mkdir(exist_ok=True)
    command = [
        *shlex.split(a.vllm), "--backend", "openai-chat", "--base-url", a.url,
        "--endpoint", "/v1/chat/completions", "--model", a.model, "--tokenizer", a.tokenizer,
        "--dataset-name", "custom", "--dataset-path", str(dataset), "--disable-shuffle",
        "--skip-chat-template", "--custom-output-len", str(a.output),
        "--num-prompts", str(requests), "--max-concurrency", str(a.concurrency),
        "--ignore-eos", "--temperature", "0", "--disable-tqdm", "--save-result",
        "--result-dir", str(folder), "--result-filename", f"{name}.json",
    ]  # fmt: skip
    path = {"PYTHONPATH": a.vllm_path} if a.vllm_path else {}
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=False,
                          env={**os.environ, "HF_HUB_OFFLINE": "1", **path})  # fmt: skip
    (folder / f"{name}.txt").write_text(done.stdout + done.stderr)
    file = folder / f"{name}.json"
    if done.returncode or not file.is_file():
        raise SystemExit(f"vllm bench serve failed ({done.returncode}): {done.stderr[-2000:]}")
    found = json.loads(file.read_text())
    refuse_failures("vllm bench serve", found["completed"], requests)
    return {ours_: float(found[name_]) for ours_, name_ in MEANS.items()}


def refuse_failures(who: str, completed: int, requests: int) -> None:
    if completed != requests:
        raise SystemExit(f"{who}: {completed} of {requests} requests went well: no comparison")


def number_of(value: float | None) -> float:
    if value is None:
        raise SystemExit("tokenswarm has no such figure: nothing was measured")
    return value


def verdict(a: argparse.Namespace, rounds: list[dict[str, dict[str, float]]]) -> int:
    """Print medians and differences; 1 when one is larger than allowed."""
    print(f"\n{a.pairs} pairs, {a.requests} requests of {a.input} words and {a.output} tokens, "
          f"{a.concurrency} at a time\n")  # fmt: skip
    print(f"{'figure':<14}{'vllm bench':>12}{'tokenswarm':>12}{'apart':>10}{'allowed':>20}")
    missed = False
    for figure, (share, amount) in ALLOWED.items():
        v, t = medians(rounds, figure)
        within = abs(t - v) <= max(share * v, amount)
        missed |= not within
        limit = f"{share:.0%}" + (f" or {amount:g} ms" if amount else "")
        said = "met" if within else "NOT MET"
        print(f"{figure:<14}{v:>12.2f}{t:>12.2f}{(t / v - 1) * 100:>+9.1f}%{limit:>14} {said}")
    return 1 if missed else 0


def beside(
    a: argparse.Namespace,
    small: dict[str, dict[str, float]],
    rounds: list[dict[str, dict[str, float]]],
) -> None:
    """Print what has no bound: the load may differ (the server knows), the clients' cost does.

    A client's start is left out of its cost: what the larger run took beyond the smaller one."""
    print(f"\n{'':<34}{'vllm bench':>12}{'tokenswarm':>12}")
    if all("server_ttft_ms" in side for r in rounds for side in r.values()):
        v, t = medians(rounds, "server_ttft_ms")
        print(f"{'TTFT by the server itself (ms)':<34}{v:>12.2f}{t:>12.2f}")
        over = [{who: {"over": side["ttft_ms"] - side["server_ttft_ms"]} for who, side in r.items()}
                for r in rounds]  # fmt: skip
        v, t = medians(over, "over")
        print(f"{'what the client measured beyond it':<34}{v:>12.2f}{t:>12.2f}")
    tokens = (a.requests - max(1, a.requests // WARM_UP)) * a.output
    v, t = medians(rounds, "cpu_s")
    v, t = (((large_s - small[who]["cpu_s"]) / tokens * 1e6)
            for who, large_s in (("vllm", v), ("tokenswarm", t)))  # fmt: skip
    print(f"{'CPU a token (us)':<34}{v:>12.1f}{t:>12.1f}")


def medians(rounds: list[dict[str, dict[str, float]]], figure: str) -> tuple[float, float]:
    """Over the pairs: vllm bench serve's, ours."""
    v, t = (statistics.median(r[who][figure] for r in rounds) for who in ("vllm", "tokenswarm"))
    return v, t


if __name__ == "__main__":
    sys.exit(main())
