"""The command line: parse, make a configuration, call. Imports are inside, for a quick --help."""

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from tokenswarm import __version__
from tokenswarm.errors import TokenswarmError

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
EXIT_CODES = "Exit codes: 0 good, 1 a gate failed, 2 usage, 3 the measurement is not valid."


class _Commands(click.Group):
    """Turns TokenswarmError into one line on stderr and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TokenswarmError as e:
            click.echo(f"tokenswarm: {e}", err=True)
            sys.exit(e.exit_code)


@click.group(cls=_Commands, context_settings=CONTEXT, epilog=EXIT_CODES)
@click.version_option(__version__, prog_name="tokenswarm")
def main() -> None:
    """Load testing of LLM servers that share a GPU: tok/s, P95 and VRAM on one time line."""


@main.command(epilog=EXIT_CODES)
@click.argument("scenario", type=click.Path(path_type=Path))
@click.option(
    "--url",
    "urls",
    multiple=True,
    metavar="TARGET=URL",
    help="Another address for a target of the scenario; repeatable.",
)
@click.option("--users", type=click.IntRange(1), help="Closed loop with so many users.")
@click.option("--rate", type=float, help="Open loop with so many requests a second in all.")
@click.option("--duration", "duration_s", type=float, metavar="S", help="Seconds of load.")
@click.option("--max-requests", type=click.IntRange(1), help="End after so many requests.")
@click.option("--seed", type=int, help="Another seed: another sequence of requests.")
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Worker processes beside the master; 0: one process does it all.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Run directories are made here.",
)
@click.option(
    "--gate",
    "gates",
    multiple=True,
    metavar="EXPR",
    help="Exit with 1 unless EXPR holds, as 'swaps.count < 5'; repeatable.",
)
@click.option(
    "--influx-url",
    envvar="TOKENSWARM_INFLUX_URL",
    metavar="URL",
    help="Also ship it into this InfluxDB, see tokenswarm ship.",
)
@click.option(
    "--agent",
    "agents",
    multiple=True,
    metavar="HOST:PORT",
    help="Listen to this agent instead of the scenario's; repeatable.",
)
@click.option("--junit", metavar="FILE", help="Write the gates as JUnit XML; - is stdout.")
@click.option("--markdown", metavar="FILE", help="Write the result as Markdown; - is stdout.")
@click.option("--dry-run", is_flag=True, help="Print the plan and send nothing.")
def run(scenario: Path, urls: tuple[str, ...], users: int | None, rate: float | None,
        duration_s: float | None, max_requests: int | None, seed: int | None, workers: int,
        out: Path, gates: tuple[str, ...], influx_url: str | None, agents: tuple[str, ...],
        junit: str | None, markdown: str | None, dry_run: bool) -> None:  # fmt: skip
    """Run SCENARIO against its servers and leave a run directory with report.html.

    \b
    tokenswarm run scenarios/three-models-ollama.yaml --url box=http://gpu:11434
    tokenswarm run scenarios/open-loop.yaml --rate 4 --duration 300 --workers 2
    tokenswarm run scenarios/demo.yaml --gate 'models.tinyllama.ttft_s.p95 < 0.5'
    """
    from tokenswarm.command import RunCommand

    command = RunCommand(scenario, urls, users, rate, duration_s, max_requests, seed, workers,
                         out, gates, influx_url, agents, junit, markdown)  # fmt: skip
    if dry_run:
        click.echo(command.plan(), nl=False)
        return
    _become(command.argv())


@main.command(epilog=EXIT_CODES)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True)
@click.option("--duration", "duration_s", type=float, metavar="S", help="Seconds of load.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True)
def demo(workers: int, duration_s: float | None, out: Path) -> None:
    """Show the whole story on a simulated GPU: three models, room for two, swaps all the time."""
    from tokenswarm.command import run_demo

    sys.exit(run_demo(workers, duration_s, out))


@main.command()
@click.argument("profile")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=int, default=11434, show_default=True, help="0: any free one.")
@click.option("--control-port", type=int, default=0, show_default=True)
@click.option("--truth", type=click.Path(path_type=Path), help="Write the ground truth here.")
@click.option(
    "--speed", type=float, default=1.0, show_default=True, help="Time runs so much faster."
)
@click.option("--seed", type=int, default=1, show_default=True)
def sim(profile: str, host: str, port: int, control_port: int, truth: Path | None,
        speed: float, seed: int) -> None:  # fmt: skip
    """Serve a simulated GPU and the servers that share it: PROFILE is a name or a YAML file.

    \b
    tokenswarm sim rtx5090
    tokenswarm sim three-vllm
    tokenswarm sim rtx5090-crowded --port 0 --truth truth.jsonl --speed 4
    """
    from tokenswarm.command import serve_sim

    serve_sim(profile, host, port, control_port, truth, speed, seed)


@main.command(epilog=EXIT_CODES)
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option(
    "--gate",
    "gates",
    multiple=True,
    metavar="EXPR",
    help="Exit with 1 unless EXPR over summary.json holds; repeatable.",
)
@click.option("--junit", metavar="FILE", help="Write the gates as JUnit XML; - is stdout.")
@click.option("--markdown", metavar="FILE", help="Write the result as Markdown; - is stdout.")
@click.option("--compat", type=click.Choice(["vllm"]),
              help="Only print the figures by the formulas of vllm bench serve.")  # fmt: skip
def report(run_dir: Path, gates: tuple[str, ...], junit: str | None, markdown: str | None,
           compat: str | None) -> None:  # fmt: skip
    """Make summary.json and report.html of RUN_DIR again; finishes a run that was killed.

    \b
    tokenswarm report runs/20261122t163015z-k3f9qa --gate 'swaps.latency_s.p95 < 5'
    tokenswarm report runs/20261122t163015z-k3f9qa --junit gates.xml --markdown -
    tokenswarm report runs/20261122t163015z-k3f9qa --compat vllm
    """
    from tokenswarm.command import make_report, show_compat

    if compat:
        show_compat(run_dir)
    else:
        sys.exit(make_report(run_dir, list(gates), junit, markdown))


@main.command()
@click.argument("run_a", type=click.Path(path_type=Path))
@click.argument("run_b", type=click.Path(path_type=Path))
@click.option("--json", "form", flag_value="json", help="Print JSON.")
@click.option("--markdown", "form", flag_value="markdown", help="Print Markdown.")
@click.option("--confidence", type=click.FloatRange(0.5, 0.999), default=0.95, show_default=True,
              help="Of each interval.")  # fmt: skip
def diff(run_a: Path, run_b: Path, form: str | None, confidence: float) -> None:
    """Compare RUN_B with RUN_A, model by model: what changed, and what may be noise.

    \b
    tokenswarm diff runs/20261122t163015z-k3f9qa runs/20261123t090101z-p2m4zz
    tokenswarm diff runs/BEFORE runs/AFTER --markdown > comment.md
    """
    from tokenswarm.command import show_diff

    show_diff(run_a, run_b, form or "text", confidence)


@main.command(epilog="Exit codes: 0 found, 1 no rate met the SLOs, 2 usage, 3 a run was not valid.")
@click.argument("scenario", type=click.Path(path_type=Path))
@click.option(
    "--slo",
    "slos",
    multiple=True,
    metavar="EXPR",
    help="What must hold, as 'ttft_user_s.p95 < 0.5' (of every model) or a whole gate; repeatable. "
    "Else: 99 % within the slo of each model.",
)
@click.option("--from", "start", type=click.FloatRange(0, min_open=True), default=1.0,
              show_default=True, help="The first rate, requests a second.")  # fmt: skip
@click.option("--to", "highest", type=click.FloatRange(0, min_open=True), default=1024.0,
              show_default=True, help="No rate above this one.")  # fmt: skip
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True,
              help="Runs at each rate; the majority decides.")  # fmt: skip
@click.option("--precision", type=click.FloatRange(0.005, 1), default=0.05, show_default=True,
              help="End when the rate is known to this share.")  # fmt: skip
@click.option(
    "--url",
    "urls",
    multiple=True,
    metavar="TARGET=URL",
    help="Another address for a target of the scenario; repeatable.",
)
@click.option("--duration", "duration_s", type=float, metavar="S", help="Seconds of each run.")
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True,
              help="Worker processes of each run.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/search"),
              show_default=True, help="Runs, search.json and search.html go here.")  # fmt: skip
def search(scenario: Path, slos: tuple[str, ...], start: float, highest: float, repeats: int,
           precision: float, urls: tuple[str, ...], duration_s: float | None, workers: int,
           out: Path) -> None:  # fmt: skip
    """Find the highest rate at which SCENARIO meets its SLOs, and draw the curve.

    \b
    tokenswarm search scenarios/open-loop.yaml --slo 'ttft_user_s.p95 < 0.5' --from 4
    """
    from tokenswarm.command import RunCommand
    from tokenswarm.search import Search, run_search

    command = RunCommand(scenario, urls, duration_s=duration_s, workers=workers, out=out)
    sys.exit(run_search(Search(command, slos, start, highest, repeats, precision)))


@main.command()
@click.argument("scenario", type=click.Path(path_type=Path), required=False)
@click.option(
    "--url",
    "urls",
    multiple=True,
    metavar="TARGET=URL",
    help="Another address for a target of the scenario; repeatable.",
)
@click.option("--influx-url", help="Also check this InfluxDB.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True)
def doctor(scenario: Path | None, urls: tuple[str, ...], influx_url: str | None,
           out: Path) -> None:  # fmt: skip
    """Check targets, models, GPU, database, clock and limits, and say what to do."""
    from tokenswarm.command import run_doctor

    sys.exit(run_doctor(scenario, urls, influx_url, out))


def _influx_options(command: Any) -> Any:
    """Where the database is and who we are there; the token itself is never on a command line."""
    options = [
        click.option("--influx-url", envvar="TOKENSWARM_INFLUX_URL", metavar="URL",
                     help="InfluxDB or VictoriaMetrics, as http://127.0.0.1:8086."),
        click.option("--bucket", "--db", "bucket", envvar="TOKENSWARM_INFLUX_BUCKET",
                     default="tokenswarm", show_default=True, help="Bucket, or database in 1.x."),
        click.option("--org", envvar="TOKENSWARM_INFLUX_ORG", default="",
                     help="Organisation in 2.x."),
        click.option("--token-file", envvar="TOKENSWARM_INFLUX_TOKEN_FILE",
                     type=click.Path(path_type=Path), metavar="FILE",
                     help="File with the token, in 1.x USER:PASSWORD. Else: "
                     "TOKENSWARM_INFLUX_TOKEN."),
        click.option("--api", envvar="TOKENSWARM_INFLUX_API",
                     type=click.Choice(["auto", "v1", "v2"]), default="auto",
                     show_default=True, help="Write API; auto: what the server says."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@main.command(epilog="Exit codes: 0 all is there, 1 something is not, 2 usage or denied.")
@click.argument("path", type=click.Path(path_type=Path), metavar="RUN_DIR_OR_SPOOL")
@_influx_options
@click.option(
    "--follow/--once",
    default=False,
    show_default=True,
    help="Go on until SIGTERM, or end with what is there now.",
)
@click.option(
    "--drain",
    "drain_s",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    metavar="S",
    help="Seconds to go on trying after SIGTERM, or in vain with --once.",
)
@click.option("--until-eof", is_flag=True, hidden=True, help="The end of stdin is a SIGTERM.")
@click.option("--quiet", is_flag=True, help="Only the counts at the end, as JSON.")
def ship(path: Path, influx_url: str | None, bucket: str, org: str, token_file: Path | None,
         api: str, follow: bool, drain_s: float, until_eof: bool, quiet: bool) -> None:  # fmt: skip
    """Bring what a run or an agent has measured into InfluxDB, once, whatever happens meanwhile.

    \b
    tokenswarm ship runs/20261122t163015z-k3f9qa --influx-url http://127.0.0.1:8086
    tokenswarm ship /var/lib/tokenswarm/spool --influx-url http://db:8086 --follow
    """
    from tokenswarm.command import database, run_ship

    where = database(influx_url, bucket, org, token_file, api)
    sys.exit(run_ship(path, where, follow=follow, drain_s=drain_s, until_eof=until_eof,
                      quiet=quiet))  # fmt: skip


@main.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("--delay", "delay_s", type=click.FloatRange(0), default=30.0, show_default=True,
              metavar="S", help="Seal what ended so long ago.")  # fmt: skip
@click.option("--step", "step_s", type=click.FloatRange(0.1), default=2.0, show_default=True,
              metavar="S", help="Seconds between two looks.")  # fmt: skip
@click.option("--until-eof", is_flag=True, hidden=True, help="End when stdin does.")
@click.option("--quiet", is_flag=True, help="Only what was done at the end, as JSON.")
def watch(run_dir: Path, delay_s: float, step_s: float, until_eof: bool, quiet: bool) -> None:
    """Follow a run: print each cold start and swap once it is sealed, one JSON object a line.

    A run's master starts one by itself, whose rows (swap, swap_active, request_stratum) go to the
    run's spool, each once; another one beside it only prints. Ends with the run.

    \b
    tokenswarm watch runs/20261122t163015z-k3f9qa --delay 15
    """
    from tokenswarm.command import run_watch

    run_watch(run_dir, delay_s, step_s, until_eof=until_eof, quiet=quiet)


@main.command(epilog="Exit codes: 0 the same, 1 something differs, 2 usage or no answer.")
@click.argument("path", type=click.Path(path_type=Path), metavar="RUN_DIR_OR_SPOOL")
@_influx_options
def verify(path: Path, influx_url: str | None, bucket: str, org: str, token_file: Path | None,
           api: str) -> None:  # fmt: skip
    """Prove count by count and sum by sum that InfluxDB holds what the run's files hold."""
    from tokenswarm.command import database, run_verify

    sys.exit(run_verify(path, database(influx_url, bucket, org, token_file, api)))


