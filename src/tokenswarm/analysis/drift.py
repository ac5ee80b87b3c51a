"""Clocks that ran apart during a run: how far each source's times are moved, and when.

A source's clock was moved onto the master's before anything was written, and compared again at the
end (`clocks` in the manifest). What had come between them by then grew evenly, so each time is
moved by its share. Records stay as they were written; this is for the figures made of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from tokenswarm.analysis.columns import Columns, Floats, Texts, run_seconds
from tokenswarm.analysis.requests import Requests
from tokenswarm.clock import NS, Clocks

STEADY = 500e-6  # seconds a second: faster than that a clock was set, and did not drift


@dataclass(frozen=True, slots=True)
class Drift:
    """What had come between two clocks by `last_s`, in ns, since `first_s` (run seconds)."""

    first_s: float
    last_s: float
    gained_ns: int

    def at(self, when_s: Floats) -> Floats:
        """Seconds to add at each of these times."""
        share = (when_s - self.first_s) / (self.last_s - self.first_s)
        return np.asarray(share * (self.gained_ns / NS), dtype=np.float64)


def drifts(clocks: Mapping[str, Clocks], routes: Mapping[str, str]) -> dict[str, Drift]:
    """By source, where two clocks surely ran apart: by more than both comparisons' uncertainty.

    `clocks` and `routes` are a manifest's: `worker W0` is source W0, `agent HOST:PORT` stands for
    every source that took that way.
    """
    found: dict[str, Drift] = {}
    for name, compared in clocks.items():
        drift = _drift(compared)
        if drift is None:
            continue
        kind, _, rest = name.partition(" ")
        sources = [rest] if kind == "worker" else [s for s, way in routes.items() if way == name]
        found |= dict.fromkeys(sources, drift)
    return found


def _drift(c: Clocks) -> Drift | None:
    gained_ns, passed_s = c.last.offset_ns - c.first.offset_ns, c.last_s - c.first_s
    unsure_ns = c.first.uncertainty_ns + c.last.uncertainty_ns
    if passed_s <= 0 or abs(gained_ns) <= unsure_ns or abs(gained_ns) > STEADY * passed_s * NS:
        return None
    return Drift(c.first_s, c.last_s, gained_ns)


def added(sources: Texts, when_s: Floats, found: Mapping[str, Drift]) -> Floats:
    """Seconds to add to each row's times, by its source."""
    out = np.zeros(len(when_s))
    for source, drift in found.items():
        rows = np.asarray(sources == source, dtype=np.bool_)
        out[rows] = drift.at(when_s[rows])
    return out


def moved(columns: Columns, t0_unix_ns: int, found: Mapping[str, Drift]) -> Columns:
    """Columns of a telemetry measurement with `time_ns` on the master's clock."""
    if not found or "spool_source" not in columns or not len(columns["time_ns"]):
        return columns
    sources = np.asarray(columns["spool_source"], dtype=object)
    add_s = added(sources, run_seconds(columns, t0_unix_ns), found)
    return {**columns, "time_ns": columns["time_ns"] + np.rint(add_s * NS).astype(np.int64)}


def moved_requests(table: Requests, workers: Texts, found: Mapping[str, Drift]) -> Requests:
    """Requests with their stamps on the master's clock. `workers`: of each request."""
    if not found:
        return table
    add_s = added(workers, table.t_end, found)
    names = ("t_intended", "t_sent", "t_first", "t_last", "t_end", "waited_until", "came_in")
    return replace(table, **{name: getattr(table, name) + add_s for name in names})
