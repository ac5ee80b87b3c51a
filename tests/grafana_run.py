"""Two real simulated runs and what `tokenswarm run --influx-url` and `ship` made of them in a real
InfluxDB: for the tests of dashboards, and for grafana/sheet.py.

The first swaps three models over a GPU with room for two; the second, a baseline, is shorter, and
half of its requests to the first model are answered with HTTP 500.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.grafana_client import View
from tests.running import PYTHON, ROOT, run_dirs
from tests.services import Influxd, influxd
from tokenswarm.sim.process import start
from tokenswarm.store.rundir import RunDir

DB = "tokenswarm"
RUN_S = 150
PROFILES = ROOT / "src" / "tokenswarm" / "sim" / "profiles"
DEMO = ROOT / "src" / "tokenswarm" / "demo.yaml"


@dataclass(frozen=True)
class Seeded:
    """A database with two runs in it."""

    server: Influxd
    run: RunDir
    baseline: RunDir

    def view(self, run: RunDir | None = None) -> View:
        """All of a run (the first unless told otherwise), with everything chosen."""
        shown = run or self.run
        manifest = shown.read_manifest()
        assert manifest.end_unix_ns is not None
        chosen: dict[str, str | list[str]] = {
            "run": manifest.run_id,
            "baseline": self.baseline.read_manifest().run_id,
            "model": ".*",  # what All stands for
            "engine": ".*",
            "host": ".*",
            "gpu": ".*",
            "window": "10s",
            "datasource": "tokenswarm-influxdb",
        }
        return View(
            manifest.t0_unix_ns // 1_000_000 - 1000,
            manifest.end_unix_ns // 1_000_000 + 1000,
            chosen,
        )

    def summary(self) -> dict[str, Any]:
        return dict(json.loads(self.run.summary.read_bytes()))


@contextlib.contextmanager
def seeded(folder: Path) -> Iterator[Seeded]:
    """Play both runs, ship both, and keep the database up; about 40 s."""
    with influxd(folder) as server:
        profile = yaml.safe_load((PROFILES / "rtx5090-crowded.yaml").read_text())
        profile["models"][0]["knobs"] = {"http_error": {"status": 500, "rate": 0.5}}
        broken = folder / "broken.yaml"
        broken.write_text(yaml.safe_dump(profile))
        baseline = _play(folder / "baseline", str(broken), 6.0)
        run = _play(folder / "run", "rtx5090-crowded", 18.0)
        for made in (baseline, run):
            _command("ship", made.path, "--influx-url", server.url, "--quiet")
        yield Seeded(server, run, baseline)


def _play(folder: Path, profile: str, duration_s: float) -> RunDir:
    with start(profile) as box:
        _command("run", DEMO, "--url", f"box={box.ollama_url}", "--duration", duration_s,
                 "--out", folder)  # fmt: skip
    (made,) = run_dirs(folder)
    return made


def _command(*argv: object) -> None:
    """Run tokenswarm; a run that is not valid for want of CPU is good enough to look at."""
    command = [PYTHON, "-m", "tokenswarm", *map(str, argv)]
    ended = subprocess.run(
        command, check=False, timeout=RUN_S, stdin=subprocess.DEVNULL, capture_output=True,
        text=True,
    )  # fmt: skip
    if ended.returncode not in (0, 3):
        sys.stderr.write(ended.stderr)
        raise AssertionError(f"{command}: {ended.returncode}")