@main.command(epilog=EXIT_CODES)
@click.argument("kind", type=click.Choice(["gpu", "engine", "docker"]))
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Where runs subscribe.  [default: 127.0.0.1, port 7070, 7071 or 7072]",
)
@click.option(
    "--token-file",
    metavar="FILE",
    help="File with the token that runs must know; needed beyond loopback. "
    "Else: TOKENSWARM_AGENT_TOKEN.",
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="YAML",
    help="Settings; agents/KIND/config.yaml names them all.",
)
@click.option("--spool", metavar="DIR", help="What is not handed over yet waits here.")
@click.option(
    "--source",
    "gpu_source",
    metavar="SOURCE",
    help="GPU figures from auto, nvml, sim, replay, host or none.",
)
@click.option("--control-url", metavar="URL", help="Control port of the simulation, for sim.")
@click.option(
    "--influx-url",
    envvar="TOKENSWARM_INFLUX_URL",
    metavar="URL",
    help="Between runs, ship to this database as run idle.",
)
def agent(kind: str, config_file: Path | None, **given: str | None) -> None:
    """Sample the GPU, the engines or the containers of this host for runs elsewhere.

    \b
    tokenswarm agent gpu
    tokenswarm agent gpu --listen 0.0.0.0:7070 --token-file /etc/tokenswarm/token
    """  # fmt: skip
    from tokenswarm.command import run_agent

    run_agent(kind, config_file, given)


