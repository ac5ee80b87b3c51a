"""The GPU of a simulation, read from its control port over one kept connection."""

import http.client
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tokenswarm.errors import UsageError
from tokenswarm.telemetry.gpu import GpuSample, TelemetryGap
from tokenswarm.telemetry.health import Health

MAX_BODY = 1 << 20
TIMEOUT_S = 1.0


class SimulatedGpu:
    """`GET {control_url}/gpu`. A lost connection is made anew at the next look."""

    kind = "sim"
    healths: Mapping[str, Health] = {}

    def __init__(self, control_url: str, timeout_s: float = TIMEOUT_S):
        place = urlsplit(control_url)
        if place.scheme != "http" or not place.hostname:
            raise UsageError(f"{control_url!r} is no control port: give http://HOST:PORT")
        self._where = control_url.rstrip("/") + "/gpu"
        self._path = place.path.rstrip("/") + "/gpu"
        self._connection = http.client.HTTPConnection(place.hostname, place.port, timeout=timeout_s)
        self._decoder = msgspec.json.Decoder(list[GpuSample])

    def about(self) -> dict[str, Any]:
        return {"kind": self.kind, "control_url": self._where.removesuffix("/gpu")}

    def sample(self) -> list[GpuSample]:
        try:
            self._connection.request("GET", self._path)
            response = self._connection.getresponse()
            body = response.read(MAX_BODY + 1)
            if response.status != 200 or len(body) > MAX_BODY:
                raise TelemetryGap(f"HTTP {response.status}, {len(body)} bytes")
            return self._decoder.decode(body)
        except (OSError, http.client.HTTPException, msgspec.DecodeError, TelemetryGap) as e:
            self._connection.close()
            raise TelemetryGap(f"{self._where}: {e or type(e).__name__}") from None

    def close(self) -> None:
        self._connection.close()
