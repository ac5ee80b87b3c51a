"""Sleeps and wake-ups of real servers, recorded on a GPU: which are found, and as what."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import duckdb
import numpy as np
import pytest

from tokenswarm.analysis.columns import Columns, columns_of
from tokenswarm.analysis.evidence import SIDES, evidence
from tokenswarm.analysis.requests import Requests, requests
from tokenswarm.analysis.swaps import Found
from tokenswarm.store.schema import MEASUREMENTS

RUN = Path(__file__).parent / "data" / "vllm-0.24.0-h200-run"
T0_NS = 1795383496450967301
MODELS = {"40001": "tinyllama", "40002": "qwen", "40003": "yi"}
MIB = 2**20


def rows(measurement: str) -> Columns:
    """Of the file, with nothing in the columns that it lacks."""
    path = RUN / f"{measurement}.parquet"
    if not path.is_file():
        return columns_of(measurement, [])
    with duckdb.connect() as con:
        found = con.execute(f"SELECT * FROM read_parquet('{path}')")
        names = [d[0] for d in found.description]
        cells = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    columns = MEASUREMENTS[measurement].columns
    return columns_of(measurement, [tuple(c.get(name) for name in columns) for c in cells])


@cache
def found() -> tuple[Requests, Found]:
    table = requests(rows("request"))
    return table, evidence({side: rows(side) for side in SIDES}, T0_NS).find(table)


def sleeps() -> Iterator[tuple[str, float, float, float]]:
    """(model, sleep asked for, asleep, awake), run seconds."""
    said = [line.split() for line in (RUN / "sleeps.txt").read_text().splitlines()]
    at = [int(when.replace(".", "")) - T0_NS for when, *_ in said]
    for k in range(0, len(said), 3):
        yield MODELS[said[k][2]], at[k] / 1e9, at[k + 1] / 1e9, at[k + 2] / 1e9


def test_each_wake_up_is_one_event_of_its_kind_and_there_is_no_other() -> None:
    _, swaps = found()
    assert [(e.model_in, e.model_out, e.kind, e.cause, e.left_because, e.outcome)
            for e in swaps.events] == [
        ("tinyllama", "none", "wake_l1", "control", "asleep", "ok"),
        ("qwen", "none", "wake_l1", "control", "asleep", "ok"),
        ("yi", "none", "wake_l1", "control", "asleep", "ok"),
        ("tinyllama", "none", "wake_l2", "control", "asleep", "ok"),
        ("yi", "none", "wake_l2", "control", "asleep", "ok"),
    ]  # fmt: skip
    assert {(e.confidence, e.displaced) for e in swaps.events} == {("confirmed", False)}


def test_marks_lie_where_the_calls_and_the_memory_were() -> None:
    _, swaps = found()
    for e, (model, asked_s, asleep_s, awake_s) in zip(swaps.events, sleeps(), strict=True):
        assert e.model_in == model
        assert asked_s <= e.t0_s < awake_s
        assert e.t4_s == pytest.approx(awake_s, abs=0.1)
        assert e.t3_s == pytest.approx(awake_s, abs=0.45)
        if e.t0_s < asleep_s:
            assert e.t1_s == pytest.approx(asleep_s, abs=0.25)
        else:
            assert e.t1_s is None, "it slept before anybody asked for it"


def test_memory_before_and_at_its_lowest_is_the_devices_own() -> None:
    _, swaps = found()
    assert [(e.vram_before_bytes, e.vram_trough_bytes) for e in swaps.events] == [
        (48152 * MIB, 39668 * MIB),
        (47894 * MIB, 33786 * MIB),
        (44556 * MIB, 22984 * MIB),
        (45298 * MIB, 37074 * MIB),
        (22984 * MIB, 22984 * MIB),  # asleep already when it was first asked for
    ]


def test_those_who_asked_a_sleeping_model_waited_for_it_and_nobody_else_did() -> None:
    table, swaps = found()
    waited = np.zeros(len(table), dtype=np.bool_)
    for model, asked_s, _, awake_s in sleeps():
        during = (table.t_sent > asked_s + 0.05) & (table.t_sent < awake_s - 0.5)
        waited |= np.asarray((table.model == model) & during, dtype=np.bool_)
    assert waited.sum() > 40
    name = swaps.strata.name
    assert set(name[waited]) == {"swap_trigger", "swap_waiter"}
    assert (name == "swap_trigger").sum() == 5
    late = np.asarray((name == "swap_waiter") & ~waited, dtype=np.bool_)
    assert np.nanmin(table.wait[late], initial=9.0) > 0.3, "sent a moment before or after"
