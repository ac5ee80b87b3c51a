"""The sampler process beside the master: GPU and residency, outside gevent."""

import json
import subprocess
import sys
from typing import Any

END_S = 10.0


class SamplerProcess:
    """`python -m tokenswarm.telemetry`; ends when its stdin ends, so also with its parent."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tokenswarm.telemetry"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(config).encode() + b"\n")
        self._process.stdin.flush()

    def end(self) -> int | None:
        """Close its stdin and wait; its exit status, None when it had to be killed."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            return self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return None
