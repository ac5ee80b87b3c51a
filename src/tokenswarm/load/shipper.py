"""The shipper process beside the master: the run's spool into a database, while the run is on."""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenswarm.load.child import Child

DRAIN_S = 10.0
END_S = 600.0
"""Longer than that no run waits for its rows to get into a database."""


@dataclass(frozen=True, slots=True)
class ShipperEnd:
    """What became of the rows: the shipper's last status, and remarks for the manifest."""

    status: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class ShipperProcess:
    """`tokenswarm ship RUN_DIR --follow`; ends when its stdin ends, so also with its parent.

    Nobody waits for it before the run is over. It takes the database from our environment, and
    from `environ`, where its token never is.
    """

    def __init__(self, run_dir: Path, environ: Mapping[str, str]):
        self._run_dir = run_dir
        self._process = Child(
            [sys.executable, "-m", "tokenswarm", "ship", str(run_dir), "--follow", "--until-eof",
             "--quiet", "--drain", str(DRAIN_S)],
            stdout=True,
            stderr=True,
            env=os.environ | environ,
        )  # fmt: skip

    def end(self) -> ShipperEnd:
        """Close its stdin, let it send the rest, and take its last word."""
        ended = self._process.end(END_S)
        return _last_word(ended.said, ended.trouble, self._run_dir)


def database_environ(options: Namespace) -> dict[str, str]:
    """What the options of a run say of the database, as `tokenswarm ship` reads it; empty: none."""
    if not getattr(options, "influx_url", ""):
        return {}
    said = {
        "TOKENSWARM_INFLUX_URL": options.influx_url,
        "TOKENSWARM_INFLUX_BUCKET": options.influx_bucket,
        "TOKENSWARM_INFLUX_ORG": options.influx_org,
        "TOKENSWARM_INFLUX_TOKEN_FILE": options.influx_token_file,
        "TOKENSWARM_INFLUX_API": options.influx_api,
    }
    return {name: value for name, value in said.items() if value}


def _last_word(said: bytes, trouble: bytes, run_dir: Path) -> ShipperEnd:
    way = f"make up for it: tokenswarm ship {run_dir}"
    try:
        status = json.loads(said.splitlines()[-1])
        done, refused = bool(status["done"]), sum(status["quarantined"].values())
        reason = status["reason"]
    except (IndexError, KeyError, ValueError):
        last = trouble.decode(errors="replace").strip().splitlines()[-1:] or ["it was killed"]
        why = last[0].removeprefix("tokenswarm: ")[:400]
        return ShipperEnd({}, [f"not everything is in the database: {why}; {way}"])
    if not done:
        why = reason or "the time was over"
        return ShipperEnd(status, [f"not everything is in the database: {why}; {way}"])
    if refused:
        where = run_dir / "spool" / "ship"
        return ShipperEnd(status, [f"the database refused {refused} lines, they are in {where}"])
    return ShipperEnd(status)