def _matrix_options(command: Any) -> Any:
    """What the commands that take a matrix share."""
    options = [
        click.argument("matrix", type=click.Path(path_type=Path)),
        click.option("--out", type=click.Path(path_type=Path), metavar="DIR",
                     help="Everything goes here, and is gone on with from here.  "
                     "[default: runs/compare-MATRIX]"),
        click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE",
                     help="Another value for one of the matrix's; repeatable."),
        click.option("--only", multiple=True, metavar="SOLUTION",
                     help="This solution; repeatable."),
        click.option("--time-limit", "limit_s", type=click.FloatRange(1), metavar="S",
                     help="Stop after so many seconds; the same command goes on."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


MATRIX_CODES = "Exit codes: 0 done, 1 a solution failed, 2 usage, 3 not finished."


@main.command(epilog=MATRIX_CODES)
@_matrix_options
def capacity(matrix: Path, out: Path | None, pairs: tuple[str, ...], only: tuple[str, ...],
             limit_s: float | None) -> None:  # fmt: skip
    """Start the servers of each solution of MATRIX, model after model, until one no longer fits.

    \b
    tokenswarm capacity scenarios/three-models.matrix.yaml --only vllm
    """
    from tokenswarm.compare.command import conduct

    sys.exit(conduct(matrix, out, pairs, only, limit_s, None, ("capacity",)))


@main.command(epilog=MATRIX_CODES)
@_matrix_options
@click.option(
    "--against",
    metavar="STUDY",
    help="Put `reference` (three models on an RTX 5090) or a study's file beside it.",
)
def compare(matrix: Path, out: Path | None, pairs: tuple[str, ...], only: tuple[str, ...],
            limit_s: float | None, against: str | None) -> None:  # fmt: skip
    """Compare the engines of MATRIX: capacity, swap drill and load of each, and what to choose.

    \b
    tokenswarm compare scenarios/three-models.matrix.yaml
    tokenswarm compare scenarios/three-models-simulated.matrix.yaml --against reference
    """
    from tokenswarm.compare.command import conduct

    sys.exit(conduct(matrix, out, pairs, only, limit_s, against))


def _become(argv: list[str]) -> NoReturn:
    """Replace this process: signals, exit code and terminal belong to the run alone."""
    sys.stdout.flush()
    os.execv(argv[0], argv)
