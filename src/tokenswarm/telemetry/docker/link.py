"""One connection to a Docker engine: its events as they come, and answers to questions.

Everything that Docker answers is data: what has another shape than expected is absent.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

from tokenswarm.telemetry.owners.container import DOCKER_URL, docker_client

TIMEOUT_S = 2.0
JOIN_S = 5.0
MAX_TEXT = 200


class LinkLost(Exception):
    """Docker cannot be asked, or not any more. The text says why, and the way out."""


class Link:
    """Asked by one thread; a thread of its own reads the events. LinkLost from every call."""

    def __init__(self, url: str | None = None, timeout_s: float = TIMEOUT_S):
        self.url = url or DOCKER_URL
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._client: Any = None
        self._stream: Any = None
        try:
            self._call(self._open, timeout_s)
        except LinkLost:
            self.close()
            raise
        self._reader = threading.Thread(target=self._read, name="docker-events", daemon=True)
        self._reader.start()

    def close(self) -> None:
        """Hang up and wait for the reader."""
        if self._stream is not None:
            try:
                self._stream.close()
            except (OSError, AttributeError):
                pass  # the other side was faster: nothing is open any more
            self._reader.join(JOIN_S)
        if self._client is not None:
            self._client.close()

    def events(self) -> Iterator[dict[str, Any]]:
        """The container events that have come since the last call."""
        while True:
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                return
            if event is None:
                raise LinkLost(f"Docker at {self.url} ended its events: waiting for it to be back")
            yield event

    def containers(self) -> list[dict[str, Any]]:
        """Inspections of all containers, those that have ended as well."""
        listed = self._call(self._client.containers, all=True)
        return [found for c in listed if (found := self.inspect(str(c.get("Id")))) is not None]

    def inspect(self, container_id: str) -> dict[str, Any] | None:
        """None for a container that is no more."""
        found = self._ask(self._client.inspect_container, container_id)
        return found if isinstance(found, dict) else None

    def stats(self, container_id: str) -> dict[str, Any] | None:
        """Docker's figures of a container; None for one that is no more. May take a second."""
        found = self._ask(self._client.stats, container_id, stream=False, one_shot=True)
        return found if isinstance(found, dict) else None

    def _open(self, timeout_s: float) -> None:
        self._client = docker_client(self.url, timeout_s)
        self._stream = self._client.events(decode=True, filters={"type": "container"})

    def _read(self) -> None:
        try:
            for event in self._stream:
                if isinstance(event, dict):
                    self._events.put(event)
        except Exception:
            pass  # whatever it was: the stream has ended, and that is said
        self._events.put(None)

    def _ask(self, call: Callable[..., Any], *arguments: object, **named: object) -> Any:
        """None when Docker has no such container."""
        from docker.errors import NotFound

        try:
            return self._call(call, *arguments, **named)
        except NotFound:
            return None

    def _call(self, call: Callable[..., Any], *arguments: object, **named: object) -> Any:
        from docker.errors import DockerException, NotFound
        from requests.exceptions import RequestException

        try:
            return call(*arguments, **named)
        except NotFound:
            raise
        except (DockerException, RequestException, OSError) as e:
            raise LinkLost(
                f"Docker at {self.url} does not answer ({_shortly(e)}): is it running, and may "
                "this user open its socket?"
            ) from None


def thing(value: object) -> dict[str, Any]:
    """`value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def whole(value: object) -> int | None:
    """`value` if it is a whole number of 0 or more that a row can hold."""
    sane = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
    return value if sane else None  # type: ignore[return-value]


def _shortly(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:MAX_TEXT]
