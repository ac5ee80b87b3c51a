"""Line protocol: what goes in comes out of a small parser of its own, and odd values do no harm."""

import math
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.schema_rows import pairs
from tokenswarm.store.lines import PIECE_ROWS, encode, escaped_name, escaped_tag
from tokenswarm.store.schema import MEASUREMENTS, Kind, Measurement

RUN = "20261122t163015z-k3f9qa"
Point = tuple[str, dict[str, str], dict[str, Any], int]


def unescaped(text: str) -> str:
    return re.sub(r"\\([,= ])", r"\1", text)


def split(text: str, mark: str) -> list[str]:
    """`text` at every `mark` that no backslash hides and no quotes hold."""
    parts, quoted, at, i = [], False, 0, 0
    while i < len(text):
        if text[i] == "\\":
            i += 1
        elif text[i] == '"':
            quoted = not quoted
        elif text[i] == mark and not quoted:
            parts.append(text[at:i])
            at = i + 1
        i += 1
    return [*parts, text[at:]]


def value_of(text: str) -> Any:
    """A field's value as its form tells its type."""
    if text.startswith('"'):
        assert text.endswith('"')
        return re.sub(r'\\([\\"])', r"\1", text[1:-1])
    if text in ("true", "false"):
        return text == "true"
    if text.endswith("i"):
        return int(text[:-1])
    value = float(text)
    assert math.isfinite(value)
    return value


def parsed(line: str) -> Point:
    """Measurement, tags, fields and time of a line."""
    key, fields, time_ns = split(line, " ")
    name, *tags = split(key, ",")
    return (
        unescaped(name),
        {unescaped(k): unescaped(v) for k, v in (split(tag, "=") for tag in tags)},
        {unescaped(k): value_of(v) for k, v in (split(f, "=") for f in split(fields, ","))},
        int(time_ns),
    )


def lines_of(*rows: tuple[str, list[Any]]) -> list[str]:
    return encode(rows).text.decode().splitlines()


def flat(value: Any) -> Any:
    """A string as a line can hold it."""
    if type(value) is str:
        return value.replace("\n", "\\n").replace("\r", "\\r")
    return value


def wanted(name: str, row: list[Any]) -> Point | None:
    m = MEASUREMENTS[name]
    cells = dict(zip(m.columns, row, strict=True))
    fields = {
        f.name: flat(cells[f.name])
        for f in m.fields
        if not f.files_only and cells[f.name] is not None
    }
    tags = {tag: cells[tag] for tag in m.tags}
    return (name, tags, fields, cells["time_ns"]) if fields else None


@given(pairs(max_size=20))
def test_every_value_comes_back_with_its_type(rows: list[tuple[str, list[Any]]]) -> None:
    encoded = encode(rows)
    by_measurement = sorted(rows, key=lambda p: [q[0] for q in rows].index(p[0]))
    points = [point for name, row in by_measurement if (point := wanted(name, row))]
    # str.splitlines would also break at characters that a string may hold
    found = [parsed(line) for line in encoded.text.decode().split("\n")[:-1]]
    assert found == points
    kinds = [[type(v) for v in fields.values()] for _, _, fields, _ in found]
    assert [sorted(map(str, k)) for k in kinds] == [
        sorted(str(type(v)) for v in fields.values()) for _, _, fields, _ in points
    ]
    assert encoded.lines.total() == len(points)
    assert encoded.left_out.total() == len(rows) - len(points)


def row(name: str, **cells: Any) -> tuple[str, list[Any]]:
    """A row of `name`; what is not named is missing."""
    m: Measurement = MEASUREMENTS[name]
    filled = {"time_ns": 1, **dict.fromkeys(m.tags, "x"), "run_id": RUN, **cells}
    assert set(filled) <= set(m.columns)
    return name, [filled.get(column) for column in m.columns]


def test_a_line_looks_like_this() -> None:
    made = row("host", time_ns=17, host="box", cpu_ratio=0.5, memory_used_bytes=2**40)
    (line,) = lines_of(made)
    head, fields, at = line.split(" ")
    assert (head, at) == (f"host,run_id={RUN},host=box", "17")
    assert sorted(fields.split(",")) == ["cpu_ratio=0.5", f"memory_used_bytes={2**40}i"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, "0.5", True, [0.5], 2**60])
def test_what_a_float_cannot_hold_is_left_out(value: Any) -> None:
    (line,) = lines_of(row("host", cpu_ratio=value, memory_used_bytes=1))
    assert parsed(line)[2] == {"memory_used_bytes": 1}


