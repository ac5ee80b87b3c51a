import builtins
from collections.abc import Callable

class Counter:
    n: int

class Shape:
    def __init__(self, lead: bytes | None, head: bytes, tail: bytes, least: int, /) -> None: ...
    def __call__(self, data: bytes, /) -> tuple[int, int]: ...

class Tap:
    last_s: float
    bytes: int
    shape: Shape | None
    def __init__(
        self,
        fd: int,
        times: list[float],
        counter: Counter,
        on_bytes: Callable[[float, builtins.bytes], None],
        on_closed: Callable[[], None],
        on_error: Callable[[int], None],
    ) -> None: ...

def look(epoll_fd: int, waiting: dict[int, Tap | Callable[[float, int], None]], /) -> None: ...
