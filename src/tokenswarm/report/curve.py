"""The curve of a search: latency and output over the rate, as text and as a page of its own."""

from collections.abc import Iterator, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from math import log

import msgspec

from tokenswarm.analysis.figures import Summary
from tokenswarm.report import units

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 300, 80, 20, 16, 34
TICKS = 4
LABEL_PX = 40


class Point(msgspec.Struct, frozen=True):
    """One rate: `met` None where the run was not valid. Latencies are the worst model's P95."""

    rate: float
    met: bool | None
    runs: int
    why: str
    run_id: str
    ttft_user_p95_s: float | None
    e2e_p95_s: float | None
    output_tok_s: float | None
    success_ratio: float | None

    @classmethod
    def of(cls, rate: float, met: bool | None, s: Summary, runs: int, why: str) -> "Point":
        """From the last run at `rate`."""
        models = s.models.values()
        return cls(
            rate, met, runs, why, s.run_id,
            _worst([m.ttft_user_s.p95 for m in models]), _worst([m.e2e_s.p95 for m in models]),
            s.output_tok_s, s.success_ratio,
        )  # fmt: skip


def _worst(values: Sequence[float | None]) -> float | None:
    return max((v for v in values if v is not None), default=None)


HEADINGS = ("requests/s", "SLOs", "runs", "user TTFT P95", "E2E P95", "tok/s", "ok")


def cells(p: Point) -> tuple[str, ...]:
    """A point as a line of the table."""
    met = {True: "met", False: "missed", None: "not valid"}[p.met]
    return (
        f"{p.rate:.4g}", met, str(p.runs), units.seconds(p.ttft_user_p95_s),
        units.seconds(p.e2e_p95_s), units.rate(p.output_tok_s), units.share(p.success_ratio),
    )  # fmt: skip


def table(points: Sequence[Point]) -> str:
    """All points by rate, as plain text."""
    rows = [HEADINGS, *(cells(p) for p in sorted(points, key=lambda p: p.rate))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.rjust, row, widths)).rstrip() for row in rows]
    return "\n".join(lines) + "\n"


def page(points: Sequence[Point], best: float | None) -> str:
    """search.html: one file that needs nothing else."""
    ordered = sorted(points, key=lambda p: p.rate)
    found = "no rate met the SLOs" if best is None else f"{best:.4g} requests/s meet the SLOs"
    head = "".join(f"<th>{escape(h)}</th>" for h in HEADINGS)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(c)}</td>" for c in cells(p)) + "</tr>" for p in ordered
    )
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<title>tokenswarm search</title><link rel="icon" href="data:,">',
        f'<style>{_style()}</style></head><body><header class="top">',
        f'<p class="brand">tokenswarm search</p><h1>{found}</h1></header><main>',
        f'<section class="card"><h2>P95 over the rate</h2>{_chart(ordered, best)}',
        '<p class="hint">Blue: user TTFT; orange: E2E; filled where the SLOs were met. ',
        "The worst model of the last run at each rate.</p></section>",
        f'<section class="card"><table><thead><tr>{head}</tr></thead>',
        f"<tbody>{body}</tbody></table></section></main></body></html>\n",
    ]
    return "".join(parts)


@cache
def _style() -> str:
    text = files("tokenswarm.report").joinpath("assets", "report.css").read_text("utf-8")
    return text + "svg text{font:12px system-ui,sans-serif;fill:var(--soft)}"


class _Scale:
    """Rates and seconds (logarithmic) to places in the drawing."""

    def __init__(self, values: Sequence[float], most: float) -> None:
        self.low, self.high, self._most = min(values), max(values), most * 1.05

    def x(self, rate: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * rate / self._most, 1)

    def y(self, value: float) -> float:
        ratio = log(max(self.high / self.low, 1.01))
        share = log(value / self.low) / ratio
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share, 1)


def _chart(points: Sequence[Point], best: float | None) -> str:
    values = [v for p in points for v in (p.ttft_user_p95_s, p.e2e_p95_s) if v]
    if not values:
        return "<p>No run had latencies.</p>"
    at = _Scale(values, max(p.rate for p in points))
    parts = [*_rules(at, points), *_series(at, points, "ttft_user_p95_s", "--m0")]
    parts += _series(at, points, "e2e_p95_s", "--m1")
    if best is not None:
        x = at.x(best)
        parts.append(
            f'<line x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" '
            'stroke="var(--good)" stroke-dasharray="5 4"/>'
        )
    said = "P95 of user TTFT and E2E over the rate"
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{said}">'
    return head + "".join(parts) + "</svg>"


def _rules(at: _Scale, points: Sequence[Point]) -> Iterator[str]:
    for i in range(TICKS + 1):
        value = at.low * (at.high / at.low) ** (i / TICKS)
        y = at.y(value)
        yield f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{units.seconds(value)}</text>'
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="var(--grid)"/>'
    last = float("-inf")
    for p in points:
        x = at.x(p.rate)
        if x - last > LABEL_PX:
            last = x
            yield f'<text x="{x}" y="{HEIGHT - 10}" text-anchor="middle">{p.rate:.3g}</text>'


def _series(at: _Scale, points: Sequence[Point], key: str, colour: str) -> Iterator[str]:
    drawn = [(p, v) for p in points if (v := getattr(p, key))]
    line = " ".join(f"{at.x(p.rate)},{at.y(v)}" for p, v in drawn)
    yield f'<polyline points="{line}" fill="none" stroke="var({colour})" stroke-width="1.6"/>'
    for p, v in drawn:
        fill = f"var({colour})" if p.met else "var(--card)"
        yield (
            f'<circle cx="{at.x(p.rate)}" cy="{at.y(v)}" r="4.5" stroke="var({colour})" '
            f'fill="{fill}"><title>{units.seconds(v)} at {p.rate:.4g}/s</title></circle>'
        )
