"""An agent and its subscribers over real sockets: nothing missing, nothing twice, whatever cuts."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.agents import agent_process
from tests.cut_proxy import cut_proxy
from tests.running import until
from tokenswarm.clock import Clock, new_run_id
from tokenswarm.sim.process import start
from tokenswarm.sim.serve import Endpoints
from tokenswarm.store.spool import inventory, rows
from tokenswarm.telemetry.agent import Agent as TelemetryAgent
from tokenswarm.telemetry.agentconfig import Place
from tokenswarm.telemetry.config import Agent, Config, Gpu
from tokenswarm.telemetry.sampler import Sampler

TOKEN = "0123456789abcdef-correct"


@pytest.fixture(scope="module")
def box() -> Iterator[Endpoints]:
    with start("rtx5090", speed=10) as endpoints:
        yield endpoints


def sim(box: Endpoints) -> tuple[str, ...]:
    return ("--source", "sim", "--control-url", box.control_url)


def run(spool: Path, *ports: int, token: str | None = None, **more: Any) -> Sampler:
    """The run's side: a sampler that only subscribes."""
    now = time.time_ns()
    config = Config(
        run_id=new_run_id(now), t0_unix_ns=now, spool=str(spool), host="generator",
        gpu=Gpu(interval_s=0.02), agents=[Agent(f"127.0.0.1:{p}", token) for p in ports], **more,
    )  # fmt: skip
    return Sampler(config)


def count(spool: Path, measurement: str = "gpu") -> int:
    return sum(name == measurement for _, _, name, _ in rows(spool))


def whole(spool: Path, ended: dict[str, int]) -> None:
    """Every row that was sampled is in the spool, once."""
    found = inventory(spool)
    assert {s: i.rows for s, i in found.items()} == {s: n for s, n in ended.items() if n}
    assert all(not i.gaps and not i.damages and not i.repeated_rows for i in found.values())
    times: dict[tuple[str, ...], list[int]] = {}
    for source, _, name, row in rows(spool):
        times.setdefault((source, name), []).append(row[0])
    assert all(t == sorted(set(t)) for t in times.values())


def longest_gap_s(spool: Path) -> float:
    times = sorted(row[0] for _, _, name, row in rows(spool) if name == "gpu")
    gaps_ns: list[int] = [b - a for a, b in pairwise(times)]
    return max(gaps_ns) / 1e9


