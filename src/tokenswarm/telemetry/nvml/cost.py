"""What each NVML call costs on this host."""

import statistics
import time
from typing import Any

import msgspec

from tokenswarm.telemetry.nvml.card import Card, fast_calls
from tokenswarm.telemetry.nvml.slow import FIELDS

FAST_CALLS = 200
SLOW_CALLS = 5
BUDGET_S = 0.2  # for one call: a driver that takes longer is asked less often


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """One call, `calls` times on one card. Times are None where the card lacks it."""

    call: str
    tier: str
    calls: int
    median_s: float | None = None
    max_s: float | None = None


def calibrate(cards: tuple[Card, ...], nvml: Any, *, pcie: bool) -> tuple[Cost, ...]:
    """Costs of every call on the first card that answers; nothing when none does."""
    card = next((c for c in cards if not c.device.lost), None)
    if card is None:
        return ()
    fast = fast_calls(nvml)
    costs = [_cost(card, figure, (), "fast", FAST_CALLS) for figure in fast]
    costs += [
        _cost(card, figure, more, "slow", SLOW_CALLS)
        for figure, more in _slow_arguments(pcie=pcie).items()
    ]
    return tuple(costs)


def _slow_arguments(*, pcie: bool) -> dict[str, tuple[Any, ...]]:
    """What each slow call takes beyond the handle. Samples since 0: the whole buffer."""
    figures: dict[str, tuple[Any, ...]] = {
        "fields": (list(FIELDS),),
        "energy": (),
        "power samples": (0,),
        "utilisation samples": (0,),
        "temperature": (),
        "ECC corrected": (),
        "ECC uncorrected": (),
    }
    return figures | ({"PCIe sent": (), "PCIe received": ()} if pcie else {})


def _cost(card: Card, figure: str, more: tuple[Any, ...], tier: str, calls: int) -> Cost:
    took: list[float] = []
    while len(took) < calls and sum(took) < BUDGET_S:
        began = time.perf_counter()
        answer = card.device.ask(figure, *more)
        took.append(time.perf_counter() - began)
        if answer is None:
            return Cost(call=figure, tier=tier, calls=len(took))
    return Cost(
        call=figure, tier=tier, calls=len(took), median_s=statistics.median(took), max_s=max(took)
    )
