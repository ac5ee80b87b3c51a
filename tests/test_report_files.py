"""What a CI job takes away from a run: JUnit XML and Markdown."""

import io
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.running import finished, tokenswarm
from tests.synthetic_run import manifest, scenario, story, write_run
from tests.written_summary import HOSTILE, summary
from tokenswarm.analysis.figures import GateResult
from tokenswarm.errors import UsageError
from tokenswarm.report import table
from tokenswarm.report.finish import put
from tokenswarm.report.junit import junit
from tokenswarm.report.markdown import code, markdown, text


def suite_of(xml: str) -> ET.Element:
    suite = ET.fromstring(xml).find("testsuite")
    assert suite is not None
    return suite


def test_each_gate_is_a_test_case_and_the_validity_one_more() -> None:
    suite = suite_of(junit(summary()))
    names = [case.get("name") for case in suite.iter("testcase")]
    assert names == [
        "the measurement is valid",
        "success_ratio > 0.9",
        "swaps.count == 0",
        "swaps.penalty_s.p50 < 1",
    ]
    counts = {k: suite.get(k) for k in ("tests", "failures", "errors")}
    assert counts == {"tests": "4", "failures": "2", "errors": "0"}
    failed = {c.get("name"): f.get("message") for c in suite for f in c.iter("failure")}
    assert failed == {
        "swaps.count == 0": "2 is not == 0",
        "swaps.penalty_s.p50 < 1": "there is no value to judge",
    }


def test_a_measurement_that_is_not_valid_is_an_error_with_its_reasons() -> None:
    bad = summary(verdict="not_valid", reasons=["4 records dropped", "gate x: no"], gates=[])
    suite = suite_of(junit(bad))
    assert [e.get("message") for e in suite.iter("error")] == ["4 records dropped"]
    assert suite.get("errors") == "1"


def test_xml_keeps_what_it_can_of_hostile_text_and_stays_well_formed() -> None:
    bad = summary(
        scenario=HOSTILE, verdict="not_valid", reasons=[HOSTILE + "\0\ud800\uffff"],
        gates=[GateResult("requests > 1", 0.0, False, HOSTILE)],
    )  # fmt: skip
    suite = suite_of(junit(bad))
    (message,) = [e.get("message") for e in suite.iter("error")]
    assert message is not None
    assert message.startswith("<script>alert('x')</script>\u2028")
    assert "\x1b" not in message


def test_markdown_says_verdict_gates_and_every_row_of_the_table() -> None:
    made = markdown(summary())
    assert made.startswith("### ❌ two-models: a gate failed\n")
    assert "| `swaps.count == 0` | 2 | ❌ 2 is not == 0 |" in made
    assert "| `success_ratio > 0.9` | 0.95 | ✅ pass |" in made
    for row in table.rows(summary()):
        assert all(text(cell) in made for cell in row.cells)
    widths = {line.count(" | ") for line in made.splitlines() if line.startswith("| **")}
    assert widths == {len(table.HEADINGS)}


@pytest.mark.parametrize(
    "said",
    [
        "<script>alert(1)</script>",
        "[click](http://x)",
        "![i](http://x)",
        "a | b",
        "line\nbreak",
        "@everyone #1 **bold** `code`",
        HOSTILE,
    ],
)
def test_what_a_server_said_is_no_markdown(said: str) -> None:
    made = markdown(summary(reasons=[said], scenario=said))
    reason = next(line for line in made.splitlines() if line.startswith("- "))
    for special in "`*_[]<>#|@!":
        assert reason.count(special) == reason.count(f"\\{special}") == said.count(special)
    assert len(markdown(summary(reasons=["x"], scenario="y")).splitlines()) == len(
        made.splitlines()
    )


def test_code_cannot_be_left() -> None:
    assert code("a`b|c\nd") == "`a’b¦c d`"


def test_a_file_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write here"):
        put(tmp_path / "nowhere" / "x.xml", "")


def test_a_dash_is_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    put(Path("-"), "text")
    assert out.getvalue() == "text"


def test_report_writes_both_files_and_ends_with_1_when_a_gate_failed(tmp_path: Path) -> None:
    told = story(seed=1, duration_s=10)
    facts = manifest(told, scenario=scenario(gates=["swaps.count < 1000"]))
    run = write_run(tmp_path / "runs", told, facts)
    argv = ["report", str(run.path), "--gate", "requests < 1", "--junit", "gates.xml"]
    assert finished(tokenswarm(*argv, "--markdown", "-", cwd=tmp_path)) == 1
    assert suite_of((tmp_path / "gates.xml").read_text()).get("failures") == "1"
    printed = (tmp_path / "stdout.txt").read_text()
    assert printed.startswith("### ❌ three-models: a gate failed\n")
    assert "verdict: a gate failed" in (tmp_path / "stderr.txt").read_text()
