"""The stacks of docs/stack.md, as docker-compose reads them: valid, confined, without secrets."""

import os
import re
import shlex
import shutil
import stat
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.running import ROOT
from tokenswarm import __version__
from tokenswarm.scenario.load import load, resolve

Json = dict[str, Any]

PAGE = (ROOT / "docs" / "stack.md").read_text("utf-8")
COMMANDS = sorted(set(re.findall(r"`((?:\w+=\S+ )?docker compose [^`\n]*? up)(?: [^`]*)?`", PAGE)))
OURS = {f"tokenswarm-{name}:{__version__}" for name in ("load", "agent")}
STACKS = pytest.mark.parametrize("command", COMMANDS)


@cache
def configured(command: str) -> Json:
    """The stack of `docker compose -f ... up`, resolved."""
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("needs docker-compose: apt-get install docker-compose")
    words = shlex.split(command)
    settings = dict(w.split("=", 1) for w in words[: words.index("docker")])
    files = words[words.index("compose") + 1 : words.index("up")]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("TOKENSWARM_")}
    said = subprocess.run(
        [program, *files, "config"], cwd=ROOT, env=clean | settings, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    return dict(yaml.safe_load(said.stdout))


def services(command: str) -> list[tuple[str, Json]]:
    return list(configured(command)["services"].items())


def test_the_page_lists_every_overlay_and_a_dozen_stacks() -> None:
    assert len(COMMANDS) + PAGE.count("up --scale worker=8`") >= 12
    named = set(re.findall(r"compose/(compose[.\w]*\.yml)", " ".join(COMMANDS)))
    assert named == {p.name for p in (ROOT / "compose").glob("compose*.yml")}


LIVE = pytest.mark.live


@LIVE
@STACKS
def test_docker_compose_takes_it_and_all_files_are_there(command: str) -> None:
    stack = configured(command)
    for name, service in stack["services"].items():
        if "build" in service:
            context = Path(service["build"]["context"])
            assert (context / service["build"]["dockerfile"]).is_file(), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0] if isinstance(volume, str) else volume["source"]
            if source.startswith("/") and source != "/var/run/docker.sock":
                assert Path(source).exists(), source
    for secret in stack.get("secrets", {}).values():
        assert Path(secret["file"]).parent == ROOT / "compose" / "secrets"


@LIVE
@STACKS
def test_nothing_is_published_beyond_loopback(command: str) -> None:
    for name, service in services(command):
        assert service.get("network_mode") != "host", name
        for port in service.get("ports", []):
            text = port if isinstance(port, str) else str(port.get("host_ip", ""))
            assert text.startswith("127.0.0.1"), (name, port)


@LIVE
@STACKS
def test_who_runs_as_root_says_why(command: str) -> None:
    for name, service in services(command):
        user = str(service.get("user", "")).partition(":")[0]
        if service["image"] in OURS:  # test_images: their user is 65532
            assert user == "", name
            continue
        reason = service.get("labels", {}).get("tokenswarm.root", "")
        assert (user not in ("", "0", "root")) != (len(reason) > 30), name


@LIVE
@STACKS
def test_services_are_pinned_confined_and_bounded(command: str) -> None:
    for name, service in services(command):
        image, _, tag = service["image"].rpartition(":")
        assert image, name
        assert re.match(r"v?\d+\.\d+", tag), service["image"]
        assert "no-new-privileges:true" in service["security_opt"], name
        assert service["cap_drop"] == ["ALL"], name
        assert not service.get("privileged"), name
        assert service["restart"] == "unless-stopped", name
        assert service["mem_limit"], name
        if service["image"] not in OURS and name != "docker-proxy":
            assert service["healthcheck"]["test"], name
        if service["image"] in OURS:
            assert service["read_only"] is True, name
            assert service["environment"]["TOKENSWARM_HEALTH"], name


