"""Where GPU figures come from: the wrong GPU is worse than none."""

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tokenswarm.engines.protocol import EngineInfo, Knobs
from tokenswarm.errors import UsageError
from tokenswarm.telemetry import source
from tokenswarm.telemetry.listener import tunnel
from tokenswarm.telemetry.source import GpuSource, Wanted, resolve_source, why_not_here

SIM = "http://127.0.0.1:7071"


def target(url: str = "http://127.0.0.1:1", control: str | None = None) -> EngineInfo:
    return EngineInfo("ollama", None, url, (), Knobs(), control is not None, control)


REMOTE = target("http://192.0.2.7:11434")  # an address for documentation: nobody's


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with the driver's file; this test's host may have none."""
    path = tmp_path / "version"
    path.touch()
    monkeypatch.setattr(source, "DRIVER", path)
    monkeypatch.setattr(source, "WSL", tmp_path / "no-dxg")
    return path


@pytest.mark.parametrize(
    ("wanted", "targets", "kind", "control", "words"),
    [
        ("none", [target()], "none", None, "source is none"),
        ("nvml", [REMOTE], "nvml", None, "source is nvml"),  # the user knows
        ("sim", [target(control=SIM)], "sim", SIM, "simulation"),
        ("auto", [target(control=SIM)], "sim", SIM, "simulation"),
        ("auto", [REMOTE, target(control=SIM)], "sim", SIM, "other targets' GPU is not"),
        ("auto", [target(control=SIM), target(control=SIM + "2")], "sim", SIM, "only the first"),
        ("auto", [target()], "nvml", None, "a target runs on this host"),
        ("auto", [target("http://localhost:1")], "nvml", None, "runs on this host"),
        ("auto", [target("http://[::1]:1")], "nvml", None, "runs on this host"),
        ("auto", [REMOTE], "none", None, "192.0.2.7 is another host"),
        ("auto", [target(), REMOTE], "nvml", None, "not sampled: 192.0.2.7 is another host"),
        ("auto", [], "none", None, "there is no target"),
    ],
)
def test_the_source_is_the_one_that_is_true(
    driver: Path, wanted: Wanted, targets: list[EngineInfo], kind: str, control: str | None,
    words: str,
) -> None:  # fmt: skip
    found = resolve_source(wanted, targets)
    assert (found.kind, found.control_url) == (kind, control)
    assert words in found.reason


def test_a_host_without_driver_has_no_figures(driver: Path) -> None:
    driver.unlink()
    assert resolve_source("auto", [target()]) == GpuSource(
        "none", None, "no GPU figures: this host has no NVIDIA driver"
    )


def test_a_simulation_without_a_usable_control_port_never_gets_the_real_gpu(driver: Path) -> None:
    info = EngineInfo("ollama", None, "http://127.0.0.1:1", (), Knobs(), simulated=True)
    assert resolve_source("auto", [info]).kind == "none"


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("sim", "no target says"),
        ("agent", "none of telemetry.agents samples a GPU"),
        ("host", "no target runs on this host"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_way_out(wanted: Wanted, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        resolve_source(wanted, [REMOTE], {"gpu:7071": "none"})


@pytest.mark.parametrize(
    ("wanted", "targets", "kind"),
    [
        ("agent", [REMOTE], "agent"),
        ("auto", [REMOTE], "agent"),
        ("auto", [target()], "agent"),  # it was named, so it is the one that is wanted
        ("auto", [target(control=SIM)], "agent"),
        ("nvml", [REMOTE], "nvml"),
        ("none", [REMOTE], "none"),
    ],
)
def test_an_agent_that_samples_a_gpu_is_taken_unless_another_source_is_named(
    driver: Path, wanted: Wanted, targets: list[EngineInfo], kind: str
) -> None:
    found = resolve_source(wanted, targets, {"gpu:7070": "nvml", "gpu:7072": "none"})
    assert found.kind == kind
    assert found.kind != "agent" or found.reason == "sampled by the agent at gpu:7070"


def test_source_host_shows_the_servers_that_run_here() -> None:
    found = resolve_source("host", [target("http://127.0.0.1:8080"), REMOTE])
    assert (found.kind, found.ports) == ("host", (8080,))


def test_a_name_that_cannot_be_resolved_is_not_here() -> None:
    assert why_not_here("http://nowhere.invalid:1") == "nowhere.invalid cannot be resolved"


LISTENER = """
import socket, sys
with socket.create_server(("127.0.0.1", 0)) as s:
    print(s.getsockname()[1], flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="no /proc/net/tcp")
def test_a_tunnel_on_a_local_port_leads_to_another_gpu(tmp_path: Path) -> None:
    """The system names a process after the file it was started from."""
    for name, found in (("ssh", "ssh"), ("ollama", None)):
        program = tmp_path / name
        shutil.copy(Path(sys.executable).resolve(), program)
        with subprocess.Popen(
            [program, "-S", "-c", LISTENER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={"PYTHONHOME": sys.base_prefix}, text=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            port = int(process.stdout.readline())
            assert tunnel(port) == found
            url = f"http://127.0.0.1:{port}"
            assert why_not_here(url) == (found and f"port {port} leads away through {found}")
            process.communicate()


def test_a_port_without_listener_is_no_tunnel() -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        assert tunnel(s.getsockname()[1]) is None
