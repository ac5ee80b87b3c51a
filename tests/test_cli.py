"""The command line: help that is true, errors that are short, files that are shipped."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import pytest

from tests.cli_page import PAGE, help_text, options, page
from tests.running import ROOT, finished, tokenswarm
from tokenswarm.cli import main


def test_the_documented_command_line_is_the_real_one() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.cli_page --write"


def test_every_option_says_what_it_does() -> None:
    silent = [
        f"{command} {option.opts[0]}"
        for command, option in options()
        if isinstance(option, click.Option) and not option.help and not option.show_default
    ]
    assert silent == []


def test_help_fits_a_screen() -> None:
    for name in main.commands:
        assert len(help_text(name).splitlines()) <= 45, name


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["run", "nowhere.yaml"], "nowhere.yaml"),  # no such file
        (["report", "."], "manifest.json"),  # no run there
        (["sim", "no-such-profile"], "no-such-profile"),
        (["doctor", "nowhere.yaml"], "nowhere.yaml"),
        (["run", str(ROOT / "scenarios" / "demo.yaml"), "--url", "box"], "TARGET=URL"),
        (["run", str(ROOT / "scenarios" / "demo.yaml"), "--url", "bx=http://h"], "box"),
        (["run", str(ROOT / "scenarios" / "demo.yaml"), "--users", "1", "--rate", "1"], "--rate"),
        (["run", str(ROOT / "scenarios" / "demo.yaml"), "--gate", "swops.count < 1"], "swaps"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_code_2(
    argv: list[str], said: str, tmp_path: Path
) -> None:
    assert finished(tokenswarm(*argv, cwd=tmp_path)) == 2
    err = (tmp_path / "stderr.txt").read_text()
    assert said in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


def test_doctor_says_what_to_do_about_a_server_that_is_not_there(tmp_path: Path) -> None:
    scenario = ROOT / "scenarios" / "demo.yaml"
    argv = ["doctor", str(scenario), "--url", "box=http://127.0.0.1:9"]
    assert finished(tokenswarm(*argv, cwd=tmp_path)) == 2
    assert "127.0.0.1:9" in (tmp_path / "stdout.txt").read_text()


def wheel_names(tmp_path: Path, **environ: str) -> set[str]:
    """What is in the wheel, built from a copy, so that nothing is left in the tree."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    left_out = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so")
    shutil.copytree(ROOT / "src", copy / "src", ignore=left_out)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    argv = [*build, "-w", str(tmp_path), "."]
    env = {**os.environ, **environ}
    subprocess.run(argv, cwd=copy, env=env, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_one_package_with_everything_it_reads(tmp_path: Path) -> None:
    names = wheel_names(tmp_path)
    assert {n.split("/")[0] for n in names if ".dist-info/" not in n} == {"tokenswarm"}
    for needed in (
        "tokenswarm/demo.yaml",
        "tokenswarm/load/locustfile/mix.py",
        "tokenswarm/sim/profiles/rtx5090-crowded.yaml",
        "tokenswarm/report/templates/report.html.j2",
        "tokenswarm/report/assets/uPlot.iife.min.js",
    ):
        assert needed in names


def test_a_machine_without_a_compiler_gets_a_wheel_without_the_compiled_part(
    tmp_path: Path,
) -> None:
    names = wheel_names(tmp_path, CC="false")
    assert "tokenswarm/native.py" in names
    assert not [name for name in names if name.endswith(".so")]


@pytest.mark.live
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler found as cc")
def test_with_a_compiler_the_hot_path_is_compiled(tmp_path: Path) -> None:
    names = wheel_names(tmp_path)
    assert [n for n in names if n.startswith("tokenswarm/_native.") and n.endswith(".so")]


def test_the_demo_in_the_package_is_the_one_among_the_scenarios() -> None:
    packaged = ROOT / "src" / "tokenswarm" / "demo.yaml"
    assert packaged.read_text() == (ROOT / "scenarios" / "demo.yaml").read_text()
