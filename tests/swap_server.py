"""llama-cpp-python's server: several models, one in memory, loaded anew at each change.

with swap_server({"a": one, "b": other}, folder) as server: ...
"""

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tokenswarm.engines.control import Server
from tokenswarm.errors import TargetError

START_S = 60.0
ANSWERED = re.compile(r'"POST (/v1/\S+) HTTP/1.1" (\d+)')


@dataclass(frozen=True)
class SwapServer:
    """Where it listens, and its log: what it says of itself."""

    url: str
    log: Path

    def answered(self) -> list[tuple[str, int]]:
        """(path, status) of every request that it answered, by its own access log."""
        return [(path, int(status)) for path, status in ANSWERED.findall(self.log.read_text())]


@contextmanager
def swap_server(models: Mapping[str, Path], folder: Path) -> Iterator[SwapServer]:
    """Serve `models` (files by alias) on a free loopback port; the first one is loaded.

    Weights are read, not mapped (`use_mmap`): a mapped file is loaded by the first tokens that
    need it, so that a swap would look like slow tokens.
    """
    port = _free_port()
    config = folder / "swap.json"
    config.write_text(json.dumps(_config(models, port)))
    server = SwapServer(f"http://127.0.0.1:{port}", folder / "swap.log")
    argv = [sys.executable, "-m", "llama_cpp.server", "--config_file", str(config)]
    with server.log.open("w") as log, subprocess.Popen(argv, stdout=log, stderr=log) as process:
        try:
            _wait(process, server)
            yield server
        finally:
            process.kill()


def _config(models: Mapping[str, Path], port: int) -> dict[str, object]:
    common = {"n_ctx": 512, "n_threads": 1, "n_threads_batch": 1, "use_mmap": False}
    return {
        "host": "127.0.0.1",
        "port": port,
        "interrupt_requests": False,
        "models": [
            {"model": str(path), "model_alias": alias, "verbose": False, **common}
            for alias, path in models.items()
        ],
    }


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def _wait(process: "subprocess.Popen[bytes]", server: SwapServer) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            if Server(server.url, 5.0).get("/v1/models").ok:
                return
        except TargetError:
            time.sleep(0.05)
    raise RuntimeError(f"llama_cpp.server did not start: {server.log.read_text()[-2000:]}")
