"""The tables of keys in docs/compare.md, of the structs; `python -m tests.compare_keys --write`
renews the page."""

import re
import sys
from pathlib import Path

import msgspec

from tokenswarm.compare import matrix
from tokenswarm.launch.start import Container

PAGE = Path(__file__).parent.parent / "docs" / "compare.md"
STRUCTS: tuple[type[msgspec.Struct], ...] = (
    matrix.Matrix, matrix.MatrixModel, matrix.Gpu, matrix.Drill, matrix.MatrixLoad, matrix.Solution,
    matrix.Server, matrix.LoadChange, matrix.Box, Container,
)  # fmt: skip
MARKS = ("<!-- keys -->", "<!-- end of keys -->")


def tables() -> str:
    """One section a struct: its docstring and its keys with their defaults."""
    return "\n".join(_section(s) for s in STRUCTS)


def page() -> str:
    """The page with the tables as they are."""
    text = PAGE.read_text()
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return f"{before}{MARKS[0]}\n\n{tables()}\n{MARKS[1]}{after}"


def _section(struct: type[msgspec.Struct]) -> str:
    doc = " ".join((struct.__doc__ or "").split())
    rows = [f"| `{f.encode_name}` | {_default(f)} |" for f in msgspec.structs.fields(struct)]
    return (
        f"### {struct.__name__}\n\n{doc}\n\n| key | default |\n|---|---|\n" + "\n".join(rows) + "\n"
    )


def _default(f: msgspec.structs.FieldInfo) -> str:
    if f.required:
        return "needed"
    value = f.default_factory() if f.default is msgspec.NODEFAULT else f.default
    plain = msgspec.to_builtins(value)
    text = "-" if plain is None else re.sub(r"\s+", " ", msgspec.json.encode(plain).decode())
    return "none" if text in ("-", '""', "[]", "{}") else f"`{text}`"


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(page())
    else:
        sys.stdout.write(tables())
