"""A run as Markdown, for the comment on a pull request: verdict, gates, models, swaps."""

import re
from collections.abc import Sequence

from tokenswarm.analysis.figures import Summary
from tokenswarm.report import sentences, table
from tokenswarm.report.units import UNKNOWN

MARKS = {"good": "✅", "gate_failed": "❌", "client_bound": "⚠️", "not_valid": "⚠️"}
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&@!])")
REASONS_SHOWN = 20


def markdown(summary: Summary) -> str:
    """The text. What a server or a scenario said stays text: no HTML, link or mention in it."""
    s = summary
    head = f"### {MARKS.get(s.verdict, '⚠️')} {text(s.scenario)}: {text(sentences.verdict(s))}"
    parts = [head, _said(s)]
    if s.reasons:
        parts.append("\n".join(f"- {text(r)}" for r in s.reasons[:REASONS_SHOWN]))
    if s.gates:
        parts.append(grid(("gate", "value", "result"), _gates(s), "lrl"))
    parts.append(grid(("model", *table.HEADINGS), _models(s), "l" + "r" * len(table.HEADINGS)))
    parts.append(f"{text(sentences.self_delay(s))}.")
    if missing := sentences.statuses(s):
        parts.append(f"{text(missing).capitalize()}.")
    parts.append(f"{code(s.run_id)}, {text(sentences.window(s))}")
    return "\n\n".join(parts) + "\n"


def _said(s: Summary) -> str:
    lines = [sentences.headline(s), sentences.swaps(s)]
    if s.simulated:
        lines.insert(0, f"{sentences.SIMULATED}.")
    return " ".join(text(line) for line in lines)


def _gates(s: Summary) -> list[list[str]]:
    return [
        [
            code(g.expression),
            UNKNOWN if g.value is None else f"{g.value:.4g}",
            "✅ pass" if g.passed else f"❌ {text(g.reason or 'fail')}",
        ]
        for g in s.gates
    ]


def _models(s: Summary) -> list[list[str]]:
    lines = []
    for row in table.rows(s):
        name = f"↳ {table.STRATUM_WORDS[row.stratum]}" if row.stratum else f"**{text(row.model)}**"
        lines.append([name, *(text(cell) for cell in row.cells)])
    return lines


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]], sides: str) -> str:
    """A table of cells that are Markdown already; `sides` aligns each column, `l` or `r`."""
    rule = [{"l": ":--", "r": "--:"}[side] for side in sides]
    lines = [[text(h) for h in heads], rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def text(value: str) -> str:
    """`value` on one line, nothing in it Markdown or HTML."""
    return _SPECIAL.sub(r"\\\1", plain(value))


def code(value: str) -> str:
    """`value` as code; in a table a bar would end the cell even there."""
    return f"`{plain(value).replace('`', chr(0x2019)).replace('|', chr(0xA6))}`"


def plain(value: str) -> str:
    """`value` on one line, without control characters."""
    return "".join(c if c.isprintable() else " " for c in value)
