"""What an agent is told: a YAML file, the command line over it, and defaults by its kind."""

import ipaddress
import os
import socket
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import yaml

from tokenswarm.clock import slug
from tokenswarm.errors import UsageError
from tokenswarm.scenario.urls import agent_address
from tokenswarm.telemetry.config import Config, Containers, Engine, Gpu, Host
from tokenswarm.telemetry.link.token import VARIABLE, read_token
from tokenswarm.telemetry.source import DRIVER, WSL

Kind = Literal["gpu", "engine", "docker"]
GpuChoice = Literal["auto", "nvml", "sim", "replay", "host", "none"]
KINDS: dict[str, Kind] = {"gpu": "gpu", "engine": "engine", "docker": "docker"}
PORTS: dict[Kind, int] = {"gpu": 7070, "engine": 7071, "docker": 7072}
Interval = Annotated[float, msgspec.Meta(ge=0.05, le=3600)]
MAX_CONFIG = 1 << 20


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class GpuSection(_Strict, frozen=True):
    """As telemetry.config.Gpu; `source: auto` is NVML where this host has a driver."""

    source: GpuChoice = "auto"
    interval_s: Annotated[float, msgspec.Meta(ge=0.01, le=60)] = 0.05
    control_url: str | None = None
    trace: str | None = None
    trace_from_s: float = 0.0
    ports: tuple[int, ...] = ()
    pcie: bool = False


class HostSection(_Strict, frozen=True):
    interval_s: Interval = 1.0


class ContainerSection(_Strict, frozen=True):
    """As telemetry.config.Containers."""

    url: str | None = None
    label: str | None = None
    stats_interval_s: Interval | None = 1.0


class EngineSection(_Strict, frozen=True):
    """One server to poll. `target` is the scenario's name for it, `engine` its type."""

    target: str
    engine: str
    url: str
    api_key_file: str | None = None
    tls_verify: bool = True


class Settings(_Strict, frozen=True):
    """An agent's whole configuration, as its file spells it. A section that is None is left out.

    `keep_s`: how long a run without its subscriber is sampled on. `max_bytes`: what the spool may
    hold for one run that nobody fetches, and for all that is not shipped yet.
    """

    listen: str | None = None
    token_file: str | None = None
    spool: str | None = None
    host: str | None = None
    gpu: GpuSection | None = None
    host_figures: HostSection | None = None
    containers: ContainerSection | None = None
    engines: list[EngineSection] = []
    engine_interval_s: Interval = 0.5
    models: dict[str, str] = {}
    influx_url: str | None = None
    keep_s: Annotated[float, msgspec.Meta(ge=0)] = 600.0
    max_bytes: Annotated[int, msgspec.Meta(ge=1 << 20)] = 512 << 20


def defaults(kind: Kind) -> Settings:
    """What an agent of `kind` does without a file."""
    listen = f"127.0.0.1:{PORTS[kind]}"
    if kind == "gpu":
        return Settings(listen=listen, gpu=GpuSection(), host_figures=HostSection())
    if kind == "docker":
        return Settings(listen=listen, containers=ContainerSection())
    return Settings(listen=listen)


def read_settings(path: Path, kind: Kind) -> Settings:
    """`path` over the defaults of `kind`. UsageError names the key that is wrong."""
    try:
        with path.open("rb") as f:
            given = yaml.safe_load(f.read(MAX_CONFIG)) or {}
        if not isinstance(given, dict):
            raise UsageError(f"{path}: a mapping of settings belongs here, as `listen: HOST:PORT`")
        return msgspec.convert({**_known(kind), **given}, Settings)
    except OSError as e:
        raise UsageError(f"{path}: cannot be read: {e.strerror}") from None
    except (msgspec.ValidationError, yaml.YAMLError) as e:
        raise UsageError(f"{path}: {e}") from None


def _known(kind: Kind) -> dict[str, object]:
    return {k: v for k, v in msgspec.to_builtins(defaults(kind)).items() if v is not None}


class Place(msgspec.Struct, frozen=True):
    """Where an agent listens, and the token that is asked for."""

    host: str
    port: int
    token: str | None = None

    def __repr__(self) -> str:
        return f"{self.host}:{self.port}"


def place_of(settings: Settings) -> Place:
    """UsageError: no address, or one beyond this host without a token."""
    host, port = _address(settings.listen or "")
    token = read_token(settings.token_file)
    if token is None and not loopback(host):
        raise UsageError(
            f"listen {settings.listen}: beyond this host an agent asks for a token: name a file "
            f"with --token-file (or ${VARIABLE}_FILE), made by `openssl rand -hex 32`, or listen "
            "on 127.0.0.1"
        )
    return Place(host, port, token)


def _address(text: str) -> tuple[str, int]:
    try:
        return agent_address(text)
    except UsageError as e:
        raise UsageError(f"listen {text[:200]!r} {e}") from None


def loopback(host: str) -> bool:
    """Every address that `host` stands for reaches this host alone."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as e:
        raise UsageError(f"{host!r} cannot be resolved: {e.strerror}") from None
    addresses = [str(a[4][0]).partition("%")[0] for a in found]
    return all(ipaddress.ip_address(a).is_loopback for a in addresses)


def state_folder(settings: Settings, port: int) -> Path:
    """The spool's folder: as set, systemd's, or one in the user's home by port."""
    if settings.spool:
        return Path(settings.spool)
    if folder := os.environ.get("STATE_DIRECTORY"):
        return Path(folder.partition(":")[0])
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "tokenswarm" / f"agent-{port}"


def sampling(settings: Settings) -> Config:
    """What its sessions sample; run, time and spool are for them to fill in."""
    host = slug(settings.host or socket.gethostname())
    gpu, host_figures, boxes = settings.gpu, settings.host_figures, settings.containers
    return Config(
        run_id="",
        t0_unix_ns=0,
        spool="",
        host=host,
        gpu=Gpu() if gpu is None else _gpu(gpu),
        engines=[_engine(e) for e in settings.engines],
        engine_interval_s=settings.engine_interval_s,
        host_figures=None if host_figures is None else Host(host_figures.interval_s),
        containers=None if boxes is None else Containers(**msgspec.structs.asdict(boxes)),
        models=settings.models,
        health=True,
    )


def _gpu(section: GpuSection) -> Gpu:
    given = msgspec.structs.asdict(section)
    if section.source == "auto":
        given["source"] = "nvml" if DRIVER.exists() or WSL.exists() else "none"
    return Gpu(**given)


def _engine(section: EngineSection) -> Engine:
    headers = {}
    if section.api_key_file:
        try:
            key = Path(section.api_key_file).read_text().strip()
        except OSError as e:
            raise UsageError(
                f"engines: {section.target}: api_key_file {section.api_key_file} cannot be read: "
                f"{e.strerror}"
            ) from None
        headers = {"Authorization": f"Bearer {key}"}
    return Engine(
        target=section.target, engine=section.engine, url=section.url, headers=headers,
        tls_verify=section.tls_verify,
    )  # fmt: skip
