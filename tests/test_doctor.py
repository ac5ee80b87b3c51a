"""What doctor finds, what it advises, and what it never repeats."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.canned_server import Canned, canned_server
from tests.engine_answers import ollama
from tokenswarm.doctor import Check, checks, render
from tokenswarm.scenario.model import (
    ClosedLoad,
    GpuTelemetry,
    Model,
    OpenLoad,
    Scenario,
    Target,
    Telemetry,
)

SECRET = "sk-doctor-55"


def scenario(url: str, model: str = "qwen", **target: str) -> Scenario:
    return Scenario(
        name="s",
        targets={"box": Target(api="ollama", url=url, **target)},  # type: ignore[arg-type]
        models=[Model(name="m", target="box", model=model)],
        load=ClosedLoad(users=8),
        telemetry=Telemetry(gpu=GpuTelemetry(source="none")),
    )


@pytest.fixture
def box() -> Iterator[Canned]:
    with canned_server(ollama()) as canned:
        yield canned


def find(found: list[Check], name: str) -> Check:
    (check,) = [c for c in found if c.name == name]
    return check


def test_a_target_in_order_is_said_with_its_facts(box: Canned, tmp_path: Path) -> None:
    found = checks(scenario(box.url), runs=tmp_path)
    check = find(found, "target box")
    assert check.ok is True
    assert check.text.startswith(f"ollama 0.33.0 at {box.url}, 1 models there, answers in ")
    assert find(found, "gpu").text == "telemetry.gpu.source is none"
    assert [c.name for c in found if c.ok is False] == []
    assert render(found)[1] == 0


def test_a_missing_model_fails_with_the_command_that_brings_it(box: Canned) -> None:
    check = find(checks(scenario(box.url, model="gemma")), "target box")
    assert (check.ok, check.remedy) == (False, "`ollama pull gemma`")
    assert "it has tinyllama:1.1b, qwen:latest" in check.text


def test_a_simulated_target_says_so_and_its_control_port_is_the_gpu(tmp_path: Path) -> None:
    with canned_server(ollama(), X_Tokenswarm_Sim="http://127.0.0.1:9") as canned:
        plan = scenario(canned.url)
        found = checks(Scenario(name="s", targets=plan.targets, models=plan.models), runs=tmp_path)
    assert "(simulated)" in find(found, "target box").text
    assert find(found, "gpu").ok is True


def test_a_target_that_is_not_there_fails_and_the_others_are_still_checked() -> None:
    found = checks(scenario("http://127.0.0.1:9"))
    check = find(found, "target box")
    assert check.ok is False
    assert check.text.startswith("nothing listens at http://127.0.0.1:9")
    assert check.remedy == "start the server or correct the target's url"
    assert find(found, "disk")
    assert render(found)[1] == 2


def test_a_key_is_used_but_never_shown(box: Canned) -> None:
    box.answers = {"/v1/models": (401, f"bad key {SECRET}".encode())}
    found = checks(scenario(box.url, api_key_env="KEY"), environ={"KEY": SECRET})
    assert box.seen[0][1]["Authorization"] == f"Bearer {SECRET}"
    assert find(found, "target box").ok is False
    assert SECRET not in render(found)[0]
    unset = find(checks(scenario(box.url, api_key_env="KEY"), environ={}), "target box")
    assert "environment variable KEY" in unset.text


@pytest.mark.parametrize(
    ("answers", "ok", "words"),
    [
        ({"/ping": (204, b"")}, True, "answers, version 2.7"),  # InfluxDB 1 and 2
        ({"/health": b"{}"}, True, "answers"),  # VictoriaMetrics, InfluxDB 3
        ({"/ping": (401, b""), "/health": (401, b"")}, None, "only to a token"),  # 3 Core
        ({}, False, "HTTP 404 to /ping and /health"),  # something else
    ],
)
def test_the_database_is_asked(
    answers: dict[str, tuple[int, bytes]], ok: bool | None, words: str
) -> None:
    with canned_server(dict(answers), X_Influxdb_Version="2.7") as canned:
        check = find(checks(influx_url=canned.url), "database")
    assert check.ok is ok
    assert words in check.text


def test_a_database_that_is_away_fails() -> None:
    check = find(checks(influx_url="http://127.0.0.1:9"), "database")
    assert check.ok is False
    assert "nothing listens" in check.text


@pytest.mark.parametrize("load", [ClosedLoad(users=10**7), OpenLoad(rate=1, max_in_flight=10**7)])
def test_too_few_open_files_for_the_users_fail(box: Canned, load: ClosedLoad | OpenLoad) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        pytest.skip("no limit here")
    plan = scenario(box.url)
    found = checks(Scenario(name="s", targets=plan.targets, models=plan.models, load=load))
    check = find(found, "open files")
    assert (check.ok, check.remedy) == (False, "raise the limit: `ulimit -n 20000200`")


@pytest.mark.parametrize(
    ("governors", "ok", "remedy"),
    [
        (["performance", "performance"], True, False),
        (["performance", "powersave"], None, True),  # one slow core is enough
        ([], None, False),  # a virtual machine has none
    ],
)
def test_a_slow_governor_is_noted(
    tmp_path: Path, governors: list[str], ok: bool | None, remedy: bool
) -> None:
    for i, governor in enumerate(governors):
        folder = tmp_path / f"devices/system/cpu/cpu{i}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(governor + "\n")
    check = find(checks(sys_root=tmp_path), "cpu governor")
    assert (check.ok, bool(check.remedy)) == (ok, remedy)


def test_runs_need_a_place(tmp_path: Path) -> None:
    assert "GiB free" in find(checks(runs=tmp_path / "not" / "yet"), "disk").text


def test_rendering_tells_failures_from_notes_and_keeps_lines_whole() -> None:
    text, code = render(
        [
            Check("a", True, "fine"),
            Check("longer", None, "hm", "perhaps do this"),
            Check("b", False, "bad\n\x1b[31mnews", "do that"),
        ]
    )
    assert text.splitlines() == [
        "ok    a       fine",
        "note  longer  hm",
        "              -> perhaps do this",
        "FAIL  b       bad??[31mnews",
        "              -> do that",
        "1 of 3 checks failed",
    ]
    assert code == 2
