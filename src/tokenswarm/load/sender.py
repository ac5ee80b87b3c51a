"""Send one call and turn what happened into one record and one Locust request event."""

from time import perf_counter
from typing import Any

from gevent import GreenletExit

from tokenswarm.load.client import Attempt, Client
from tokenswarm.load.exchange import Fault
from tokenswarm.load.generator import Generator
from tokenswarm.load.meter import ModelMeter
from tokenswarm.load.target import Route
from tokenswarm.scenario.model import PlannedRequest, Slo
from tokenswarm.wire.call import Call, request
from tokenswarm.wire.reader import Reader, open_reader
from tokenswarm.wire.record import Ending, RequestRecord, Stamps

TIMEOUT_KINDS = {"connect_timeout", "idle_timeout", "total_timeout"}


class RequestFailed(Exception):
    """A failed request as Locust's failure table groups it: by kind and HTTP status only."""

    def __init__(self, ending: Ending):
        status = f" {ending.http_status}" if ending.http_status else ""
        super().__init__(f"{ending.error_kind}{status}")


class Sender:
    """Sends for one Locust user; `events` is Locust's request event."""

    def __init__(self, generator: Generator, events: Any) -> None:
        self._generator = generator
        self._events = events
        self._client = Client()

    def send(
        self,
        call: Call,
        route: Route,
        model: str,
        planned: PlannedRequest | None = None,
        intended: float | None = None,
        slo: Slo | None = None,
    ) -> RequestRecord:
        """Send `call` and return its record. Raises only what kills the greenlet."""
        generator = self._generator
        meter = generator.meter(model, route.name, route.engine)
        reader = open_reader(call.api, call.endpoint, call.stream, asked_model=call.model)
        request_id = generator.new_id()
        path, body = request(call)
        data = route.head(path, request_id, len(body)) + body
        stamps = Stamps(intended=perf_counter() if intended is None else intended)
        if intended is not None:
            generator.health.started(perf_counter() - intended)
        meter.started += 1
        attempt = Attempt()
        ending = None
        try:
            self._client.send(attempt, route.origin, data, reader, meter, route.timeouts, route.tls)
        except GreenletExit:
            ending = Ending("cancelled", "cancelled", "the user was stopped by force")
            raise
        finally:
            _stamp(stamps, attempt, reader)
            record = RequestRecord(
                id=request_id,
                model=model,
                target=route.name,
                engine=route.engine,
                endpoint=call.endpoint,
                phase=generator.phase(stamps.sent),
                stamps=stamps,
                counts=reader.counts,
                ending=ending or _ending(attempt, reader),
                server=reader.server,
                token_times=reader.token_times,
                plan_index=planned.index if planned else None,
                prompt_tokens_wanted=planned.prompt_tokens if planned else None,
                output_tokens_wanted=call.output_tokens,
            )
            self._account(record, meter, slo)
        return record

    def close(self) -> None:
        """Close the user's connections."""
        self._client.close()

    def _account(self, record: RequestRecord, meter: ModelMeter, slo: Slo | None) -> None:
        self._generator.record(record, slo)
        stamps, ending = record.stamps, record.ending
        ok = ending.status == "ok"
        if ok:
            meter.done += 1
        else:
            meter.failed += 1
        if ok and stamps.first_token is not None and stamps.sent is not None:
            meter.ttft.add(stamps.first_token - stamps.sent)
        self._events.fire(
            request_type=record.endpoint,
            name=record.model,
            response_time=milliseconds(stamps),
            response_length=record.counts.bytes_received,
            exception=None if ok else RequestFailed(ending),
            context={},
            request_id=record.id,
        )


def milliseconds(stamps: Stamps) -> float:
    """A request's duration as Locust wants it: the only place where seconds become ms."""
    began = stamps.sent if stamps.sent is not None else stamps.intended
    return ((stamps.end or 0.0) - (began or 0.0)) * 1000.0


def _stamp(stamps: Stamps, attempt: Attempt, reader: Reader) -> None:
    exchange = attempt.exchange
    stamps.connect_s = attempt.connect_s
    stamps.end = perf_counter()
    if exchange is not None:
        stamps.sent, stamps.headers = exchange.sent_at, exchange.headers_at
        if exchange.complete:
            stamps.end = exchange.last_activity
    stamps.first_event, stamps.first_token = reader.first_event, reader.first_token
    stamps.first_visible, stamps.last_token = reader.first_visible, reader.last_token


def _ending(attempt: Attempt, reader: Reader) -> Ending:
    fault, exchange = attempt.fault, attempt.exchange
    http_status = exchange.status if exchange else None
    if fault is None:
        return _with_status(reader.ended(True), http_status)
    if fault.kind in ("reset", "protocol", "too_large") and http_status is not None:
        said = reader.ended(False)
        if said.status == "ok" or said.error_kind not in ("truncated", "empty"):
            return _with_status(said, http_status)
    return _of_fault(fault, http_status)


def _with_status(ending: Ending, http_status: int | None) -> Ending:
    ending.http_status = http_status
    return ending


def _of_fault(fault: Fault, http_status: int | None) -> Ending:
    if fault.kind == "cut":
        return Ending("cut", "cut", fault.text, http_status)
    status = "timeout" if fault.kind in TIMEOUT_KINDS else "error"
    return Ending(status, fault.kind, fault.text[:300], http_status)  # type: ignore[arg-type]
