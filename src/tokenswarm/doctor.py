"""Is everything in place for a run? Facts and remedies; printing is the command line's."""

import ctypes
import os
import platform
import resource
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tokenswarm import __version__, native
from tokenswarm.engines.control import Server
from tokenswarm.engines.probe import check_models, probe, target_headers
from tokenswarm.engines.protocol import EngineInfo
from tokenswarm.errors import EXIT_GOOD, EXIT_USAGE, TargetError, TokenswarmError, UsageError
from tokenswarm.scenario.model import ClosedLoad, Scenario, Target
from tokenswarm.telemetry.config import Agent
from tokenswarm.telemetry.link.agents import MetAgent, agents_of, ask_about
from tokenswarm.telemetry.link.wire import About
from tokenswarm.telemetry.source import resolve_source

PACKAGES = ("locust", "gevent", "httptools", "duckdb", "numpy", "nvidia-ml-py", "influxdb-client")
DRIFT_WINDOW_S = 0.2
MAX_DRIFT_S = 0.001
FILES_A_USER, FILES_BESIDES = 2, 200
MIN_FREE_BYTES = 1 << 30
DEFAULT_USERS = 64
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
PROBE_S = 5.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. `ok`: True in order, False must be mended, None a remark only.
    `remedy` says what to do and is empty when there is nothing to do."""

    name: str
    ok: bool | None
    text: str
    remedy: str = ""


def checks(
    scenario: Scenario | None = None,
    *,
    influx_url: str | None = None,
    runs: Path = Path("runs"),
    environ: Mapping[str, str] = os.environ,
    sys_root: Path = Path("/sys"),
) -> list[Check]:
    """Everything that can be known without a run. Takes as long as its targets let it wait."""
    found = [_python(), _packages(), _compiled()]
    engines: list[EngineInfo] = []
    for name in scenario.targets if scenario else ():
        assert scenario is not None
        check, engine = _target(scenario, name, environ)
        found.append(check)
        engines += [engine] if engine else []
    met: list[MetAgent] = []
    for agent in agents_of(scenario.telemetry) if scenario else ():
        check, about = _agent(agent)
        found.append(check)
        met += [MetAgent(agent, about)] if about else []
    found.append(_gpu(scenario, engines, met))
    if influx_url:
        found.append(_influx(influx_url))
    found += [_clock(), _synchronised(), _open_files(scenario), _governor(sys_root), _disk(runs)]
    return found


def render(found: list[Check]) -> tuple[str, int]:
    """Lines for a person, and the exit code: 2 when something must be mended."""
    words = {True: "ok", False: "FAIL", None: "note"}
    width = max((len(c.name) for c in found), default=0)
    lines = []
    for check in found:
        lines.append(f"{words[check.ok]:<4}  {check.name:<{width}}  {_printable(check.text)}")
        if check.remedy:
            lines.append(f"{'':<{width + 8}}-> {_printable(check.remedy)}")
    failed = sum(c.ok is False for c in found)
    lines.append(f"{failed} of {len(found)} checks failed" if failed else "nothing is in the way")
    return "\n".join(lines), EXIT_USAGE if failed else EXIT_GOOD


def _printable(text: str) -> str:
    """`text` on one line: servers' words may hold anything."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _python() -> Check:
    text = f"tokenswarm {__version__}, python {platform.python_version()}, {platform.system()}"
    return Check("version", True, text)


def _compiled() -> Check:
    if native.NATIVE:
        return Check("hot path", True, "compiled")
    way = "more CPU a token, same results; with cc and Python's headers: `pip install -e .` again"
    return Check("hot path", None, "python only: nothing was compiled at installation", way)


def _packages() -> Check:
    there, missing = [], []
    for name in PACKAGES:
        try:
            there.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        way = "install tokenswarm with its dependencies: `pip install tokenswarm`"
        return Check("packages", False, f"missing: {', '.join(missing)}", way)
    return Check("packages", True, ", ".join(there))


def _target(
    scenario: Scenario, name: str, environ: Mapping[str, str]
) -> tuple[Check, EngineInfo | None]:
    """Is it there, is it what the scenario says, has it the models, how far away is it?"""
    target = scenario.targets[name]
    try:
        headers = target_headers(target.headers, target.api_key_env, environ)
        info = probe(
            target.url, named=target.engine, headers=headers, timeout_s=PROBE_S,
            tls_verify=target.tls_verify,
        )  # fmt: skip
        wanted = [m.model for m in scenario.models if m.target == name]
        notes = (*info.notes, *check_models(info, wanted))
        latency_s = _latency_s(target, headers)
    except TargetError as e:
        return Check(f"target {name}", False, *_parted(str(e))), None
    simulated = " (simulated)" if info.simulated else ""
    text = f"{info.engine} {info.version or 'of unknown version'}{simulated} at {info.url}, "
    text += f"{len(wanted)} models there, answers in {latency_s * 1e3:.1f} ms"
    return Check(f"target {name}", True, "; ".join((text, *notes))), info


def _parted(error: str) -> tuple[str, str]:
    """An error's text and its way out, which follows the last colon-and-space."""
    text, colon, way = error.rpartition(": ")
    return (text, way) if colon else (error, "start the server or correct the scenario")


def _latency_s(target: Target, headers: Mapping[str, str]) -> float:
    """The fastest of three small answers, connection included."""
    server = Server(target.url, PROBE_S, headers, target.tls_verify)
    took = []
    for _ in range(3):
        began = time.perf_counter()
        server.get("/v1/models")
        took.append(time.perf_counter() - began)
    return min(took)


