"""The words that simulated models say."""

import msgspec

_PLAIN = """
    time request swarm model memory token queue server first answer river stone light window
    garden paper signal number between because before little always never under over small large
    quick slow bright dark green blue silver copper engine wheel bridge harbour letter orange
    winter summer morning evening mountain valley forest island market station
"""
_WIDE = ("größe", "naïve", "日本語", "данные", "ελιά", "🙂", "año", "—", "東京", "çay")


def escaped(text: str) -> bytes:
    """`text` as the content of a JSON string, without the quotes."""
    return msgspec.json.encode(text)[1:-1]


PLAIN = tuple(escaped(" " + w) for w in _PLAIN.split())
WIDE = tuple(escaped(" " + w) for w in _WIDE)
REPEATED = escaped(" again")
LOADING = escaped("loading the model ")


def word(seed: int, index: int, wide: bool = False) -> bytes:
    """Token `index` of the answer `seed`, escaped; neighbours differ."""
    book = WIDE if wide else PLAIN
    return book[(seed * 31 + index * 7) % len(book)]


def count(text: str) -> int:
    """Prompt tokens of `text`: its whitespace-separated words."""
    return len(text.split())
