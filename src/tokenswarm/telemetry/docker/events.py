"""The container watcher: what becomes of the containers that bear our labels, and their use."""

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec

from tokenswarm.clock import NS, Clock, slug
from tokenswarm.store.row import Monotonic
from tokenswarm.store.schema import CONTAINER
from tokenswarm.telemetry.config import Containers
from tokenswarm.telemetry.docker.link import Link, LinkLost, thing, whole
from tokenswarm.telemetry.docker.stats import Taken, Uses
from tokenswarm.telemetry.feed import Outbox
from tokenswarm.telemetry.owners.container import LABELS, Container, inspected, labelled
from tokenswarm.telemetry.row import Pair, row

LOOK_S = 0.2
CODE = re.compile(r"[0-9]{1,9}")
BACK_OFF_S = (0.2, 5.0)

# Docker's actions -> ours; everything else (exec, attach, kill, ...) is left out
EVENTS = {
    "start": "start",
    "health_status: healthy": "ready",
    "health_status: unhealthy": "unhealthy",
    "oom": "oom",
    "die": "die",
    "stop": "stop",
}


class Event(msgspec.Struct, frozen=True):
    """Something that became of a container. `unix_ns` is Docker's wall clock."""

    container: Container
    event: str
    unix_ns: int
    exit_code: int | None = None


class ContainerFeed:
    """Events, and every `stats_interval_s` the use, of the containers that bear `label` (None:
    one of LABELS).

    Those that run when it begins to watch are `found`. While Docker is away nothing is known; when
    it is back, a container that ended meanwhile gets its `die` at the time that Docker says.
    """

    def __init__(self, config: Containers, run_id: str, host: str, clock: Clock):
        self.name = f"container-{host}"
        self._config, self._clock = config, clock
        self._tags = {"run_id": run_id, "host": host}
        self._stamp = Monotonic()
        self._watch = Watch(LABELS if config.label is None else (config.label,))

    def run(self, stop: threading.Event, out: Outbox) -> None:
        watching: _Watching | None = None
        wait_s, again_s = BACK_OFF_S[0], 0.0
        try:
            for _ in out.ticks(LOOK_S, stop):
                try:
                    if watching is not None:
                        self._look(watching, out)
                    elif time.monotonic() >= again_s:
                        watching = _Watching(self._config, self._watch)
                        self._put(out, watching.found)
                        wait_s = BACK_OFF_S[0]
                except LinkLost as e:
                    out.note(str(e))
                    if watching is not None:
                        watching.close()
                    watching = None
                    again_s, wait_s = time.monotonic() + wait_s, min(2 * wait_s, BACK_OFF_S[1])
        finally:
            if watching is not None:
                watching.close()

    def _look(self, watching: "_Watching", out: Outbox) -> None:
        """What has happened since the last look."""
        taken = watching.taken(out.note)
        events = [
            told
            for answer in watching.link.events()
            if (event := event_in(answer)) is not None
            for told in self._watch.take(event, watching.link.inspect)
        ]
        self._put(out, events, taken)

    def _put(self, out: Outbox, events: Iterable[Event], taken: Iterable[Taken] = ()) -> None:
        """Rows in time's order."""
        # Docker runs on this host: what moves our wall clock onto the run's moves its as well
        moved_ns = self._clock.unix(time.perf_counter()) - time.time_ns()
        found = [(e.unix_ns + moved_ns, e.container, _of_event(e)) for e in events]
        found += [(self._clock.unix(t.at_s), t.container, _of_use(t)) for t in taken]
        found.sort(key=lambda one: one[0])
        out.put([self._row(*one) for one in found])

    def _row(self, unix_ns: int, container: Container, values: Mapping[str, Any]) -> Pair:
        return row(
            CONTAINER, self._stamp(unix_ns), **self._tags, container=slug(container.name),
            target=container.target, model=container.model, **values,
        )  # fmt: skip


class _Watching:
    """One connection's life: the events come first, then what they cannot tell is asked for."""

    def __init__(self, config: Containers, watch: "Watch"):
        self.link = Link(config.url)
        self._uses: Uses | None = None
        try:
            self.found = watch.catch_up(self.link.containers())
        except LinkLost:
            self.link.close()
            raise
        if config.stats_interval_s is not None:
            self._uses = Uses(self.link, lambda: watch.running, config.stats_interval_s)

    def taken(self, note: Callable[[str], None]) -> list[Taken]:
        """What was used; a failure to tell ends that alone."""
        if self._uses is None:
            return []
        found = list(self._uses.taken())
        if self._uses.failure is not None:
            note(self._uses.failure)
            self._uses = None
        return found

    def close(self) -> None:
        if self._uses is not None:
            self._uses.close()
        self.link.close()


def _of_event(event: Event) -> dict[str, Any]:
    return {"event": event.event, "exit_code": event.exit_code}


