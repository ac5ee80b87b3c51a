"""What a comparison has done and measured so far: an append-only file, one JSON object a line.

Whoever goes on with a comparison reads it and does the rest. A line that was cut off by a kill is
passed over: what it told is measured again.
"""

import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tokenswarm.errors import SpoolError, UsageError
from tokenswarm.launch.phases import Phases

NAME = "journal.jsonl"
Found = dict[str, Any]
"""Fields of an entry, as they were found out."""


class _Entry(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", omit_defaults=True):
    at_unix_s: float
    solution: str = ""


class Begin(_Entry, frozen=True, tag="begin"):
    """A comparison begins. `matrix_sha256`: of the file with its values."""

    matrix: str
    matrix_sha256: str
    order: list[str]
    seed: int
    tokenswarm: str
    host: str


class Seen(_Entry, frozen=True, tag="seen"):
    """What the GPUs are called on which a solution ran."""

    gpus: list[str]


class Start(_Entry, frozen=True, tag="start"):
    """A server was started, or was not. `why`: capacity, drill, again (for what was left to do).
    `ready_s`: until it answered; `vram_added_bytes`: by it, once memory was still; `still_s`: until
    then. `first_call_s`: the first call after that. `command` without environment."""

    server: str
    why: str
    command: list[str]
    models: list[str] = []
    ready_s: float | None = None
    stop_s: float | None = None
    phases: Phases = Phases()
    vram_before_bytes: int | None = None
    vram_after_bytes: int | None = None
    first_call_s: float | None = None
    failure: str | None = None
    failure_kind: str | None = None
    engine: str | None = None
    version: str | None = None
    simulated: bool = False
    beyond: bool = False
    log: str = ""

    @property
    def ok(self) -> bool:
        return self.failure is None

    @property
    def added_bytes(self) -> int | None:
        if self.vram_before_bytes is None or self.vram_after_bytes is None:
            return None
        return self.vram_after_bytes - self.vram_before_bytes


class Fit(_Entry, frozen=True, tag="fit"):
    """A model was brought in for the first time in the capacity test. `resident`: what the engine
    held then (None: it does not say). `fits`: it serves, and nothing had to go for it. `added`
    and `total` are device memory in bytes over what was used before this solution."""

    server: str
    model: str
    fits: bool
    first_call_s: float | None = None
    first_ttft_s: float | None = None
    cached_call_s: float | None = None
    cached_ttft_s: float | None = None
    added_bytes: int | None = None
    total_bytes: int | None = None
    resident: list[str] | None = None
    failure: str | None = None
    model_reply: str | None = None


class CapacityDone(_Entry, frozen=True, tag="capacity_done"):
    fitted: list[str]
    not_tried: list[str] = []
    vram_base_bytes: int | None = None
    vram_total_bytes: int | None = None


class Sample(_Entry, frozen=True, tag="sample"):
    """One step of the drill. `action`: first, reload, disk, resident, visit (a model by demand),
    restart, sleep1, sleep2. `leave_s`: until it had gone; `return_s`: until it was there again
    (restart, wake-up with weights); calls are whole short requests. `low_bytes`: least device
    memory between. `canary`: the same prompt gave the same text; None: not asked."""

    action: str
    model: str
    repeat: int
    leave_s: float | None = None
    return_s: float | None = None
    first_call_s: float | None = None
    first_ttft_s: float | None = None
    cached_call_s: float | None = None
    cached_ttft_s: float | None = None
    before_bytes: int | None = None
    low_bytes: int | None = None
    after_bytes: int | None = None
    canary: bool | None = None
    was_resident: bool | None = None
    failure: str | None = None


class DrillDone(_Entry, frozen=True, tag="drill_done"):
    skipped: list[str] = []


class Run(_Entry, frozen=True, tag="run"):
    """A load was run. `run_dir` relative to the comparison; `models` that took part."""

    load: str
    run_dir: str
    exit_code: int
    models: list[str]
    users: int
    output_tokens: float
    failure: str | None = None


class Done(_Entry, frozen=True, tag="done"):
    """A solution has been through everything. `cool_s`: idle time after it."""

    failure: str | None = None


Entry = Begin | Seen | Start | Fit | CapacityDone | Sample | DrillDone | Run | Done
E = TypeVar("E", bound=_Entry)


class Journal:
    """`entries`: everything so far, oldest first."""

    def __init__(self, folder: Path):
        self._path = folder / NAME
        self.entries: list[Entry] = list(_read(self._path))
        if self.entries and not self._path.read_bytes().endswith(b"\n"):
            with self._path.open("ab") as file:  # a line that was cut off, not to spoil the next
                file.write(b"\n")

    def add(self, entry: Entry) -> None:
        """Note it on disk before anything else happens. SpoolError."""
        self.entries.append(entry)
        try:
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(entry) + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as e:
            raise SpoolError(f"{self._path}: cannot write: {e.strerror}") from e

    def of(self, kind: type[E], solution: str) -> list[E]:
        """Entries of one kind and solution, oldest first."""
        return [e for e in self.entries if isinstance(e, kind) and e.solution == solution]

    @property
    def begin(self) -> Begin | None:
        return next((e for e in self.entries if isinstance(e, Begin)), None)


def _read(path: Path) -> list[Entry]:
    if not path.is_file():
        return []
    found, damaged = [], 0
    decoder = msgspec.json.Decoder(Entry)
    for line in path.read_bytes().split(b"\n"):
        try:
            found += [decoder.decode(line)] if line else []
        except msgspec.DecodeError:
            damaged += 1
    if damaged and not found:
        raise UsageError(f"{path}: no journal of a comparison: give another --out")
    return found
