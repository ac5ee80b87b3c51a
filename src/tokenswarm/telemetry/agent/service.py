"""An agent as a program: from its configuration to SIGTERM."""

import signal
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec

from tokenswarm.errors import UsageError
from tokenswarm.telemetry.agent.config import (
    GpuSection,
    Kind,
    Settings,
    defaults,
    place_of,
    read_settings,
    sampling,
    state_folder,
)
from tokenswarm.telemetry.agent.idle import Idle
from tokenswarm.telemetry.agent.server import Agent


def settings_of(kind: Kind, file: Path | None, given: dict[str, str | None]) -> Settings:
    """`file` over the defaults of `kind`, what was `given` on the command line over both.

    `given`: listen, token_file, spool, influx_url, and gpu_source, control_url of the GPU.
    """
    settings = read_settings(file, kind) if file else defaults(kind)
    top: dict[str, Any] = {
        k: v for k, v in given.items() if v is not None and k in settings.__struct_fields__
    }
    gpu = {"source": given.get("gpu_source"), "control_url": given.get("control_url")}
    gpu = {k: v for k, v in gpu.items() if v is not None}
    if gpu and settings.gpu is None:
        raise UsageError("--source and --control-url need an agent that samples a GPU")
    if gpu and settings.gpu is not None:
        changed = msgspec.structs.asdict(settings.gpu) | gpu
        top["gpu"] = _gpu(changed)
    return msgspec.structs.replace(settings, **top)


def _gpu(changed: dict[str, object]) -> GpuSection:
    try:
        return msgspec.convert(changed, GpuSection)
    except msgspec.ValidationError as e:
        raise UsageError(f"--source: {e}; auto, nvml, sim, replay, host or none") from None


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C; `{"listening": PORT}` on standard output when it does.

    UsageError: it cannot listen, has no place to write, or has nothing to sample.
    """
    place, config = place_of(settings), sampling(settings)
    folder = state_folder(settings, place.port)
    agent = Agent(place, config, folder, keep_s=settings.keep_s, max_bytes=settings.max_bytes)
    if not agent.about.feeds:
        raise UsageError(
            "there is nothing to sample: name engines, containers, host_figures or a GPU in the "
            "file of --config"
        )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    agent.start()
    try:
        _say(agent, folder)
        if settings.influx_url:
            Idle(config, folder / "idle", settings.influx_url, settings.max_bytes,
                 lambda: agent.busy).serve(stop)  # fmt: skip
        else:
            stop.wait()
    finally:
        agent.stop()


def _say(agent: Agent, folder: Path) -> None:
    about = agent.about
    token = "a token is asked for" if agent.place.token else "no token"
    sys.stderr.write(
        f"tokenswarm agent {about.host}: listens on {agent.place.host}:{agent.port} ({token}), "
        f"samples {', '.join(about.feeds)}, gpu {about.gpu}, spool {folder}\n"
    )
    sys.stdout.write(msgspec.json.encode({"listening": agent.port, "about": about}).decode() + "\n")
    sys.stdout.flush()
