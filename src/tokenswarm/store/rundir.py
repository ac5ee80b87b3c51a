"""A run's directory: names of everything in it, and the manifest."""

import re
from pathlib import Path
from typing import Any

import msgspec

from tokenswarm.clock import RUN_ID, Clocks
from tokenswarm.errors import SpoolError, UsageError


class Manifest(msgspec.Struct, kw_only=True):
    """Facts of a run, written at its start and completed at its end. `end_unix_ns` None: killed.

    `targets` holds the probed EngineInfo of each target as an object, `routes` says which way
    each source's records took (shared: straight into this directory; link: batches over Locust),
    `ended` what each source had recorded when it ended. `clock_offsets_ns` is what was added
    to the clock of each agent and worker before it wrote, `clocks` how it stood then and at last.
    `compiled`: the hot path had its compiled part (on the master's host).
    """

    schema: int = 1
    run_id: str
    t0_unix_ns: int
    end_unix_ns: int | None = None
    load_end_unix_ns: int | None = None
    tokenswarm: str
    python: str
    compiled: bool = False
    platform: str
    host: str
    argv: list[str] = []
    scenario: dict[str, Any] | None = None
    scenario_file: str | None = None
    scenario_sha256: str | None = None
    seed: int | None = None
    simulated: bool = False
    targets: dict[str, dict[str, Any]] = {}
    workers: list[dict[str, Any]] = []
    routes: dict[str, str] = {}
    ended: dict[str, int] = {}
    clock_offsets_ns: dict[str, int] = {}
    clocks: dict[str, Clocks] = {}
    telemetry: dict[str, Any] = {}
    notes: list[str] = []


class RunDir:
    """Paths inside one run's directory. A run id never leads out of its parent."""

    def __init__(self, path: Path):
        self.path = path
        self.manifest = path / "manifest.json"
        self.spool = path / "spool"
        self.summary = path / "summary.json"
        self.report = path / "report.html"
        self.live = path / "live.json"

    @classmethod
    def create(cls, parent: Path, run_id: str) -> "RunDir":
        """Make `parent/run_id` with its spool folder. SpoolError: it cannot be made."""
        if not RUN_ID.fullmatch(run_id):
            raise UsageError(f"{run_id!r} is not a run id (such as 20261122t163015z-k3f9qa)")
        run = cls(parent / run_id)
        try:
            run.spool.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise SpoolError(f"{run.spool}: cannot make it: {e.strerror}; give --out DIR") from e
        return run

    @classmethod
    def open(cls, path: Path) -> "RunDir":
        """An existing run directory; UsageError when it is none."""
        run = cls(path)
        if not run.manifest.is_file():
            raise UsageError(
                f"{path}: no manifest.json here; give the directory of one run, as runs/RUN_ID"
            )
        return run

    def parquet(self, measurement: str) -> Path:
        """Where `measurement` lies as Parquet."""
        return self.path / f"{measurement}.parquet"

    def read_manifest(self) -> Manifest:
        try:
            return msgspec.json.decode(self.manifest.read_bytes(), type=Manifest)
        except (OSError, msgspec.DecodeError) as e:
            raise UsageError(f"{self.manifest}: not a manifest: {e}") from e

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest in one step: a reader sees the old one or the new one.

        SpoolError: the disk does not take it; the old one, if any, is as it was.
        """
        text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
        self.write(self.manifest, text + b"\n")

    def write(self, path: Path, data: bytes) -> None:
        """Replace a file of this directory in one step. SpoolError: the disk does not take it."""
        partial = path.with_name(f"{path.name}.part")
        try:
            partial.write_bytes(data)
            partial.replace(path)
        except OSError as e:
            raise SpoolError(
                f"{path}: cannot write: {e.strerror}; make room or give another disk by --out "
                f"(`tokenswarm report {self.path}` finishes a run that was cut short)"
            ) from e


SOURCE = re.compile(r"[a-z0-9][a-z0-9_-]{0,60}")
