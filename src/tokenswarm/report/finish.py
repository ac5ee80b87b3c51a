"""Finish a run: analysis, report.html and the result on the terminal."""

import sys
from collections.abc import Sequence
from pathlib import Path

from tokenswarm.analysis.figures import Summary
from tokenswarm.analysis.run import analyse
from tokenswarm.errors import EXIT_GATE_FAILED, EXIT_GOOD, EXIT_NOT_VALID, UsageError
from tokenswarm.report.junit import junit
from tokenswarm.report.markdown import markdown
from tokenswarm.report.page import render
from tokenswarm.report.terminal import show
from tokenswarm.store.rundir import RunDir

EXIT_CODES = {
    "good": EXIT_GOOD,
    "gate_failed": EXIT_GATE_FAILED,
    "client_bound": EXIT_NOT_VALID,
    "not_valid": EXIT_NOT_VALID,
}
STDOUT = Path("-")


def finish(
    path: Path,
    gates: Sequence[str] = (),
    junit_file: Path | None = None,
    markdown_file: Path | None = None,
) -> Summary:
    """Analyse the run in `path`, ended or killed, write summary.json and report.html, print it.

    `gates` come beside the scenario's. With `-` for one of the files stdout has that alone, and
    the table goes to stderr. UsageError: no run there, a gate that is none, a file that cannot
    be written.
    """
    run = RunDir.open(path)
    analysis = analyse(run, gates)
    partial = run.report.with_suffix(".html.part")
    page = render(analysis.summary, analysis.timeline, analysis.distributions)
    partial.write_text(page, "utf-8")
    partial.replace(run.report)
    files = (junit_file, markdown_file)
    show(analysis.summary, run.report, sys.stderr if STDOUT in files else None)
    for file, made in zip(files, (junit, markdown), strict=True):
        if file is not None:
            put(file, made(analysis.summary))
    return analysis.summary


def put(file: Path, text: str) -> None:
    """Write `text` to `file`, or to stdout for `-`."""
    if file == STDOUT:
        sys.stdout.write(text)
        return
    try:
        file.write_text(text, "utf-8")
    except OSError as e:
        raise UsageError(f"{file}: cannot write here: {e.strerror}") from e


def exit_code(summary: Summary) -> int:
    """What the command line ends with for the verdict of `summary`."""
    return EXIT_CODES[summary.verdict]
