"""Figures as text, the same everywhere: three significant digits, a unit, `-` for unknown."""

UNKNOWN = "-"


def seconds(value: float | None) -> str:
    """`45.2 ms`, `1.23 s`, `12.3 s`, `123 s`."""
    if value is None:
        return UNKNOWN
    if abs(value) < 0.9995:
        return f"{digits(value * 1e3)} ms"
    return f"{digits(value)} s"


def clock(value: float | None) -> str:
    """A moment of the run: `4.2 s`, `1:04.2`."""
    if value is None:
        return UNKNOWN
    if value < 60:
        return f"{value:.1f} s"
    return f"{int(value // 60)}:{value % 60:04.1f}"


def digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    size = abs(value)
    if size >= 99.95:
        return f"{value:,.0f}"
    if size >= 9.995:
        return f"{value:.1f}"
    return f"{value:.2f}"


def rate(value: float | None) -> str:
    """A rate without its unit, which the heading names."""
    return UNKNOWN if value is None else digits(value)


def share(value: float | None) -> str:
    """`98.7 %`; 100 % and 0 % only when it is all or none."""
    if value is None:
        return UNKNOWN
    if value in (0.0, 1.0):
        return f"{value:.0%}".replace("%", " %")
    return f"{min(max(value * 100, 0.1), 99.9):.1f} %"


def size(value: int | None) -> str:
    """Bytes as GiB, or MiB below one."""
    if value is None:
        return UNKNOWN
    if value < 2**30:
        return f"{digits(value / 2**20)} MiB"
    return f"{digits(value / 2**30)} GiB"


def count(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def many(value: int, noun: str) -> str:
    """`1 request`, `2,000 requests`."""
    return f"{value:,} {noun}{'' if value == 1 else 's'}"
