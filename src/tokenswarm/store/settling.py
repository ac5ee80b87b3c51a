"""What a database has acknowledged and may still forget.

VictoriaMetrics acknowledges points that are in its memory and writes them to its disk seconds
later, without a write-ahead log: a kill -9 takes them along. It tells when it was started
(`vm_app_start_timestamp`), so a shipper counts as safe only what has outlived SETTLE_S in one life
of the server, and sends the rest again after another start. InfluxDB has points on its disk when
it acknowledges them, and has no such figure: everything is safe at once.
"""

import re
import time
from collections import deque
from collections.abc import Callable
from copy import deepcopy

import urllib3
from urllib3.exceptions import HTTPError

from tokenswarm.store.cursor import Cursor
from tokenswarm.store.influx import Database

SETTLE_S = 20.0
"""VictoriaMetrics 1.79 had its points on disk after 8 to 12 s."""

LOOK_S = 2.0
UNASKED_S = 30.0
"""A server that takes points and never says when it was started is taken for one that does not
forget."""

SPACING_S = 1.0
TIMEOUT_S = 10.0
METRICS_BYTES = 4 * 2**20

_STARTED = re.compile(rb"(?m)^vm_app_start_timestamp ([0-9.e+]{1,30})$")

Life = str
DURABLE: Life = ""

Ask = Callable[[], Life | None]


def life_of(database: Database) -> Life | None:
    """When the server was started, as it says; DURABLE when it forgets nothing, None when it does
    not answer."""
    url = f"{database.base}/metrics"
    try:
        with urllib3.PoolManager(retries=False, timeout=TIMEOUT_S) as pool:
            reply = pool.request("GET", url, headers=database.headers(), preload_content=False)
            try:
                text = reply.read(METRICS_BYTES)
            finally:
                reply.close()
    except HTTPError:
        return None
    if reply.status == 429 or reply.status >= 500:
        return None
    found = _STARTED.search(text) if reply.status == 200 else None
    return found[1].decode() if found else DURABLE


class Settling:
    """Cursors whose points may not be on the database's disk yet, oldest first."""

    def __init__(self, ask: Ask, settle_s: float = SETTLE_S):
        self._ask, self._settle_s = ask, settle_s
        self._life: Life | None = None
        self._asked_s = self._looked_s = float("-inf")
        self._waiting: deque[tuple[float, Cursor]] = deque()

    @property
    def waiting(self) -> list[Cursor]:
        return [cursor for _, cursor in self._waiting]

    def add(self, cursor: Cursor) -> None:
        """Everything up to `cursor` is acknowledged now."""
        waiting, now = self._waiting, time.monotonic()
        if len(waiting) > 1 and waiting[-1][0] - waiting[-2][0] < SPACING_S:
            waiting.pop()  # a later one tells the same and more
        waiting.append((now, deepcopy(cursor)))

    def forgot(self) -> bool:
        """Whether the server was started anew: what waits is to be sent again. Looks now and
        then."""
        now = time.monotonic()
        if self._life == DURABLE or now - self._asked_s < LOOK_S:
            return False
        self._asked_s = now
        life = self._ask()
        if life is None:
            life = self._given_up(now)
        if life is None:
            return False
        self._looked_s = now
        before, self._life = self._life, life
        if life in (DURABLE, before) or (before is None and not self._waiting):
            return False
        self._waiting.clear()
        return True

    def _given_up(self, now: float) -> Life | None:
        never = self._life is None and self._waiting and now - self._waiting[0][0] > UNASKED_S
        return DURABLE if never else None

    def safe(self) -> Cursor | None:
        """The last cursor whose points are on the server's disk, if it is another than before."""
        found = None
        # as of the last look: of the time since then nobody knows
        limit_s = self._looked_s - self._settle_s if self._life != DURABLE else float("inf")
        while self._waiting and self._waiting[0][0] <= limit_s:
            _, found = self._waiting.popleft()
        return found
