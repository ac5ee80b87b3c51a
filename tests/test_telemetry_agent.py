"""An agent and its subscribers over real sockets: nothing missing, nothing twice, whatever cuts."""

import contextlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.agents import WAIT_S, AgentProcess, agent_process
from tests.cut_proxy import cut_proxy
from tests.running import until
from tests.services import influxd
from tokenswarm.clock import Clock, machine, new_run_id
from tokenswarm.sim.process import start
from tokenswarm.sim.serve import Endpoints
from tokenswarm.store.frame import pack, unpack
from tokenswarm.store.spool import inventory, rows
from tokenswarm.telemetry.agent.config import Place
from tokenswarm.telemetry.agent.server import Agent as TelemetryAgent
from tokenswarm.telemetry.agent.subscription import greet
from tokenswarm.telemetry.config import Agent, Config, Gpu
from tokenswarm.telemetry.link import wire
from tokenswarm.telemetry.link.subscriber import Names, Subscriber
from tokenswarm.telemetry.sampler import Remarks, Sampler

TOKEN = "0123456789abcdef-correct"


@pytest.fixture(scope="module")
def box() -> Iterator[Endpoints]:
    with start("rtx5090", speed=10) as endpoints:
        yield endpoints


@pytest.fixture(scope="module")
def idle_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    with agent_process(tmp_path_factory.mktemp("idle"), "--source", "none") as agent:
        yield agent


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


def test_an_agent_that_is_started_again_in_order_goes_on(box: Endpoints, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    with agent_process(tmp_path, *sim(box)) as agent:
        sampler = run(spool, agent.port)
        sampler.start()
        until(lambda: count(spool) > 20)
        agent.end()
        before = count(spool)
        agent.again()
        until(lambda: count(spool) > before + 20)
        sampler.stop()
    whole(spool, sampler.ended)
    assert set(sampler.ended) == {f"{s}-{agent.about['host']}" for s in ("gpu", "host", "agent")}
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


def greeting(port: int) -> wire.Channel:
    """A connection that has said hello and been let in."""
    channel = wire.Channel(socket.create_connection(("127.0.0.1", port)))
    channel.send(wire.Hello(wire.PROTOCOL, bytes(wire.NONCE_BYTES)))
    channel.want(wire.Challenge)
    channel.send(wire.Proof(b""))
    channel.want(wire.Welcome)
    channel.max_bytes = wire.MAX_MESSAGE
    return channel


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",  # a length of a gigabyte
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x04\xc1\xc1\xc1\xc1",  # no msgpack
        b"\x00\x00\x00\x02\x93\x01",  # cut short inside
        b"\x00\x00",
        b"",
    ],
)
def test_what_is_no_subscriber_is_hung_up_on_and_harms_nobody(
    said: bytes, idle_agent: AgentProcess
) -> None:
    with socket.create_connection(("127.0.0.1", idle_agent.port)) as stranger:
        stranger.sendall(said)
        stranger.shutdown(socket.SHUT_WR)
        stranger.settimeout(20)
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1 << 16) == b""
    with greeting(idle_agent.port):
        pass  # it lets others in


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (wire.Hello(wire.PROTOCOL + 1, bytes(32)), "speaks protocol 1, not 2"),
        (wire.Hello(wire.PROTOCOL, b"short"), "a nonce of 5 bytes"),
    ],
)
def test_a_subscriber_of_another_version_is_told(
    message: wire.Hello, words: str, idle_agent: AgentProcess
) -> None:
    with wire.Channel(socket.create_connection(("127.0.0.1", idle_agent.port))) as channel:
        channel.send(message)
        with pytest.raises(wire.RefusedError, match=words):
            channel.want(wire.Challenge)


@pytest.mark.parametrize("run_id", ["../../etc", "", "idle", "x" * 3000])
def test_a_run_id_leads_nowhere_else(run_id: str, idle_agent: AgentProcess) -> None:
    with greeting(idle_agent.port) as channel:
        channel.send(wire.Subscribe(run_id=run_id, t0_unix_ns=0, offset_ns=0))
        with pytest.raises(wire.RefusedError, match="is no run id"):
            channel.want(wire.Subscribed)


