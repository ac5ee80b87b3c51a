"""The log of a server that did not start -> why, in one line."""

import re
import signal
from collections.abc import Iterable

from tokenswarm.launch.start import Failure, FailureKind

SHOWN = 300
TAIL_LINES = 2000

# The first that is found in any line wins: what is said first here is more telling than what
# follows from it (a port that is taken also ends in a traceback). Sources: the engines' own texts.
PATTERNS: tuple[tuple[FailureKind, str], ...] = (
    ("port_taken", r"address already in use|\[Errno 98\]|port is already allocated"
                   r"|couldn't bind HTTP server socket|\[Errno 48\]"),
    ("no_gpu_runtime", r"could not select device driver|nvidia-container-cli: .*error"
                       r"|unknown or invalid runtime name|unknown runtime specified"),
    ("no_gpu", r"Found no NVIDIA driver|no CUDA-capable device|No CUDA GPUs are available"
               r"|Failed to infer device type|CUDA driver version is insufficient"),
    ("image_missing", r"No such image|manifest unknown|pull access denied"
                      r"|manifest for .* not found"),
    ("out_of_memory", r"less than desired GPU memory utilization"
                      r"|No available memory for the cache blocks"
                      r"|Not enough memory\. Please try"
                      r"|CUDA out of memory|OutOfMemoryError|CUDA error: out of memory"
                      r"|cudaMalloc failed: out of memory"
                      r"|model requires more system memory|KV cache .* larger than the available"
                      r"|Cannot allocate memory|std::bad_alloc|\bMemoryError\b"
                      r"|failed to allocate|unable to allocate|failed to mmap|mmap failed"),
    ("no_engine", r"No module named ['\"]?\w+|ModuleNotFoundError|ImportError"),
    ("no_model", r"Repository Not Found|is not a local folder and is not a valid model"
                 r"|Can't load the configuration|gguf_init_from_file|failed to open GGUF"
                 r"|failed to load model|[Mm]odel path does not exist|No such file or directory"),
)  # fmt: skip
WAYS_OUT: dict[FailureKind, str] = {
    "port_taken": "end what listens there or give another port",
    "no_gpu_runtime": "install the NVIDIA container toolkit, or gpus: none",
    "no_gpu": "no GPU is visible to it",
    "image_missing": "build or pull the image",
    "no_engine": "its Python lacks the engine: install it there",
}
_WORDS: dict[FailureKind, str] = {
    "out_of_memory": "out of memory", "port_taken": "port taken", "image_missing": "image missing",
    "no_gpu_runtime": "no GPU runtime", "no_gpu": "no GPU", "no_program": "no such program",
    "no_model": "model not found", "no_engine": "engine not installed",
    "wrong_server": "another server answers", "timeout": "not ready in time", "killed": "killed",
    "unhealthy": "unhealthy", "ended": "ended",
}  # fmt: skip
# what stands before the text: vLLM's process, level, time and place; SGLang's time and rank
_PREFIX = re.compile(
    r"^(?:\(\w+(?: pid=\d+)?\) )?(?:[A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]+\] )?"
    r"(?:\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[^\]]*\] )?"
)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def failure(kind: FailureKind, detail: str) -> Failure:
    """`kind` in words, with what was said and the way out, on one line."""
    way = f"; {WAYS_OUT[kind]}" if kind in WAYS_OUT else ""
    return Failure(kind, f"{_WORDS[kind]}: {one_line(detail)}{way}")


def reason(log: str, exit_code: int | None, *, oom_killed: bool = False) -> Failure:
    """Why the process whose log and exit code these are did not start or go on.

    `exit_code` is negative for a signal, as Python has it, 128 + n as shells have it.
    """
    lines = [_PREFIX.sub("", _COLOURS.sub("", line)) for line in log.splitlines()[-TAIL_LINES:]]
    if oom_killed:
        return failure("out_of_memory", "the kernel killed it at its memory limit")
    for kind, pattern in PATTERNS:
        if line := _found(lines, re.compile(pattern)):
            return failure(kind, line)
    number = -exit_code if exit_code is not None and exit_code < 0 else (exit_code or 0) - 128
    if number in {s.value for s in signal.Signals}:
        said = f"by signal {signal.Signals(number).name}"
        return failure("killed", f"{said}; its last words: {_last(lines)}")
    return failure("ended", f"exit code {exit_code}; its last words: {_last(lines)}")


def one_line(text: str) -> str:
    """`text` on one line, bounded, without control characters."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return flat if len(flat) <= SHOWN else f"{flat[:SHOWN]}..."


def _found(lines: Iterable[str], pattern: re.Pattern[str]) -> str | None:
    return next((line for line in lines if pattern.search(line)), None)


def _last(lines: list[str]) -> str:
    return next((line for line in reversed(lines) if line.strip()), "none")
