"""A comparison for the terminal and as Markdown."""

import sys
from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokenswarm.compare.result import Result
from tokenswarm.compare.sections import Section, sections
from tokenswarm.report.markdown import grid, text

SIMULATED = "SIMULATED: the servers and the GPU of this comparison were simulated"
WIDTH = 150
UNFINISHED = "UNFINISHED: run the same command again to go on"


def markdown(r: Result) -> str:
    """comparison.md. What servers said stays text."""
    parts = [f"# {text(r.name)}", *(f"**{line}**" for line in warnings(r))]
    parts += [text(r.doc)] if r.doc else []
    parts.append(text(about(r)))
    parts += [part for s in sections(r) for part in _section(s)]
    parts += ["## Traits observed", *_traits(r), "## Recommendation", *_advice(r)]
    return "\n\n".join(parts) + "\n"


def warnings(r: Result) -> list[str]:
    """What has to be said before any figure."""
    said = [SIMULATED] if r.simulated else []
    return said if r.finished else [*said, UNFINISHED]


def about(r: Result) -> str:
    gpus = f", {', '.join(r.gpus)}" if r.gpus else ""
    return (
        f"Begun {r.started} on {r.host}{gpus}; tokenswarm {r.tokenswarm}, seed {r.seed}, "
        f"in the order {', '.join(r.order)}."
    )


def _section(s: Section) -> list[str]:
    rows = [[text(cell) for cell in row] for row in s.rows]
    note = [text(s.note)] if s.note else []
    return [f"## {text(s.title)}", *note, grid(s.headings, rows, "l" * len(s.headings))]


def _traits(r: Result) -> Iterator[str]:
    for s in r.solutions:
        yield f"**{text(s.name)}** ({text(s.engine)})"
        yield "\n".join(f"- {text(t)}" for t in s.traits)


def _advice(r: Result) -> Iterator[str]:
    for a in r.recommendations:
        best = text(" or ".join(a.solutions)) if a.solutions else "none qualifies"
        tie = " (not told apart)" if len(a.solutions) > 1 else ""
        yield f"**{text(a.use)}: {best}{tie}**"
        yield f"Rule: {text(a.rule)}."
        yield "\n".join(f"- {text(line)}" for line in a.figures)


def show(r: Result, console: Console | None = None) -> None:
    """Print the tables and the recommendation."""
    out = console or Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    for line in warnings(r):
        out.print(Text(line, style="bold"))
    for s in sections(r):
        table = Table(title=s.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in s.headings:
            table.add_column(heading, overflow="fold")
        for row in s.rows:
            table.add_row(*(Text(cell) for cell in row))
        out.print(table)
    for a in r.recommendations:
        out.print(Text(f"{a.use}: {' or '.join(a.solutions) or 'none qualifies'}", style="bold"))
        for line in a.figures:
            out.print(Text(f"  {line}"))
