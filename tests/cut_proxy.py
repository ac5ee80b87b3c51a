"""A TCP proxy on loopback that can be cut, held and opened again."""

import contextlib
import socket
import threading
from collections.abc import Iterator


class CutProxy:
    """Passes bytes on to `target`. `cut` hangs up on everybody, `hold` takes bytes and passes none
    on (a cable pulled out: neither side is told), `open` makes it a good link again."""

    def __init__(self, target: int):
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._passing = threading.Event()
        self._passing.set()
        self._refusing = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self._stopped = False
        self.passed_bytes = 0
        self.connections = 0
        self._cut_after: int | None = None
        self._spawn(self._accept)

    def cut(self, *, refuse: bool = False) -> None:
        """Reset every connection; with `refuse` the next ones, too."""
        self._refusing = refuse
        for pair in self._pairs:
            for side in pair:
                _hang_up(side)

    def cut_after(self, count: int) -> None:
        """Cut each connection after so many bytes from the target."""
        self._cut_after = count

    def hold(self) -> None:
        self._passing.clear()

    def open(self) -> None:
        self._refusing, self._cut_after = False, None
        self._passing.set()

    def close(self) -> None:
        self._stopped = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._passing.set()
        self.cut()
        for thread in self._threads:
            thread.join()
        for pair in self._pairs:
            for side in pair:
                side.close()

    def _spawn(self, body: object, *arguments: object) -> None:
        thread = threading.Thread(target=body, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopped:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()
                continue
            self.connections += 1
            self._pairs.append((near, far))
            if self._refusing:
                _hang_up(near)
                _hang_up(far)
                continue
            self._spawn(self._pump, near, far, False)
            self._spawn(self._pump, far, near, True)

    def _pump(self, source: socket.socket, sink: socket.socket, back: bool) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while part := source.recv(1 << 14):
                self._passing.wait()
                if back and self._cut_after is not None and passed + len(part) > self._cut_after:
                    sink.sendall(part[: self._cut_after - passed])  # in the middle of a message
                    break
                passed += len(part)
                self.passed_bytes += len(part)
                sink.sendall(part)
        _hang_up(source)
        _hang_up(sink)


def _hang_up(side: socket.socket) -> None:
    with contextlib.suppress(OSError):
        side.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def cut_proxy(target: int) -> Iterator[CutProxy]:
    """A proxy to 127.0.0.1:`target` that is closed with the block."""
    proxy = CutProxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
