"""A growing run: what is sealed is told once, and nothing is left out."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.synthetic_run import T0_NS, Story, manifest, story, write_run
from tokenswarm.analysis.columns import columns_of
from tokenswarm.analysis.growing import Growing
from tokenswarm.analysis.run import analyse
from tokenswarm.analysis.watch import Sealed, Watch, follow
from tokenswarm.store import parquet
from tokenswarm.store.reading import rows as spooled
from tokenswarm.store.rundir import RunDir
from tokenswarm.store.schema import MEASUREMENTS
from tokenswarm.store.spool import Writer


@pytest.fixture(scope="module")
def told() -> Story:
    return story(seed=4, duration_s=40)


_ID = MEASUREMENTS["request"].columns.index("id")


def _copied(pairs: list[Any]) -> list[Any]:
    return [(name, list(row)) for name, row in pairs]


def watched(
    told: Story, delay_s: float, step_s: float = 2.0, kept_s: float = 1800.0,
    kept_requests: int = 100_000,
) -> list[Sealed]:  # fmt: skip
    """`told` as it grows, looked at every `step_s`; the last look is after the end."""
    watch = Watch(manifest(told), delay_s, kept_s, kept_requests)
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


def test_a_watch_that_goes_on_for_another_seals_nothing_twice(told: Story) -> None:
    pairs = told.pairs()
    half = [p for p in pairs if p[1][0] <= T0_NS + 25e9]
    first = Watch(manifest(told), 5.0)
    first.take(_copied(half))
    early = first.look(25.0)
    second = Watch(manifest(told), 5.0)
    second.resume(early.rows)
    second.take(_copied(pairs))
    looks = [early, second.look(told.duration_s, over=True)]
    assert early.rows
    assert sorted(ids(looks, "request_stratum")) == sorted(r[_ID] for r in told.rows["request"])
    assert sorted(ids(looks, "swap")) == sorted(k.trigger for k in told.loads)


def test_what_is_old_is_let_go_and_still_nothing_is_sealed_twice(told: Story) -> None:
    looks = watched(told, 2.0, kept_s=12.0)
    sealed = ids(looks, "request_stratum")
    assert sorted(sealed) == sorted(row[_ID] for row in told.rows["request"])
    triggers = ids(looks, "swap")
    assert len(triggers) == len(set(triggers)) > len(told.loads) / 2


def test_a_model_that_a_crowd_waits_for_is_told_each_time_it_comes_in() -> None:
    """Its next demand is made before it is ready: the demands overlap, the loads do not."""
    crowd = story(seed=4, duration_s=60, users=40)
    assert len(crowd.loads) > 30
    looks = watched(crowd, 5.0)
    assert sum(len(s.events) for s in looks) == len(crowd.loads)


@pytest.mark.parametrize("kept", [0, 50])
def test_sealed_requests_that_are_too_many_are_let_go_and_no_event_comes_twice(
    told: Story, kept: int
) -> None:
    looks = watched(told, 5.0, kept_requests=kept)
    sealed = ids(looks, "request_stratum")
    assert sorted(sealed) == sorted(row[_ID] for row in told.rows["request"])
    assert sorted(ids(looks, "swap")) == sorted(k.trigger for k in told.loads)


def test_a_watch_holds_no_more_sealed_requests_than_it_may(told: Story) -> None:
    watch = Watch(manifest(told), 0.0, kept_requests=50)
    watch.take(told.pairs())
    assert len(watch.look(told.duration_s).rows) >= len(told.rows["request"]) > 70
    watch.look(told.duration_s)
    assert len(watch.rows["request"]) == 50


def test_requests_of_the_same_nanosecond_keep_a_row_each(told: Story) -> None:
    at = MEASUREMENTS["request"].columns.index("time_ns")
    watch = Watch(manifest(told), 0.0)
    rows = [list(row) for row in told.rows["request"]]
    for row in rows:
        row[at] = T0_NS
    watch.take(("request", row) for row in rows)
    times = [row[0] for name, row in watch.look(99.0).rows if name == "request_stratum"]
    assert len(times) == len(set(times)) == len(rows)


def test_a_growing_run_has_the_columns_of_a_whole_one(told: Story) -> None:
    rows = [list(row) for row in told.rows["gpu"]]
    grown = Growing("gpu")
    for i, row in enumerate(rows):
        grown.add(list(row))
        if i % 97 == 0:
            grown.columns()
    whole = columns_of("gpu", rows)
    for name, values in grown.columns().items():
        assert values.tolist() == whole[name].tolist(), name


def _ending(run: RunDir, end_unix_ns: int | None) -> None:
    changed = run.read_manifest()
    changed.end_unix_ns = end_unix_ns
    run.write_manifest(changed)


def test_a_run_that_is_on_gets_every_row_once_into_its_spool(told: Story, tmp_path: Path) -> None:
    run = write_run(tmp_path, told)
    end_unix_ns, events = run.read_manifest().end_unix_ns, list[Any]()
    _ending(run, None)

    def it_ends(seconds: float) -> None:
        _ending(run, end_unix_ns or T0_NS)

    said = follow(run, events.append, delay_s=1e9, rest=it_ends)
    rows = [name for source, _, name, _ in spooled(run.spool) if source == "watch"]
    assert rows.count("request_stratum") == said.requests == len(told.rows["request"])
    assert rows.count("swap") == said.swaps == len(events) == len(told.loads)
    assert rows.count("swap_active") >= 2 * len(events), "up and down again"
    assert msgspec.json.decode(msgspec.json.encode(events[0]))["model_in"] == events[0].model_in


def test_a_report_has_each_row_once_whatever_was_sealed_live(told: Story, tmp_path: Path) -> None:
    plain = write_run(tmp_path / "plain", told)
    run = write_run(tmp_path / "watched", told)
    end_unix_ns = run.read_manifest().end_unix_ns
    _ending(run, None)
    follow(run, lambda e: None, delay_s=0.0, rest=lambda s: _ending(run, end_unix_ns))
    assert analyse(run).summary == analyse(plain).summary
    for name in ("swap", "request_stratum"):
        theirs, mine = parquet.read(plain, name), parquet.read(run, name)
        assert all(mine[c].tolist() == theirs[c].tolist() for c in theirs), name


def test_a_watch_of_a_run_that_is_over_writes_nothing(told: Story, tmp_path: Path) -> None:
    run = write_run(tmp_path, told)
    before = sorted(p.name for p in run.spool.iterdir())
    events: list[Any] = []
    said = follow(run, events.append)
    assert len(events) == said.swaps == len(told.loads)
    assert sorted(p.name for p in run.spool.iterdir()) == before


def test_a_second_watch_beside_the_first_only_tells(told: Story, tmp_path: Path) -> None:
    run = write_run(tmp_path, told)
    end_unix_ns = run.read_manifest().end_unix_ns
    _ending(run, None)
    events: list[Any] = []
    with Writer(run.spool, "watch"):
        said = follow(run, events.append, rest=lambda s: _ending(run, end_unix_ns))
    assert len(events) == said.swaps == len(told.loads)
    assert not [source for source, *_ in spooled(run.spool) if source == "watch"]
