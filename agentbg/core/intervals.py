"""The schedules that poll policies go by: how long to wait between two polls of a run, given its age."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Protocol

from .hazard import Hazard


class Schedule(Protocol):
    """When to poll next: a function of a run's age, and of what is known of such runs.

    It is asked once per poll, inside the run's machine, so it neither waits nor draws random numbers. `PollPolicy` adds
    the jitter, heeds the service's hints, and keeps the interval between its `initial` and its `maximum`; in the place
    of an answer that is no number, or of none because of an exception, it takes the maximum.
    """

    def interval(self, age: float, hazard: Hazard) -> float:
        """Seconds from one poll to the next, of a run that is `age` seconds old.

        `hazard.rate(age)` is the rate at which runs of the same agent and model end, as far as it is known.
        """
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """The same interval always."""

    seconds: float

    def interval(self, age: float, hazard: Hazard) -> float:  # noqa: ARG002
        """The interval; neither the age nor the hazard matters."""
        return self.seconds


@dataclass(frozen=True, slots=True)
class Exponential:
    """Intervals that grow with age: `initial + growth * age`.

    That is the closed form of an exponential backoff with base `1 + growth`, so the delay in seeing a result stays a
    fixed share of the run's length (about half of `growth`); as a function of age alone it needs no memory and survives
    a restart.
    """

    initial: float
    growth: float

    def interval(self, age: float, hazard: Hazard) -> float:  # noqa: ARG002
        """The interval at this age; the hazard does not matter."""
        return self.initial + self.growth * age


@dataclass(frozen=True, slots=True)
class Adaptive:
    """Polls where ends are likely: sqrt(h / 2k) polls per second, h being the hazard, k `poll_cost_seconds`.

    Where a poll is worth a wait of k seconds, this density has, asymptotically, the least cost of polls and waiting
    together (Keller, "Optimum checking schedules for systems subject to random failure", Management Science 21, 1974).
    The next poll is due when the density, integrated over the run's age, has come to one poll. With the true hazard
    that is within half a percent of the exact optimum; an interval of sqrt(2k / h) seconds, by the hazard at the poll's
    own age, walks past ages at which many runs end.
    """

    poll_cost_seconds: float

    def interval(self, age: float, hazard: Hazard) -> float:
        """The time in which the density comes to one poll."""
        return self.reach(age, 1.0, hazard)

    def reach(self, age: float, polls: float, hazard: Hazard) -> float:
        """The time in which the density comes to so many polls, or to such a part of one."""
        at, left = age, polls
        for rate, until in hazard.pieces(age):
            density = sqrt(rate / (2 * self.poll_cost_seconds))
            share = density * (until - at)
            if share >= left:
                return at - age + left / density

            at, left = until, left - share

        raise AssertionError("the last piece has no end")
