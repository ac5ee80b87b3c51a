"""What the master tells every generator process at the start of a run."""

from typing import Any

import msgspec

from tokenswarm.engines.protocol import EngineInfo
from tokenswarm.scenario.deal import Deal
from tokenswarm.scenario.prompts import Vocabulary


class RunStart(msgspec.Struct, frozen=True):
    """Travels once a run and worker as one Locust message (`to_wire`, `from_wire`).

    `scenario` is None for locustfiles that bring their own users. `run_dir` is the master's; a
    worker that finds `nonce` in it shares its file system. `deals` say which requests are whose.
    """

    run_id: str
    t0_unix_ns: int
    run_dir: str
    nonce: str
    scenario: dict[str, Any] | None
    engines: dict[str, EngineInfo]
    vocabularies: dict[str, Vocabulary]
    deals: list[Deal]

    def to_wire(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @classmethod
    def from_wire(cls, data: bytes) -> "RunStart":
        return msgspec.msgpack.decode(data, type=cls)
