"""One request's passage over a connection: bytes as they arrive, the end, and stamps of both."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

from gevent.hub import Waiter, get_hub
from httptools import HttpParserError, HttpResponseParser

from tokenswarm import native

MAX_HEADER_BYTES = 64 * 1024
_LONGEST_SIZE = 9  # hexadecimal digits of a chunk's size, and its CR


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. The defaults outlast a cold load of a large model."""

    connect_s: float = 30.0
    idle_s: float = 600.0
    total_s: float = 1800.0


class Fault(Exception):
    """The exchange failed; `kind` is a key of wire.record.ERROR_KINDS."""

    def __init__(self, kind: str, text: str):
        self.kind, self.text = kind, text
        super().__init__(f"{kind}: {text}")


class Body(Protocol):
    """Takes a response as it arrives (wire.reader.Reader)."""

    done: bool
    fault: bool
    fast: Any
    token_times: list[float]

    def headers(self, status: int, content_type: str) -> None: ...

    def past(self, size: int) -> None: ...

    def feed(self, now: float, data: bytes) -> int: ...


class Meter(Protocol):
    """Counts token events as they arrive, for the second's tick."""

    events: Any


class Exchange:
    """Takes a response apart with httptools and feeds its body on; ends itself.

    `sent_at`, `headers_at`: perf_counter seconds, None until then. `status`: the final status.
    `fault`: None when the HTTP message was whole. A response in chunks usually brings one chunk a
    recv, one token each: the tap takes such chunks before they come here, where there is one;
    else `received` takes such a chunk apart itself, which saves the parser's way through three
    callbacks. Anything else goes to the parser.
    """

    __slots__ = (
        "_between_chunks", "_chunk_ended", "_events", "_framed", "_header_bytes", "_keep_alive",
        "_parser", "_tap", "_unlisten", "body", "complete", "content_type", "ended", "fault",
        "headers_at", "last_activity", "sent_at", "started_at", "status", "timeouts", "waiter",
    )  # fmt: skip

    def __init__(self, unlisten: Any, body: Body, meter: Meter, timeouts: Timeouts):
        """`unlisten` takes the connection from the poller when the exchange ends."""
        self._unlisten = unlisten
        self._events = meter.events
        self._tap: Any = None
        self._parser: Any = HttpResponseParser(self)
        self._framed = self._keep_alive = self._chunk_ended = self._between_chunks = False
        self._header_bytes = 0
        self.body = body
        self.timeouts = timeouts
        self.waiter = Waiter()
        self.started_at = self.last_activity = perf_counter()
        self.sent_at: float | None = None
        self.headers_at: float | None = None
        self.status: int | None = None
        self.content_type = ""
        self.complete = self.ended = False
        self.fault: Fault | None = None

    # -- httptools' callbacks
    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEADER_BYTES:
            raise Fault("too_large", f"more than {MAX_HEADER_BYTES} bytes of response headers")
        lowered = name.lower()
        if lowered == b"content-type":
            self.content_type = value.decode("latin-1")
        elif lowered in (b"content-length", b"transfer-encoding"):
            self._framed = True

    def on_headers_complete(self) -> None:
        status: int = self._parser.get_status_code()
        self._header_bytes = 0
        if 100 <= status < 200:
            return
        self.status = status
        self.headers_at = self.last_activity
        self.body.headers(status, self.content_type)

    def on_chunk_header(self) -> None:
        self._chunk_ended = False

    def on_body(self, data: bytes) -> None:
        self._events.n += self.body.feed(self.last_activity, data)

    def on_chunk_complete(self) -> None:
        self._chunk_ended = True

    def on_message_complete(self) -> None:
        self.complete = self.status is not None
        # the parser knows this only here: it forgets the message with the end of it
        self._keep_alive = self._framed and self._parser.should_keep_alive()

    # -- called by the connection
    def tap(self, fd: int, on_error: Callable[[int], None]) -> Any:
        """A native.Tap for this response on the plain socket `fd`."""
        self._tap = native.Tap(
            fd, self.body.token_times, self._events, self.received, self.closed, on_error
        )
        return self._tap

    def untap(self) -> None:
        """The tap reads no more; take what it knows. Idempotent."""
        if self._tap is not None:
            self.last_activity = self.last_byte_at()
            self.body.past(self._tap.bytes)
            self._tap = None

    def last_byte_at(self) -> float:
        """perf_counter seconds of the last bytes, or of the sending before any came."""
        seen = 0.0 if self._tap is None else self._tap.last_s
        return max(self.last_activity, seen)

    def received(self, now: float, data: bytes) -> None:
        """Take bytes that arrived at `now`; ends the exchange when they complete or break it.

        A hub callback that raises would leave its user waiting for good: nothing gets out.
        """
        self.last_activity = now
        try:
            if self._between_chunks and data[-2:] == b"\r\n":
                start = data.find(b"\r\n", 1, _LONGEST_SIZE) + 2
                # one chunk and nothing else; the last chunk of a message (size 0) is not taken
                if start > 2 and int(data[: start - 2], 16) == len(data) - start - 2 > 0:
                    self._events.n += self.body.feed(now, data[start:-2])
                    if self.body.fault:
                        self.end(Fault("too_large", "the response cannot be read on"))
                    self._arm()
                    return
            self._parse(data)
            self._arm()
        except HttpParserError as e:
            self.end(_parser_fault(e))
        except Exception as e:
            self.end(Fault("protocol", f"{type(e).__name__}: {e}"))

    def _arm(self) -> None:
        """Let the tap take chunks by itself, or no longer."""
        if self._tap is not None:
            self._tap.shape = self.body.fast if self._between_chunks else None

    def _parse(self, data: bytes) -> None:
        self._parser.feed_data(data)
        # the parser is at the start of a chunk only if it has not seen a part of its size yet
        self._between_chunks = self._chunk_ended and data[-2:] == b"\r\n"
        if self.complete:
            self.end(None)
        elif self.body.fault:
            self.end(Fault("too_large", "the response cannot be read on"))
        elif self.headers_at is None and self._header_bytes + len(data) > 4 * MAX_HEADER_BYTES:
            self.end(Fault("too_large", "response headers without an end"))

    def closed(self) -> None:
        """The peer closed: the end of an unframed body, else a cut."""
        if self.status is not None and not self._framed:
            self.complete = True
            self.end(None)
        else:
            self.end(Fault("reset", "connection closed before the response was complete"))

    def end(self, fault: Fault | None) -> None:
        """Stop listening and let the user's greenlet go on, once.

        The greenlet runs when every socket that is ready has been read and stamped.
        """
        if self.ended:
            return
        self.ended = True
        self.fault = fault
        self._unlisten()
        get_hub().loop.run_callback(self.waiter.switch, None)

    def keeps_alive(self) -> bool:
        """The connection may serve another request. Lets go of the parser (a reference cycle)."""
        self._parser = None
        return self.fault is None and self.complete and self._keep_alive


def _parser_fault(error: HttpParserError) -> Fault:
    cause = error.__context__
    if isinstance(cause, Fault):
        return cause
    return Fault("protocol", f"not an HTTP response: {error}")
