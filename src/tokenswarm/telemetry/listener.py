"""Who listens on a local port, to know a tunnel from a server. Linux; elsewhere nobody knows."""

import os
from pathlib import Path

TUNNELS = ("ssh", "autossh", "kubectl", "socat", "cloudflared", "frpc", "tailscaled")
LISTEN = "0A"


def tunnel(port: int, proc: Path = Path("/proc")) -> str | None:
    """The name of the program that forwards local `port` elsewhere; None when none is seen.

    Only processes of this user can be seen, as a tunnel of one's own is.
    """
    inodes = _listening(port, proc)
    if not inodes:
        return None
    for process in proc.glob("[0-9]*"):
        name = _name(process)
        if name in TUNNELS and inodes & _sockets(process):
            return name
    return None


def _listening(port: int, proc: Path) -> set[str]:
    """Inodes of sockets that listen on `port`."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if words[3] == LISTEN and int(words[1].rpartition(":")[2], 16) == port:
                inodes.add(words[9])
    return inodes


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return ""


def _sockets(process: Path) -> set[str]:
    found = set()
    try:
        for entry in (process / "fd").iterdir():
            link = os.readlink(entry)  # noqa: PTH115, a socket is no path
            if link.startswith("socket:["):
                found.add(link[8:-1])
    except OSError:
        pass  # it ended meanwhile, or belongs to somebody else
    return found
