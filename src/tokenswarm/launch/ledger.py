"""What has been started and by whom, on disk, so that the next tokenswarm can end what is left.

A process is known by its pid and the moment it started, which together are never used again. All
that a server starts shares its session; a session's number is not given out again while it has a
member, so what is left of a dead server's session is that server's.
"""

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tokenswarm.errors import UsageError

KILL_S = 10.0
POLL_S = 0.05


class Entry(msgspec.Struct, frozen=True):
    """A process (leader of its session) and its owner, each with its start in clock ticks."""

    name: str
    pid: int
    began: int
    owner: int
    owner_began: int


def folder() -> Path:
    """Where entries lie: private to this user, gone with a reboot as the processes are."""
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    path = base / f"tokenswarm-launched-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    about = path.lstat()
    if about.st_uid != os.getuid() or about.st_mode & 0o077:
        raise UsageError(f"{path} is not private to this user: remove it or set XDG_RUNTIME_DIR")
    return path


def began(pid: int) -> int | None:
    """When `pid` started, in clock ticks since boot; None when it is no more (or a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def alive(pid: int, since: int) -> bool:
    return began(pid) == since


def add(name: str, pid: int) -> Path:
    """Note that this process has started `pid`."""
    owner = os.getpid()
    entry = Entry(name, pid, began(pid) or 0, owner, began(owner) or 0)
    path = folder() / f"{pid}-{entry.began}.json"
    path.write_bytes(msgspec.json.encode(entry))
    return path


def members(session: int) -> tuple[int, ...]:
    """Living processes of a session."""
    return tuple(_members(session))


def _members(session: int) -> Iterator[int]:
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            pid = int(path.name)
            if os.getsid(pid) == session and began(pid) is not None:
                yield pid


def end(session: int, grace_s: float) -> None:
    """SIGTERM to every process of a session, SIGKILL to what is left after `grace_s`."""
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, KILL_S)):
        deadline = time.monotonic() + patience_s
        for pid in members(session):
            with contextlib.suppress(OSError):
                os.kill(pid, number)
        while members(session) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if not members(session):
            return


def sweep(grace_s: float = 5.0) -> list[str]:
    """End what owners that are no more have left running; its names."""
    ended = []
    for path in sorted(folder().glob("*.json")):
        try:
            entry = msgspec.json.decode(path.read_bytes(), type=Entry)
        except (OSError, msgspec.DecodeError):
            path.unlink(missing_ok=True)
            continue
        if alive(entry.owner, entry.owner_began):
            continue
        ours = began(entry.pid) in (None, entry.began)
        if ours and members(entry.pid):
            end(entry.pid, grace_s)
            ended.append(entry.name)
        path.unlink(missing_ok=True)
    return ended
