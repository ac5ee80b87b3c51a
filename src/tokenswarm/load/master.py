"""The side of a run that starts and ends it: a Locust master, or a single local process."""

from locust.runners import STATE_SPAWNING, STATE_STOPPED

import logging
import platform
import secrets
import socket
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import gevent
import msgspec
from gevent.event import Event

from tokenswarm import __version__, native
from tokenswarm.clock import NS, Clocks, machine, new_run_id, slug
from tokenswarm.errors import TokenswarmError
from tokenswarm.load import link
from tokenswarm.load.collector import Collector
from tokenswarm.load.form import Form
from tokenswarm.load.generator import Generator
from tokenswarm.load.live import LiveLine
from tokenswarm.load.livepage import LivePage
from tokenswarm.load.meter import Totals
from tokenswarm.load.options import scenario_of
from tokenswarm.load.prepare import Prepared, prepare
from tokenswarm.load.reporter import finish_run
from tokenswarm.load.sampler import SamplerProcess
from tokenswarm.load.shipper import ShipperProcess, database_environ
from tokenswarm.load.start import RunStart
from tokenswarm.load.telemetry import gpu_source, live_source, sampler_config
from tokenswarm.load.timing import TIME, answer
from tokenswarm.load.watcher import WatcherProcess
from tokenswarm.load.worker import DEAL, DRAIN, DRAINED, HELLO, START, WELCOME
from tokenswarm.scenario.deal import shares
from tokenswarm.scenario.dealer import Dealer
from tokenswarm.scenario.dryrun import digest
from tokenswarm.scenario.load import published, to_dict
from tokenswarm.scenario.model import Scenario
from tokenswarm.store.rundir import Manifest, RunDir
from tokenswarm.telemetry.source import GpuSource

log = logging.getLogger(__name__)

DEFAULT_DRAIN_S = 300.0
WORKER_GRACE_S = 90.0
LOCAL = "local"  # the only generator of a run without workers
HELLO_S = 10.0
LEAD_NS = 1_000_000_000  # t0 lies ahead, so that every worker is ready for the first arrival


class Run:
    """One run between test_start and test_stop, as its master sees it."""

    def __init__(self, run: RunDir, manifest: Manifest, scenario: Scenario | None) -> None:
        self.dir, self.manifest, self.scenario = run, manifest, scenario
        self.totals = Totals()
        self.drained: dict[str, dict[str, Any]] = {}  # by Locust's client id
        self.exhausted: set[str] = set()
        self.start: RunStart | None = None
        self.dealer = Dealer(scenario, ())
        self.told: set[str] = set()  # workers that know of this run
        self.receiver: link.FrameReceiver | None = None
        self.sampler: SamplerProcess | None = None
        self.shipper: ShipperProcess | None = None
        self.watcher: WatcherProcess | None = None
        self.live: LiveLine | None = None
        self.stopping = False
        self.drained_all = Event()

    @property
    def drain_s(self) -> float:
        return self.scenario.drain_s if self.scenario else DEFAULT_DRAIN_S


