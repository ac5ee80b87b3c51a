import re
import subprocess
import sys
from pathlib import Path

import pytest

from tokenswarm.analysis.figures import ModelFigures
from tokenswarm.errors import UsageError
from tokenswarm.store.docs import markdown, renewed
from tokenswarm.store.schema import MEASUREMENTS

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"


def test_the_page_is_up_to_date_with_the_schema() -> None:
    text = PAGE.read_text("utf-8")
    assert renewed(text) == text, "run: python -m tokenswarm.store.docs --write docs/metrics.md"


def test_every_field_is_in_the_table_once() -> None:
    sections = re.split(r"^### (\w+)$", markdown(), flags=re.MULTILINE)[1:]
    tables = dict(zip(sections[::2], sections[1::2], strict=True))
    assert list(tables) == list(MEASUREMENTS)
    for name, table in tables.items():
        fields = re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)
        assert fields == [f.name for f in MEASUREMENTS[name].fields]


def test_fields_named_in_the_definitions_exist() -> None:
    known = {c for m in MEASUREMENTS.values() for c in m.columns}
    known |= set(ModelFigures.__struct_fields__)
    definitions = PAGE.read_text("utf-8").split("## Measurements")[0]
    named = set(re.findall(r"`(\w+_(?:s|us|bytes|ratio|ok|source))`", definitions))
    assert named
    assert named <= known


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(UsageError, match="lacks the lines"):
        renewed("# Metrics\n")


def test_the_command_renews_a_file_in_place(tmp_path: Path) -> None:
    page = tmp_path / "metrics.md"
    text = PAGE.read_text("utf-8")
    page.write_text(text.replace("| `token_events` |", "| `old_name` |"), "utf-8")
    command = [sys.executable, "-m", "tokenswarm.store.docs", "--write", str(page)]
    subprocess.run(command, check=True)
    assert page.read_text("utf-8") == text
