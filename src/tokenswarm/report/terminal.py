"""The result on a terminal, or as plain text anywhere else."""

import sys
from pathlib import Path
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokenswarm.analysis.figures import Summary
from tokenswarm.report import sentences, table

PLAIN_WIDTH = 150
DROPPED = ("cold out", "goodput", "TTFT P99", "E2E P50", "TPOT P50")
"""Columns left out, in this order, where the terminal is too narrow; report.html has them all."""
COLOURS = {
    "good": "bold green",
    "gate_failed": "bold red",
    "client_bound": "bold red",
    "not_valid": "bold red",
}


def show(summary: Summary, report: Path | None = None, out: TextIO | None = None) -> None:
    """Print `summary` to `out` (stdout). Colour only on a terminal without NO_COLOR.

    `report`: path of the page, named in the last line.
    """
    file = out or sys.stdout
    # rich looks for a width and colours by itself on a terminal; text for a file gets neither
    console = Console(
        file=file,
        width=None if file.isatty() else PLAIN_WIDTH,
        color_system="auto" if file.isatty() else None,
        highlight=False,
        soft_wrap=True,
    )
    if summary.simulated:
        console.print(Text(sentences.SIMULATED, "bold yellow"))
    console.print(Text(f"{summary.scenario}  {summary.run_id}", "bold"))
    console.print(Text(f"{sentences.window(summary)}{_facts(summary)}", "dim"))
    console.print(_table(summary, console.width, plain=not file.isatty()), soft_wrap=False)
    for line in _lines(summary):
        console.print(Text(line))
    for gate in summary.gates:
        console.print(Text(sentences.gate(gate), "green" if gate.passed else "red"))
    console.print(Text(f"verdict: {sentences.verdict(summary)}", COLOURS.get(summary.verdict, "")))
    for reason in summary.reasons:
        console.print(Text(f"  {_line(reason)}"))
    if report is not None:
        console.print(Text(f"report: {report}"))


def _facts(summary: Summary) -> str:
    kept = [summary.facts[k] for k in ("load", "targets") if k in summary.facts]
    return _line("".join(f"; {text}" for text in kept))


def _lines(summary: Summary) -> list[str]:
    lines = [sentences.self_delay(summary), sentences.headline(summary)]
    lines += [sentences.swaps(summary), *sentences.gpus(summary)]
    if said := sentences.tax(summary):
        lines.insert(3, said)
    if said := sentences.statuses(summary):
        lines.append(said)
    lines.append(f"generator: {sentences.generator(summary)}")
    if summary.generator.lost:
        lines.append(f"lost: {summary.generator.lost}")
    return [_line(line) for line in lines]


def _line(text: str) -> str:
    """`text` without control characters: some of it a server said."""
    return "".join(c if c.isprintable() else " " for c in text)


def _table(summary: Summary, width: int, *, plain: bool) -> Table:
    lines = table.rows(summary)
    shown = _fitting(lines, width)
    made = Table(box=box.ASCII if plain else box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    made.add_column("model")
    for i in shown:
        made.add_column(table.HEADINGS[i], justify="right", no_wrap=True)
    for row in lines:
        style = "dim" if row.stratum == "warm" else "" if row.stratum else "bold"
        made.add_row(Text(_name(row)), *(Text(row.cells[i]) for i in shown), style=style)
    return made


def _name(row: table.Row) -> str:
    return f"  {table.STRATUM_WORDS[row.stratum]}" if row.stratum else row.model


def _fitting(lines: list[table.Row], width: int) -> list[int]:
    """Columns that fit into `width` characters."""
    widths = [
        3 + max([len(heading), *(len(row.cells[i]) for row in lines)])
        for i, heading in enumerate(table.HEADINGS)
    ]
    shown = list(range(len(widths)))
    names = max([5, *(len(_name(row)) for row in lines)])
    for heading in DROPPED:
        if names + sum(widths[i] for i in shown) > width:
            shown.remove(table.HEADINGS.index(heading))
    return shown
