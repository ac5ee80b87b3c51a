"""tokenswarm's place in Locust's life: options at the start, one Master or Worker a process."""

from locust import events

import logging
import sys
from pathlib import Path
from typing import Any

import gevent

from tokenswarm.errors import TokenswarmError
from tokenswarm.load.master import Master
from tokenswarm.load.options import add_arguments, scenario_of, users_of
from tokenswarm.load.otel import after_forks
from tokenswarm.load.users import MixUser
from tokenswarm.load.worker import Worker

REPORT_S = 1.0


def install() -> None:
    """Hook into Locust; called once, when tokenswarm.load is imported."""
    after_forks()
    events.init_command_line_parser.add_listener(add_arguments)  # type: ignore[no-untyped-call]
    events.init.add_listener(_on_init)  # type: ignore[no-untyped-call]


def default_scenario(path: Path) -> None:
    """Play `path` when the command line names no scenario; for locustfiles."""

    def set_default(parser: Any) -> None:
        parser.set_defaults(scenario=str(path))

    events.init_command_line_parser.add_listener(set_default)  # type: ignore[no-untyped-call]


def _on_init(environment: Any, runner: Any, **_: Any) -> None:
    from locust import runners

    # neither the spool's thread nor a row of finished requests may hold up the hub's time stamps
    sys.setswitchinterval(0.0005)
    gevent.setswitchinterval(0.0005)
    runners.WORKER_REPORT_INTERVAL = REPORT_S
    if isinstance(runner, runners.WorkerRunner):
        environment.tokenswarm = Worker(environment, runner)
        return
    try:
        _show_scenario(environment.parsed_options)
    except TokenswarmError as e:
        sys.stderr.write(f"tokenswarm: {e}\n")
        sys.exit(e.exit_code)
    if environment.parsed_options.only_tokenswarm:
        logging.getLogger("locust.stats_logger").disabled = True
    local = isinstance(runner, runners.LocalRunner)
    environment.tokenswarm = Master(environment, runner, local=local)


def _show_scenario(options: Any) -> None:
    """Users, spawn rate and, for a scenario of one target, the host as Locust's form shows them,
    unless the command line gave them."""
    scenario = scenario_of(options)
    if scenario is None:
        return
    if options.num_users is None:
        options.num_users = users_of(scenario)
    if options.spawn_rate is None:
        options.spawn_rate = options.num_users
    if len(scenario.targets) == 1:
        MixUser.host = next(iter(scenario.targets.values())).url
