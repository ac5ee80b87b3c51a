"""What an agent is told: files, options, and what it refuses to do."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tokenswarm.errors import UsageError
from tokenswarm.telemetry.agent.config import (
    KINDS,
    Kind,
    Settings,
    defaults,
    loopback,
    place_of,
    read_settings,
    sampling,
)
from tokenswarm.telemetry.agent.service import settings_of
from tokenswarm.telemetry.link.token import proof, read_token

AGENTS = Path(__file__).parent.parent / "agents"
TOKEN = "0123456789abcdef"


@pytest.mark.parametrize("kind", KINDS.values())
def test_the_sample_configuration_is_what_an_agent_does_without_one(kind: Kind) -> None:
    given = read_settings(AGENTS / kind / "config.yaml", kind)
    if kind == "engine":
        assert [e.target for e in given.engines] == ["box"]
    else:
        assert given == defaults(kind)


@pytest.mark.parametrize("kind", KINDS.values())
def test_the_sample_configuration_names_every_setting(kind: Kind) -> None:
    text = (AGENTS / kind / "config.yaml").read_text()
    of_others = {
        "gpu": {"engines", "engine_interval_s", "containers"},
        "engine": {"gpu", "host_figures", "containers"},
        "docker": {"gpu", "host_figures", "engines", "engine_interval_s", "models"},
    }
    for name in set(Settings.__struct_fields__) - of_others[kind]:
        assert f"{name}:" in text, name


@pytest.mark.parametrize("kind", KINDS.values())
def test_the_thin_entry_is_the_command(kind: Kind) -> None:
    argv = [sys.executable, str(AGENTS / kind / "agent.py"), "--listen", "nowhere"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "listen 'nowhere' is no address of an agent; give HOST:PORT" in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lisen: 127.0.0.1:1", ["lisen"]),
        ("gpu: {sauce: nvml}", ["sauce", "$.gpu"]),
        ("gpu: {source: amd}", ["'amd'", "$.gpu.source"]),
        ("gpu: {interval_s: 0.001}", [">= 0.01", "$.gpu.interval_s"]),
        ("gpu: {interval_s: fast}", ["`float`", "$.gpu.interval_s"]),
        ("engines: [{target: box}]", ["engine", "$.engines[0]"]),
        ("- listen", ["a mapping of settings"]),
        ("listen: [", ["agent.yaml", "line 1"]),
        ("keep_s: -1", [">= 0", "$.keep_s"]),
    ],
)
def test_a_wrong_file_is_refused_by_its_key(text: str, words: list[str], tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_settings(file, "gpu")
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_file_is_over_the_defaults_and_an_option_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("listen: 127.0.0.1:7777\ngpu: {source: sim}\nhost: Box One\n")
    found = settings_of("gpu", file, {"listen": "127.0.0.1:1", "gpu_source": "none", "spool": None})
    assert found.listen == "127.0.0.1:1"
    assert found.gpu is not None
    assert found.gpu.source == "none"
    assert found.host_figures is not None
    assert sampling(found).host == "box-one"


def test_an_option_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="amd"):
        settings_of("gpu", None, {"gpu_source": "amd"})
    with pytest.raises(UsageError, match="need an agent that samples a GPU"):
        settings_of("docker", None, {"gpu_source": "nvml"})


@pytest.mark.parametrize("listen", ["0.0.0.0:7070", "[::]:7070", "192.0.2.1:7070"])
def test_beyond_this_host_a_token_is_needed(
    listen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TOKENSWARM_AGENT_TOKEN", raising=False)
    with pytest.raises(UsageError, match="asks for a token: name a file with --token-file"):
        place_of(Settings(listen=listen))
    monkeypatch.setenv("TOKENSWARM_AGENT_TOKEN", TOKEN)
    assert place_of(Settings(listen=listen)).token == TOKEN
    assert TOKEN not in repr(place_of(Settings(listen=listen)))


@pytest.mark.parametrize(
    ("host", "yes"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False)]
)
def test_loopback_is_what_reaches_this_host_alone(host: str, yes: bool) -> None:
    assert loopback(host) == yes


@pytest.mark.parametrize(
    ("environ", "token"),
    [
        ({}, None),
        ({"T": TOKEN}, TOKEN),
        ({"T": f" {TOKEN}\n"}, TOKEN),
        ({"T": "x" * 16, "T_FILE": "FILE"}, TOKEN),
    ],
)
def test_a_token_comes_from_a_file_or_the_environment(
    environ: dict[str, str], token: str | None, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    known = {k: str(tmp_path / "token") if v == "FILE" else v for k, v in environ.items()}
    assert read_token(None, "T", known) == token
    assert read_token(str(tmp_path / "token"), "T", known) == TOKEN


@pytest.mark.parametrize("text", ["short", "", "x" * 5000])
def test_a_token_that_is_none_is_refused_and_not_shown(text: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    with pytest.raises(UsageError, match="openssl rand -hex 32") as caught:
        read_token(str(file))
    assert not text or text not in str(caught.value)


def test_a_proof_shows_one_token_one_side_and_one_pair_of_numbers() -> None:
    known = proof(TOKEN, "agent", b"1", b"2")
    others = [
        proof(TOKEN + "x", "agent", b"1", b"2"),
        proof(TOKEN, "subscriber", b"1", b"2"),
        proof(TOKEN, "agent", b"1", b"3"),
        proof(TOKEN, "agent", b"3", b"2"),
    ]
    assert len(known) == 32
    assert known not in others
    assert proof(None, "agent", b"1", b"2") == b""


def test_an_address_or_a_folder_that_is_taken_is_said(tmp_path: Path) -> None:
    agent = [sys.executable, "-m", "tokenswarm", "agent", "gpu", "--source", "none"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        argv = [*agent, "--listen", listen, "--spool", str(tmp_path)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{listen}: cannot listen there: Address already in use" in done.stderr
    argv = [*agent, "--listen", "127.0.0.1:0", "--spool", str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as first:
        assert first.stdout is not None
        assert first.stdout.readline()
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        first.terminate()
    assert done.returncode == 2
    assert f"{tmp_path}: another agent works here" in done.stderr
