"""A growing run: what is sealed is told once, and nothing is left out."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.synthetic_run import T0_NS, Story, manifest, story, write_run
from tokenswarm.analysis.run import analyse
from tokenswarm.analysis.watch import Sealed, Watch, follow
from tokenswarm.store import parquet
from tokenswarm.store.reading import rows as spooled
from tokenswarm.store.schema import MEASUREMENTS


@pytest.fixture(scope="module")
def told() -> Story:
    return story(seed=4, duration_s=40)


def watched(told: Story, delay_s: float, step_s: float = 2.0) -> list[Sealed]:
    """`told` as it grows, looked at every `step_s`; the last look is after the end."""
    watch = Watch(manifest(told), delay_s)
    pairs, looks, now_s = told.pairs(), [], 0.0
    while pairs:
        now_s += step_s
        due = [p for p in pairs if p[1][0] <= T0_NS + now_s * 1e9]
        pairs = pairs[len(due) :]
        watch.take(due)
        looks.append(watch.look(now_s, over=not pairs))
    return looks


def ids(looks: list[Sealed], measurement: str) -> list[Any]:
    column = {"request_stratum": "id", "swap": "trigger_id"}[measurement]
    at = MEASUREMENTS[measurement].columns.index(column)
    return [row[at] for sealed in looks for name, row in sealed.rows if name == measurement]


@pytest.mark.parametrize("delay_s", [0.0, 5.0, 30.0])
def test_every_request_is_sealed_once(told: Story, delay_s: float) -> None:
    at = MEASUREMENTS["request"].columns.index("id")
    sealed = ids(watched(told, delay_s), "request_stratum")
    assert sorted(sealed) == sorted(row[at] for row in told.rows["request"])


def test_with_enough_delay_a_live_run_says_what_the_report_says(
    told: Story, tmp_path: Path
) -> None:
    looks = watched(told, 20.0)
    run = write_run(tmp_path, told)
    analyse(run)
    late = parquet.read(run, "request_stratum", ["id", "stratum"])
    column = MEASUREMENTS["request_stratum"].columns.index("stratum")
    live = dict(
        zip(
            ids(looks, "request_stratum"),
            (r[column] for s in looks for name, r in s.rows if name == "request_stratum"),
            strict=True,
        )
    )
    theirs = dict(zip(late["id"], late["stratum"], strict=True))
    # what is usual for a model is known better in the end: a stall near the bound may turn
    assert sum(live[i] != theirs[i] for i in theirs) <= 0.02 * len(theirs)
    assert sorted(ids(looks, "swap")) == sorted(k.trigger for k in told.loads)


def test_events_are_sealed_while_the_run_goes_on(told: Story) -> None:
    looks = watched(told, 5.0)
    assert sum(len(s.events) for s in looks[:-1]) >= len(told.loads) / 2
    triggers = [e.trigger_id for s in looks for e in s.events]
    assert len(triggers) == len(set(triggers))


def test_nothing_is_sealed_before_the_delay(told: Story) -> None:
    early = watched(told, 20.0)[: 20 // 2 - 1]
    assert ids(early, "request_stratum") == []


def test_a_run_that_has_ended_is_written_once_to_a_spool_of_its_own(
    told: Story, tmp_path: Path
) -> None:
    run = write_run(tmp_path, told)
    events: list[Any] = []
    written = follow(run, events.append, delay_s=0.0, step_s=0.1)
    rows = [name for _, _, name, _ in spooled(run.path / "watch")]
    assert len(rows) == written
    assert rows.count("request_stratum") == len(told.rows["request"])
    assert rows.count("swap") == len(events) == len(told.loads)
    assert msgspec.json.decode(msgspec.json.encode(events[0]))["model_in"] == events[0].model_in
