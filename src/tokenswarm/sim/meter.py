"""The GPU's gauges: utilisation, power, energy, clock, temperature."""

import math
from typing import Any

from tokenswarm.sim.profile import GpuSpec

IDLE_BIT = 0x1  # nvmlClocksEventReasonGpuIdle
COPY_UTIL = 0.08  # copying weights keeps few SMs busy


class Meter:
    """Utilisation follows the load with a lag of `util_window_s`; the others follow it."""

    def __init__(self, spec: GpuSpec, now: float):
        self._spec = spec
        self._at = now
        self._target = 0.0
        self._util = 0.0
        self._heat = 0.0
        self._energy_j = 0.0

    def set_load(self, streams: int, loading: bool, now: float) -> None:
        """`streams` decode from now on; `loading`: weights are being copied."""
        self._advance(now)
        busy = 1 - 0.4 / streams if streams else 0.0
        self._target = max(busy, COPY_UTIL if loading else 0.0)

    def read(self, now: float) -> dict[str, Any]:
        self._advance(now)
        spec, util = self._spec, self._util
        idle = util < 0.01
        warmth = spec.max_temperature_c - spec.idle_temperature_c
        return {
            "util_ratio": round(util, 4),
            "mem_util_ratio": round(0.7 * util, 4),
            "power_w": round(self._power_w(util), 3),
            "energy_j": round(self._energy_j, 6),
            "sm_clock_hz": spec.idle_clock_hz if idle else spec.max_clock_hz,
            "temperature_c": round(spec.idle_temperature_c + warmth * self._heat, 1),
            "throttle_bits": IDLE_BIT if idle else 0,
        }

    def _power_w(self, util: float) -> float:
        return self._spec.idle_power_w + (self._spec.max_power_w - self._spec.idle_power_w) * util

    def _advance(self, now: float) -> None:
        """Exponential approach to the target; energy is the exact integral of the power."""
        passed = max(0.0, now - self._at)
        self._at = max(now, self._at)
        keep = math.exp(-passed / self._spec.util_window_s)
        # the integral of target + (util - target) e^(-t/window)
        util_s = self._target * passed
        util_s += (self._util - self._target) * self._spec.util_window_s * (1 - keep)
        span_w = self._spec.max_power_w - self._spec.idle_power_w
        self._energy_j += self._spec.idle_power_w * passed + span_w * util_s
        self._util = self._target + (self._util - self._target) * keep
        self._heat += (self._util - self._heat) * (1 - math.exp(-passed / self._spec.heat_up_s))
