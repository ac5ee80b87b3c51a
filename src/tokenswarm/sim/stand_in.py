"""`python -m tokenswarm.sim.stand_in CONTROL_URL SERVER`: a process for a simulated server.

The simulation serves all of its servers from one process. Whoever starts and stops servers as
processes of their own starts this in place of each: it has the server started, says in its log what
vLLM or SGLang would say, ends with the server, and has it stopped when it is ended itself.
"""

import argparse
import signal
import sys
import time
import urllib.error
import urllib.request
from typing import Any, NoReturn

import msgspec

POLL_S = 0.05
TIMEOUT_S = 5.0
GIB = 2**30


class _Ended(Exception):
    """SIGTERM came."""


def _exchange(url: str, body: object = None) -> Any:
    data = None if body is None else msgspec.json.encode(body)
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=TIMEOUT_S) as reply:
        return msgspec.json.decode(reply.read())


def _say(text: str) -> None:
    print(text, flush=True)


def _phases(state: dict[str, Any]) -> None:
    """The lines of a start that tell memory and times, in each engine's own words."""
    weights, kv = state["weights_bytes"] / GIB, state["kv_bytes"] / GIB
    took = state["weights_s"] or 0.0
    if state["engine"] == "vllm":
        _say(f"INFO [default_loader.py] Loading weights took {took:.2f} seconds")
        _say(f"INFO [gpu_model_runner.py] Model loading took {weights:.2f} GiB and {took:.2f} s")
        _say(f"INFO [gpu_worker.py] Available KV cache memory: {kv:.2f} GiB")
        _say("INFO [core.py] init engine (profile, create kv cache, warmup model) took "
             f"{state['init_s']:.2f} seconds")  # fmt: skip
    else:
        _say(f"Load weight end. elapsed={took:.2f} s, mem usage={weights:.2f} GB.")
        _say(f"KV Cache is allocated. K size: {kv / 2:.2f} GB, V size: {kv / 2:.2f} GB")


def _until_ready(control: str, server: str) -> dict[str, Any]:
    while True:
        state: dict[str, Any] = _exchange(f"{control}/servers")[server]
        if state["start_failure"]:
            _say(f"ERROR {state['start_failure']}")
            raise SystemExit(1)
        if state["state"] not in ("down", "starting"):
            return state
        time.sleep(POLL_S)


def _until_down(control: str, server: str) -> NoReturn:
    while _exchange(f"{control}/servers")[server]["state"] != "down":
        time.sleep(POLL_S * 4)
    _say("ERROR the simulated server has ended")
    raise SystemExit(1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tokenswarm.sim.stand_in", description=__doc__)
    parser.add_argument("control", help="URL of the simulation's control port")
    parser.add_argument("server", help="name of a server of the profile")
    parser.add_argument("--port", type=int, help="where the server listens")
    args = parser.parse_args()
    control = args.control.rstrip("/")

    def end(*_: object) -> None:
        raise _Ended

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    asked = {"server": args.server, "action": "start", "port": args.port}
    try:
        _exchange(f"{control}/servers", asked)
        _say(f"starting simulated server {args.server}")
        _phases(_until_ready(control, args.server))
        _until_down(control, args.server)
    except _Ended:
        _exchange(f"{control}/servers", {"server": args.server, "action": "stop"})
        _say("stopped")
        return 0
    except (OSError, urllib.error.URLError, KeyError, msgspec.DecodeError) as e:
        _say(f"ERROR no simulation with a server {args.server!r} at {control}: {e}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