@pytest.mark.parametrize("value", [None, 0.5, math.nan, 2**63, True, "1"])
def test_what_an_integer_cannot_hold_is_left_out(value: Any) -> None:
    (line,) = lines_of(row("host", cpu_ratio=0.5, memory_used_bytes=value))
    assert parsed(line)[2] == {"cpu_ratio": 0.5}


def test_numbers_of_the_other_sort_are_taken_where_nothing_is_lost() -> None:
    (line,) = lines_of(row("host", cpu_ratio=1, memory_used_bytes=2.0))
    assert parsed(line)[2] == {"cpu_ratio": 1.0, "memory_used_bytes": 2}


def test_a_row_without_a_field_makes_no_line_and_is_counted() -> None:
    rows = [row("host"), row("host", cpu_ratio=0.5), row("host", cpu_ratio=math.nan)]
    encoded = encode(rows)
    assert encoded.text.count(b"\n") == encoded.lines["host"] == 1
    assert encoded.left_out == {"host: no field": 2}


def test_bulky_fields_stay_in_the_files() -> None:
    (line,) = lines_of(row("request", id="w0-1", gaps_us=[0, 5]))
    assert parsed(line)[2] == {"id": "w0-1"}
    assert encode([row("request", gaps_us=[0, 5])]).lines.total() == 0


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (("nonsense", [1]), "unknown measurement 'nonsense'"),
        (("host", [1, RUN, "box"]), "host: 3 values, want "),
        (("host", [None, *row("host", cpu_ratio=0.5)[1][1:]]), "host: no time in its first value"),
        (("host", [2**63, *row("host", cpu_ratio=0.5)[1][1:]]), "host: no time in its first value"),
    ],
)
def test_a_row_that_is_none_is_counted_with_its_reason(pair: Any, reason: str) -> None:
    encoded = encode([row("host", cpu_ratio=0.5), pair])
    assert encoded.lines == {"host": 1}
    ((said, n),) = encoded.left_out.items()
    assert said.startswith(reason)
    assert n == 1


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("qwen2-5_3b", "qwen2-5_3b"),
        ("a b,c=d", "a\\ b\\,c\\=d"),
        ("back\\slash", "back\\slash"),
        ("hides what follows\\", "hides\\ what\\ follows-"),
        ("two\nlines\r", "two\\nlines\\r"),
    ],
)
def test_a_tag_cannot_break_its_line(text: str, escaped: str) -> None:
    assert escaped_tag(text) == escaped
    (line,) = lines_of(row("host", host=text, cpu_ratio=0.5))
    assert parsed(line)[1] == {"run_id": RUN, "host": unescaped(escaped)}


def test_an_empty_tag_is_none() -> None:
    for empty in ("", None, 5):
        (line,) = lines_of(row("host", host=empty, cpu_ratio=0.5))
        assert parsed(line)[1]["host"] == "none"


def test_a_measurement_cannot_break_its_line() -> None:
    assert escaped_name("a b,c=d") == "a\\ b\\,c=d"


@given(st.text(max_size=30))
def test_no_string_can_break_its_line(text: str) -> None:
    encoded = encode([row("request", id=text, http_status=200), row("request", id="next")])
    first, second = encoded.text.decode().split("\n")[:-1]
    assert parsed(first)[2] == {"id": flat(text), "http_status": 200}
    assert parsed(second)[2] == {"id": "next"}


@pytest.mark.parametrize("n", [PIECE_ROWS, PIECE_ROWS + 1, 3 * PIECE_ROWS - 1])
def test_many_rows_are_as_one_by_one(n: int) -> None:
    kinds: dict[Kind, list[Any]] = {
        "int": [1, None, 2], "float": [0.5, 1.0, None], "str": ["a", "b", "b"], "bool": [True, None]
    }  # fmt: skip
    m = MEASUREMENTS["request"]
    rows = []
    for i in range(n):
        cells = {f.name: kinds[f.kind][i % len(kinds[f.kind])] for f in m.fields if f.kind in kinds}
        rows.append(row("request", **{**cells, "time_ns": i, "worker": f"w{i % 3}"}))
    together = encode(rows).text.decode().splitlines()
    apart = [line for one in rows for line in lines_of(one)]
    assert list(map(parsed, together)) == list(map(parsed, apart))


def test_a_row_from_the_spool_makes_the_same_line() -> None:
    made = row("gpu", gpu="0", power_w=301.25, vram_used_bytes=2**37)
    name, values = msgspec.msgpack.decode(msgspec.msgpack.encode(made))
    assert lines_of((name, values)) == lines_of(made)
