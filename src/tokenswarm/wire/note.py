"""What one decoded event or document says, in terms that do not depend on the API."""

import json
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import msgspec

from tokenswarm.wire.record import ServerTimes

S = TypeVar("S", bound=msgspec.Struct)


class Note(msgspec.Struct, gc=False):
    """One event. Counts are None where it says nothing.

    `token`: content, reasoning or a tool call arrived. `visible`: not reasoning alone.
    `answered`: content or an embedding is there (documents). `complete`: the API's own word
    that generation ended. `slot` and `text`: the key and value that carry the token's text when
    there is just one such text, else None. `empty_is_token`: the same event with an empty text
    would be a token, too.
    """

    token: bool = False
    visible: bool = False
    answered: bool = False
    complete: bool = False
    finish: str | None = None
    error: str | None = None
    model: str | None = None
    prompt: int | None = None
    output: int | None = None
    cached: int | None = None
    reasoning: int | None = None
    source: Literal["usage", "native"] | None = None
    times: ServerTimes | None = None
    slot: str | None = None
    text: str = ""
    empty_is_token: bool = False


Read = Callable[[bytes], Note]


def decoder(shape: type[S]) -> Callable[[bytes], S]:
    """A decoder of `shape`, lenient where servers are: raw control characters, broken UTF-8,
    lone surrogates and NaN are no reason to lose a token. Raises ValueError on anything else."""
    strict = msgspec.json.Decoder(shape).decode

    def decode(payload: bytes) -> S:
        try:
            return strict(payload)
        except msgspec.ValidationError:
            raise
        except ValueError:
            return strict(_mended(payload))

    return decode


def _mended(payload: bytes) -> bytes:
    text = payload.decode("utf-8", "replace")
    value = json.loads(text, strict=False, parse_constant=lambda _: None)
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def as_count(value: Any) -> int | None:
    """`value` as a token count; None when it is none."""
    if type(value) is int and 0 <= value < 2**53:
        return value
    if type(value) is float and value.is_integer() and 0 <= value < 2**53:
        return int(value)
    return None


def as_seconds(value: Any, unit_s: float) -> float | None:
    """A duration given in units of `unit_s` seconds; None when it is none."""
    if type(value) not in (int, float) or not 0 <= value < 1e18:
        return None
    return float(value * unit_s)


def as_name(value: Any) -> str | None:
    """`value` as a short name (finish reason, model); None when it is none."""
    return value[:200] if isinstance(value, str) and value else None
