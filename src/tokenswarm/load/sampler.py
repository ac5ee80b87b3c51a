"""The sampler process beside the master: GPU and residency, outside gevent."""

import json
import sys
from dataclasses import dataclass, field, replace
from typing import Any

import gevent
import msgspec

from tokenswarm.clock import NS, Clocks
from tokenswarm.load.child import Child
from tokenswarm.telemetry.link.subscriber import DRAIN_S
from tokenswarm.telemetry.sampler import LastWord

END_S = 10.0
START_S = 5.0


@dataclass(frozen=True, slots=True)
class SamplerEnd:
    """What the sampler said at its end: rows written by source, remarks for the manifest, which
    sources came from which agent, how the agents' clocks stood, and what each one's GPUs are."""

    rows: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    routes: dict[str, str] = field(default_factory=dict)
    clocks: dict[str, Clocks] = field(default_factory=dict)
    gpus: dict[str, dict[str, Any]] = field(default_factory=dict)


class SamplerProcess:
    """`python -m tokenswarm.telemetry`; ends when its stdin ends, so also with its parent."""

    def __init__(self, config: dict[str, Any]) -> None:
        # what an agent has not handed over yet is worth waiting for
        self._t0_unix_ns: int = config["t0_unix_ns"]
        self._end_s = END_S + (DRAIN_S if config.get("agents") else 0.0)
        self._process = Child([sys.executable, "-m", "tokenswarm.telemetry"], stdout=True)
        self._process.stdin.write(json.dumps(config).encode() + b"\n")
        self._process.stdin.flush()

    def wait(self, within_s: float = START_S) -> bool:
        """Wait until it says that it samples; False: it did not in time."""
        assert self._process.stdout is not None
        with gevent.Timeout(within_s, False):
            return bool(self._process.stdout.readline())
        return False

    def end(self, t0_unix_ns: int) -> SamplerEnd:
        """Close its stdin and take its last word; a sampler that hangs is killed and said.

        `t0_unix_ns`: where the run's seconds count from in the end.
        """
        ended = self._process.end(self._end_s)
        if ended.killed:
            return SamplerEnd(notes=["the sampler did not end in time and was killed"])
        end = _last_word(ended.said, ended.status)
        moved_s = (self._t0_unix_ns - t0_unix_ns) / NS
        clocks = {
            name: replace(c, first_s=c.first_s + moved_s, last_s=c.last_s + moved_s)
            for name, c in end.clocks.items()
        }
        return replace(end, clocks=clocks)


def _last_word(said: bytes, status: int) -> SamplerEnd:
    lines = said.splitlines()
    try:
        last = msgspec.json.decode(lines[-1], type=LastWord)
        return SamplerEnd(
            last.ended,
            [f"sampler: {n}" for n in last.notes],
            {s: name for name, agent in last.agents.items() for s in agent.sources},
            {name: a.clocks for name, a in last.agents.items() if a.clocks is not None},
            {"sampler": last.gpu} | {name: a.gpu for name, a in last.agents.items()},
        )
    except (IndexError, msgspec.MsgspecError):
        return SamplerEnd(notes=[f"the sampler ended early (exit status {status})"])
