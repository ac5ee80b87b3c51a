"""One response: bytes and their arrival times in, token times, counts and the ending out."""

from typing import Literal

from tokenswarm.errors import UsageError
from tokenswarm.wire import ollama, openai
from tokenswarm.wire.errortext import body_text, clip
from tokenswarm.wire.note import Note, Read
from tokenswarm.wire.record import Counts, Ending, ServerTimes
from tokenswarm.wire.scanner import (
    MAX_EVENT_BYTES,
    Scanner,
    ndjson_scanner,
    parse_sse,
    sse_scanner,
)
from tokenswarm.wire.shape import Shape, learn

MAX_DOCUMENT_BYTES = 32 * 1024 * 1024
_KEPT_ERROR_BYTES = 64 * 1024
_ABORTS = ("abort", "error")
_LOADS = ("load", "unload")

Form = Literal["sse", "ndjson", "document", "error"]


class Reader:
    """Read one response. Feed it what arrives, ask it when the response is over.

    `token_times`: arrival of each token event, in order, as given to `feed`. `first_event`:
    the first event of any sort (role-only chunk, ping). `first_visible`: the first token that is
    not reasoning alone. `done`: the stream said its end, the client need not read on. `fault`:
    reading on is pointless. `fast`: the shape of a token event while the next byte starts an
    event; who counts events of that shape elsewhere stamps them in `token_times` and says what
    went `past`. A whole answer (no stream) has no token events and no times but its counts.
    Nothing here raises on what a server sends.
    """

    __slots__ = (
        "_body", "_bytes", "_complete", "_counts", "_ending", "_events", "_failure", "_form",
        "_learned", "_limit", "_now", "_read", "_scanner", "_shape", "_stray", "_stream_form",
        "asked_model", "done", "fast", "fault", "finish_reason", "first_event", "first_visible",
        "http_status", "model_reply", "server", "token_times",
    )  # fmt: skip

    def __init__(self, read: Read, stream_form: Form, asked_model: str, limit: int) -> None:
        self._read, self._stream_form, self._limit = read, stream_form, limit
        self.asked_model = asked_model
        self.token_times: list[float] = []
        self.server = ServerTimes()
        self.first_event: float | None = None
        self.first_visible: float | None = None
        self.done = self.fault = False
        self.http_status: int | None = None
        self.finish_reason: str | None = None
        self.model_reply: str | None = None
        self._form: Form | None = None
        self._scanner: Scanner | None = None
        self._body = bytearray()
        self._stray = b""
        self._counts = Counts()
        self._bytes = self._events = self._learned = 0
        self._now = 0.0
        self._complete = False
        self._failure: tuple[str, str] | None = None
        self._ending: Ending | None = None
        # the learned shape of a token event; `fast` is it while the scanner is at a boundary
        self._shape: Shape | None = None
        self.fast: Shape | None = None

    @property
    def counts(self) -> Counts:
        """The server's counts so far and what arrived."""
        self._counts.bytes_received = self._bytes
        self._counts.token_events = len(self.token_times)
        return self._counts

    @property
    def first_token(self) -> float | None:
        """Arrival of the first token event."""
        return self.token_times[0] if self.token_times else None

    @property
    def last_token(self) -> float | None:
        """Arrival of the last token event; a usage chunk does not move it."""
        return self.token_times[-1] if self.token_times else None

    def headers(self, status: int, content_type: str) -> None:
        """Take the response's status and Content-Type, which decide how the body is read."""
        self.http_status = status
        kind = content_type.partition(";")[0].strip().lower()
        if not 200 <= status < 300:
            self._form = "error"
        elif kind == "text/event-stream":
            self._form = "sse"
        elif kind in ("application/x-ndjson", "application/jsonl"):
            self._form = "ndjson"
        elif kind == "text/html" or (kind == "application/json" and self._stream_form == "sse"):
            self._form = "document"
        else:
            self._form = self._stream_form
        if self._form == "sse":
            self._scanner = sse_scanner(self._limit)
        elif self._form == "ndjson":
            self._scanner = ndjson_scanner(self._limit)

    def past(self, size: int) -> None:
        """Take note of `size` bytes that held nothing but events of the shape `fast`."""
        self._bytes += size

    def feed(self, now: float, data: bytes) -> int:
        """Take bytes of the body that arrived at `now`; the number of token events in them."""
        size = len(data)
        self._bytes += size
        fast = self.fast
        if fast is None or size > self._limit:
            return self._feed(now, data, 0, self._shape)
        events, end = fast(data)
        if events == 1:
            self.token_times.append(now)
        elif events:
            self.token_times.extend([now] * events)
        if end == size:
            return events
        # what follows is no repetition of the shape: that has just been tried
        return events + self._feed(now, data, end, None)

    def ended(self, clean: bool) -> Ending:
        """How it ended. `clean`: the HTTP message is complete, not just the connection gone."""
        if self._ending is None:
            if self._scanner is not None and not self.done and not self.fault:
                self._tail(self._scanner)
            elif self._form == "document" and not self.fault and clean:
                self._document()
            kind, text = self._verdict(clean)
            self._ending = Ending(
                status="ok" if kind is None else "error",
                error_kind=kind,
                error_text=text,
                http_status=self.http_status,
                finish_reason=self.finish_reason,
                model_reply=self.model_reply,
            )
        return self._ending

    def _feed(self, now: float, data: bytes, start: int, shape: Shape | None) -> int:
        """The path without the shortcut: cut events, decode them, learn their shape."""
        scanner = self._scanner
        if self.done or self.fault:
            return 0
        if scanner is None:
            self._keep(data)
            return 0
        before = len(self.token_times)
        self._now = now
        for block in scanner.feed(data, start):
            if shape is not None and shape(block) == (1, len(block)):
                self.token_times.append(now)
            else:
                self._block(block, now)
                shape = self._shape
            if self.done or self.fault:
                break
        if scanner.too_large and not self.done:
            self._fail("too_large", f"an event of more than {scanner.limit} bytes")
        self.fast = self._shape if scanner.idle and not (self.done or self.fault) else None
        return len(self.token_times) - before

    def _keep(self, data: bytes) -> None:
        """Keep what is no stream: a document whole or not at all, of an error page the start."""
        room = MAX_DOCUMENT_BYTES if self._form == "document" else _KEPT_ERROR_BYTES
        if self._form == "document" and self._bytes > room:
            self._fail("too_large", f"a document of more than {room} bytes")
        else:
            self._body += data[: max(0, room - len(self._body))]

    def _block(self, block: bytes, now: float, *, tail: bool = False) -> None:
        data = self._payload(block, now)
        if data is None:
            return
        try:
            note = self._read(data)
        except (ValueError, RecursionError):
            if not tail:  # half an event at the end of a cut stream is no fault of its own
                self._fail("protocol", f"not a JSON event: {body_text(data[:400])}")
            return
        self._events += 1
        self._take(note)
        if note.token:
            self._token(note, block, now)

    def _payload(self, block: bytes, now: float) -> bytes | None:
        """The JSON of an event, None when there is none in it."""
        if not block.strip():
            return None
        if self.first_event is None:
            self.first_event = now
        if self._form == "ndjson":
            return block
        event = parse_sse(block)
        data = event.data
        if event.stray and not self._stray:
            self._stray = block[:_KEPT_ERROR_BYTES]
        if event.error:
            self._fail("server_error", body_text(data or b""), stop=False)
            return None
        if data is None or not (data := data.strip()):
            return None
        if data == b"[DONE]":
            self.done = True
            return None
        return data

    def _take(self, note: Note) -> None:
        """Take what an event says besides a token: the last word on each count wins."""
        if note.error is not None:
            self._fail("server_error", note.error, stop=False)
        if note.finish is not None:
            self.finish_reason = note.finish
        if note.complete:
            self._complete = True
            self.done = self.done or self._read is not openai.read
        if note.model is not None and self.model_reply is None:
            other = note.model.removesuffix(":latest") != self.asked_model.removesuffix(":latest")
            self.model_reply = note.model if other else None
        if note.times is not None:
            self.server = note.times
        if note.source is not None:
            self._count(note)

    def _count(self, note: Note) -> None:
        counts = self._counts
        if note.source == "native" and counts.source == "usage":
            return  # usage is the API's word; timings beside it add nothing
        counts.source = note.source
        for name in ("prompt", "output", "cached", "reasoning"):
            value = getattr(note, name)
            if value is not None:
                setattr(counts, name, value)

    def _token(self, note: Note, block: bytes, now: float) -> None:
        self.token_times.append(now)
        if note.visible and self.first_visible is None:
            self.first_visible = now
        if note.slot is None or note.complete or note.error is not None:
            return  # a last event is not worth learning
        # a server whose events keep changing is decoded; learning must stay the exception
        if self._learned * 4 <= len(self.token_times) + 16:
            self._learned += 1
            self._shape = learn(block, note.slot, note.text, 0 if note.empty_is_token else 1)

    def _tail(self, scanner: Scanner) -> None:
        """The last event of a stream that ends without its line end."""
        rest = scanner.rest()
        if rest:
            self._block(rest, self._now, tail=True)

    def _document(self) -> None:
        body = bytes(self._body)
        if not body.strip():
            return
        try:
            note = self._read(body)
        except (ValueError, RecursionError):
            self._fail("protocol", f"not a JSON document: {body_text(body)}")
            return
        self._take(note)
        self._complete = note.answered or note.finish in _LOADS

    def _fail(self, kind: str, text: str, *, stop: bool = True) -> None:
        """Remember the first failure. `stop`: what follows cannot be read."""
        if self._failure is None:
            self._failure = (kind, clip(text))
        self.fault = self.fault or stop

    def _verdict(self, clean: bool) -> tuple[str | None, str | None]:
        status = self.http_status
        if status is None:
            return "reset", "closed before the response's headers"
        if self._form == "error":
            return "http", body_text(bytes(self._body)) or f"HTTP {status}, empty body"
        if self._failure is not None:
            return self._failure
        if self.finish_reason in _ABORTS:
            return "aborted", f"finish_reason {self.finish_reason}"
        if not clean and not (self.done and self._complete):
            return "reset", "closed before the response was complete"
        return self._document_verdict() if self._form == "document" else self._stream_verdict()

    def _document_verdict(self) -> tuple[str | None, str | None]:
        if self._complete:
            return None, None
        return "empty", "no content in the answer" if self._body.strip() else "empty body"

    def _stream_verdict(self) -> tuple[str | None, str | None]:
        if self._complete and (self.token_times or self.finish_reason in _LOADS):
            return None, None
        if self._complete:
            return "empty", f"finish_reason {self.finish_reason} without a token"
        if self._events:
            end = "[DONE]" if self.done else "end of stream"
            return "truncated", f"{end} after {len(self.token_times)} token events, no finish"
        if self._stray:
            return "protocol", clip(f"not an event stream: {body_text(self._stray)}")
        return "empty", "no event"


_READERS: dict[tuple[str, bool], Read] = {
    ("openai", False): openai.read,
    ("openai", True): openai.read_embeddings,
    ("ollama", False): ollama.read,
    ("ollama", True): ollama.read_embeddings,
}


def open_reader(
    api: str,
    endpoint: str,
    stream: bool,
    *,
    asked_model: str,
    max_event_bytes: int = MAX_EVENT_BYTES,
) -> Reader:
    """A reader for the response to one request of `api` (openai or ollama) and `endpoint`."""
    embeddings = endpoint == "embeddings"
    read = _READERS.get((api, embeddings))
    if read is None:
        raise UsageError(f"unknown api {api!r}: use openai or ollama")
    form: Form = "document"
    if stream and not embeddings:
        form = "sse" if api == "openai" else "ndjson"
    return Reader(read, form, asked_model, max_event_bytes)
