"""The container watcher's bookkeeping: what was missed, told twice, told late or makes no sense."""

import time
from typing import Any

import pytest

from tokenswarm.telemetry.docker.events import Event, Watch, event_in
from tokenswarm.telemetry.docker.stats import Use, use_in
from tokenswarm.telemetry.owners.container import LABELS, Container, inspected

ID = "ab" * 32
LABEL = {"tokenswarm.model": "tiny"}
T = 1_795_380_000
BOX = Container(ID, "box", LABEL)


def stamp(seconds: int) -> str:
    """Docker's text of T + seconds, for up to a minute (T is a whole minute)."""
    return f"2026-11-22T20:40:{seconds:02}.5Z"


def ns(seconds: int) -> int:
    return (T + seconds) * 10**9 + 500_000_000


def inspection(*, running: bool = True, labels: Any = LABEL, **state: Any) -> dict[str, Any]:
    started = {"StartedAt": stamp(1), "FinishedAt": "0001-01-01T00:00:00Z"}
    return {
        "Id": ID,
        "Name": "/box",
        "Config": {"Labels": labels},
        "State": {"Running": running, **started, **state},
    }


def told(action: str, seconds: int, **attributes: str) -> Event:
    event = event_in(
        {
            "Type": "container",
            "Action": action,
            "Actor": {"ID": ID, "Attributes": {"name": "box", **LABEL, **attributes}},
            "timeNano": ns(seconds),
        }
    )
    assert event is not None
    return event


class Told:
    """What a watch made of everything that it was told."""

    def __init__(self, inspection: dict[str, Any] | None = None):
        self.watch, self.inspection = Watch(LABELS), inspection
        self.events: list[tuple[str, int | None]] = []

    def take(self, *events: Event) -> "Told":
        for event in events:
            self._add(self.watch.take(event, lambda _: self.inspection))
        return self

    def catch_up(self, *inspections: dict[str, Any]) -> "Told":
        self._add(self.watch.catch_up(inspections))
        return self

    def _add(self, events: Any) -> None:
        self.events += [(e.event, e.exit_code) for e in events]


def test_what_runs_already_is_found_once_and_its_start_is_no_news() -> None:
    others = {**inspection(labels={"other": "label"}), "Id": "cd" * 32}
    seen = Told().catch_up(inspection(), others)
    seen.take(told("start", 1)).catch_up(inspection())
    assert seen.events == [("found", None)]
    assert seen.watch.running == [BOX]


def test_what_ended_while_nobody_listened_died_when_docker_says() -> None:
    watch = Watch(LABELS)
    watch.catch_up([inspection()])
    ended = inspection(running=False, ExitCode=137, OOMKilled=True, FinishedAt=stamp(9))
    assert watch.catch_up([ended]) == [
        Event(BOX, "oom", ns(9)),
        Event(BOX, "die", ns(9), 137),
    ]
    assert list(watch.take(told("die", 9, exitCode="137"), lambda _: None)) == []
    assert watch.running == []


def test_what_ended_and_runs_again_died_in_between() -> None:
    seen = Told().take(told("start", 1))
    seen.catch_up(inspection(StartedAt=stamp(20), FinishedAt=stamp(15), ExitCode=0))
    assert seen.events == [("start", None), ("die", None), ("found", None)]


@pytest.mark.parametrize("finished", ["0001-01-01T00:00:00Z", "", None, 3, "yesterdayZ"])
def test_an_end_without_a_time_is_now(finished: Any) -> None:
    watch = Watch(LABELS)
    watch.catch_up([inspection()])
    before_ns = time.time_ns()
    (died,) = watch.catch_up([inspection(running=False, FinishedAt=finished)])
    assert before_ns <= died.unix_ns <= time.time_ns()


def test_what_was_removed_meanwhile_died_without_a_code() -> None:
    assert Told().catch_up(inspection()).catch_up().events == [("found", None), ("die", None)]