def _of_use(taken: Taken) -> dict[str, Any]:
    use = taken.use
    return {
        "event": "stats",
        "cpu_ratio": taken.cpu_ratio,
        "memory_used_bytes": use.memory_used_bytes,
        "page_cache_bytes": use.page_cache_bytes,
        "memory_limit_bytes": use.memory_limit_bytes,
        "disk_read_bytes": use.disk_read_bytes,
    }


class Watch:
    """What is known of the containers that bear one of `labels`, to tell news from what was said
    before: events may be missed, and come again in an inspection."""

    def __init__(self, labels: tuple[str, ...]):
        self._labels = labels
        self._up: dict[str, tuple[Container, int]] = {}  # and when it started, as far as known
        self._oom: set[str] = set()

    @property
    def running(self) -> list[Container]:
        return [container for container, _ in self._up.values()]

    def catch_up(self, inspections: Iterable[Mapping[str, Any]]) -> list[Event]:
        """What the inspections of all containers show and nobody has said yet, in time's order."""
        there = {container.id: (container, state) for container, state in map(_seen, inspections)}
        events: list[Event] = []
        for container, started_ns in list(self._up.values()):
            _, state = there.get(container.id, (container, {}))
            if not _runs(state) or (_unix_ns(state.get("StartedAt")) or 0) > started_ns:
                events += self._ended(container, state)
        for container, state in there.values():
            if _runs(state) and self._is_ours(container) and container.id not in self._up:
                self._up[container.id] = container, _unix_ns(state.get("StartedAt")) or 0
                self._oom.discard(container.id)
                events.append(Event(container, "found", time.time_ns()))
        return sorted(events, key=lambda e: e.unix_ns)

    def take(
        self, event: Event, inspect: Callable[[str], Mapping[str, Any] | None]
    ) -> Iterator[Event]:
        """`event` unless it was said before. Docker may omit that it was memory that a container
        died of, or tell it late, so that is asked for."""
        if not self._is_ours(event.container):
            return
        known, id_ = event.container.id in self._up, event.container.id
        if event.event == "start" and not known:
            self._up[id_] = event.container, event.unix_ns
            self._oom.discard(id_)
            yield event
        elif event.event == "oom" and (known or id_ not in self._oom):
            self._oom.add(id_)
            yield event
        elif event.event == "die" and known:
            del self._up[id_]
            yield from self._memory(event, thing((inspect(id_) or {}).get("State")))
            yield event
        elif event.event not in ("start", "oom", "die"):
            yield event

    def _ended(self, container: Container, state: Mapping[str, Any]) -> Iterator[Event]:
        """The end that was missed. A container that runs again does not tell its exit code."""
        del self._up[container.id]
        ended_ns = _unix_ns(state.get("FinishedAt")) or time.time_ns()
        code = None if _runs(state) else whole(state.get("ExitCode"))
        event = Event(container, "die", ended_ns, code)
        yield from self._memory(event, state)
        yield event

    def _memory(self, died: Event, state: Mapping[str, Any]) -> Iterator[Event]:
        """An `oom` before the end `died`, if that was for memory and nobody said so."""
        if state.get("OOMKilled") is True and died.container.id not in self._oom:
            self._oom.add(died.container.id)
            yield Event(died.container, "oom", died.unix_ns)

    def _is_ours(self, container: Container) -> bool:
        return any(container.labels.get(label) for label in self._labels)


def event_in(answer: Mapping[str, Any]) -> Event | None:
    """One of Docker's events, if it is one of EVENTS."""
    action, actor = EVENTS.get(str(answer.get("Action"))), thing(answer.get("Actor"))
    attributes = thing(actor.get("Attributes"))
    unix_ns = whole(answer.get("timeNano"))
    if action is None or unix_ns is None or answer.get("Type") != "container":
        return None
    code = str(attributes.get("exitCode", ""))
    container = labelled(actor.get("ID"), str(attributes.get("name", "")), attributes)
    return Event(container, action, unix_ns, int(code) if CODE.fullmatch(code) else None)


def _seen(inspection: Mapping[str, Any]) -> tuple[Container, dict[str, Any]]:
    return inspected(inspection), thing(inspection.get("State"))


def _runs(state: Mapping[str, Any]) -> bool:
    return state.get("Running") is True


def _unix_ns(text: object) -> int | None:
    """Docker's `2026-11-22T20:42:00.610172495Z`; its zero time is None."""
    if not isinstance(text, str) or not text.endswith("Z"):
        return None
    seconds, _, fraction = text[:-1].partition(".")
    try:
        when = datetime.fromisoformat(f"{seconds}+00:00")
        unix_ns = int(when.timestamp()) * NS + int(fraction[:9].ljust(9, "0"))
    except ValueError:
        return None
    return unix_ns if unix_ns > 0 else None
