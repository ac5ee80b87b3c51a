"""Terminal and page print the same figures; the terminal's text is held against a file."""

import io
import re
from pathlib import Path

import pytest
from msgspec.structs import replace
from rich.console import Console

from tests.written_summary import summary, timeline
from tokenswarm.analysis.figures import Summary
from tokenswarm.report import table, units
from tokenswarm.report.page import render
from tokenswarm.report.terminal import _table, show

GOLDEN = Path(__file__).parent / "data" / "report" / "terminal.txt"


def printed(s: Summary) -> str:
    out = io.StringIO()
    show(s, None, out)
    return out.getvalue()


def as_lines(text: str) -> list[str]:
    """Lines without the spaces that a table ends in."""
    return [line.rstrip() for line in text.splitlines()]


def test_the_terminal_prints_the_whole_result_as_plain_text() -> None:
    assert as_lines(printed(summary())) == as_lines(GOLDEN.read_text())


def test_a_file_gets_no_escape_codes_and_nothing_of_what_a_server_said_acts() -> None:
    assert "\x1b" not in printed(summary(scenario="two-models", reasons=["x\x1b[31m\ny"]))


def test_a_narrow_terminal_gets_fewer_columns_and_no_cut_figures() -> None:
    out = io.StringIO()
    Console(file=out, width=88, color_system=None).print(_table(summary(), 88, plain=True))
    text = out.getvalue()
    assert "TTFT P95" in text
    assert "goodput" not in text
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= 88


def test_terminal_and_page_print_the_same_figures() -> None:
    page, terminal = render(summary(), timeline()), printed(summary())
    for row in table.rows(summary()):
        for cell in row.cells:
            assert cell in terminal
            assert f"<td>{cell}</td>" in page
    sentences = [line for line in as_lines(terminal) if " swaps (" in line or "under load" in line]
    assert len(sentences) == 2
    assert all(line in page for line in sentences)


def test_strata_are_listed_only_where_not_all_is_warm() -> None:
    listed = [(r.model, r.stratum) for r in table.rows(summary())]
    assert listed == [
        ("tinyllama", None),
        ("qwen2-5_3b", None),
        ("qwen2-5_3b", "warm"),
        ("qwen2-5_3b", "swap_trigger"),
    ]


@pytest.mark.parametrize(
    ("verdict", "words"),
    [("good", "good"), ("not_valid", "not valid: do not publish these figures")],
)
def test_the_verdict_is_said_in_words(verdict: str, words: str) -> None:
    assert f"verdict: {words}\n" in printed(summary(verdict=verdict))
    page = render(summary(verdict=verdict), timeline())
    assert f'class="verdict {verdict}"' in page
    assert f'<p class="word">{words}</p>' in page


def test_a_simulation_says_so_and_a_real_run_does_not() -> None:
    assert "SIMULATED" in printed(summary())
    assert "SIMULATED" in render(summary(), timeline())
    real = summary(simulated=False)
    assert not re.search("simulated", printed(real), re.IGNORECASE)
    assert 'class="badge"' not in render(real, timeline())


def test_losses_are_stated() -> None:
    lost, s = "w1: it never reported its end", summary()
    s = replace(s, generator=replace(s.generator, lost=lost))
    assert f"lost: {lost}" in printed(s)
    assert lost in render(s, timeline())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),  # unknown is not 0
        (0.0, "0.00 ms"),
        (0.00045, "0.45 ms"),
        (0.0454, "45.4 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.00 s"),
        (9.996, "10.0 s"),
        (123.4, "123 s"),
        (12345.0, "12,345 s"),
    ],
)
def test_seconds_have_three_digits_and_a_unit(value: float | None, text: str) -> None:
    assert units.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (1.0, "100 %"), (0.99999, "99.9 %"), (0.0, "0 %"), (0.00001, "0.1 %")],
)
def test_a_share_is_100_percent_only_when_it_is_all(value: float | None, text: str) -> None:
    assert units.share(value) == text


def test_sizes_are_in_binary_units() -> None:
    assert units.size(10_200_547_328) == "9.50 GiB"
    assert units.size(500 * 2**20) == "500 MiB"
    assert units.size(None) == "-"


def test_moments_are_clock_times_from_a_minute_on() -> None:
    assert [units.clock(v) for v in (None, 4.25, 59.94, 75.25)] == [
        "-",
        "4.2 s",
        "59.9 s",
        "1:15.2",
    ]
