"""Sends one request a case with the real client, in a process of its own (gevent patches it).

Reads a JSON list of cases from stdin, writes a JSON list of records to stdout.
"""

from locust.event import EventHook

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import gevent
import msgspec

from tokenswarm.load.client import REAPER
from tokenswarm.load.generator import Generator
from tokenswarm.load.sender import Sender
from tokenswarm.load.start import RunStart
from tokenswarm.scenario.model import Target
from tokenswarm.wire.call import Call


def play(case: dict[str, Any], generator: Generator) -> list[dict[str, Any]]:
    """The records of a case's requests, one user after the other over one kept connection."""
    fired: list[dict[str, Any]] = []
    hook = EventHook()  # type: ignore[no-untyped-call]
    hook.add_listener(lambda **kw: fired.append(kw))  # type: ignore[no-untyped-call]
    target = Target(api=case["api"], url=case["url"], **case.get("target", {}))
    call = Call(
        api=case["api"],
        endpoint=case["endpoint"],
        model="m",
        prompt="hi",
        output_tokens=8,
        stream=case.get("stream", True),
    )
    route = generator.route(case["name"], target, case["engine"])
    sender = Sender(generator, hook)
    if "cut_after_s" in case:
        gevent.spawn_later(case["cut_after_s"], REAPER.cut)
    records = [sender.send(call, route, "m") for _ in range(case.get("times", 1))]
    sender.close()
    return [
        {**msgspec.to_builtins(r), "locust": _event(f)} for r, f in zip(records, fired, strict=True)
    ]


def _event(fired: dict[str, Any]) -> dict[str, Any]:
    failed = fired["exception"]
    return {
        "response_time": fired["response_time"],
        "exception": str(failed) if failed else None,
    }


def main() -> None:
    """Play every case at the same time."""
    cases = json.load(sys.stdin)
    folder = Path(tempfile.mkdtemp())
    start = RunStart("20260101t000000z-aaaaaa", 0, str(folder), "", None, {}, {}, [])
    generator = Generator(start, folder, "w0", ())
    greenlets = [gevent.spawn(play, case, generator) for case in cases]
    gevent.joinall(greenlets, raise_error=True)
    generator.drain(0)
    json.dump([g.value for g in greenlets], sys.stdout)


main()