def test_a_run_that_nobody_fetches_is_not_sampled_for_ever(box: Endpoints, tmp_path: Path) -> None:
    sampling = Config(
        run_id="", t0_unix_ns=0, spool="", host="far",
        gpu=Gpu("sim", control_url=box.control_url),
    )  # fmt: skip
    agent = TelemetryAgent(Place("127.0.0.1", 0), sampling, tmp_path, keep_s=1.0)
    agent.start()
    run_id = new_run_id(time.time_ns())
    try:
        with greeting(agent.port) as channel:
            channel.send(wire.Subscribe(run_id=run_id, t0_unix_ns=0, offset_ns=0))
            channel.want(wire.Subscribed)
            assert agent.busy
        until(lambda: not agent.busy)
        left = inventory(tmp_path / "runs" / run_id / "spool")["gpu-far"].rows
        with greeting(agent.port) as channel:  # late, but what there was is still there
            channel.send(wire.Subscribe(run_id=run_id, t0_unix_ns=0, offset_ns=0))
            epoch = channel.want(wire.Subscribed).epoch
            channel.send(wire.End())
            have = Counter[str]()
            while not isinstance(message := channel.receive(WAIT_S), wire.Ended):
                if isinstance(message, wire.Frames):
                    have[message.source] += unpack(message.source, message.data).count
        assert have == message.rows
        assert have["gpu-far"] == left > 0
        assert any("nobody was there for" in note for note in message.notes)
        assert epoch
    finally:
        agent.stop()


class Liar:
    """Speaks as an agent does and hands over a frame of its own."""

    def __init__(self, rows_: list[tuple[str, list[Any]]]):
        self._rows = rows_
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        about = wire.About(
            host="liar", version="0", schema=wire.schema_digest(), process="p", machine=machine(),
            gpu="nvml",
        )  # fmt: skip
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with wire.Channel(connection) as channel, contextlib.suppress(wire.LinkError):
                    greet(channel, None, about)
                    channel.want(wire.Subscribe)
                    channel.send(wire.Subscribed("epoch", {}))
                    channel.send(wire.Frames("gpu-liar", pack(self._rows, 0, 0)))
                    channel.want(wire.Done)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("tick", [1, "RUN", "m", "t", "e", "w0", 1, 1, 1, 1, 1, 1.0]), "not an agent's"),
        (("engine", [1, "another", "t", "e", "m", 1, 1, 1.0, 1.0, True]), "a row of run 'another'"),
        (("engine", [1, "RUN", "t", "e", "m", "1", 1, 1.0, 1.0, True]), "want int or None"),
        (("engine", [1, "RUN"]), "a row of 2"),
    ],
)
def test_rows_that_are_not_this_runs_samples_are_not_taken(
    row: tuple[str, list[Any]], words: str, tmp_path: Path
) -> None:
    now = time.time_ns()
    run_id = new_run_id(now)
    liar = Liar([(row[0], [run_id if v == "RUN" else v for v in row[1]])])
    try:
        config = Config(
            run_id=run_id, t0_unix_ns=now, spool=str(tmp_path / "spool"), host="generator",
            agents=[Agent(f"127.0.0.1:{liar.port}")],
        )  # fmt: skip
        clock, note = Clock.anchored(now), Remarks()
        subscriber = Subscriber(config.agents[0], config, clock, Names(), note, drain_s=0.0)
        subscriber.start()
        until(lambda: any(words in text for text in note.texts()))
        subscriber.stop()
        liar.close()
        subscriber.join()
    finally:
        with contextlib.suppress(OSError):
            liar.close()
    assert not list(rows(tmp_path / "spool"))


@pytest.mark.live
def test_between_runs_an_agent_that_ships_samples_as_run_idle(
    box: Endpoints, tmp_path: Path
) -> None:
    with influxd(tmp_path) as server:
        server.create("tokenswarm")
        argv = (*sim(box), "--influx-url", server.url)

        def figures(what: str) -> list[dict[str, Any]]:
            return server.query(
                f"select count(vram_used_bytes) from gpu where {what}", "tokenswarm"
            )

        def idle_rows() -> int:
            return sum(row[1] for f in figures("run_id = 'idle'") for row in f["values"])

        with agent_process(tmp_path, *argv) as agent:
            until(lambda: idle_rows() > 0)
            sampler = run(tmp_path / "spool", agent.port)
            sampler.start()
            until(lambda: count(tmp_path / "spool") > 10)
            idle = tmp_path / "agent" / "idle"
            until(lambda: _still(idle))
            sampler.stop()
            before = idle_rows()
            until(lambda: idle_rows() > before + 5)
        assert not figures("run_id != 'idle'"), "the run's rows are the run's to ship"
    whole(tmp_path / "spool", sampler.ended)


def _still(spool: Path) -> bool:
    """Nothing is sampled into it."""
    before = sum(i.rows for i in inventory(spool).values())
    time.sleep(0.6)
    return sum(i.rows for i in inventory(spool).values()) == before
