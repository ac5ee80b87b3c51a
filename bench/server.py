"""The benchmarks' own server: built from server.c once, started on a core of its own."""

import hashlib
import http.client
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal

import msgspec

Api = Literal["openai", "ollama"]
SOURCE = Path(__file__).with_name("server.c")
FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror", "-std=gnu11")
PATHS: dict[Api, str] = {"openai": "/v1/chat/completions", "ollama": "/api/chat"}


class BenchError(Exception):
    """There is nothing to measure; the text says what to do."""


class Timing(msgspec.Struct, frozen=True):
    """What a stream looks like. `spread` delays first tokens at random, by 0 to one `itl_ms`, the
    first one of a connection by up to a whole request.

    Without it streams that start together stay in step and end together, and a client that starts
    them all at once finds several tokens a wake-up where another finds one: no fair comparison.
    """

    tokens: int = 64
    ttft_ms: float = 20.0
    itl_ms: float = 5.0
    spread: bool = True


class Stats(msgspec.Struct, frozen=True):
    """What the server has done since it started; `late_1ms`: writes over 1 ms late."""

    requests: int
    tokens: int
    streams: int
    late_1ms: int
    late_sum_ns: int
    late_max_ns: int
    dropped: int
    refused: int


class LogRow(msgspec.Struct, frozen=True, array_like=True):
    """One request: its x-request-id, and when (unix ns) it came and was answered."""

    id: str
    received_ns: int
    first_ns: int
    last_ns: int
    tokens: int


class _LogPage(msgspec.Struct, frozen=True):
    next: int
    rows: list[LogRow]


def build(cache: Path | None = None) -> Path:
    """Compile server.c into `cache` unless this very source is there already."""
    cache = cache or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    text = SOURCE.read_bytes() + " ".join(FLAGS).encode()
    program = cache / "tokenswarm-bench" / f"server-{hashlib.sha256(text).hexdigest()[:16]}"
    if program.exists():
        return program
    compiler = shutil.which("cc")
    if compiler is None:
        raise BenchError("no C compiler found as cc; install gcc or clang")
    program.parent.mkdir(parents=True, exist_ok=True)
    part = program.with_suffix(f".{os.getpid()}")
    done = subprocess.run([compiler, *FLAGS, "-o", part, SOURCE], capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"{SOURCE} does not compile: {done.stderr[:2000]}")
    part.replace(program)
    return program


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Stay on `core`; processes started inside inherit it for good."""
    before = os.sched_getaffinity(0)
    if core not in before:
        raise BenchError(f"core {core} is not ours (we have {sorted(before)}); two are needed")
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Server:
    """A running server on loopback: `with Server("openai", Timing(), core=1) as server`."""

    def __init__(self, api: Api, timing: Timing, core: int | None = None):
        self.api, self.timing, self._core = api, timing, core

    def __enter__(self) -> "Server":
        argv = self._argv()
        if self._core is None:
            self._start(argv)
        else:
            with pinned(self._core):
                self._start(argv)
        return self

    def _argv(self) -> list[str]:
        t = self.timing
        argv = [str(build()), "-n", str(t.tokens), "-t", str(t.ttft_ms), "-i", str(t.itl_ms)]
        return argv + ["-o"] * (self.api == "ollama") + ["-s"] * t.spread

    def _start(self, argv: list[str]) -> None:
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.strip().isdigit():
            raise BenchError(f"the server did not start: {' '.join(argv)}")
        self.port = int(line)
        self.url = f"http://127.0.0.1:{self.port}"
        self.stream_url = self.url + PATHS[self.api]
        self._control = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._control.close()
        self._process.terminate()
        self._process.communicate(timeout=10)

    def _get(self, path: str) -> bytes:
        self._control.request("GET", path)
        return self._control.getresponse().read()

    def stats(self) -> Stats:
        """Counters since the start, without this request itself."""
        return msgspec.json.decode(self._get("/_stats"), type=Stats)

    def log(self) -> list[LogRow]:
        """Every request served, oldest first, as far as the server's bounded memory goes."""
        rows: list[LogRow] = []
        start = 0
        while True:
            page = msgspec.json.decode(self._get(f"/_log?from={start}"), type=_LogPage)
            if not page.rows:
                return rows
            rows += page.rows
            start = page.next