def test_a_run_gets_all_that_an_agent_samples(box: Endpoints, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    with agent_process(tmp_path, *sim(box)) as agent:
        sampler = run(spool, agent.port)
        sampler.start()
        until(lambda: count(spool) >= 50 and count(spool, "agent") >= 2)
        sampler.stop()
        host = agent.about["host"]
        until(lambda: not list((tmp_path / "agent" / "runs").iterdir()))
    assert sampler.notes == []
    assert set(sampler.ended) == {f"gpu-{host}", f"host-{host}", f"agent-{host}"}
    whole(spool, sampler.ended)
    last = sampler.last_word().agents[f"agent 127.0.0.1:{agent.port}"]
    assert last.gpu["kind"] == "sim"
    assert last.clocks is not None
    assert last.clocks.first.offset_ns == 0, "both have this host's clock"
    hosts = {row[2] for _, _, name, row in rows(spool) if name == "gpu"}
    assert hosts == {host}


def test_cuts_in_the_middle_of_messages_lose_nothing(box: Endpoints, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    with agent_process(tmp_path, *sim(box)) as agent, cut_proxy(agent.port) as proxy:
        sampler = run(spool, proxy.port)
        proxy.cut_after(9000)
        sampler.start()
        until(lambda: proxy.connections >= 6)
        proxy.open()
        before = count(spool)
        until(lambda: count(spool) > before + 20)
        sampler.stop()
    assert any("hung up" in note or "cut" in note for note in sampler.notes)
    whole(spool, sampler.ended)
    assert sampler.ended[f"gpu-{agent.about['host']}"] > 50


def test_a_pulled_cable_loses_nothing(box: Endpoints, tmp_path: Path) -> None:
    """Neither side is told: both give the connection up and the agent samples on meanwhile."""
    spool = tmp_path / "spool"
    with agent_process(tmp_path, *sim(box)) as agent, cut_proxy(agent.port) as proxy:
        sampler = run(spool, proxy.port)
        sampler.start()
        until(lambda: count(spool) > 10)
        proxy.hold()
        time.sleep(7.0)
        held = count(spool)
        proxy.cut()
        proxy.open()
        until(lambda: count(spool) > held + 250)
        sampler.stop()
    assert any("nothing heard for 5 s" in note for note in sampler.notes), sampler.notes
    whole(spool, sampler.ended)
    assert longest_gap_s(spool) < 2.0, "it sampled on"


def test_the_end_waits_for_a_link_that_comes_back(box: Endpoints, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    with agent_process(tmp_path, *sim(box)) as agent, cut_proxy(agent.port) as proxy:
        sampler = run(spool, proxy.port)
        sampler.start()
        until(lambda: count(spool) > 10)
        proxy.cut(refuse=True)
        connections = proxy.connections
        until(lambda: proxy.connections >= connections + 2)
        held = count(spool)
        for subscriber in sampler.subscribers:
            subscriber.stop()
        connections = proxy.connections
        until(lambda: proxy.connections >= connections + 2)
        proxy.open()
        sampler.stop()
    whole(spool, sampler.ended)
    assert count(spool) > held


def test_an_agents_clock_that_is_wrong_is_moved_onto_the_runs(
    box: Endpoints, tmp_path: Path
) -> None:
    spool, wrong_ns = tmp_path / "spool", 3_000_000_000
    sampling = Config(
        run_id="", t0_unix_ns=0, spool="", host="far",
        gpu=Gpu("sim", control_url=box.control_url),
    )  # fmt: skip
    agent = TelemetryAgent(
        Place("127.0.0.1", 0), sampling, tmp_path / "agent",
        clock=lambda: Clock.anchored(offset_ns=wrong_ns), here="another system",
    )  # fmt: skip
    agent.start()
    port = agent.port
    try:
        sampler = run(spool, port)
        began_ns = time.time_ns()
        sampler.start()
        until(lambda: count(spool) > 20)
        sampler.stop()
        ended_ns = time.time_ns()
    finally:
        agent.stop()
    clocks = sampler.last_word().agents[f"agent 127.0.0.1:{port}"].clocks
    assert clocks is not None
    for offset in (clocks.first, clocks.last):
        assert 0 < offset.uncertainty_ns < 100_000_000
        # two anchors, each taken within some microseconds
        assert abs(offset.offset_ns + wrong_ns) <= offset.uncertainty_ns + 1_000_000
    assert clocks.last_s > clocks.first_s
    times = [row[0] for _, _, name, row in rows(spool) if name == "gpu"]
    room_ns = clocks.first.uncertainty_ns + 1_000_000
    assert began_ns - room_ns < min(times) <= max(times) < ended_ns + room_ns


def test_kill_9_of_the_agent_loses_at_most_a_flush_and_is_said(
    box: Endpoints, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    with agent_process(tmp_path, *sim(box)) as agent, cut_proxy(agent.port) as proxy:
        sampler = run(spool, proxy.port)
        sampler.start()
        until(lambda: count(spool) > 20)
        proxy.hold()  # what is sampled now is on the agent's disk alone
        held = inventory(tmp_path / "agent" / "runs" / sampler.run_id / "spool")
        gpu = f"gpu-{agent.about['host']}"
        folder = tmp_path / "agent" / "runs" / sampler.run_id / "spool"
        until(lambda: inventory(folder)[gpu].last_seq > (held[gpu].last_seq or 0) + 50)  # type: ignore[operator]
        agent.kill()
        on_disk = inventory(folder)[gpu].last_seq
        proxy.cut()
        proxy.open()
        agent.again()
        until(lambda: (inventory(spool)[gpu].last_seq or 0) > (on_disk or 0) + 20)
        sampler.stop()
    whole(spool, sampler.ended)
    assert any("started again during the run" in note for note in sampler.notes), sampler.notes


def test_an_agent_that_lost_its_disk_goes_on_under_another_source(
    box: Endpoints, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    with agent_process(tmp_path, *sim(box)) as agent:
        sampler = run(spool, agent.port)
        sampler.start()
        until(lambda: count(spool) > 20)
        agent.kill()
        (tmp_path / "agent").rename(tmp_path / "gone")
        agent.again()
        again = f"gpu-{agent.about['host']}-2"
        until(lambda: again in inventory(spool) and inventory(spool)[again].rows > 20)
        sampler.stop()
    whole(spool, sampler.ended)
    assert any("its spool was lost" in note for note in sampler.notes), sampler.notes


def test_two_runs_at_once_each_get_their_own_rows(box: Endpoints, tmp_path: Path) -> None:
    spools = [tmp_path / "one", tmp_path / "two"]
    with agent_process(tmp_path, *sim(box)) as agent:
        samplers = [run(spool, agent.port) for spool in spools]
        for sampler in samplers:
            sampler.start()
        until(lambda: all(count(spool) > 30 for spool in spools))
        samplers[0].stop()
        before = count(spools[1])
        until(lambda: count(spools[1]) > before + 20)
        samplers[1].stop()
    for sampler, spool in zip(samplers, spools, strict=True):
        whole(spool, sampler.ended)
        assert {row[1] for _, _, _, row in rows(spool)} == {sampler.run_id}


def test_two_agents_of_one_host_have_sources_of_their_own(box: Endpoints, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with (
        agent_process(tmp_path / "a", *sim(box)) as a,
        agent_process(tmp_path / "b", *sim(box)) as b,
    ):
        sampler = run(spool, a.port, b.port)
        sampler.start()
        host = a.about["host"]
        until(lambda: Counter(s for s, _, _, _ in rows(spool))[f"gpu-{host}-2"] > 10)
        sampler.stop()
    whole(spool, sampler.ended)
    assert {f"gpu-{host}", f"gpu-{host}-2"} <= set(sampler.ended)


@pytest.mark.parametrize(
    ("asked", "given", "words"),
    [
        (TOKEN, TOKEN, None),
        (TOKEN, None, "asks for a token"),
        (TOKEN, TOKEN + "x", "the token is another one"),
        (None, TOKEN, "asks for no token"),
    ],
)
def test_a_token_is_needed_where_one_is_asked_for(
    box: Endpoints, tmp_path: Path, asked: str | None, given: str | None, words: str | None
) -> None:
    spool, file = tmp_path / "spool", tmp_path / "token"
    file.write_text((asked or "") + "\n")
    more = ("--token-file", str(file)) if asked else ()
    with agent_process(tmp_path, *sim(box), *more) as agent, cut_proxy(agent.port) as proxy:
        sampler = run(spool, proxy.port, token=given)
        sampler.start()
        if words is None:
            until(lambda: count(spool) > 5)
        else:
            until(lambda: bool(sampler.notes))
        sampler.stop()
    if words is not None:
        assert any(words in note for note in sampler.notes), sampler.notes
        assert count(spool) == 0
    else:
        whole(spool, sampler.ended)
    assert TOKEN not in agent.errors.read_text() + json.dumps(sampler.notes)
