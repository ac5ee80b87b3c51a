"""A target as the load generator needs it: origin, TLS, time-outs and ready-made headers."""

import ssl
from dataclasses import dataclass

from tokenswarm import __version__
from tokenswarm.engines.probe import target_headers
from tokenswarm.engines.protocol import Knobs
from tokenswarm.load.connection import Origin
from tokenswarm.load.exchange import Timeouts
from tokenswarm.scenario.model import Api, Target


@dataclass(frozen=True, slots=True)
class Route:
    """Everything about a target that is the same for each of its requests."""

    name: str
    api: Api
    engine: str
    origin: Origin
    knobs: Knobs
    timeouts: Timeouts
    tls: ssl.SSLContext | None
    fixed_headers: bytes

    @classmethod
    def to(cls, name: str, target: Target, engine: str, knobs: Knobs) -> "Route":
        """The route to `target`; UsageError or TargetError for a bad url or no API key."""
        origin = Origin.parse(target.url)
        return cls(
            name=name,
            api=target.api,
            engine=engine,
            origin=origin,
            knobs=knobs,
            timeouts=Timeouts(
                target.connect_timeout_s, target.idle_timeout_s, target.total_timeout_s
            ),
            tls=_tls(target) if origin.scheme == "https" else None,
            fixed_headers=_fixed_headers(target, origin, knobs),
        )

    def head(self, path: str, request_id: str, body_bytes: int) -> bytes:
        """Request line and headers of a POST."""
        named = f"X-Request-Id: {request_id}\r\n" if self.knobs.request_ids else ""
        return b"POST %b%b HTTP/1.1\r\n%b%bContent-Length: %d\r\n\r\n" % (
            self.origin.base_path.encode(),
            path.encode(),
            self.fixed_headers,
            named.encode(),
            body_bytes,
        )


def _fixed_headers(target: Target, origin: Origin, knobs: Knobs) -> bytes:
    headers = {
        "Host": origin.host_header,
        "User-Agent": f"tokenswarm/{__version__}",
        "Accept": "text/event-stream, application/x-ndjson, application/json",
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
        **({} if knobs.keeps_connections else {"Connection": "close"}),
        **target_headers(target.headers, target.api_key_env),
    }
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")


def _tls(target: Target) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not target.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context
