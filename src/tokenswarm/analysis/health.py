"""Can the measurement be trusted: did the generator keep up, and is every record there?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tokenswarm.analysis.columns import Columns, Floats, floats, texts
from tokenswarm.analysis.figures import GeneratorFigures
from tokenswarm.analysis.percentiles import percentiles
from tokenswarm.analysis.requests import Requests

STALL_S = 0.25
"""The kernel stamps what arrives, so a loop that stands still moves no stamp; it delays what is
sent next. From here on that changes the load itself. (An open loop counts late starts besides.)"""
STALLED_SHARE = 0.05
STALLED_LEAST_S = 3
"""A hiccup of the host is stated; stalls in so many seconds, and so large a share of them, mean
that the generator could not keep up."""
FULL_RATIO = 0.9
FULL_SHARE = 0.2
FULL_LEAST_S = 3
"""A generator that runs, or waits to run, nearly all the time sends when it can."""
LATE_SHARE = 0.05
LATE_LEAST = 3
"""Open loop: with more late starts than this the load was not the one that was asked for."""


@dataclass(frozen=True, slots=True)
class Source:
    """What one source left behind: rows found, rows missing in between, damages in words, rows
    it said it had written when it ended (None: it never said), time of its last row."""

    name: str
    rows: int
    missing: int = 0
    damages: tuple[str, ...] = ()
    ended: int | None = None
    last_s: float | None = None


def generator_figures(
    requests: Requests, generator: Columns, sources: Sequence[Source]
) -> GeneratorFigures:
    """Figures of the load generator's own health. `sources` are its workers'."""
    workers = {*texts(generator, "worker"), *(s.name for s in sources)}
    return GeneratorFigures(
        workers=len(workers),
        loop_lag_s=percentiles(floats(generator, "loop_lag_s")),
        full_s=int(np.count_nonzero(_busy(generator) > FULL_RATIO)),
        self_delay_s=percentiles(self_delay_s(requests)),
        stalled_s=int(np.count_nonzero(floats(generator, "loop_lag_s") > STALL_S)),
        late_starts=int(np.nansum(floats(generator, "late_starts"))),
        late_max_s=_max(floats(generator, "late_max_s")),
        cpu_ratio_max=_max(floats(generator, "cpu_ratio")),
        records=len(requests),
        dropped=_dropped(generator),
        lost=lost(sources),
    )


def _busy(generator: Columns) -> Floats:
    """Share of each second in which it ran or stood in line for a processor."""
    waited = np.nan_to_num(floats(generator, "cpu_wait_ratio"))
    return np.asarray(np.nan_to_num(floats(generator, "cpu_ratio")) + waited, dtype=np.float64)


def self_delay_s(requests: Requests) -> Floats:
    """What each request waited in the generator; NaN for those never sent."""
    waited = requests.t_sent - requests.t_intended - np.nan_to_num(requests.connect)
    return np.asarray(np.maximum(waited, 0.0), dtype=np.float64)


def _max(values: Floats) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.max()) if len(known) else None


def _dropped(generator: Columns) -> int:
    """Records lost so far is a counter of each worker: its last word is its largest."""
    worker, dropped = texts(generator, "worker"), floats(generator, "records_dropped")
    return sum(int(_max(dropped[worker == w]) or 0) for w in set(worker))


def lost(sources: Sequence[Source]) -> str | None:
    """What is known to be missing, in words; None when every source reported its end and all
    rows that it wrote are here."""
    said = [text for s in sources if (text := _lost(s))]
    return "; ".join(said) or None


def _lost(s: Source) -> str:
    parts = []
    if s.ended is None:
        last = "it left no row" if s.last_s is None else f"its last row is at {s.last_s:.1f} s"
        parts.append(f"it never reported its end, {last}, what it had not written by then is lost")
    elif s.rows < s.ended:
        parts.append(f"{s.ended - s.rows} of {s.ended} rows are not here")
    elif s.missing:
        parts.append(f"{s.missing} rows are missing in between")
    return f"{s.name}: {'; '.join([*parts, *s.damages])}" if parts or s.damages else ""


def invalid(requests: Requests, figures: GeneratorFigures, sources: Sequence[Source]) -> list[str]:
    """Why the measurement is not valid; empty when it is.

    - no request ended ok, so there is nothing to measure;
    - the generator dropped records, or a source that did report its end wrote rows that are not
      here and no gap or damage says where they went (a source that was killed states its loss
      instead, and does not make the rest of the run invalid).
    """
    reasons = []
    if not requests.ok.any():
        reasons.append(f"none of {len(requests)} requests ended ok")
    if figures.dropped:
        reasons.append(f"the generator dropped {figures.dropped} records")
    return reasons + [
        f"{s.name}: {s.ended - s.rows} rows are gone without a trace"
        for s in sources
        if s.ended is not None and s.rows < s.ended and not (s.missing or s.damages)
    ]


def client_bound(
    requests: Requests, figures: GeneratorFigures, load: Mapping[str, object] | None
) -> list[str]:
    """Why the generator shaped the result, each with the remedy; empty when it did not.

    - its loop stood still for over 250 ms in at least 3 seconds and in more than 5 % of all;
    - it used, or waited for, more than 90 % of a processor in at least 3 seconds and in more than
      20 % of all;
    - in an open loop more than 5 % of the requests, and at least 3, were sent over 10 ms late.
    """
    reasons = []
    seconds = figures.loop_lag_s.n
    if figures.stalled_s >= STALLED_LEAST_S and figures.stalled_s > STALLED_SHARE * seconds:
        reasons.append(
            "the generator could not keep up: its loop stood still for over "
            f"{STALL_S * 1e3:.0f} ms in {figures.stalled_s} of {seconds} seconds; "
            "use more workers or fewer users"
        )
    if figures.full_s >= FULL_LEAST_S and figures.full_s > FULL_SHARE * seconds:
        reasons.append(
            "the generator could not keep up: a worker used or waited for over "
            f"{FULL_RATIO:.0%} of a processor in {figures.full_s} of {seconds} seconds; "
            "use more workers, or a host with more processors to spare"
        )
    return reasons + _late(requests, figures, load)


def _late(
    requests: Requests, figures: GeneratorFigures, load: Mapping[str, object] | None
) -> list[str]:
    open_loop = load is not None and load.get("kind") in ("open", "trace")
    if not (open_loop and len(requests)):
        return []
    share = figures.late_starts / len(requests)
    if share <= LATE_SHARE or figures.late_starts < LATE_LEAST:
        return []
    return [
        f"{share:.0%} of the requests were sent over 10 ms late (bound {LATE_SHARE:.0%}): the "
        "load was not the one asked for; use more workers, or raise max_in_flight"
    ]
