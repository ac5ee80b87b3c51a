"""tokenswarm's options on Locust's command line, and what they make of a scenario."""

from argparse import Namespace
from pathlib import Path
from typing import Any, get_args

import msgspec

from tokenswarm.errors import UsageError
from tokenswarm.scenario.load import load, resolve
from tokenswarm.scenario.model import ClosedLoad, MixOrder, Scenario
from tokenswarm.scenario.overrides import override
from tokenswarm.scenario.urls import target_urls

OPTIONS: dict[str, dict[str, Any]] = {
    "--scenario": {
        "metavar": "FILE", "default": "", "env_var": "TOKENSWARM_SCENARIO",
        "include_in_web_ui": True, "help": "scenario file (YAML) that MixUser plays",
    },
    "--runs-dir": {
        "metavar": "DIR", "default": "runs", "env_var": "TOKENSWARM_RUNS_DIR",
        "help": "run directories are made here (default: runs)",
    },
    "--target-url": {
        "metavar": "TARGET=URL", "action": "append", "default": [],
        "help": "another address for a target of the scenario; repeatable",
    },
    "--rate": {
        "type": float, "default": None, "include_in_web_ui": True,
        "help": "requests a second in all: makes the load an open loop",
    },
    "--closed": {
        "action": "store_true", "include_in_web_ui": True,
        "help": "play a closed loop of --users, whatever the scenario says",
    },
    "--mix": {
        "choices": ["", *get_args(MixOrder)], "default": "", "include_in_web_ui": True,
        "help": "order of the models, instead of the scenario's mix.order",
    },
    "--keep-alive": {
        "default": "", "metavar": "TIME", "include_in_web_ui": True,
        "help": "how long Ollama keeps a model loaded, as 5m, or 0 for not at all",
    },
    "--duration": {
        "type": float, "default": None, "metavar": "S", "include_in_web_ui": True,
        "help": "seconds of load, instead of the scenario's duration_s",
    },
    "--max-requests": {
        "type": int, "default": None, "help": "end after so many requests in all",
    },
    "--seed": {
        "type": int, "default": None, "help": "another seed: another sequence of requests",
    },
    "--agent": {
        "metavar": "HOST:PORT", "action": "append", "default": [],
        "help": "listen to this agent instead of the scenario's; repeatable",
    },
    "--gate": {
        "metavar": "EXPR", "action": "append", "default": [],
        "help": "also fail (exit code 1) unless EXPR over summary.json holds; repeatable",
    },
    "--junit": {
        "metavar": "FILE", "default": None,
        "help": "write the gates as JUnit XML here at the end; - is stdout",
    },
    "--markdown": {
        "metavar": "FILE", "default": None,
        "help": "write the result as Markdown here at the end; - is stdout",
    },
    "--grafana-url": {
        "default": "", "metavar": "URL", "env_var": "TOKENSWARM_GRAFANA_URL",
        "help": "Grafana with our dashboards: the live page links to it",
    },
    "--watch-delay": {
        "type": float, "default": 30.0, "metavar": "S", "env_var": "TOKENSWARM_WATCH_DELAY_S",
        "help": "seal the stratum of a request so long after its end, while the run is on",
    },
    "--no-live": {
        "action": "store_true", "help": "no line of live progress on stderr",
    },
    "--only-tokenswarm": {
        "action": "store_true", "help": "leave out Locust's own tables at the end",
    },
}  # fmt: skip


def add_arguments(parser: Any) -> None:
    """Add tokenswarm's options; Locust's own servers listen on loopback unless told otherwise."""
    add = parser.add_argument  # not a group: only Locust's parser knows include_in_web_ui
    for flag, settings in OPTIONS.items():
        add(flag, **{"include_in_web_ui": False, **settings})
    _add_database(add)
    # a lost worker's users are taken over by the others
    parser.set_defaults(web_host="127.0.0.1", master_bind_host="127.0.0.1", enable_rebalancing=True)


def _add_database(add: Any) -> None:
    """Where the run's rows go besides its directory; the token is in TOKENSWARM_INFLUX_TOKEN."""
    add(
        "--influx-url",
        metavar="URL",
        default="",
        env_var="TOKENSWARM_INFLUX_URL",
        include_in_web_ui=False,
        help="also ship the run into this InfluxDB, as http://127.0.0.1:8086",
    )
    for flag, variable, default, text in (
        ("bucket", "BUCKET", "tokenswarm", "bucket, or database in 1.x (default: tokenswarm)"),
        ("org", "ORG", "", "organisation in 2.x"),
        ("token-file", "TOKEN_FILE", "", "file with the token, in 1.x USER:PASSWORD"),
        ("api", "API", "auto", "write API, v1 or v2 (default: what the server says)"),
    ):
        add(
            f"--influx-{flag}",
            metavar=flag.upper().replace("-", "_"),
            default=default,
            env_var=f"TOKENSWARM_INFLUX_{variable}",
            include_in_web_ui=False,
            help=text,
        )


def scenario_of(options: Namespace, users: int | None = None) -> Scenario | None:
    """The scenario that `options` name, overrides applied; None without --scenario.

    `users` is how many Locust users there will be: a closed loop's users, and in an open loop
    the cap on requests in flight, which the scenario then has as its own.
    """
    if not getattr(options, "scenario", ""):
        return None
    path = Path(options.scenario)
    plain = resolve(load(path), path.parent)
    scenario = override(
        plain,
        urls={**target_urls(options.target_url), **_url_of_host(options.host, plain)},
        users=users if options.closed else None,
        rate=_number(options.rate, "rate"),
        duration_s=_number(options.duration, "duration"),
        max_requests=options.max_requests,
        seed=options.seed,
        gates=options.gate,
        agents=options.agent,
        order=options.mix or None,
        keep_alive=_keep_alive(options.keep_alive),
    )
    return scenario if users is None else with_users(scenario, users)


def _number(given: float | str | None, name: str) -> float | None:
    """What the command line made a number and the page's form leaves a text; empty: not given."""
    if given in (None, ""):
        return None
    try:
        return float(given)
    except ValueError:
        raise UsageError(f"{name} {given!r} is no number; write one, as 2.5") from None


def _keep_alive(given: str) -> str | float | None:
    """A duration such as 5m, or seconds as a number; empty: not given."""
    try:
        return float(given)
    except ValueError:
        return given or None


def _url_of_host(host: str | None, scenario: Scenario) -> dict[str, str]:
    """What Locust's --host, or the web page's field of that name, means for the targets."""
    if not host:
        return {}
    if len(scenario.targets) > 1:
        names = ", ".join(scenario.targets)
        raise UsageError(
            f"host {host!r}: the scenario has several targets ({names}); leave the host empty and "
            "give --target-url TARGET=URL"
        )
    return dict.fromkeys(scenario.targets, host)


def with_users(scenario: Scenario, users: int) -> Scenario:
    """`scenario` as it is with so many Locust users."""
    load = scenario.load
    field = "users" if isinstance(load, ClosedLoad) else "max_in_flight"
    return msgspec.structs.replace(scenario, load=msgspec.structs.replace(load, **{field: users}))


def users_of(scenario: Scenario) -> int:
    """How many Locust users a scenario needs: its users, or the cap on requests in flight."""
    load = scenario.load
    return load.users if isinstance(load, ClosedLoad) else load.max_in_flight
