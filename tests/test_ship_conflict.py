"""A whole measurement that a database refuses, row after row: the rest goes on, and fast."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hostile_proxy import hostile_proxy
from tests.running import finished, tokenswarm
from tests.schema_rows import tick
from tests.services import influxd
from tests.ship_rows import T0, Source
from tokenswarm.store import quarantine
from tokenswarm.store.cursor import Place
from tokenswarm.store.influx import Database
from tokenswarm.store.quarantine import Quarantine, Refused
from tokenswarm.store.sender import Batch

LINES = 10_000
DB = "conflict"


@pytest.mark.live
def test_a_field_of_another_type_costs_its_rows_and_a_few_requests(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    with contextlib.closing(Source(spool)) as source:
        source.write(LINES)
    written = source.written
    refused, _ = written.values["gpu", "vram_used_bytes"]
    with influxd(tmp_path) as server, hostile_proxy(server.url) as proxy:
        server.create(DB)
        server.write(DB, f'gpu,host=other vram_used_bytes="a text" {T0}')
        command = tokenswarm("ship", spool, "--influx-url", proxy.url, "--db", DB, cwd=tmp_path)
        code = finished(command)
        status = json.loads((tmp_path / "stdout.txt").read_text())
        assert (code, status["done"]) == (1, True)
        assert status["quarantined"] == {"gpu": refused}
        assert status["shipped"] == {**written.rows, "gpu": written.rows["gpu"] - refused}
        assert len(proxy.done) < 20
        for name in ("tick", "request", "gpu_process"):
            field = next(f for m, f in written.values if m == name)
            count, _ = written.values[name, field]
            assert server.figures(DB, name, f'count("{field}")') == [count]
    kept = quarantine.read(Place(spool, Database(proxy.url, DB)).quarantine)
    assert len({(r.source, r.seq) for r in kept}) == refused
    assert all("field type conflict" in r.reason and r.measurement == "gpu" for r in kept)
    assert all("vram_used_bytes=" in r.line for r in kept)


@given(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=1, max_size=5),
    st.data(),
)
def test_parting_a_batch_keeps_every_row_and_where_it_came_from(
    frames: list[list[bool]], data: st.DataObject
) -> None:
    batch, came = Batch(), dict[int, tuple[str, int]]()
    for k, frame in enumerate(frames):
        pairs = [tick(10 * k + i, events=int(behind)) for i, behind in enumerate(frame)]
        came |= {row[0]: (f"s{k}", 100 + i) for i, (_, row) in enumerate(pairs)}
        batch.add(f"s{k}", 100, pairs)
    lo = data.draw(st.integers(0, len(came) - 1))
    hi = data.draw(st.integers(lo + 1, len(came)))
    before = list(batch.pairs)
    middle = batch.part(lo, hi, lambda pair: pair[1][6] == 1)
    assert batch.pairs[:lo] + batch.pairs[hi:] == before[:lo] + before[hi:]
    assert sorted(p[1][0] for p in batch.pairs) == sorted(p[1][0] for p in before)
    assert all(batch.origin(i) == came[pair[1][0]] for i, pair in enumerate(batch.pairs))
    behind = [pair[1][6] == 1 for pair in batch.pairs[lo:hi]]
    assert behind == sorted(behind)
    assert middle == (None if len(set(behind)) == 1 else lo + behind.index(True))


def test_after_the_first_lines_a_refused_row_is_kept_by_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "WHOLE_LINES", 2)
    path = tmp_path / "quarantine.jsonl"
    kept = Quarantine(path)
    for seq in range(4):
        kept.add(Refused("w0", seq, "tick", "why", f"line {seq}", 1))
    assert [(r.seq, r.line) for r in quarantine.read(path)] == [
        (0, "line 0"), (1, "line 1"), (2, ""), (3, "")
    ]  # fmt: skip
