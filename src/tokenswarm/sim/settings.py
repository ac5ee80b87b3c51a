"""Knobs in force: the profile's, changed while the simulation runs."""

from typing import Any

import msgspec

from tokenswarm.sim import knobs as knob
from tokenswarm.sim.knobs import Knobs, ProfileError
from tokenswarm.sim.profile import Profile


class KnobBoard:
    """A model's own knobs go over the server's. Durations are divided by `speed`."""

    def __init__(self, profile: Profile, speed: float):
        self.speed = speed
        self._server = dict(profile.knobs)
        self._models = {m.name: dict(m.knobs) for m in profile.models}
        self._in_force: dict[str, Knobs] = {}

    @property
    def refuse(self) -> bool:
        return bool(self._server.get("refuse"))

    def of(self, model: str) -> Knobs:
        """What holds for requests to `model`."""
        if model not in self._in_force:
            merged = {**self._server, **self._models.get(model, {})}
            self._in_force[model] = _faster(knob.parse(merged), self.speed)
        return self._in_force[model]

    def replace(self, model: str | None, values: dict[str, Any]) -> None:
        """Replace the server's knobs (model None) or one model's; {} resets. ProfileError."""
        knob.parse(values)
        if model is None:
            self._server = dict(values)
        elif model in self._models:
            self._models[model] = dict(values)
        else:
            raise ProfileError(f"no model {model!r}; there are {', '.join(self._models)}")
        self._in_force.clear()

    def as_json(self) -> dict[str, Any]:
        return {"server": self._server, "models": {m: k for m, k in self._models.items() if k}}


def _faster(knobs: Knobs, speed: float) -> Knobs:
    stall = knobs.stall_at
    if stall is not None:
        stall = msgspec.structs.replace(stall, for_s=stall.for_s / speed)
    slow = knobs.slow_headers_s / speed
    return msgspec.structs.replace(knobs, stall_at=stall, slow_headers_s=slow)
