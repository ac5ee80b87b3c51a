"""A solution on this host: its box and servers, started and ended, and what they are."""

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tokenswarm.compare.look import Look, open_reading
from tokenswarm.compare.matrix import Matrix, Server, Solution
from tokenswarm.compare.read import filled
from tokenswarm.engines import adapter, check_models, probe
from tokenswarm.engines.protocol import Adapter, EngineInfo
from tokenswarm.errors import TargetError
from tokenswarm.launch.process import ProcessLauncher
from tokenswarm.launch.ready import await_ready, free_port, refuse_taken
from tokenswarm.launch.reasons import failure
from tokenswarm.launch.start import Container, Launcher, Start, Started, StartFailed

PROBE_S = 10.0
CALL_S = 600.0
BOX_S = 60.0


@dataclass
class Up:
    """A server that runs. `ready_s`: from its start until it answered."""

    server: Server
    url: str
    info: EngineInfo
    adapter: Adapter
    started: Started
    ready_s: float

    @property
    def names(self) -> dict[str, str]:
        return self.server.models


class Deployment:
    """One solution. Use it as a context: at its end nothing runs any more.

    `look` is there once the box is up; it looks at the device memory until the end.
    """

    def __init__(self, matrix: Matrix, solution: Solution, folder: Path, here: Path):
        self.matrix, self.solution, self.folder = matrix, solution, folder
        self.up: dict[str, Up] = {}
        self._here = here
        self._box: Started | None = None
        self._box_port = free_port() if solution.box and not solution.box.port else 0
        self._ports = {s.name: s.port or free_port() for s in solution.servers}
        self._launcher = launcher(solution)
        self.look: Look

    def __enter__(self) -> "Deployment":
        try:
            if self.solution.box is not None:
                self._start_box()
            gpu = self.solution.gpu or self.matrix.gpu
            url = None if gpu.control_url is None else filled(gpu.control_url, self._values())
            self.look = Look(open_reading(gpu.source, url, self._pids))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._end()
        self.look.close()

    def _end(self) -> None:
        running = [self.up.pop(name).started for name in list(self.up)]
        with ThreadPoolExecutor(max(1, len(running))) as pool:  # each may take its whole grace
            list(pool.map(lambda started: started.stop(), running))
        if self._box is not None:
            self._box.stop()
        self._launcher.close()

    def start(self, server: Server) -> Up:
        """Start one server and wait until it serves its models. StartFailed: why not; what was
        started has ended then."""
        refuse_taken(server.name, self._ports[server.name])
        started = self._launcher.start(self.start_of(server))
        try:
            up = self._await(server, started)
        except BaseException:
            started.stop()
            raise
        self.up[server.name] = up
        return up

    def stop(self, name: str) -> float:
        """End a server; the seconds it took."""
        began = time.perf_counter()
        self.up.pop(name).started.stop()
        return time.perf_counter() - began

    def start_of(self, server: Server) -> Start:
        """What is started for `server`."""
        s, values = self.solution, self._values(server)
        words = [*s.command, *server.command, *server.arguments, *s.arguments]
        environment = {**s.environment, **server.environment}
        return Start(
            name=f"{s.name}-{server.name}",
            argv=tuple(filled(word, values) for word in words),
            log=self.folder / "logs" / f"{server.name}.log",
            environment={k: filled(v, values) for k, v in environment.items()},
            port=self._ports[server.name],
            memory_limit_bytes=server.memory_limit_bytes,
            container=self._container(values),
            labels={"tokenswarm.matrix": self.matrix.name, "tokenswarm.target": server.name},
        )

    def of_model(self, model: str) -> Up:
        """The server that serves our `model`. KeyError: none that runs does."""
        for up in self.up.values():
            if model in up.server.models:
                return up
        raise KeyError(model)

    def _container(self, values: dict[str, object]) -> Container | None:
        c = self.solution.container
        if c is None:
            return None
        volumes = [filled(v, values) for v in c.volumes]
        return Container(image=filled(c.image, values), port=c.port, gpus=c.gpus, volumes=volumes,
                         network=c.network, shm_bytes=c.shm_bytes, runtime=c.runtime,
                         pull=c.pull)  # fmt: skip

    def _await(self, server: Server, started: Started) -> Up:
        engine = adapter(self.solution.engine)
        url = f"http://127.0.0.1:{self._ports[server.name]}"
        ready_s = await_ready(
            started, lambda: engine.ready(url, PROBE_S), self.solution.ready_timeout_s
        )
        try:
            info = probe(url, named=self.solution.engine, timeout_s=PROBE_S)
            check_models(info, server.models.values())
        except TargetError as e:
            if ended := started.ended():
                raise StartFailed(started.name, ended) from None
            raise StartFailed(started.name, failure("wrong_server", str(e))) from None
        return Up(server, url, info, engine, started, ready_s)

    def _start_box(self) -> None:
        box = self.solution.box
        assert box is not None
        port = box.port or self._box_port
        refuse_taken("box", port)
        values = self._values()
        self._box = ProcessLauncher().start(
            Start(
                name=f"{self.solution.name}-box",
                argv=tuple(filled(word, values) for word in box.command),
                log=self.folder / "logs" / "box.log",
                environment={k: filled(v, values) for k, v in box.environment.items()},
                port=port,
            )
        )
        await_ready(self._box, lambda: _listens(port), BOX_S)

    def _values(self, server: Server | None = None) -> dict[str, object]:
        box = self.solution.box
        given: dict[str, object] = {**self.matrix.values, "python": sys.executable}
        given |= {"here": self._here, "box_port": (box.port if box else 0) or self._box_port}
        if not box:
            given["box_port"] = self._spare_port()
        if server is not None:
            container = self.solution.container
            inside = container is not None and container.network == "bridge"
            port = container.port if container and inside else self._ports[server.name]
            given |= {"port": port, "model": next(iter(server.models.values()))}
        return given

    def _spare_port(self) -> int:
        """A port for a simulation's control port where the server itself is the simulation."""
        if not self._box_port:
            self._box_port = free_port()
        return self._box_port

    def _pids(self) -> Iterator[int]:
        for up in list(self.up.values()):
            yield from up.started.pids()


def launcher(solution: Solution) -> Launcher:
    """The launcher that a solution names."""
    if solution.launcher == "docker":
        from tokenswarm.launch.docker import DockerLauncher

        return DockerLauncher()
    return ProcessLauncher()


def _listens(port: int) -> bool:
    try:
        refuse_taken("box", port)
    except StartFailed:
        return True
    return False
