"""What the command line's commands do, between parsing and the parts that do the work."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tokenswarm.analysis.gates import check, parse
from tokenswarm.errors import EXIT_GATE_FAILED, EXIT_GOOD, UsageError
from tokenswarm.scenario.dryrun import plan_text
from tokenswarm.scenario.load import load, resolve
from tokenswarm.scenario.model import Scenario
from tokenswarm.scenario.overrides import override
from tokenswarm.scenario.urls import target_urls

if TYPE_CHECKING:
    from tokenswarm.store.influx import Api, Database
    from tokenswarm.store.sender import Patience

HERE = Path(__file__).parent
MIX = HERE / "load" / "locustfile" / "mix.py"
DEMO = HERE / "demo.yaml"
BESIDE_THE_LOAD = 10  # nice


@dataclass(frozen=True, slots=True)
class RunCommand:
    """`tokenswarm run`: the scenario with its overrides, and Locust's command line for it."""

    scenario: Path
    urls: Sequence[str] = ()
    users: int | None = None
    rate: float | None = None
    duration_s: float | None = None
    max_requests: int | None = None
    seed: int | None = None
    workers: int = 0
    out: Path = Path("runs")
    gates: Sequence[str] = ()
    influx_url: str | None = None
    agents: Sequence[str] = ()
    junit: str | None = None
    markdown: str | None = None

    def resolved(self) -> Scenario:
        """The scenario as it will be played; UsageError when it or a gate cannot be."""
        scenario = override(
            resolve(load(self.scenario), self.scenario.parent),
            urls=target_urls(self.urls),
            users=self.users,
            rate=self.rate,
            duration_s=self.duration_s,
            max_requests=self.max_requests,
            seed=self.seed,
            gates=list(self.gates),
            agents=self.agents,
        )
        check(map(parse, scenario.gates), [m.name for m in scenario.models])
        return scenario

    def plan(self) -> str:
        """The text of --dry-run."""
        return plan_text(self.resolved())

    def argv(self) -> list[str]:
        """Locust's command line; what is wrong is said here rather than inside Locust."""
        self.resolved()
        if self.influx_url:
            database(self.influx_url)
        argv = [sys.executable, "-m", "locust", "-f", str(MIX), "--headless", "--only-summary"]
        argv += ["--loglevel", "WARNING", "--only-tokenswarm"]
        argv += ["--scenario", str(self.scenario), "--runs-dir", str(self.out)]
        for flag, value in self._flags():
            argv += [flag, str(value)]
        return [*argv, "--closed"] if self.users is not None else argv

    def _flags(self) -> list[tuple[str, object]]:
        optional = [
            ("--users", self.users),
            ("--rate", self.rate),
            ("--duration", self.duration_s),
            ("--max-requests", self.max_requests),
            ("--seed", self.seed),
            ("--processes", self.workers or None),
            ("--influx-url", self.influx_url),
            ("--junit", self.junit),
            ("--markdown", self.markdown),
        ]
        given: list[tuple[str, object]] = [(f, v) for f, v in optional if v is not None]
        if self.workers:
            # Locust's fixed port would join the workers of two runs at the same time
            port = _free_port()
            given += [("--master-bind-port", port), ("--master-port", port)]
        given += [("--target-url", url) for url in self.urls]
        given += [("--agent", agent) for agent in self.agents]
        return given + [("--gate", gate) for gate in self.gates]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def run_demo(workers: int, duration_s: float | None, out: Path) -> int:
    """Serve the simulated box, play the demo against it, end it; the run's exit code."""
    from tokenswarm.sim.process import start

    print("A simulated GPU with room for two of three models (profile rtx5090-crowded):")
    sys.stdout.flush()
    with start("rtx5090-crowded") as box:
        command = RunCommand(
            DEMO,
            urls=[f"box={box.ollama_url}"],
            duration_s=duration_s,
            workers=workers,
            out=out,
        )
        return subprocess.run(command.argv(), check=False).returncode


def make_report(
    run_dir: Path, gates: Sequence[str], junit: str | None = None, markdown: str | None = None
) -> int:
    """Analyse `run_dir`, write summary.json and report.html, print the table; the exit code."""
    from tokenswarm.analysis import runrows
    from tokenswarm.report.finish import exit_code, finish
    from tokenswarm.store.rundir import RunDir

    files = [None if f is None else Path(f) for f in (junit, markdown)]
    summary = finish(run_dir, gates, *files)
    runrows.write(RunDir(run_dir), summary)
    return exit_code(summary)


def show_compat(run_dir: Path) -> None:
    """Print `run_dir` as vllm bench serve would."""
    from tokenswarm.report.compat import vllm_text

    print(vllm_text(run_dir), end="")


def show_diff(run_a: Path, run_b: Path, form: str, confidence: float) -> None:
    """Print what is different in `run_b`; `form` is text, json or markdown."""
    from tokenswarm.report.diff import FORMS, compared

    print(FORMS[form](compared(run_a, run_b, confidence)), end="")


