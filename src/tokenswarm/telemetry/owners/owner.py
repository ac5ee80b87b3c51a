"""Who holds what: the model and the container of a process, remembered while it lives."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenswarm.clock import slug
from tokenswarm.engines.ollama import same_model
from tokenswarm.telemetry.config import Config
from tokenswarm.telemetry.owners.blobs import ShownBlobs, digest_of, names_in, store_of
from tokenswarm.telemetry.owners.commandline import named_model, said_models, short_name
from tokenswarm.telemetry.owners.container import (
    Container,
    Directory,
    NoDirectory,
    container_of,
    directory_at,
)
from tokenswarm.telemetry.owners.proc import Proc

UNRESOLVED = "unresolved"
"""The value of both tags for a pid that is not this `/proc`'s: NVML gives the host's pids, and a
container without `--pid=host` cannot look them up."""

GENERATIONS = 4
ATTEMPTS = 20
CHECK_S = 1.0  # no pid is another's that soon, and a look at each process costs 20 us or more
MAX_OWNERS = 4096

Shown = Callable[[str], str | None]
"""Ollama's name of a blob, by the 64 hex digits of its digest."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The model as its server calls it, the container as the value of a tag. None: the process is
    there and says no model, or is in no container."""

    model: str | None
    container: str | None


NOBODY = Owner(UNRESOLVED, UNRESOLVED)


def owners_of(config: Config) -> "Owners":
    """Owners as the scenario's targets name them, with Docker where there is one."""
    return Owners(
        tuple(config.slugs),
        directory=directory_at(None if config.containers is None else config.containers.url),
        targets={engine.target: tuple(engine.models) for engine in config.engines},
        shown=ShownBlobs(config.engines),
        local=config.gpu.source == "host",
    )


@dataclass(slots=True)
class _Known:
    """What was found out in so many looks of the process that started then, and when that was
    last compared."""

    owner: Owner
    is_final: bool
    started: int | None
    checked_s: float
    looked_s: float
    attempts: int = 1


class Owners:
    """Owners by pid. One thread uses it.

    The model is, in this order: one of `names` by the process's command line or that of a process
    above it (children inherit); the container's label `tokenswarm.model`; the only model of the
    target in its label `tokenswarm.target`; whatever the command line says. `targets` are the
    scenario's: models by target. `shown` is asked for Ollama's blobs whose manifests cannot be
    read. `local`: the pids were read here, not by a driver. A process that says nothing is looked
    at ATTEMPTS times in a row and as often again in as many seconds: it may have just been started.
    """

    def __init__(
        self, names: Collection[str], proc: Path = Path("/proc"), *,
        directory: Directory | None = None, targets: Mapping[str, Sequence[str]] | None = None,
        shown: Shown | None = None, local: bool = False,
        now_s: Callable[[], float] = time.monotonic,
    ):  # fmt: skip
        self._names, self._proc = tuple(names), Proc(proc)
        self._directory = directory or NoDirectory()
        self._targets, self._shown, self._now_s = targets or {}, shown, now_s
        self._believes = local or self._proc.sees_all()
        self._known: dict[int, _Known] = {}

    def resolve(self, pid: int) -> Owner:
        """The owner of `pid`. One that has gone stays known until its pid is another's, since a
        driver may list it a little longer; one that never was here is NOBODY."""
        known = self._still(pid)
        if known is None:
            if not self._is_ours(pid):
                return NOBODY
            if len(self._known) >= MAX_OWNERS:
                self._known.clear()
            started = self._proc.started(pid)
            now_s = self._now_s()
            known = self._known[pid] = _Known(*self._find(pid), started, now_s, now_s)
        elif not known.is_final and self._is_due(known):
            known.owner, known.is_final = self._find(pid)
            known.looked_s, known.attempts = self._now_s(), known.attempts + 1
        return known.owner

    def _is_due(self, known: _Known) -> bool:
        if known.attempts < ATTEMPTS:
            return True
        return known.attempts < 2 * ATTEMPTS and self._now_s() - known.looked_s >= CHECK_S

    def _still(self, pid: int) -> _Known | None:
        """What is known of `pid`, unless it is another process's by now."""
        known, now_s = self._known.get(pid), self._now_s()
        if known is not None and now_s - known.checked_s >= CHECK_S:
            known.checked_s, started = now_s, self._proc.started(pid)
            if started is not None and known.started not in (None, started):
                return None
        return known

    def model(self, pid: int) -> str | None:
        """The model alone; None also when it cannot be resolved."""
        found = self.resolve(pid).model
        return None if found == UNRESOLVED else found

    def forget_all_but(self, pids: Collection[int]) -> None:
        """Drop those that are no longer asked for."""
        for pid in self._known.keys() - set(pids):
            del self._known[pid]

    def _is_ours(self, pid: int) -> bool:
        """A pid of another namespace may be some process's here as well: unless all pids are the
        host's, only a process with the GPU's device open is believed to be the one meant."""
        return self._proc.lives(pid) and (self._believes or self._proc.uses_gpu(pid))

    def _find(self, pid: int) -> tuple[Owner, bool]:
        """What can be found out now, and whether that is more than what it says by itself."""
        container = container_of(pid, self._proc, self._directory)
        found = self._by_command_line(pid) or self._by_label(container)
        model = found or self._said(pid)
        return Owner(model, None if container is None else slug(container.name)), found is not None

    def _by_command_line(self, pid: int) -> str | None:
        for ancestor in self._line(pid):
            arguments = self._proc.arguments(ancestor)
            found = named_model(arguments, self._names) or self._of_blob(ancestor, arguments)
            if found is not None:
                return found
        return None

    def _of_blob(self, pid: int, arguments: list[str]) -> str | None:
        """Ollama's name, the scenario's spelling of it where it is one of its models."""
        path = next((s for s in said_models(arguments) if digest_of(s)), None)
        digest, store = digest_of(path or ""), store_of(path or "")
        if digest is None or store is None:
            return None
        found = names_in(self._proc.inside(pid, store), digest)
        if not found and self._shown is not None and (name := self._shown(digest)) is not None:
            found = [name]
        spelt = (n for n in self._names if any(same_model(n, other) for other in found))
        return next(spelt, None) or next(iter(found), None)

    def _by_label(self, container: Container | None) -> str | None:
        if container is None:
            return None
        models = self._targets.get(container.target or "", ())
        return container.model or (models[0] if len(models) == 1 else None)

    def _said(self, pid: int) -> str | None:
        for ancestor in self._line(pid):
            for said in said_models(self._proc.arguments(ancestor)):
                if name := short_name(said):
                    return name[:19] if digest_of(said) else name  # sha256- and 12 digits
        return None

    def _line(self, pid: int) -> list[int]:
        line = self._proc.ancestors(pid)
        return [ancestor for _, ancestor in zip(range(GENERATIONS), line, strict=False)]
