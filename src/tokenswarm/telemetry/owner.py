"""Which model a process serves, from its command line or that of a process above it."""

from collections.abc import Collection
from pathlib import Path

GENERATIONS = 3
ATTEMPTS = 20


class Owners:
    """Model names by pid, remembered while the pid is asked for. `proc` is `/proc`.

    A process that says nothing is looked at ATTEMPTS times: it may have just been started.
    """

    def __init__(self, names: Collection[str], proc: Path = Path("/proc")):
        self._names, self._proc = tuple(names), proc
        self._known: dict[int, str | None] = {}
        self._attempts: dict[int, int] = {}

    def model(self, pid: int) -> str | None:
        """The server's name of the model, None when no command line says one."""
        attempts = self._attempts.get(pid, 0)
        if self._known.get(pid) is None and attempts < ATTEMPTS:
            self._attempts[pid] = attempts + 1
            self._known[pid] = self._find(pid)
        return self._known.get(pid)

    def forget_all_but(self, pids: Collection[int]) -> None:
        """Pids are used again: drop those that have gone."""
        for pid in self._known.keys() - set(pids):
            del self._known[pid], self._attempts[pid]

    def _find(self, pid: int) -> str | None:
        for _ in range(GENERATIONS):
            arguments = self._arguments(pid)
            for name in self._names:
                if any(_means(argument, name) for argument in arguments):
                    return name
            parent = self._parent(pid)
            if parent is None or parent <= 1:
                return None
            pid = parent
        return None

    def _arguments(self, pid: int) -> list[str]:
        try:
            text = (self._proc / str(pid) / "cmdline").read_bytes()
        except OSError:
            return []
        return text.decode("utf-8", "replace").split("\0")

    def _parent(self, pid: int) -> int | None:
        try:
            stat = (self._proc / str(pid) / "stat").read_bytes()
            return int(stat.rpartition(b")")[2].split()[1])  # the name may hold anything
        except (OSError, ValueError, IndexError):
            return None


def _means(argument: str, name: str) -> bool:
    """`NAME`, `--model=NAME`, `/models/NAME` or `/models/NAME.gguf`."""
    stem = argument.removesuffix(".gguf")
    return stem == name or stem.endswith((f"={name}", f"/{name}"))