@pytest.mark.parametrize(
    ("state", "actions", "events"),
    [
        ({}, ["start", "die"], ["start", "die"]),
        ({"OOMKilled": True}, ["start", "oom", "die"], ["start", "oom", "die"]),
        ({"OOMKilled": True}, ["start", "die"], ["start", "oom", "die"]),  # omitted
        ({"OOMKilled": True}, ["start", "die", "oom"], ["start", "oom", "die"]),  # told late
        ({}, ["start", "oom", "oom", "die"], ["start", "oom", "oom", "die"]),  # two processes
        ({}, ["start", "die", "start", "die"], ["start", "die", "start", "die"]),  # restarted
        ({}, ["die", "stop"], ["stop"]),  # its start was never seen
        ({}, ["start", "kill", "exec_die", "die", "stop", "destroy"], ["start", "die", "stop"]),
        (
            {},
            ["start", "health_status: unhealthy", "health_status: healthy"],
            ["start", "unhealthy", "ready"],
        ),
    ],
)
def test_each_thing_is_said_once(
    state: dict[str, Any], actions: list[str], events: list[str]
) -> None:
    seen = Told(inspection(running=False, **state))
    raw = [
        {
            "Type": "container", "Action": action, "timeNano": ns(i),
            "Actor": {"ID": ID, "Attributes": {"name": "box", **LABEL}},
        }
        for i, action in enumerate(actions)
    ]  # fmt: skip
    seen.take(*(e for answer in raw if (e := event_in(answer)) is not None))
    assert [event for event, _ in seen.events] == events


def test_other_labels_are_nobody_s_business() -> None:
    event = event_in(
        {
            "Type": "container", "Action": "start", "timeNano": 1,
            "Actor": {"ID": "1", "Attributes": {"name": "x", "tokenswarm.other": "y"}},
        }
    )  # fmt: skip
    assert event is not None
    assert list(Watch(LABELS).take(event, lambda _: None)) == []
    assert len(list(Watch(("tokenswarm.other",)).take(event, lambda _: None))) == 1


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"Type": "container", "Action": "start"},
        {"Type": "container", "Action": ["start"], "timeNano": 1},
        {"Type": "network", "Action": "start", "timeNano": 1},
        {"Type": "container", "Action": "start", "timeNano": -1},
        {"Type": "container", "Action": "start", "timeNano": 2**70},
        {"Type": "container", "Action": "start", "timeNano": True},
    ],
)
def test_an_answer_of_another_shape_is_no_event(answer: dict[str, Any]) -> None:
    assert event_in(answer) is None


def test_a_code_that_is_none_is_none_and_long_names_are_cut() -> None:
    assert told("die", 1, exitCode="137").exit_code == 137
    assert [told("die", 1, exitCode=c).exit_code for c in ("", "x", "-1", "9" * 40)] == [None] * 4
    long = inspected(inspection(labels={"tokenswarm.model": "x" * 10_000}))
    assert long.model == "x" * 200
    assert inspected({"Config": [], "Name": None}).labels == {}


@pytest.mark.parametrize(
    ("answer", "use"),
    [
        (  # cgroup v1
            {
                "cpu_stats": {"cpu_usage": {"total_usage": 2_500_000_000}},
                "memory_stats": {
                    "usage": 1000, "limit": 4000,
                    "stats": {"cache": 1, "total_cache": 300, "total_inactive_file": 200},
                },
                "blkio_stats": {
                    "io_service_bytes_recursive": [
                        {"op": "Read", "value": 10}, {"op": "Write", "value": 5},
                        {"op": "Read", "value": 20},
                    ]
                },
            },
            Use(2.5, 800, 300, 4000, 30),
        ),
        (  # cgroup v2
            {
                "cpu_stats": {"cpu_usage": {"total_usage": 1_000_000_000}},
                "memory_stats": {
                    "usage": 1000, "limit": 4000, "stats": {"file": 300, "inactive_file": 2000}
                },
                "blkio_stats": {"io_service_bytes_recursive": None},
            },
            Use(1.0, 0, 300, 4000, None),
        ),
        # one that has ended: zeros that mean nothing
        ({"cpu_stats": {"cpu_usage": {"total_usage": 0}}, "memory_stats": {}}, Use()),
        ({"memory_stats": {"usage": "x", "limit": 2**64 - 1}}, Use()),
        ({}, Use()),
    ],
)  # fmt: skip
def test_the_use_is_read_of_either_cgroup(answer: dict[str, Any], use: Use) -> None:
    assert use_in(answer) == use
