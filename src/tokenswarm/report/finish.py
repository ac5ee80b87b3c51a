"""Finish a run: analysis, report.html and the result on the terminal."""

from collections.abc import Sequence
from pathlib import Path

from tokenswarm.analysis.figures import Summary
from tokenswarm.analysis.run import analyse
from tokenswarm.errors import EXIT_GATE_FAILED, EXIT_GOOD, EXIT_NOT_VALID
from tokenswarm.report.page import render
from tokenswarm.report.terminal import show
from tokenswarm.store.rundir import RunDir

EXIT_CODES = {"good": EXIT_GOOD, "gate_failed": EXIT_GATE_FAILED, "not_valid": EXIT_NOT_VALID}


def finish(path: Path, gates: Sequence[str] = ()) -> Summary:
    """Analyse the run in `path`, ended or killed, write summary.json and report.html, print it.

    `gates` come beside the scenario's. UsageError: no run there, or a gate that is none.
    """
    run = RunDir.open(path)
    analysis = analyse(run, gates)
    partial = run.report.with_suffix(".html.part")
    partial.write_text(render(analysis.summary, analysis.timeline), "utf-8")
    partial.replace(run.report)
    show(analysis.summary, run.report)
    return analysis.summary


def exit_code(summary: Summary) -> int:
    """What the command line ends with for the verdict of `summary`."""
    return EXIT_CODES[summary.verdict]
