"""The GPU reader that a configuration names. Each is imported only when it is opened."""

from collections.abc import Collection
from pathlib import Path

from tokenswarm.errors import UsageError
from tokenswarm.telemetry.config import Gpu
from tokenswarm.telemetry.gpu import GpuReader
from tokenswarm.telemetry.owners.owner import Owners


def open_gpu(
    gpu: Gpu, names: Collection[str] = (), owners: Owners | None = None
) -> GpuReader | None:
    """The reader of `gpu`; None for source `none`; UsageError when it cannot be had.

    `names`: what servers call the models. `owners` tells which process serves which; None: by
    `names` and command lines alone.
    """
    owners = owners or Owners(tuple(names))
    if gpu.source == "none":
        return None
    if gpu.source == "sim":
        from tokenswarm.telemetry.simulated import SimulatedGpu

        return SimulatedGpu(gpu.control_url or "")
    if gpu.source == "nvml":
        from tokenswarm.telemetry.nvml.reader import Nvml

        return Nvml(owners, pcie=gpu.pcie)
    if gpu.source == "replay":
        from tokenswarm.telemetry.replay import Replay

        if not gpu.trace:
            raise UsageError("telemetry.gpu.source is replay, but no trace is named")
        return Replay(Path(gpu.trace), gpu.trace_from_s)
    if gpu.source == "host":
        from tokenswarm.telemetry.hostgpu import HostGpu

        return HostGpu(tuple(names), owners, gpu.ports)
    raise UsageError(f"telemetry.gpu.source {gpu.source!r} is not known here")
