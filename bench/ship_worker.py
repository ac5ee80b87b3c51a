"""One shipping of a spool in a process of its own: CPU seconds and lines, as JSON on stdout."""

import json
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tokenswarm.store import spool
from tokenswarm.store.influx import Database
from tokenswarm.store.schema import MEASUREMENTS
from tokenswarm.store.sender import BATCH_LINES, Patience
from tokenswarm.store.ship import Shipper


def tokenswarm(url: str, folder: Path) -> int:
    """Through tokenswarm's shipper, cursor and all; the number of lines."""
    shipper = Shipper(folder, Database(url, api="v1"), Patience(10.0, follow=False))
    try:
        status = shipper.run(follow=False)
    finally:
        shipper.close()
    assert status.complete, status
    return sum(status.shipped.values())


def points(url: str, folder: Path) -> int:
    """Through influxdb-client as its guide shows it: Points, synchronous, gzip on."""
    from influxdb_client import InfluxDBClient
    from influxdb_client.client.write_api import SYNCHRONOUS

    lines = 0
    with InfluxDBClient(url, token="none", org="none", enable_gzip=True) as client:
        writer = client.write_api(write_options=SYNCHRONOUS)
        rows = ((name, row) for _, _, name, row in spool.rows(folder))
        while batch := [_point(name, row) for name, row in islice(rows, BATCH_LINES)]:
            writer.write("none", record=batch)
            lines += len(batch)
    return lines


def _point(name: str, row: list[Any]) -> Any:
    from influxdb_client import Point

    m = MEASUREMENTS[name]
    cells = iter(row)
    point = Point(name).time(next(cells))
    for tag in m.tags:
        point.tag(tag, next(cells))
    for field, value in _known(m.fields, cells):
        point.field(field, value)
    return point


def _known(fields: Any, cells: Iterator[Any]) -> Iterator[tuple[str, Any]]:
    for f, value in zip(fields, cells, strict=True):
        if value is not None and not f.files_only:
            yield f.name, value


WAYS = {"tokenswarm": tokenswarm, "points": points}


def main() -> None:
    way, url, folder = sys.argv[1:]
    if way == "points":
        import influxdb_client  # noqa: F401, its import is no part of the work
    began_s, at_s = time.process_time(), time.perf_counter()
    lines = WAYS[way](url, Path(folder))
    used = {"cpu_s": time.process_time() - began_s, "wall_s": time.perf_counter() - at_s}
    print(json.dumps({"lines": lines, **used}))


if __name__ == "__main__":
    main()
