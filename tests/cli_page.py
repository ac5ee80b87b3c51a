"""docs/cli.md from the commands' own --help: `python -m tests.cli_page --write` renews it."""

import sys
from pathlib import Path

import click
from click.testing import CliRunner

from tokenswarm.cli import main

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"
INTRO = """# Command line

Made of each command's `--help` by `python -m tests.cli_page --write`. `python3 -m tokenswarm` is
the same as `tokenswarm`. Results go to stdout, progress and errors to stderr.
"""


def help_text(*argv: str) -> str:
    """What `tokenswarm ARGV --help` prints, at a fixed width."""
    result = CliRunner(env={"COLUMNS": "100"}).invoke(
        main, [*argv, "--help"], prog_name="tokenswarm", terminal_width=100
    )
    assert result.exit_code == 0, result.output
    return result.output


def page() -> str:
    """The whole page."""
    parts = [INTRO, f"```\n{help_text()}```\n"]
    parts += [f"## tokenswarm {n}\n\n```\n{help_text(n)}```\n" for n in sorted(main.commands)]
    return "\n".join(parts)


def options() -> list[tuple[str, click.Parameter]]:
    """(command, option) of every command."""
    return [(n, p) for n, c in main.commands.items() for p in c.params]


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(page())
    else:
        sys.stdout.write(page())
