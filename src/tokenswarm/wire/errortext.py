"""What a server says went wrong, as one short line of text."""

import re
from typing import Any

import msgspec

MAX_CHARS = 300

_LOOKED_AT = 8 * 1024  # of an error page
_TAG = re.compile(r"<(script|style)\b.*?</\1>|<!--.*?-->|<[^<>]*>", re.S | re.I)
_KEYS = ("message", "error", "detail", "msg", "reason", "type", "code")


def clip(text: str) -> str:
    """`text` in one line of at most 300 characters, free of what UTF-8 cannot hold."""
    line = " ".join(text[: 20 * MAX_CHARS].split())
    printable = "".join(c for c in line if c.isprintable())
    return printable[:MAX_CHARS].encode("utf-8", "replace").decode()


def error_text(value: Any) -> str:
    """The text of a JSON error value: a string, `{"message": …}`, `{"error": …}`, a list."""
    for _ in range(8):  # deeper nesting than any server's
        if isinstance(value, dict):
            found = next((value[k] for k in _KEYS if value.get(k)), None)
            if found is None:
                break
            value = found
        elif isinstance(value, list) and value:
            value = value[0]
        else:
            break
    return clip(value if isinstance(value, str) else repr(value))


def body_text(body: bytes) -> str:
    """The text of an error body: JSON by its message, HTML without its tags, else as it is."""
    if body.lstrip()[:1] in (b"{", b"["):
        try:
            return error_text(msgspec.json.decode(body))
        except (ValueError, RecursionError):
            pass
    return clip(_TAG.sub(" ", body[:_LOOKED_AT].decode("utf-8", "replace")))
