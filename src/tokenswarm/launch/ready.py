"""Waiting until a server that was started answers."""

import socket
import time
from collections.abc import Callable

from tokenswarm.errors import TargetError
from tokenswarm.launch.reasons import failure
from tokenswarm.launch.start import Started, StartFailed

POLL_S = 0.1


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def refuse_taken(name: str, port: int) -> None:
    """StartFailed when somebody listens on `port` already: we would measure them."""
    with socket.socket() as s:
        s.settimeout(1.0)
        if s.connect_ex(("127.0.0.1", port)) == 0:
            raise StartFailed(name, failure("port_taken", f"somebody listens on {port} already"))


def await_ready(started: Started, ready: Callable[[], bool], timeout_s: float) -> float:
    """Wait until `ready` says so; the seconds it took. StartFailed: it ended, or too late.

    A TargetError of `ready` means: not yet.
    """
    began = time.perf_counter()
    last = "no answer yet"
    while (waited := time.perf_counter() - began) < timeout_s:
        if ended := started.ended():
            raise StartFailed(started.name, ended)
        try:
            if ready():
                return time.perf_counter() - began
        except TargetError as e:
            last = str(e)
        time.sleep(POLL_S)
    raise StartFailed(started.name, failure("timeout", f"{waited:.0f} s; {last}"))
