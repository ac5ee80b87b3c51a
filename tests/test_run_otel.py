"""Locust's --otel beside our runs: a collector gets the requests that our records hold."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.otlp_server import OtlpServer
from tests.running import fair, finished, popen, records, run_dirs, scenario, tokenswarm
from tests.test_run_locust import MODELS, NAMES, locust
from tokenswarm.sim.process import start


@dataclass(frozen=True)
class Exported:
    """What the collector has at the end, beside what our run directory holds."""

    collector: OtlpServer
    records: list[dict[str, Any]]
    run_id: str
    talks: bool  # Locust's own command line logs what goes on, `tokenswarm run` only trouble


@pytest.fixture(scope="module", params=["locust", "tokenswarm"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Exported]:
    folder, collector = tmp_path_factory.mktemp("otel"), OtlpServer()
    with pytest.MonkeyPatch.context() as patch, start("steady") as box:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        patch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "500")
        file = scenario(folder / "s.yaml", box.ollama_url, *MODELS, duration_s=3,
                        load={"kind": "closed", "users": 4})  # fmt: skip
        if request.param == "locust":
            process = popen(locust("--scenario", file, "--otel"), folder)
        else:
            patch.setenv("LOCUST_ENABLE_OPENTELEMETRY", "1")
            process = tokenswarm("run", file, "--workers", 2, cwd=folder)
        code = finished(process)
    assert fair(code, folder), (folder / "stderr.txt").read_text()
    (run,) = run_dirs(folder / "runs")
    yield Exported(collector, records(run), run.read_manifest().run_id,
                   talks=request.param == "locust")  # fmt: skip
    collector.shutdown()
    collector.server_close()


def test_a_collector_gets_every_request_of_the_run(exported: Exported) -> None:
    seen = durations(exported.collector)
    assert {name: count for name, (count, _) in seen.items()} == Counter(
        r["model"] for r in exported.records
    )
    assert set(seen) == set(NAMES)


def test_its_seconds_are_those_of_the_records(exported: Exported) -> None:
    for name, (_, sum_s) in durations(exported.collector).items():
        ours_s = sum(r["e2e_s"] for r in exported.records if r["model"] == name)
        assert sum_s == pytest.approx(ours_s, rel=1e-3)


def test_it_gets_the_number_of_users(exported: Exported) -> None:
    users = exported.collector.metrics("locust.users.count")
    assert max(point.as_int for m in users for point in m.gauge.data_points) == 4


def test_it_gets_the_log(exported: Exported) -> None:
    logs = b"".join(body for path, body in exported.collector.bodies if path == "/v1/logs")
    assert (exported.run_id.encode() in logs) == exported.talks


def durations(collector: OtlpServer) -> dict[str, tuple[int, float]]:
    """Locust's histogram by name, over all processes: how many requests, how many seconds."""
    last: dict[tuple[str, int], tuple[int, float]] = {}
    for metric in collector.metrics("locust.client.duration"):
        for point in metric.histogram.data_points:
            name = next(a.value.string_value for a in point.attributes if a.key == "name")
            last[name, point.start_time_unix_nano] = (point.count, point.sum)
    totals: dict[str, tuple[int, float]] = {}
    for (name, _), (count, sum_s) in last.items():
        before = totals.get(name, (0, 0.0))
        totals[name] = (before[0] + count, before[1] + sum_s)
    return totals
