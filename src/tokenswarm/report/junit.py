"""A run as JUnit XML: each gate a test case, and one more for whether the measurement is valid."""

import re
from xml.etree import ElementTree as ET

from tokenswarm.analysis.figures import GateResult, Summary
from tokenswarm.report import sentences

_UNPRINTABLE = re.compile(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 has no place for."""


def junit(summary: Summary) -> str:
    """The XML text. A gate that failed is a failure, a measurement that is not valid an error."""
    invalid = summary.verdict in ("not_valid", "client_bound")
    failed = [g for g in summary.gates if not g.passed]
    root = ET.Element("testsuites", name="tokenswarm")
    suite = ET.SubElement(
        root,
        "testsuite",
        name=_text(f"tokenswarm.{summary.scenario}"),
        tests=str(len(summary.gates) + 1),
        failures=str(len(failed)),
        errors=str(int(invalid)),
        skipped="0",
        time=f"{summary.duration_s:.3f}",
        timestamp=summary.started.removesuffix("Z"),
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in _facts(summary).items():
        ET.SubElement(properties, "property", name=name, value=_text(value))
    _valid(suite, summary, invalid)
    for gate in summary.gates:
        _gate(suite, summary, gate)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, "unicode") + "\n"


def _facts(summary: Summary) -> dict[str, str]:
    simulated = str(summary.simulated).lower()
    return {"run_id": summary.run_id, "verdict": summary.verdict, "simulated": simulated}


def _valid(suite: ET.Element, summary: Summary, invalid: bool) -> None:
    case = _case(suite, summary, "the measurement is valid")
    if invalid:
        why = [r for r in summary.reasons if not r.startswith("gate ")]
        ET.SubElement(case, "error", message=_text("; ".join(why)), type="not_valid")


def _gate(suite: ET.Element, summary: Summary, gate: GateResult) -> None:
    case = _case(suite, summary, gate.expression)
    if not gate.passed:
        failure = ET.SubElement(case, "failure", message=_text(gate.reason or ""), type="gate")
        failure.text = _text(sentences.gate(gate))


def _case(suite: ET.Element, summary: Summary, name: str) -> ET.Element:
    return ET.SubElement(
        suite, "testcase", name=_text(name), classname=_text(f"tokenswarm.{summary.scenario}")
    )


def _text(text: str) -> str:
    return _UNPRINTABLE.sub("\ufffd", text)
