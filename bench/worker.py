"""The tokenswarm side of the benchmarks: a scenario for the server and the command that runs it."""

import sys
from pathlib import Path

import msgspec

from bench.server import Api
from tokenswarm.scenario.model import (
    ClosedLoad,
    GpuTelemetry,
    Model,
    Output,
    Scenario,
    Target,
    Telemetry,
    TextPrompt,
)


def argv(scenario: Path, runs: Path) -> list[str]:
    """The one place that says how a whole tokenswarm worker is started."""
    return [sys.executable, "-m", "tokenswarm", "run", str(scenario), "--out", str(runs)]


def scenario(
    api: Api, url: str, streams: int, duration_s: float, tokens: int = 64, warmup_s: float = 0.0
) -> Scenario:
    """A closed loop of `streams` users without think time on one model."""
    return Scenario(
        name=f"bench-{api}",
        targets={"bench": Target(api=api, url=url)},
        models=[
            Model(
                name="bench",
                target="bench",
                model="bench",
                prompt=TextPrompt("hi"),
                output=Output(tokens=tokens),
            )
        ],
        load=ClosedLoad(users=streams),
        duration_s=duration_s,
        warmup_s=warmup_s,
        drain_s=10.0,
        telemetry=Telemetry(gpu=GpuTelemetry(source="none")),
    )


def write(folder: Path, content: Scenario) -> Path:
    """Write the scenario file that `tokenswarm run` reads."""
    path = folder / "scenario.yaml"
    path.write_bytes(msgspec.yaml.encode(content))
    return path
