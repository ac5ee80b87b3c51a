"""What there is to know of an engine beside its knobs: what docs/engines.md is made of."""

import msgspec


class Sheet(msgspec.Struct, frozen=True, kw_only=True):
    """One sentence or less each, for a person who compares engines."""

    title: str
    told_by: str
    ready: str
    residency: str
    load: str
    unload: str
    sleep: str
    timings: str
    overload: str
    quirks: str
