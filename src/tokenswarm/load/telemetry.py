"""What is sampled beside a run, and by whom: the sampler process here, agents elsewhere."""

from collections.abc import Sequence
from typing import Any

import msgspec

from tokenswarm.clock import machine
from tokenswarm.engines.probe import target_headers
from tokenswarm.engines.protocol import EngineInfo
from tokenswarm.scenario.model import Scenario
from tokenswarm.store.rundir import Manifest
from tokenswarm.telemetry.config import Config, Engine, Gpu, Host
from tokenswarm.telemetry.link.agents import MetAgent
from tokenswarm.telemetry.source import GpuSource, resolve_source


def gpu_source(
    scenario: Scenario, engines: Sequence[EngineInfo], agents: Sequence[MetAgent]
) -> GpuSource:
    """Where the GPU figures come from. UsageError."""
    kinds = {met.agent.address: met.about.gpu for met in agents}
    return resolve_source(scenario.telemetry.gpu.source, engines, kinds)


def live_source(manifest: Manifest, source: GpuSource, agents: Sequence[MetAgent]) -> str | None:
    """The spool source that the live line looks at for VRAM."""
    if source.kind == "agent":
        return next(f"gpu-{met.about.host}" for met in agents if met.about.gpu != "none")
    return f"gpu-{manifest.host}" if source.kind != "none" else None


def sampler_config(
    manifest: Manifest, spool: str, scenario: Scenario, engines: dict[str, EngineInfo],
    source: GpuSource, agents: Sequence[MetAgent] = (),
) -> dict[str, Any]:  # fmt: skip
    """What the sampler process is told on its standard input. What an agent does is left out."""
    telemetry = scenario.telemetry
    theirs = {name for met in agents for name in met.about.targets}
    hosts = {met.about.machine for met in agents if "host" in met.about.feeds}
    config = Config(
        run_id=manifest.run_id,
        t0_unix_ns=manifest.t0_unix_ns,
        spool=spool,
        host=manifest.host,
        gpu=Gpu(
            source="none" if source.kind == "agent" else source.kind,
            interval_s=telemetry.gpu.interval_s,
            control_url=source.control_url,
            trace=telemetry.gpu.trace if source.kind == "replay" else None,
            ports=source.ports,
        ),
        engines=_engines(scenario, engines, theirs),
        engine_interval_s=telemetry.engine.interval_s,
        host_figures=None if machine() in hosts else Host(),
        agents=[met.agent for met in agents],
        models={m.model: m.name for m in scenario.models},
        health=True,
    )
    said: dict[str, Any] = msgspec.to_builtins(config)
    return said


def _engines(scenario: Scenario, engines: dict[str, EngineInfo], theirs: set[str]) -> list[Engine]:
    return [
        Engine(
            target=name,
            engine=engines[name].engine,
            url=target.url,
            headers=target_headers(target.headers, target.api_key_env),
            models={m.model: m.name for m in scenario.models if m.target == name},
            tls_verify=target.tls_verify,
        )
        for name, target in scenario.targets.items()
        if name not in theirs
    ]
