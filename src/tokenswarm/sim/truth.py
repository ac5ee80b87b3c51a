"""The ground truth: what the simulation did and when, one JSON object a line.

Every time is wall clock in ns, from one anchor. The first line is Start; an Arrival is written
when a request came in, a Request when it ended, a Load and an Unload when they ended, a Lag when
the simulation itself had been late.
"""

import os
from pathlib import Path
from typing import Literal

import msgspec

Stratum = Literal["warm", "swap_trigger", "swap_waiter", "swap_collateral"]
Outcome = Literal["ok", "error", "cut", "reset", "cancelled", "unfinished"]
LoadKind = Literal["process_cold", "reconfig", "wake_l1", "wake_l2"]
LoadCause = Literal["demand", "reconfig", "start", "control"]
LoadOutcome = Literal["ok", "aborted", "error"]
UnloadKind = Literal["process", "sleep_l1", "sleep_l2"]
UnloadCause = Literal["pressure", "reconfig", "ttl", "control", "aborted", "crash"]


class _Row(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    pass


class Start(_Row, frozen=True, kw_only=True, tag="start"):
    """What is simulated."""

    profile: str
    seed: int
    speed: float
    unix_ns: int
    simulation: bool = True


class Arrival(_Row, frozen=True, kw_only=True, tag="arrival"):
    """A request as it came in. `n` numbers them; `request_id` is its x-request-id header."""

    n: int
    request_id: str | None
    path: str
    model: str | None
    unix_ns: int


class Request(_Row, frozen=True, kw_only=True, tag="request"):
    """One request at its end.

    `granted`: its model was ready and handed over; `started`: a parallel slot was free.
    `token_unix_ns`: one time a token event, taken just before the write that completes it (one
    for the whole body of an answer that is not streamed). `output_tokens`: what was generated.
    `load`: the load it triggered or waited for. `collateral_wait_s`: the longest single wait that
    another model's load or eviction caused it; `held_wait_s` of it before the first token,
    `held_stall_s` between two tokens. `late_s`: the most by which the simulation itself was
    late with an event, for want of processor time. `outcome` ok: it was served as it should be.
    """

    n: int
    request_id: str | None
    path: str
    model: str | None
    stream: bool
    arrival_unix_ns: int
    granted_unix_ns: int | None
    started_unix_ns: int | None
    headers_unix_ns: int | None
    first_token_unix_ns: int | None
    last_token_unix_ns: int | None
    end_unix_ns: int
    token_unix_ns: list[int]
    prompt_tokens: int | None
    output_tokens: int
    http_status: int | None
    outcome: Outcome
    finish_reason: str | None
    stratum: Stratum
    load: int | None
    collateral_wait_s: float
    held_wait_s: float = 0.0
    held_stall_s: float = 0.0
    late_s: float = 0.0
    server: str = "ollama"


class Load(_Row, frozen=True, kw_only=True, tag="load"):
    """One model coming onto the GPU, with its marks: a process that loads it, or a wake-up.

    `demand`: arrival of the triggering request, or the control call; `evict`: the first victim
    was chosen; `killed`: it began to give memory back (its process died, it fell asleep);
    `freed`: the last victim's memory was all back; `load`: the process was started or woken;
    `ready`: the first request could get the model. None: did not happen. `vram_bytes` is what it
    takes of the GPU, `size_bytes` its whole size: more when a part stays with the CPU.
    """

    load: int
    model: str
    context: int
    cause: LoadCause
    outcome: LoadOutcome
    trigger: int | None
    displaced: list[str]
    demand_unix_ns: int | None
    evict_unix_ns: int | None
    killed_unix_ns: int | None
    freed_unix_ns: int | None
    load_unix_ns: int | None
    ready_unix_ns: int | None
    end_unix_ns: int
    pid: int | None
    file_bytes: int
    vram_bytes: int
    disk_cold: bool
    kind: LoadKind = "process_cold"
    server: str = "ollama"
    size_bytes: int | None = None

    @property
    def partial(self) -> bool:
        """Whether a part of it is not on the GPU."""
        return self.size_bytes is not None and self.vram_bytes < self.size_bytes


class Unload(_Row, frozen=True, kw_only=True, tag="unload"):
    """A model left the GPU. `decided`: from then on it had to go; `killed`: it began to give its
    memory back; `freed`: all of it was back; `recovered`: the server saw enough memory back."""

    model: str
    pid: int
    cause: UnloadCause
    load: int | None
    vram_bytes: int
    decided_unix_ns: int
    killed_unix_ns: int
    freed_unix_ns: int
    recovered_unix_ns: int | None
    kind: UnloadKind = "process"
    server: str = "ollama"


class Lag(_Row, frozen=True, kw_only=True, tag="lag"):
    """The simulation stood still from `due` to `unix_ns`, for want of processor time: what it says
    of that time may be late by as much."""

    due_unix_ns: int
    unix_ns: int


Row = Start | Arrival | Request | Load | Unload | Lag


class Truth(msgspec.Struct, frozen=True):
    """A truth file, read; rows in file order."""

    start: Start
    arrivals: list[Arrival]
    requests: list[Request]
    loads: list[Load]
    unloads: list[Unload]
    lags: list[Lag]

    @property
    def swaps(self) -> list[Load]:
        """Loads that came about and displaced another model."""
        return [x for x in self.loads if x.outcome == "ok" and set(x.displaced) - {x.model}]


class Writer:
    """Appends rows; `flush` hands them to the operating system. No path: keeps nothing."""

    def __init__(self, path: Path | None):
        self._fd = -1
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        self._encode = msgspec.json.Encoder().encode
        self._lines: list[bytes] = []
        self._loads = 0
        self.arrivals = 0

    def new_arrival(self) -> int:
        """The number of the next request, to whatever server."""
        self.arrivals += 1
        return self.arrivals

    def new_load(self) -> int:
        """The number of the next load, of whatever server."""
        self._loads += 1
        return self._loads

    def add(self, row: Row) -> None:
        if self._fd >= 0:
            self._lines.append(self._encode(row))

    def flush(self) -> None:
        if not self._lines:
            return
        rest = memoryview(b"\n".join(self._lines) + b"\n")
        self._lines = []
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def close(self) -> None:
        self.flush()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read(path: Path) -> Truth:
    """Read a truth file; a last line without its end (still being written) is left out."""
    whole = path.read_bytes().rpartition(b"\n")[0]
    decode = msgspec.json.Decoder(Row).decode
    rows = [decode(line) for line in whole.split(b"\n") if line]
    starts = [r for r in rows if isinstance(r, Start)]
    if not starts:
        raise ValueError(f"{path}: no start line: not a truth file, or nothing written yet")
    return Truth(
        starts[0],
        [r for r in rows if isinstance(r, Arrival)],
        [r for r in rows if isinstance(r, Request)],
        [r for r in rows if isinstance(r, Load)],
        [r for r in rows if isinstance(r, Unload)],
        [r for r in rows if isinstance(r, Lag)],
    )
