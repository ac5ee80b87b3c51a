"""The GPU reader that a configuration names. Each is imported only when it is opened."""

from collections.abc import Collection
from pathlib import Path

from tokenswarm.errors import UsageError
from tokenswarm.telemetry.config import Gpu
from tokenswarm.telemetry.gpu import GpuReader


def open_gpu(gpu: Gpu, names: Collection[str] = ()) -> GpuReader | None:
    """The reader of `gpu`; None for source `none`; UsageError when it cannot be had.

    `names`: what servers call the models, to tell from command lines which process serves which.
    """
    if gpu.source == "none":
        return None
    if gpu.source == "sim":
        from tokenswarm.telemetry.simulated import SimulatedGpu

        return SimulatedGpu(gpu.control_url or "")
    if gpu.source == "nvml":
        from tokenswarm.telemetry.nvml import Nvml
        from tokenswarm.telemetry.owner import Owners

        return Nvml(Owners(tuple(names)), pcie=gpu.pcie)
    if gpu.source == "replay":
        from tokenswarm.telemetry.replay import Replay

        if not gpu.trace:
            raise UsageError("telemetry.gpu.source is replay, but no trace is named")
        return Replay(Path(gpu.trace), gpu.trace_from_s)
    if gpu.source == "host":
        from tokenswarm.telemetry.hostgpu import HostGpu
        from tokenswarm.telemetry.owner import Owners

        return HostGpu(tuple(names), Owners(tuple(names)), gpu.ports)
    raise UsageError(f"telemetry.gpu.source {gpu.source!r} is not known here")
