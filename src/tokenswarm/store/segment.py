"""Segments of a spool: files SOURCE-NUMBER.spool, the numbers of a source rising."""

import os
from pathlib import Path

from tokenswarm.store.frame import SEGMENT


def segments(folder: Path) -> dict[str, list[Path]]:
    """The segments of each source in `folder`, both in order; none when there is no folder."""
    found: dict[str, list[tuple[int, Path]]] = {}
    for name in os.listdir(folder) if folder.is_dir() else ():  # noqa: PTH208, polled often
        if match := SEGMENT.fullmatch(name):
            found.setdefault(match["source"], []).append((int(match["number"]), folder / name))
    return {source: [path for _, path in sorted(found[source])] for source in sorted(found)}


def number_of(path: Path) -> int:
    """A segment's number, as its name tells."""
    return int(path.stem.rsplit("-", 1)[1])
