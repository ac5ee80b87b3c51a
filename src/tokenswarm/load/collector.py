"""Runs whose master died: a new master at its address takes what their workers still hold.

A worker that cannot see the master's files sends its rows until they are acknowledged, to whoever
is the master. Rows of a run that this master did not start are those of a dead one: its workers are
told to end it, everything is taken into its run directory, and the run is reported.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent

from tokenswarm.clock import RUN_ID
from tokenswarm.errors import TokenswarmError
from tokenswarm.load.link import FrameReceiver
from tokenswarm.store.rundir import Manifest, RunDir

log = logging.getLogger(__name__)

ORPHAN = "tokenswarm-orphan"
QUIET_S = 6.0  # longer than a worker takes to send again what was not acknowledged
NOTE = "its master died while it was on; another one collected what its workers held"


class Orphan:
    """One run that is being collected."""

    def __init__(self, runner: Any, run: RunDir) -> None:
        self.run, self.manifest = run, run.read_manifest()
        self.receiver = FrameReceiver(runner, run.path.name, run.spool)
        self.workers: set[str] = set()
        self.drained: set[str] = set()


class Collector:
    """Every run that this master did not start and whose workers send rows. `report` makes the
    report of a run directory."""

    def __init__(self, runner: Any, runs_dir: Path, report: Callable[[Path], object]) -> None:
        self._runner, self._runs_dir, self._report = runner, runs_dir, report
        self._orphans: dict[str, Orphan] = {}
        self._done: set[str] = set()

    def take(self, worker: str, data: dict[str, Any]) -> None:
        """Frames of a run that is not ours."""
        orphan = self._adopted(data["run_id"])
        if orphan is None:
            return
        if worker not in orphan.workers:
            orphan.workers.add(worker)
            self._runner.send_message(ORPHAN, {"run_id": data["run_id"]}, worker)
        orphan.receiver.take(worker, data)

    def ended(self, worker: str, data: dict[str, Any]) -> None:
        """A worker of such a run has ended and sent everything; after the last one: the report."""
        orphan = self._orphans.get(data["run_id"])
        if orphan is None:
            return
        orphan.drained.add(worker)
        if data["complete"]:
            orphan.manifest.ended[data["source"]] = data["rows"] + data["dropped"]
        orphan.manifest.routes[data["source"]] = data["route"]
        gevent.spawn_later(QUIET_S, self._finish, data["run_id"])

    def _adopted(self, run_id: str) -> Orphan | None:
        if run_id in self._orphans or run_id in self._done or not RUN_ID.fullmatch(run_id):
            return self._orphans.get(run_id)
        try:
            orphan = Orphan(self._runner, RunDir.open(self._runs_dir / run_id))
        except TokenswarmError as e:
            log.error("a worker holds rows of run %s, which is not here: %s", run_id, e)
            self._done.add(run_id)
            return None
        if orphan.manifest.end_unix_ns is not None:
            self._done.add(run_id)
            return None
        log.warning("collecting run %s: its master is gone", run_id)
        self._orphans[run_id] = orphan
        return orphan

    def _finish(self, run_id: str) -> None:
        """Once every worker that was heard of has ended, and no other has come since."""
        orphan = self._orphans.get(run_id)
        if orphan is None or not orphan.workers <= orphan.drained:
            return
        del self._orphans[run_id]
        self._done.add(run_id)
        orphan.receiver.close()
        manifest: Manifest = orphan.manifest
        manifest.notes.append(NOTE)
        manifest.load_end_unix_ns = manifest.load_end_unix_ns or time.time_ns()
        manifest.end_unix_ns = time.time_ns()
        orphan.run.write_manifest(manifest)
        self._report(orphan.run.path)
        log.warning("run %s is collected: %s", run_id, orphan.run.report)
