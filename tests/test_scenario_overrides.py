"""What the command line changes, what a dry run prints and what a digest tells apart."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tokenswarm.errors import UsageError
from tokenswarm.scenario.dryrun import digest, plan_text
from tokenswarm.scenario.load import load, parse
from tokenswarm.scenario.model import ClosedLoad, OpenLoad, Target, TextPrompt
from tokenswarm.scenario.overrides import override

SCENARIOS = Path(__file__).parent.parent / "scenarios"
DEMO = load(SCENARIOS / "demo.yaml")
OPEN = load(SCENARIOS / "open-loop.yaml")


def test_nothing_given_changes_nothing() -> None:
    assert override(DEMO) == DEMO


def test_every_value_given_is_taken() -> None:
    changed = override(
        DEMO,
        urls={"box": "http://gpu:1"},
        users=3,
        duration_s=9,
        max_requests=5,
        seed=4,
        gates=["swaps.count > 0"],
        agents=["http://gpu:7070"],
    )
    assert changed.targets["box"].url == "http://gpu:1"
    assert changed.load == ClosedLoad(users=3, think_s=0.3)
    assert (changed.duration_s, changed.max_requests, changed.seed) == (9, 5, 4)
    assert changed.gates == ["swaps.count > 0"]
    assert changed.telemetry.agents == ["http://gpu:7070"]


def test_users_make_a_load_closed_and_a_rate_makes_it_open() -> None:
    assert override(OPEN, users=2).load == ClosedLoad(users=2)
    assert override(DEMO, rate=3).load == OpenLoad(rate=3)
    assert override(OPEN, rate=3).load == OpenLoad(rate=3, max_in_flight=256)


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"users": 1, "rate": 2.0}, ["--users 1 and --rate 2", "give one"]),
        ({"urls": {"bx": "http://a"}}, ["--url bx", "did you mean 'box'"]),
        ({"urls": {"box": "gpu"}}, ["--url box", "'gpu'", "http://"]),
        ({"users": 0}, ["--users: 0", "1 or more"]),
        ({"rate": 0.0}, ["--rate: 0", "more than 0"]),
        ({"duration_s": -1.0}, ["--duration: -1", "more than 0"]),
        ({"max_requests": 0}, ["--max-requests: 0", "1 or more"]),
        ({"seed": -1}, ["--seed: -1", "0 or more"]),
        ({"gates": [""]}, ["--gate: ''", "write one such as"]),
        ({"agents": ["gpu"]}, ["--agent: 'gpu'", "HOST:PORT"]),
    ],
)
def test_a_wrong_option_is_refused_by_its_name(values: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        override(DEMO, **values)
    assert caught.value.exit_code == 2
    assert all(part in str(caught.value) for part in parts), str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_refused(value: float) -> None:
    for values in ({"rate": value}, {"duration_s": value}):
        with pytest.raises(UsageError, match=r"(nan|inf) is out of range"):
            override(DEMO, **values)  # type: ignore[arg-type]


# -- dry run


def test_a_dry_run_says_what_would_be_sent() -> None:
    printed = plan_text(OPEN, 5)
    assert "open-loop" in printed
    assert digest(OPEN)[:16] in printed
    assert "http://127.0.0.1:11434" in printed
    assert "open, 2 requests/s, poisson arrivals, at most 256 in flight" in printed
    assert "about 240: 30720 prompt tokens, up to 15360 output tokens" in printed
    assert "120 s, then up to 300 s to drain, the first 10 s are warm-up" in printed
    assert printed.rstrip().splitlines()[-1].split()[0] == "4"


def test_a_dry_run_of_a_closed_loop_does_not_guess_the_number_of_requests() -> None:
    assert "as many as the servers finish\n" in plan_text(DEMO)
    limited = override(DEMO, max_requests=9)
    assert "as many as the servers finish, at most 9" in plan_text(limited)


def test_shares_of_a_dry_run_are_those_of_its_requests() -> None:
    drill = plan_text(load(SCENARIOS / "swap-drill.yaml"))
    assert drill.count("33.4%") == 1
    assert drill.count("33.3%") == 2


def test_a_dry_run_escapes_what_a_terminal_would_obey() -> None:
    models = [replace(DEMO.models[0], prompt=TextPrompt(text="a\x1b[31m\nb\u202e"))]
    printed = plan_text(replace(DEMO, models=models), 1)
    assert r"a\x1b[31m\nb\u202e" in printed
    assert "\x1b" not in printed


def test_a_dry_run_shows_no_header_values() -> None:
    target = Target(api="ollama", url="http://h", headers={"X-Key": "s3cret"})
    assert "s3cret" not in plan_text(replace(DEMO, targets={"box": target}))


# -- digest


def test_a_digest_is_the_same_for_the_same_scenario_however_it_is_written() -> None:
    short = "name: a\ntargets: {t: {api: ollama, url: 'http://h'}}\nmodels: "
    one = parse(short + "[{name: m, target: t, model: x, weight: 1}]")
    two = parse(short + "\n- model: x\n  target: t\n  name: m\n  output: {tokens: 128}\n")
    assert digest(one) == digest(two)
    assert len(digest(one)) == 64


def test_a_digest_changes_with_the_seed_and_not_with_a_secret() -> None:
    assert digest(override(DEMO, seed=8)) != digest(DEMO)
    keys = [Target(api="ollama", url="http://h", headers={"X-Key": key}) for key in ("a", "b")]
    assert len({digest(replace(DEMO, targets={"box": key})) for key in keys}) == 1
