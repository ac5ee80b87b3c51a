"""A real llama.cpp server (xllamacpp) in a process of its own.

    with llama_server(model_path, alias="tiny") as url: ...

Run as a script it serves until its standard input ends and prints its address first; with a port
it serves there until it is killed.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def llama_server(model: Path, *, alias: str = "tiny", parallel: int = 4) -> Iterator[str]:
    """Serve `model` on a free loopback port; the value is the server's URL, ready to answer."""
    argv = [sys.executable, str(Path(__file__)), str(model), alias, str(parallel)]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url.startswith("http"):
                process.kill()
                raise RuntimeError(f"xllamacpp did not start: {process.communicate()[1][-2000:]}")
            yield url
        finally:
            process.kill()


def _serve(model: str, alias: str, parallel: int, port: int = 0) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = [alias]
    params.n_parallel = parallel
    params.n_ctx = 2048 * parallel
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.warmup = False
    params.endpoint_metrics = True
    params.port = port
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    if port:
        signal.pause()
    sys.stdin.read()
    os._exit(0)  # xllamacpp would first wait for its streams to end


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