def database(
    url: str | None,
    bucket: str = "tokenswarm",
    org: str = "",
    token_file: Path | None = None,
    api: str = "auto",
) -> "Database":
    """The database that options and environment name. UsageError: none, or no token in a file."""
    from tokenswarm.store.influx import Database

    if not url:
        raise UsageError("no database; give --influx-url or TOKENSWARM_INFLUX_URL")
    token = os.environ.get("TOKENSWARM_INFLUX_TOKEN")
    if token_file is not None:
        try:
            token = token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as e:
            raise UsageError(f"{token_file}: cannot read the token: {e}") from e
    known: dict[str, Api] = {"v1": "v1", "v2": "v2"}
    return Database(url, bucket, org, token or None, known.get(api))


def run_ship(
    path: Path,
    where: "Database",
    *,
    follow: bool,
    drain_s: float,
    until_eof: bool,
    quiet: bool,
) -> int:
    """Ship `path`; the counts as JSON on stdout; 0 when all is there, else 1.

    `until_eof`: stop when stdin ends; Ctrl-C is for who started us.
    """
    import msgspec

    from tokenswarm.store import sender
    from tokenswarm.store.ship import Shipper

    def said(text: str) -> None:
        if not quiet:
            sys.stderr.write(f"tokenswarm ship: {text}\n")

    patience = sender.Patience(drain_s, follow=follow)
    signal.signal(signal.SIGTERM, lambda *_: patience.stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN if until_eof else lambda *_: patience.stop())
    if until_eof:
        threading.Thread(target=_stop_at_eof, args=(patience,), daemon=True).start()
    with closing(Shipper(path, where, patience, said)) as shipper:
        status = shipper.run(follow=follow)
    said(status.line())
    print(msgspec.json.encode(status).decode(), flush=True)
    return EXIT_GOOD if status.complete else EXIT_GATE_FAILED


def run_agent(kind: str, config: Path | None, given: dict[str, str | None]) -> None:
    """Serve an agent of `kind` until SIGTERM. UsageError: its settings cannot be used."""
    from tokenswarm.telemetry.agent.config import KINDS
    from tokenswarm.telemetry.agent.service import serve, settings_of

    serve(settings_of(KINDS[kind], config, given))


def run_watch(
    run_dir: Path, delay_s: float, step_s: float, *, until_eof: bool, quiet: bool
) -> None:
    """Follow the run in `run_dir` to its end, its events as JSON lines on stdout.

    `until_eof`: end when stdin does, politely beside the load. `quiet`: what was done, as JSON.
    """
    import msgspec

    from tokenswarm.analysis.watch import follow
    from tokenswarm.store.rundir import RunDir

    def tell(event: object) -> None:
        print(msgspec.json.encode(event).decode(), flush=True)

    run, ended = RunDir.open(run_dir), threading.Event()
    if until_eof:
        os.nice(BESIDE_THE_LOAD)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started us
        threading.Thread(target=_set_at_eof, args=(ended,), daemon=True).start()
    hush = (lambda event: None) if quiet else tell
    said = follow(run, hush, delay_s, step_s, ended.is_set, ended.wait)
    if quiet:
        print(msgspec.json.encode(said).decode(), flush=True)
    else:
        sys.stderr.write(
            f"tokenswarm watch: {said.swaps} cold starts and swaps, {said.requests} requests "
            f"sealed in {said.looks} looks, {said.cpu_s:.1f} s of a core\n"
        )


def run_verify(path: Path, where: "Database") -> int:
    """Print files and database side by side; 0 when they are the same, else 1."""
    from tokenswarm.store.verify import table, verify

    checked = verify(path, where)
    print(table(checked), end="")
    same = not any(c.differences for c in checked)
    print("everything is there" if same else "NOT everything is there")
    return EXIT_GOOD if same else EXIT_GATE_FAILED


def _set_at_eof(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


def _stop_at_eof(patience: "Patience") -> None:
    sys.stdin.read()
    patience.stop()


def run_doctor(
    scenario: Path | None, urls: Sequence[str], influx_url: str | None, out: Path
) -> int:
    """Print every check with its remedy; 2 when one failed."""
    from tokenswarm.doctor import checks, render

    played = RunCommand(scenario, urls=urls).resolved() if scenario else None
    text, code = render(checks(played, influx_url=influx_url, runs=out))
    print(text)
    return code


def serve_sim(
    profile: str,
    host: str,
    port: int,
    control_port: int,
    truth: Path | None,
    speed: float,
    seed: int,
) -> None:
    """Serve a simulated box until Ctrl-C; its endpoints as one JSON line on stdout."""
    import msgspec

    from tokenswarm.sim.knobs import ProfileError
    from tokenswarm.sim.profile import load as load_profile
    from tokenswarm.sim.serve import Endpoints, serve

    def ready(endpoints: Endpoints) -> None:
        print(msgspec.json.encode(endpoints).decode(), flush=True)
        served = ", ".join(f"{name} at {url}" for name, url in endpoints.urls.items())
        sys.stderr.write(f"simulated: {served}; Ctrl-C ends it\n")

    try:
        serve(
            load_profile(profile),
            host=host,
            port=port,
            control_port=control_port,
            truth=truth,
            speed=speed,
            seed=seed,
            ready=ready,
        )
    except (ProfileError, ValueError, OSError) as e:
        raise UsageError(f"cannot simulate {profile}: {e}") from e
