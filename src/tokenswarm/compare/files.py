"""A comparison's result as files: JSON, Markdown and HTML."""

from pathlib import Path

import msgspec

from tokenswarm.compare.page import html
from tokenswarm.compare.result import Result
from tokenswarm.compare.show import markdown
from tokenswarm.errors import SpoolError


def write(made: Result, folder: Path) -> list[Path]:
    """comparison.json, .md and .html in `folder`. SpoolError."""
    texts = {
        "comparison.json": msgspec.json.format(msgspec.json.encode(made), indent=1).decode(),
        "comparison.md": markdown(made),
        "comparison.html": html(made),
    }
    paths = []
    for name, text in texts.items():
        path = folder / name
        partial = path.with_name(f"{name}.part")
        try:
            partial.write_text(text, "utf-8")
            partial.replace(path)
        except OSError as e:
            raise SpoolError(f"{path}: cannot write: {e.strerror}") from e
        paths.append(path)
    return paths
