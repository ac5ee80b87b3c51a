"""A small load tester that speaks vllm bench serve's command line and writes its result file.

It really sends the prompts, one thread a request in flight, and reckons by vllm's formulas, so that
bench/vllm_pairs.py can be tried where vLLM is not installed.
"""

import argparse
import http.client
import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit


def one(a: argparse.Namespace, prompt: str) -> tuple[float, float, int]:
    """TTFT, TPOT (both in ms) and tokens of one request."""
    place = urlsplit(a.base_url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
    body = {"model": a.model, "messages": [{"role": "user", "content": prompt}], "stream": True,
            "max_tokens": a.custom_output_len, "ignore_eos": True, "temperature": 0}  # fmt: skip
    sent = time.perf_counter()
    connection.request("POST", a.endpoint, json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    times = []
    while line := response.readline():
        if line.startswith(b"data: {"):
            choices = json.loads(line[6:])["choices"]
            if choices and "role" not in choices[0]["delta"] and choices[0]["delta"]:
                times.append(time.perf_counter())
    connection.close()
    tpot = (times[-1] - times[0]) / (len(times) - 1)
    return (times[0] - sent) * 1e3, tpot * 1e3, len(times)


def main() -> None:
    p = argparse.ArgumentParser()
    for name in ("base-url", "endpoint", "model", "dataset-path", "result-dir", "result-filename"):
        p.add_argument(f"--{name}")
    for name in ("custom-output-len", "max-concurrency", "num-prompts"):
        p.add_argument(f"--{name}", type=int)
    a, _ = p.parse_known_args()
    prompts = [json.loads(line)["prompt"] for line in Path(a.dataset_path).read_text().splitlines()]
    began = time.perf_counter()
    with ThreadPoolExecutor(a.max_concurrency) as pool:
        found = list(pool.map(lambda prompt: one(a, prompt), prompts[: a.num_prompts]))
    took_s = time.perf_counter() - began
    ttft, tpot, tokens = zip(*found, strict=True)
    result = {
        "completed": len(found), "output_throughput": sum(tokens) / took_s,
        "mean_ttft_ms": statistics.mean(ttft), "median_ttft_ms": statistics.median(ttft),
        "mean_tpot_ms": statistics.mean(tpot), "median_tpot_ms": statistics.median(tpot),
    }  # fmt: skip
    (Path(a.result_dir) / a.result_filename).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
