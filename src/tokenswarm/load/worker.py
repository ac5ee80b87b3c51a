"""A generator process that follows a Locust master."""

import logging
import os
import signal
import socket
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Any

import gevent
import msgspec
from gevent.event import AsyncResult, Event

from tokenswarm.clock import SAME_CLOCK, Clocks, slug
from tokenswarm.load import link
from tokenswarm.load.collector import ORPHAN
from tokenswarm.load.generator import Drained, Generator
from tokenswarm.load.start import RunStart
from tokenswarm.load.timing import MasterClock
from tokenswarm.scenario.deal import Deal, shares
from tokenswarm.store.rundir import RunDir

log = logging.getLogger(__name__)

HELLO = "tokenswarm-hello"
WELCOME = "tokenswarm-welcome"
START = "tokenswarm-start"
DEAL = "tokenswarm-deal"
DRAIN = "tokenswarm-drain"
DRAINED = "tokenswarm-drained"
MASTER_LOST_S = 4.0
ORPHAN_DRAIN_S = 10.0
LINK_END_S = 60.0
RESCUE_END_S = 15.0
HELLO_S = 0.5


class Worker:
    """Starts a Generator when the master says so, drains it when the master or Locust does."""

    def __init__(self, environment: Any, runner: Any) -> None:
        self._environment, self._runner = environment, runner
        self.generator: Generator | None = None
        self._began_s = 0.0
        self._sender: link.FrameSender | None = None
        self._rescue: link.Rescue | None = None
        self._drained: AsyncResult | None = None
        self._parent = os.getppid()
        self._welcome = Event()
        self._master: str | None = None  # the name of its system's clock
        self._clock = MasterClock(runner)
        runner.register_message(WELCOME, self._on_welcome)
        runner.register_message(START, self._on_start)
        runner.register_message(DEAL, self._on_deal)
        runner.register_message(DRAIN, self._on_drain, concurrent=True)
        runner.register_message(link.ACK, self._on_ack)
        runner.register_message(ORPHAN, self._on_orphan, concurrent=True)
        events = environment.events
        events.report_to_master.add_listener(self._on_report)
        events.test_stopping.add_listener(self._on_stopping)
        gevent.spawn(self._watch_master)
        self._take_sigint()
        gevent.spawn(self._say_hello)

    # -- messages of the master
    def _say_hello(self) -> None:
        """Tell the master that this worker listens and knows its clock."""
        self._hello(ready=False)
        self._clock.follow(self._master)
        self._hello(ready=True)

    def _hello(self, *, ready: bool) -> None:
        """Say it until it is heard: Locust calls a worker ready before it listens for our
        messages, and a master before it does."""
        self._welcome.clear()
        while not self._welcome.is_set():
            self._runner.send_message(HELLO, {"ready": ready})
            self._welcome.wait(HELLO_S)

    def _on_welcome(self, environment: Any, msg: Any, **_: Any) -> None:
        self._master = msg.data["machine"]
        self._welcome.set()

    def _on_start(self, environment: Any, msg: Any, **_: Any) -> None:
        start = RunStart.from_wire(msg.data)
        if self.generator is not None and self.generator.start.run_id == start.run_id:
            return
        self._end(0.0)
        worker = f"w{max(self._runner.worker_index, 0)}"
        shared = link.shared(start.run_dir, start.nonce)
        folder = Path(start.run_dir) if shared else self._own_folder(start)
        own = shares(start.deals, self._runner.client_id)
        self._drained = None
        offset = self._clock.offset or SAME_CLOCK
        self.generator = Generator(start, folder / "spool", worker, own, offset)
        self._began_s = self.generator.clock.run_s(perf_counter())
        self._sender = self._rescue = None
        if not shared:
            spool = folder / "spool"
            self._sender = link.FrameSender(self._runner, start.run_id, spool, worker)
            self._rescue = link.Rescue(self._runner, start.run_id, spool, worker)
            self._rescue.look()

    def _on_deal(self, environment: Any, msg: Any, **_: Any) -> None:
        """Another worker came, went or came back: who sends what from here on."""
        generator = self.generator
        if generator is None or generator.pace is None:
            return
        if msg.data["run_id"] == generator.start.run_id:
            deals = msgspec.convert(msg.data["deals"], list[Deal])
            generator.pace.redeal(shares(deals, self._runner.client_id))
            if self._rescue is not None:
                self._rescue.look()

    def _on_drain(self, environment: Any, msg: Any, **_: Any) -> None:
        self._end(float(msg.data["drain_s"]))

    def _on_ack(self, environment: Any, msg: Any, **_: Any) -> None:
        generator, sender = self.generator, self._sender
        if generator and sender and msg.data["run_id"] == generator.start.run_id:
            if msg.data["source"] == generator.worker:
                sender.acknowledge(int(msg.data["next_seq"]))
            elif self._rescue is not None:
                self._rescue.acknowledge(msg.data["source"], int(msg.data["next_seq"]))

    def _on_orphan(self, environment: Any, msg: Any, **_: Any) -> None:
        """Another master than the run's own has our rows: ours is dead, and so is the load."""
        generator = self.generator
        if generator is not None and msg.data["run_id"] == generator.start.run_id:
            self._end(ORPHAN_DRAIN_S)

    # -- Locust's events
    def _on_report(self, client_id: str, data: dict[str, Any]) -> None:
        generator = self.generator
        if generator is not None:
            data["tokenswarm"] = {
                "run_id": generator.start.run_id,
                "models": generator.totals(),
                "exhausted": generator.exhausted,
                "next": generator.pace.next_unit if generator.pace else 0,
            }

    def _on_stopping(self, environment: Any, **_: Any) -> None:
        scenario = self.generator.scenario if self.generator else None
        orphan = os.getppid() != self._parent
        self._end(ORPHAN_DRAIN_S if orphan or scenario is None else scenario.drain_s)

    # -- ends
    def _end(self, drain_s: float) -> None:
        """Drain once; whoever calls later waits for the same end."""
        generator = self.generator
        if generator is None:
            return
        if self._drained is not None:
            self._drained.get()
            return
        self._drained = AsyncResult()
        drained = generator.drain(drain_s)
        linked = True
        if self._sender is not None:
            linked = self._sender.finish(drained.rows, LINK_END_S)
        if self._rescue is not None:
            if linked:
                self._rescue.ended()
            self._rescue.look()
            self._rescue.finish(RESCUE_END_S)
        self._tell(generator, drained, linked)
        self._drained.set(drained)

    def _tell(self, generator: Generator, drained: Drained, linked: bool) -> None:
        route = "link" if self._sender else "shared"
        data = {
            "run_id": generator.start.run_id,
            "route": route,
            "complete": linked,
            "source": drained.source,
            "rows": drained.rows,
            "dropped": drained.dropped,
            "cut": drained.cut,
            "skipped": generator.pace.skipped if generator.pace else 0,
            "models": generator.totals(),
            "clocks": self._clocks(generator),
            "pid": os.getpid(),
            "host": slug(socket.gethostname()),
        }
        try:
            self._runner.send_message(DRAINED, data)
        except Exception as e:  # the master is gone: the spool has everything
            log.warning("the master did not take the end of %s: %s", drained.source, e)

    def _clocks(self, generator: Generator) -> dict[str, Any] | None:
        """None: the master never told us the time."""
        if self._clock.offset is None:
            return None
        now_s = generator.clock.run_s(perf_counter())
        clocks = Clocks(generator.offset, self._began_s, self._clock.offset, now_s)
        said: dict[str, Any] = msgspec.to_builtins(clocks)
        return said

    def _own_folder(self, start: RunStart) -> Path:
        runs = Path(self._environment.parsed_options.runs_dir)
        return RunDir.create(runs, start.run_id).path

    # -- a master that is lost
    def _watch_master(self) -> None:
        while True:
            gevent.sleep(0.5)
            if self._environment.parsed_options.processes and os.getppid() != self._parent:
                log.error("the master is gone, ending")
                self._runner.quit()
                return
            self._pause_without_master()

    def _pause_without_master(self) -> None:
        generator, beat = self.generator, self._runner.last_heartbeat_timestamp
        if generator is None or beat is None or generator.stopped:
            return
        if generator.wall_s() - beat > MASTER_LOST_S:
            generator.pause()
        else:
            generator.resume()

    def _take_sigint(self) -> None:
        """Ctrl-C in a terminal reaches every process: while a run is on, the master decides."""
        if not self._environment.parsed_options.processes:
            return

        def on_sigint(signum: int, frame: FrameType | None) -> None:
            if self.generator is None or self._drained is not None:
                signal.default_int_handler(signum, frame)

        signal.signal(signal.SIGINT, on_sigint)
