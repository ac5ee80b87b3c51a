"""The shape of an engine matrix: frozen structs, as a matrix file (docs/compare.md) spells them."""

from typing import Literal

import msgspec

from tokenswarm.launch.start import Container
from tokenswarm.scenario.model import Output, Prompt, Slo, SyntheticPrompt, TextPrompt

LauncherName = Literal["process", "docker"]
GpuKind = Literal["nvml", "sim", "host", "none"]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Every key is known or the file is refused."""


class MatrixModel(_Strict, frozen=True):
    """A model that every solution is to serve; `name` is its slug everywhere."""

    name: str
    slo: Slo | None = None


class Gpu(_Strict, frozen=True):
    """Where device memory is read. `control_url`: of a simulation, may hold placeholders."""

    source: GpuKind = "nvml"
    control_url: str | None = None


class Box(_Strict, frozen=True):
    """A process that has to run before a solution's servers and ends after them; `{box_port}` is
    a free port for it, unless `port` names one. It is ready when it listens there."""

    command: list[str]
    port: int = 0
    environment: dict[str, str] = {}


class Server(_Strict, frozen=True):
    """One server of a solution. `models`: our name of a model -> the server's own, in the order in
    which they are brought in. `port` 0: a free one. `command` and `arguments` come before the
    solution's. `weights`: files or folders with the model's weights, so that a cold load from disk
    can be measured. `beyond`: started last, only to see that it fails."""

    name: str
    models: dict[str, str]
    port: int = 0
    command: list[str] = []
    arguments: list[str] = []
    environment: dict[str, str] = {}
    memory_limit_bytes: int | None = None
    weights: list[str] = []
    beyond: bool = False


class LoadChange(_Strict, frozen=True):
    """What is different in one load for one solution."""

    name: str
    output: Output | None = None
    users: int | None = None
    requests: int | None = None
    duration_s: float | None = None


class Solution(_Strict, frozen=True):
    """An engine as it is deployed. `command` starts each server, followed by the server's and
    then these `arguments`; for docker they follow the image's entry point. `environment` is every
    server's. `api`: how requests are made. `ready_timeout_s` bounds each start."""

    name: str
    engine: str
    servers: list[Server]
    launcher: LauncherName = "process"
    api: Literal["openai", "ollama"] = "openai"
    command: list[str] = []
    arguments: list[str] = []
    environment: dict[str, str] = {}
    container: Container | None = None
    box: Box | None = None
    gpu: Gpu | None = None
    ready_timeout_s: float = 600.0
    loads: list[LoadChange] = []
    doc: str = ""


class Drill(_Strict, frozen=True):
    """What is measured of changing models. `order`: visits by our models' names, for engines that
    load by demand. `restarts` and `sleeps`: the models whose servers are restarted, put to sleep;
    None: all. `repeats` of everything. Calls have `prompt` and `output_tokens`."""

    order: list[str] | None = None
    restarts: list[str] | None = None
    sleeps: list[str] | None = None
    repeats: int = 3
    prompt: Prompt = TextPrompt("hi")
    output_tokens: int = 4


class MatrixLoad(_Strict, frozen=True):
    """One load. `weights`: share of each model; None: all alike. Ends after `requests` or
    `duration_s`, whichever comes first. `single`: it shows one model's speed, and its figures
    are the ones that are compared as such."""

    name: str
    weights: dict[str, float] | None = None
    users: int = 1
    requests: int | None = None
    duration_s: float = 600.0
    warmup_s: float = 0.0
    prompt: Prompt = SyntheticPrompt(tokens=32)
    output: Output = Output()
    single: bool = False


class Matrix(_Strict, frozen=True):
    """A whole matrix. `values`: what `{NAME}` stands for, changed by --set NAME=VALUE.
    `cool_down_s`: idle time between solutions; `settle_s`: memory is still when it has not moved
    for so long; `seed` orders solutions and requests."""

    name: str
    models: list[MatrixModel]
    solutions: list[Solution]
    loads: list[MatrixLoad] = []
    drill: Drill = Drill()
    gpu: Gpu = Gpu()
    values: dict[str, str] = {}
    cool_down_s: float = 30.0
    settle_s: float = 1.0
    seed: int = 1
    doc: str = ""
