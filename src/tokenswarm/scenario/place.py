"""Places in a scenario file, how they are written, and how values are shown in messages."""

from typing import Any

Place = tuple[str | int, ...]

_SHOWN = 60
_SECRET_KEYS = {"headers", "api_key_env", "url", "agents"}
HIDDEN = "(not shown)"


def written(place: Place) -> str:
    """Return `$.models[1].weight` for ("models", 1, "weight")."""
    return "$" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place)


def shown(place: Place, value: Any) -> str:
    """Return a value for a message: bounded, and hidden where secrets may be written."""
    if _SECRET_KEYS.intersection(place) and not _harmless(place, value):
        return HIDDEN
    text = repr(value) if isinstance(value, str | int | float | bool | None) else _kind(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _harmless(place: Place, value: Any) -> bool:
    """Addresses are shown unless something in them could be a key or a password."""
    is_address = "headers" not in place and (place[-1] == "url" or "agents" in place)
    return is_address and isinstance(value, str) and not set("@?#") & set(value)


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list) else f"a {type(value).__name__}"
