"""The sampler process beside the master: GPU and residency, outside gevent."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

END_S = 10.0


@dataclass(frozen=True, slots=True)
class SamplerEnd:
    """What the sampler said at its end: rows written by source, remarks for the manifest."""

    rows: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class SamplerProcess:
    """`python -m tokenswarm.telemetry`; ends when its stdin ends, so also with its parent."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tokenswarm.telemetry"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(config).encode() + b"\n")
        self._process.stdin.flush()

    def end(self) -> SamplerEnd:
        """Close its stdin and take its last word; a sampler that hangs is killed and said."""
        try:
            said, _ = self._process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            return SamplerEnd(notes=["the sampler did not end in time and was killed"])
        return _last_word(said, self._process.returncode)


def _last_word(said: bytes, status: int) -> SamplerEnd:
    lines = said.splitlines()
    try:
        last = json.loads(lines[-1])
        return SamplerEnd(dict(last["ended"]), [f"sampler: {n}" for n in last["notes"]])
    except (IndexError, KeyError, ValueError):
        return SamplerEnd(notes=[f"the sampler ended early (exit status {status})"])