def _agent(agent: Agent) -> tuple[Check, About | None]:
    """Is it there, does it know us, what does it sample?"""
    name = f"agent {agent.address}"
    try:
        about = ask_about(agent)
    except UsageError as e:
        return Check(name, False, *_parted(str(e))), None
    text = f"{about.host}, tokenswarm {about.version}, samples {', '.join(about.feeds)}"
    return Check(name, True, f"{text}; GPU figures: {about.gpu}"), about


def _gpu(scenario: Scenario | None, engines: list[EngineInfo], met: list[MetAgent]) -> Check:
    wanted = scenario.telemetry.gpu.source if scenario else "auto"
    if scenario is None:
        return _driver("")
    if wanted == "auto" and not engines and not met:
        return Check("gpu", None, "not looked for: no target answers")
    try:
        kinds = {m.agent.address: m.about.gpu for m in met}
        source = resolve_source(wanted, engines, kinds)
    except UsageError as e:
        return Check("gpu", False, *_parted(str(e)))
    if source.kind == "nvml":
        return _driver(f"{source.reason}; ")
    if source.kind == "agent":
        return Check("gpu", True, source.reason)
    if source.kind == "sim":
        return Check("gpu", True, f"{source.reason}: its control port is read")
    way = "run tokenswarm on the GPU's host, or set telemetry.gpu.source to nvml if this is it"
    return Check("gpu", None, source.reason, "" if wanted == "none" else way)


def _driver(because: str) -> Check:
    """What NVML says of this host."""
    from tokenswarm.telemetry.gpu import TelemetryGap
    from tokenswarm.telemetry.nvml.reader import Nvml
    from tokenswarm.telemetry.owners.owner import Owners

    try:
        nvml = Nvml(Owners(()))
    except UsageError as e:
        text, _, way = str(e).partition(": ")
        return Check("gpu", False if because else None, because + text, way)
    try:
        cards = ", ".join(
            f"{s.tag}: {s.name} {(s.vram_total_bytes or 0) / 2**30:.0f} GiB" for s in nvml.sample()
        )
    except TelemetryGap as e:
        return Check("gpu", None, f"{because}driver {nvml.driver}, {e}")
    finally:
        nvml.close()
    return Check("gpu", True, f"{because}driver {nvml.driver}, {cards}")


def _influx(url: str) -> Check:
    """InfluxDB 1 and 2 and VictoriaMetrics answer /ping or /health without a token."""
    status = None
    try:
        for path in ("/ping", "/health"):
            reply = Server(url, PROBE_S).get(path)
            status = reply.status
            if reply.ok:
                known = reply.headers.get("x-influxdb-version", "")[:40]
                return Check(
                    "database", True, f"{url} answers{f', version {known}' if known else ''}"
                )
    except TokenswarmError as e:
        return Check("database", False, *_parted(str(e)))
    if status in (401, 403):
        return Check("database", None, f"{url} answers, but only to a token it is not given here")
    way = "give the address of an InfluxDB, as http://127.0.0.1:8086"
    return Check("database", False, f"{url} answers HTTP {status} to /ping and /health", way)


def _clock() -> Check:
    """Does the wall clock run as fast as the one that durations come from?"""
    perf_s, unix_ns = time.perf_counter(), time.time_ns()
    time.sleep(DRIFT_WINDOW_S)
    drift_s = (time.time_ns() - unix_ns) / 1e9 - (time.perf_counter() - perf_s)
    text = f"wall clock and perf_counter differ by {drift_s * 1e6:+.0f} us in {DRIFT_WINDOW_S:g} s"
    if abs(drift_s) > MAX_DRIFT_S:
        return Check("clock", None, text, "something moves the clock: wait until it has settled")
    return Check("clock", True, text)


def _synchronised() -> Check:
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))
    except (OSError, AttributeError):
        return Check("clock sync", None, "this system does not say")
    if state < 0:
        return Check("clock sync", None, "the system does not let us ask")
    if state == TIME_ERROR:
        way = "start chrony or systemd-timesyncd if load and GPU are on different hosts"
        return Check("clock sync", None, "the wall clock is not synchronised", way)
    return Check("clock sync", True, "the wall clock is synchronised")


def _open_files(scenario: Scenario | None) -> Check:
    users = DEFAULT_USERS
    if scenario is not None:
        load = scenario.load
        users = load.users if isinstance(load, ClosedLoad) else load.max_in_flight
    need = users * FILES_A_USER + FILES_BESIDES
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"{'unlimited' if soft == resource.RLIM_INFINITY else soft} may be open, "
    text += f"{users} users want {need}"
    if soft != resource.RLIM_INFINITY and soft < need:
        return Check("open files", False, text, f"raise the limit: `ulimit -n {need}`")
    return Check("open files", True, text)


def _governor(sys_root: Path) -> Check:
    governors = sorted(set(_governors(sys_root)))
    if not governors:
        return Check("cpu governor", None, "this system does not say")
    text = ", ".join(governors)
    if "powersave" in governors:
        way = "a slow clock adds latency: `cpupower frequency-set -g performance`"
        return Check("cpu governor", None, text, way)
    return Check("cpu governor", True, text)


def _governors(sys_root: Path) -> Iterator[str]:
    for path in sys_root.glob("devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor"):
        try:
            yield path.read_text().strip()
        except OSError:
            continue


def _disk(runs: Path) -> Check:
    """Room and the right to write where the run directories go."""
    place = runs.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    text = f"{free / 2**30:.1f} GiB free for {runs}"
    if not os.access(place, os.W_OK):
        return Check("disk", False, f"{place} is not writable", "choose another --out")
    if free < MIN_FREE_BYTES:
        return Check("disk", False, text, "make room or choose another --out")
    return Check("disk", True, text)
