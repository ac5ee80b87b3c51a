"""The shapes of scenario files as Locust's shape classes, for locustfiles of one's own.

Subclass one and set `users`, `duration_s` and its shape: Locust then starts and stops users so.
"""

from locust import LoadTestShape

from typing import ClassVar

from tokenswarm.scenario.level import Level, level_of
from tokenswarm.scenario.model import RampShape, Shape, SoakShape, SpikeShape, StepsShape


class LevelShape(LoadTestShape):
    """`users` at level 1, for `duration_s` seconds; `spawn_rate` users start or stop a second."""

    abstract = True
    users: ClassVar[int] = 1
    duration_s: ClassVar[float] = 60.0
    spawn_rate: ClassVar[float] = 100.0

    def shape(self) -> Shape:
        """The shape to play."""
        raise NotImplementedError

    def tick(self) -> tuple[int, float] | None:
        """How many users there are to be now; None: the end."""
        now_s: float = self.get_run_time()  # type: ignore[no-untyped-call]
        if now_s >= self.duration_s:
            return None
        return round(self._level().at(now_s) * self.users), self.spawn_rate

    def _level(self) -> Level:
        found: Level | None = self.__dict__.get("_known_level")
        if found is None:
            found = level_of(self.shape(), self.duration_s)
            assert found is not None
            self._known_level = found
        return found


class Ramp(LevelShape):
    """From the level `start` to `end` in `over_s` seconds."""

    abstract = True
    start: ClassVar[float] = 0.0
    end: ClassVar[float] = 1.0
    over_s: ClassVar[float] = 30.0

    def shape(self) -> Shape:
        return RampShape(start=self.start, end=self.end, over_s=self.over_s)


class Steps(LevelShape):
    """Each of `levels` for `each_s` seconds."""

    abstract = True
    levels: ClassVar[tuple[float, ...]] = (0.25, 0.5, 0.75, 1.0)
    each_s: ClassVar[float] = 15.0

    def shape(self) -> Shape:
        return StepsShape(levels=list(self.levels), each_s=self.each_s)


class Spike(LevelShape):
    """The level `base`, and 1 from `at_s` for `for_s` seconds, again every `every_s`."""

    abstract = True
    base: ClassVar[float] = 0.1
    at_s: ClassVar[float] = 20.0
    for_s: ClassVar[float] = 10.0
    every_s: ClassVar[float | None] = None

    def shape(self) -> Shape:
        return SpikeShape(base=self.base, at_s=self.at_s, for_s=self.for_s, every_s=self.every_s)


class Soak(LevelShape):
    """Up in `ramp_s`, there for long, and down in `ramp_s`."""

    abstract = True
    ramp_s: ClassVar[float] = 10.0

    def shape(self) -> Shape:
        return SoakShape(ramp_s=self.ramp_s)
