"""What `/proc` says of one process. None or nothing where it cannot be read, or has gone."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_TEXT = 1 << 20
INITIAL_PID_NAMESPACE = "pid:[4026531836]"
"""PROC_PID_INIT_INO of Linux's include/linux/proc_ns.h: the host's own, in every kernel."""


@dataclass(frozen=True, slots=True)
class Proc:
    """A `/proc`, or a tree on disk that looks like one."""

    root: Path = Path("/proc")

    def lives(self, pid: int) -> bool:
        return pid > 0 and (self.root / str(pid)).is_dir()

    def arguments(self, pid: int) -> list[str]:
        """The command line; empty for a kernel thread and a process without one yet."""
        return self._text(pid, "cmdline").rstrip("\0").split("\0")

    def started(self, pid: int) -> int | None:
        """When it started, in clock ticks since boot: tells two processes of one pid apart."""
        return self._stat(pid, 21)

    def ancestors(self, pid: int) -> Iterator[int]:
        """`pid`, its parent and so on, without init."""
        while pid > 1:
            yield pid
            pid = self._stat(pid, 3) or 0

    def cgroup(self, pid: int) -> str:
        return self._text(pid, "cgroup")

    def mounts(self, pid: int) -> str:
        return self._text(pid, "mountinfo")

    def sees_all(self) -> bool:
        """Whether its pids are the host's: without a pid namespace, or with `--pid=host`."""
        try:
            return os.readlink(self.root / "self/ns/pid") == INITIAL_PID_NAMESPACE  # noqa: PTH115
        except OSError:
            return True  # a kernel without namespaces has one set of pids

    def uses_gpu(self, pid: int) -> bool:
        """Whether it has a device of the NVIDIA driver (on WSL2: of DirectX) open."""
        try:
            for entry in (self.root / str(pid) / "fd").iterdir():
                try:
                    link = os.readlink(entry)  # noqa: PTH115, a socket is no path
                except OSError:
                    continue  # closed meanwhile
                if link.startswith(("/dev/nvidia", "/dev/dxg")):
                    return True
        except OSError:
            pass  # it has gone, or belongs to somebody else
        return False

    def inside(self, pid: int, path: str) -> Path:
        """`path` as the process sees it: with its root and, where relative, its directory."""
        where = "root" if path.startswith("/") else "cwd"
        return self.root / str(pid) / where / path.lstrip("/")

    def _stat(self, pid: int, field: int) -> int | None:
        """Field number `field` of `stat`, counted from 0 where proc(5) counts from 1."""
        try:  # the second one, the name, may hold anything
            return int(self._text(pid, "stat").rpartition(")")[2].split()[field - 2])
        except (ValueError, IndexError):
            return None

    def _text(self, pid: int, name: str) -> str:
        try:
            fd = os.open(self.root / str(pid) / name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return ""
        text = b""
        try:
            while len(text) < MAX_TEXT and (part := os.read(fd, MAX_TEXT)):
                text += part
        except OSError:
            pass  # it ended while it was read
        finally:
            os.close(fd)
        return text.decode("utf-8", "replace")