@LIVE
@STACKS
def test_secrets_come_from_files(command: str) -> None:
    for name, service in services(command):
        for variable, value in (service.get("environment") or {}).items():
            if re.search("PASSWORD|TOKEN|SECRET", variable.removeprefix("TOKENSWARM")):
                assert variable.endswith("_FILE"), (name, variable)
                assert str(value).startswith("/run/secrets/"), (name, variable)
        for word in service.get("command") or []:
            assert not re.search(r"(token|password)=(?!/run/secrets)", str(word)), (name, word)


@LIVE
@STACKS
def test_dockers_socket_is_seen_by_the_proxy_alone(command: str) -> None:
    for name, service in services(command):
        mounts = [str(v) for v in service.get("volumes", []) if "docker.sock" in str(v)]
        if name != "docker-proxy":
            assert mounts == [], name
            continue
        assert mounts == ["/var/run/docker.sock:/var/run/docker.sock:ro"]
        assert str(service["environment"]["POST"]) == "0"
        assert "ports" not in service
        assert list(service["networks"]) == ["docker"]


@pytest.mark.parametrize("path", sorted((ROOT / "compose" / "scenarios").glob("*.yaml")), ids=str)
def test_the_scenarios_of_the_stacks_are_scenarios(path: Path) -> None:
    scenario = resolve(load(path), path.parent)
    assert scenario.telemetry.agents == ["gpu-agent:7070"]
    hosts = {t.url.split("//")[1].split(":")[0] for t in scenario.targets.values()}
    overlay = ROOT / "compose" / f"compose.{path.stem}.yml"
    if overlay.exists():
        assert hosts <= set(yaml.safe_load(overlay.read_text())["services"])


def test_make_secrets_makes_them_once_for_the_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    for _ in range(2):
        subprocess.run(
            ["make", "--silent", "secrets", f"SECRETS={folder}"], cwd=ROOT, check=True,
            capture_output=True,
        )  # fmt: skip
        made = {p.name: p.read_text() for p in folder.iterdir()}
        if (tmp_path / "first").exists():
            assert made == yaml.safe_load((tmp_path / "first").read_text())
        (tmp_path / "first").write_text(yaml.safe_dump(made))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    needed = {"influx_password", "influx_token", "grafana_password", "agent_token"}
    assert set(made) == needed | {"influx3_admin"}
    assert len({made[name] for name in needed}) == 4
    assert all(len(made[name].strip()) >= 64 for name in needed)
    assert made["influx_token"].strip() in made["influx3_admin"]
    assert "compose/secrets/" in (ROOT / ".gitignore").read_text().split()


SECRET = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----|AKIA[0-9A-Z]{16}|gh[pousr]_\w{36}|hf_[A-Za-z]{34}"
    r"|apiv3_[\w-]{20,}|sk-[A-Za-z0-9]{32,}|xox[baprs]-[\w-]{10,}|eyJ[\w-]{20,}\.eyJ[\w-]{20,}"
)
ASSIGNED = re.compile(r"(?i)(password|token|secret)\w*\s*[:=]\s*['\"]?([A-Za-z0-9+/_-]{20,})")


def tracked() -> list[Path]:
    said = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if said.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in said.stdout.decode().split("\0") if name]


def test_no_file_of_the_project_holds_a_secret() -> None:
    found = []
    for path in tracked():
        if path.is_file() and path.stat().st_size < 2_000_000:
            text = path.read_text("utf-8", errors="ignore")
            found += [f"{path.name}: {m[0][:12]}" for m in SECRET.finditer(text)]
    assert found == []


@pytest.mark.parametrize("folder", ["compose", "agents", "kubernetes", "grafana"])
def test_no_deployment_file_gives_a_password_a_value(folder: str) -> None:
    for path in tracked():
        if path.is_relative_to(ROOT / folder) and path.suffix not in (".py", ".json"):
            values = [m[2] for m in ASSIGNED.finditer(path.read_text())]
            assert [v for v in values if not v.startswith("/")] == [], path.name


def test_the_scan_would_find_one() -> None:
    assert SECRET.search("token: apiv3_" + "x" * 40)
    assert ASSIGNED.search("INFLUX_PASSWORD: " + "correcthorsebatterystaple")