class Master:
    """Mints runs and ends them; with a LocalRunner it also holds the only Generator."""

    def __init__(self, environment: Any, runner: Any, *, local: bool) -> None:
        self._environment, self._runner, self._local = environment, runner, local
        self._options: Namespace = environment.parsed_options
        self.generator: Generator | None = None
        self.run: Run | None = None
        self.exit_code: int | None = None
        self._listening: set[str] = set()  # workers that take our messages
        self._over = Event()  # set: no run is on or being finished
        self._over.set()
        self._ramp: gevent.Greenlet | None = None  # where Locust's start() runs
        self._form = Form(environment, runner)
        self._page = LivePage(environment)
        events = environment.events
        events.test_start.add_listener(self._on_start)
        events.test_stopping.add_listener(self._on_stopping)
        events.test_stop.add_listener(self._on_stop)
        events.quitting.add_listener(self._on_quitting)
        if not local:
            events.worker_report.add_listener(self._on_report)
            runner.register_message(HELLO, self._on_hello)
            runner.register_message(TIME, self._on_time)
            runner.register_message(link.BATCH, self._on_batch)
            runner.register_message(DRAINED, self._on_drained)
            runs = Path(self._options.runs_dir).absolute()
            self._collector = Collector(runner, runs, lambda run_dir: finish_run(run_dir, []))

    # -- start
    def _on_start(self, environment: Any, **_: Any) -> None:
        current = gevent.getcurrent()
        self._ramp = current if isinstance(current, gevent.Greenlet) else None
        # what the web page sees while we probe: `ready` would send it back to its form
        self._runner.update_state(STATE_SPAWNING)
        if self.run is not None and not self.run.stopping:
            self._end_now()  # Locust lost every worker without a word
        refusal = None
        try:
            self._over.wait()  # the run before may still be at its report
            self._begin()
        except TokenswarmError as e:
            refusal = str(e)
            self._refuse(e)
            raise gevent.GreenletExit from e  # no users; Locust's own way out of a start
        except gevent.GreenletExit:
            self._end_now()  # stopped before it had begun
            self._runner.update_state(STATE_STOPPED)
            raise
        finally:
            self._form.decide(refusal)

    def _begin(self) -> None:
        scenario = scenario_of(self._options, self._runner.target_user_count)
        prepared = prepare(scenario) if scenario else Prepared({}, {}, [])
        self._wait_for_workers()
        self.run = run = self._new_run(scenario, prepared)
        self._over.clear()
        log.info("run %s: everything goes to %s", run.manifest.run_id, run.dir.path)
        source = self._start_sampler(run, prepared)
        # late enough for the sampler to have looked, and for every worker to be ready
        run.manifest.t0_unix_ns = time.time_ns() + LEAD_NS
        run.start = self._run_start(run, prepared)
        run.dir.write_manifest(run.manifest)
        self._page.begin(run.dir)
        run.watcher = WatcherProcess(run.dir.path, self._options.watch_delay)
        if database := database_environ(self._options):
            run.shipper = ShipperProcess(run.dir.path, database)
        if self._local:
            self.generator = Generator(
                run.start, run.dir.spool, "w0", shares(run.dealer.deals, LOCAL)
            )
        else:
            run.receiver = link.FrameReceiver(self._runner, run.manifest.run_id, run.dir.spool)
            self._runner.send_message(START, run.start.to_wire())
        if not self._options.no_live:
            gpu = live_source(run.manifest, source, prepared.agents)
            run.live = LiveLine(run.totals, run.dir.spool, gpu)
        gevent.spawn(self._watch, run)

    def _wait_for_workers(self) -> None:
        until = time.monotonic() + HELLO_S
        while not self._local and time.monotonic() < until:
            if {c.id for c in self._runner.clients.ready} <= self._listening:
                return
            gevent.sleep(0.02)

    def _new_run(self, scenario: Scenario | None, prepared: Prepared) -> Run:
        t0_unix_ns = time.time_ns() + LEAD_NS
        run_dir = RunDir.create(Path(self._options.runs_dir).absolute(), new_run_id(t0_unix_ns))
        manifest = Manifest(
            run_id=run_dir.path.name,
            t0_unix_ns=t0_unix_ns,
            tokenswarm=__version__,
            python=platform.python_version(),
            compiled=native.NATIVE,
            platform=platform.platform(),
            host=slug(socket.gethostname()),
            argv=sys.argv[1:],
            scenario=published(scenario) if scenario else None,
            scenario_file=self._options.scenario or None,
            scenario_sha256=digest(scenario) if scenario else None,
            seed=scenario.seed if scenario else None,
            simulated=any(e.simulated for e in prepared.engines.values()),
            targets={n: msgspec.to_builtins(e) for n, e in prepared.engines.items()},
            notes=prepared.notes,
        )
        return Run(run_dir, manifest, scenario)

    def _run_start(self, run: Run, prepared: Prepared) -> RunStart:
        nonce = secrets.token_hex(16)
        run.dir.write(run.dir.spool / ".nonce", nonce.encode())
        ready = [LOCAL] if self._local else [c.id for c in self._runner.clients.ready]
        run.dealer, run.told = Dealer(run.scenario, ready), set(ready)
        return RunStart(
            run_id=run.manifest.run_id,
            t0_unix_ns=run.manifest.t0_unix_ns,
            run_dir=str(run.dir.path),
            nonce=nonce,
            scenario=to_dict(run.scenario) if run.scenario else None,
            engines=prepared.engines,
            vocabularies=prepared.vocabularies,
            deals=run.dealer.deals,
        )

    def _start_sampler(self, run: Run, prepared: Prepared) -> GpuSource:
        scenario, manifest, agents = run.scenario, run.manifest, prepared.agents
        if scenario is None:
            return GpuSource("none", None, "no scenario names a target")
        source = gpu_source(scenario, list(prepared.engines.values()), agents)
        manifest.telemetry = {
            "gpu": msgspec.to_builtins(source),
            "agents": {met.agent.address: msgspec.to_builtins(met.about) for met in agents},
        }
        manifest.simulated |= any(met.about.gpu == "sim" for met in agents)
        spool = str(run.dir.spool)
        run.sampler = SamplerProcess(
            sampler_config(manifest, spool, scenario, prepared.engines, source, agents)
        )
        if not run.sampler.wait():
            manifest.notes.append("the load began before the sampler had said that it samples")
        return source

    def _refuse(self, error: TokenswarmError) -> None:
        """The run cannot start: say so, and end a headless run with the exit code for it."""
        self._end_now()
        if self._options.headless:
            sys.stderr.write(f"tokenswarm: {error}\n")
        else:
            log.error("the run cannot start: %s", error)  # stderr and the page's tab of logs
        self.exit_code = error.exit_code
        self._runner.log_exception("master", f"tokenswarm: {error}", "")
        gevent.spawn(self._runner.quit if self._options.headless else self._runner.stop)

    # -- while it runs
    def _watch(self, run: Run) -> None:
        """End the load after the scenario's duration, or when every request was sent."""
        limit_s = run.scenario.duration_s if run.scenario and not self._timed() else None
        began = time.monotonic() + LEAD_NS / NS
        while self.run is run and not run.stopping:
            gevent.sleep(0.1)
            if self.generator is not None:
                run.totals.report("w0", self.generator.totals())
            elif not self._local:  # a local one may have ended in this very moment
                self._deal_anew(run)
            over = limit_s is not None and time.monotonic() - began >= limit_s
            if over or self._all_exhausted(run):
                (self._runner.quit if self._options.headless else self._runner.stop)()
                return

    def _deal_anew(self, run: Run) -> None:
        """A worker that died, was cut off, came or came back changes who sends what."""
        present = [c.id for c in self._runner.clients.all if c.state != "missing"]
        now_s = (time.time_ns() - run.manifest.t0_unix_ns) / NS
        deals = run.dealer.look([w for w in present if w in run.told], now_s)
        if deals is not None:
            said = {"run_id": run.manifest.run_id, "deals": msgspec.to_builtins(deals)}
            for worker in present:
                self._runner.send_message(DEAL, said, worker)

    def _timed(self) -> bool:
        """Whether Locust ends this run, by --run-time or the run time in the page's form.

        The form leaves its run time in the options even when the next start is without one: then
        only the page's timer tells.
        """
        web_ui = self._environment.web_ui
        if web_ui is None or self._options.autostart:
            return bool(self._options.run_time)
        return getattr(web_ui, "_run_time_greenlet", None) is not None

    def _all_exhausted(self, run: Run) -> bool:
        if self._local:
            return self.generator is not None and self.generator.exhausted
        workers = {c.id for c in self._runner.clients.all if c.state != "missing"}
        return bool(workers) and workers <= run.exhausted

    def _on_report(self, client_id: str, data: dict[str, Any]) -> None:
        said = data.get("tokenswarm")
        if self.run is None or said is None or said["run_id"] != self.run.manifest.run_id:
            return
        self.run.totals.report(client_id, said["models"])
        self.run.dealer.report(client_id, said["next"])
        if said["exhausted"]:
            self.run.exhausted.add(client_id)

    def _on_hello(self, environment: Any, msg: Any, **_: Any) -> None:
        """A worker listens; one that comes in the middle of a run joins it."""
        self._runner.send_message(WELCOME, {"machine": machine()}, msg.node_id)
        if not msg.data["ready"]:  # it asks for the time before it is
            return
        self._listening.add(msg.node_id)
        run = self.run
        if run is not None and run.start is not None and not run.stopping:
            start = msgspec.structs.replace(run.start, deals=run.dealer.deals)
            self._runner.send_message(START, start.to_wire(), msg.node_id)
            run.told.add(msg.node_id)

    def _on_time(self, environment: Any, msg: Any, **_: Any) -> None:
        answer(self._runner, msg.node_id, msg.data)

    def _on_batch(self, environment: Any, msg: Any, **_: Any) -> None:
        run = self.run
        if run is None or msg.data["run_id"] != run.manifest.run_id:
            self._collector.take(msg.node_id, msg.data)
        elif run.receiver is not None:
            run.receiver.take(msg.node_id, msg.data)

    def _on_drained(self, environment: Any, msg: Any, **_: Any) -> None:
        if self.run is not None and msg.data["run_id"] == self.run.manifest.run_id:
            self.run.drained[msg.node_id] = msg.data
        else:
            self._collector.ended(msg.node_id, msg.data)

    # -- end
    def _on_stopping(self, environment: Any, **_: Any) -> None:
        run = self.run
        if run is None:
            return
        try:
            if run.stopping:  # stopped from two sides: the second waits for the first
                run.drained_all.wait()
            else:
                self._end_load(run)
        except KeyboardInterrupt:
            sys.stderr.write("\ntokenswarm: interrupted while draining, what is left is cut\n")

    def _end_load(self, run: Run) -> None:
        run.stopping = True
        run.manifest.load_end_unix_ns = time.time_ns()
        self._end_ramp()
        try:
            self._drain(run)
        finally:
            run.drained_all.set()

    def _end_ramp(self) -> None:
        """A master's start() would go on to send users to workers and call the test running."""
        spawning = not self._local and self._runner.state == STATE_SPAWNING
        if spawning and self._ramp is not None and self._ramp is not gevent.getcurrent():
            self._ramp.kill()

    def _drain(self, run: Run) -> None:
        if self.generator is not None:
            drained = self.generator.drain(run.drain_s)
            run.manifest.ended[drained.source] = drained.rows + drained.dropped
            run.manifest.routes[drained.source] = "shared"
            run.totals.report("w0", self.generator.totals())
        elif not self._local and run.start is not None:
            self._drain_workers(run)

    def _drain_workers(self, run: Run) -> None:
        self._runner.send_message(DRAIN, {"drain_s": run.drain_s})
        until = time.monotonic() + run.drain_s + WORKER_GRACE_S
        while self._undrained(run) and time.monotonic() < until:
            gevent.sleep(0.05)
        for client_id, said in run.drained.items():
            if said["complete"]:
                run.manifest.ended[said["source"]] = said["rows"] + said["dropped"]
            run.manifest.routes[said["source"]] = said["route"]
            if skipped := said["skipped"]:
                run.manifest.notes.append(
                    f"{said['source']}: {skipped} requests were due while it had lost the master "
                    "and were left to others"
                )
            clocks = said.pop("clocks")
            if clocks is None:
                run.manifest.notes.append(f"{said['source']}: its clock was never measured")
            else:
                name = f"worker {said['source']}"
                run.manifest.clocks[name] = msgspec.convert(clocks, Clocks)
            run.totals.report(client_id, said.pop("models"))
            run.manifest.workers.append(said)

    def _undrained(self, run: Run) -> set[str]:
        alive = {c.id for c in self._runner.clients.all if c.state != "missing"}
        return alive - set(run.drained)

    def _on_stop(self, environment: Any, **_: Any) -> None:
        run, self.run, self.generator = self.run, None, None
        if run is None:
            return
        try:
            self._finish(run)
        except TokenswarmError as e:  # a full disk: what the spool holds can be reported later
            sys.stderr.write(f"tokenswarm: {e}\n")
            self.exit_code = e.exit_code
        finally:
            self._over.set()

    def _finish(self, run: Run) -> None:
        if run.live is not None:
            run.live.close()
        if run.receiver is not None:
            run.receiver.close()
        if run.sampler is not None:
            ended = run.sampler.end(run.manifest.t0_unix_ns)
            run.manifest.ended.update(ended.rows)
            run.manifest.routes.update(ended.routes)
            run.manifest.clocks.update(ended.clocks)
            run.manifest.notes += ended.notes
            run.manifest.telemetry["gpus"] = ended.gpus
        if run.watcher is not None:
            watched = run.watcher.end()
            run.manifest.telemetry["watch"] = watched.said
            run.manifest.notes += watched.notes
        run.manifest.clock_offsets_ns = {
            name: clock.first.offset_ns for name, clock in run.manifest.clocks.items()
        }
        run.manifest.notes += run.dealer.notes
        run.manifest.end_unix_ns = time.time_ns()
        run.dir.write_manifest(run.manifest)
        self._page.end()
        options = self._options
        self.exit_code = finish_run(run.dir.path, options.gate, options.junit, options.markdown)
        if run.shipper is not None:
            end_shipping(run.manifest, run.shipper)
            run.dir.write_manifest(run.manifest)

    def _end_now(self) -> None:
        """End what there is of a run whose start did not come to its end."""
        self._on_stopping(self._environment)
        self._on_stop(self._environment)

    def _on_quitting(self, environment: Any, **_: Any) -> None:
        """Locust decides its exit code right after this: have ours ready by then."""
        if self.run is not None:
            self._runner.stop(*([] if self._local else [False]))  # the workers are told to quit
        self._end_now()  # when Locust did not hold it for running
        self._over.wait()
        explicit = environment.process_exit_code is not None
        if not explicit and self.exit_code is not None:
            environment.process_exit_code = self.exit_code


def end_shipping(manifest: Manifest, shipper: ShipperProcess) -> None:
    """The report's rows were the last: let the shipper end, and say what is not there."""
    shipped = shipper.end()
    manifest.telemetry["shipper"] = shipped.status
    manifest.notes += shipped.notes
    for note in shipped.notes:
        sys.stderr.write(f"tokenswarm: {note}\n")
