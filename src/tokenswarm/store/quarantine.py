"""Lines that a database refuses, kept in a file with the reason, so that the rest goes on."""

from pathlib import Path

import msgspec

from tokenswarm.errors import SpoolError

MAX_LINES = 1_000_000
WHOLE_LINES = 10_000


class Refused(msgspec.Struct, frozen=True):
    """One line that was refused: row `seq` of `source`, why, and when (unix ns).

    `line` is empty after the first WHOLE_LINES: the row is in the spool.
    """

    source: str
    seq: int
    measurement: str
    reason: str
    line: str
    at_unix_ns: int


class Quarantine:
    """`path` holds one Refused as JSON a line, each row once however often it is refused.

    At most `max_lines`: with more than that something is wrong with the whole rather than with
    lines, and SpoolError stops the shipper with nothing lost.
    """

    def __init__(self, path: Path, max_lines: int = MAX_LINES):
        self.path, self._max_lines = path, max_lines
        self._known = {(r.source, r.measurement, r.seq) for r in read(path)}

    def __len__(self) -> int:
        return len(self._known)

    def add(self, refused: Refused) -> None:
        """Keep one line. SpoolError: too many, or it cannot be written."""
        if len(self._known) >= WHOLE_LINES:
            refused = msgspec.structs.replace(refused, line="")
        key = (refused.source, refused.measurement, refused.seq)
        if key in self._known:
            return
        if len(self._known) >= self._max_lines:
            raise SpoolError(
                f"{self.path}: {self._max_lines} lines were refused, the last because: "
                f"{refused.reason}; mend the cause, remove the file and ship again"
            )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as f:
                # the line break first: a killed shipper may have left half a line
                f.write(b"\n" * (f.tell() > 0) + msgspec.json.encode(refused))
        except OSError as e:
            raise SpoolError(f"{self.path}: cannot keep a refused line: {e.strerror}") from e
        self._known.add(key)


def read(path: Path) -> list[Refused]:
    """What is in quarantine; a line cut short by a killed shipper is left out."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            found.append(msgspec.json.decode(line, type=Refused))
        except msgspec.DecodeError:
            continue
    return found
