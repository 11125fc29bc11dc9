"""When to poll, and how long to wait after trouble."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import iscoroutinefunction
from itertools import islice
from math import inf
from typing import Literal

from backoff import expo  # pyright: ignore[reportUnknownVariableType] -- its generators are not fully annotated

from ..errors import UsageError
from .hazard import UNKNOWN, Hazard
from .intervals import Adaptive, Exponential, Fixed, Schedule

logger = logging.getLogger("agentbg")

Draw = Callable[[], float]
"""A source of random numbers in [0, 1)."""

SPREAD = 2.0
"""Seconds over which polls are spread that would come together, as after a hint that all are given: 2,000 runs then
make 100 polls in any 100 ms. Shorter intervals are spread over their own length."""
FLOOR_SPREAD = 0.1
"""The share by which a service's own floor may be exceeded: many clients are told the same, at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential backoff: `initial`, doubling, at most `maximum` seconds; half of each delay is random.

    For retries, where many clients fail together and must not come back together. The doubling is `backoff.expo`.
    """

    initial: float = 1.0
    maximum: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.initial <= self.maximum:
            raise UsageError(f"Backoff needs 0 < initial <= maximum, not {self.initial} and {self.maximum}.")

    def delay(self, failures: int, draw: Draw, floor: float | None = None) -> float:
        """Seconds to wait after `failures` failures in a row (1 or more); never below the service's own `floor`, and
        spread above it."""
        half = next(islice(expo(factor=self.initial, max_value=self.maximum), failures, None)) / 2
        floor = floor or 0.0
        return max(half, floor) + max(half, floor * FLOOR_SPREAD) * draw()


@dataclass(frozen=True, slots=True, kw_only=True)
class PollPolicy:
    """When to ask the service how a run stands. All times are in seconds.

    `schedule` says how long to wait between two polls, given the run's age since the answer to its start:

    - `"exponential"`: `initial + growth * age`. The delay in seeing a result stays a fixed share of the run's length.
    - `"fixed"`: `initial`, always.
    - `"adaptive"`: often when runs of the same agent and model have been seen to end, seldom when not. One number sets
      it: `poll_cost_seconds`, how long a wait one request is worth. A runtime learns from its runs, and keeps what it
      has learned in its store; while nothing is known the interval grows with the square root of the age.
    - an object of your own with the method of `Schedule`.

    What it says is kept between `initial` and `maximum`. `jitter` spreads each interval by that share up and down. The
    first poll comes at a random moment of the first interval, so that runs submitted together are polled apart. The
    service's word comes first: its hint, and its Retry-After, are floors, up to `hint_maximum` seconds; what they delay
    is spread above them.

    The defaults need 24 polls for a mean delay of 2.1 s over chats and deep research (`benchmarks/bench_polling.py`).
    A jitter of 15 % makes the mean delay longer by less than 1 %.
    """

    schedule: Literal["exponential", "fixed", "adaptive"] | Schedule = "exponential"
    poll_cost_seconds: float = 0.2
    """For `"adaptive"`: with 0.2, five requests are worth a second's wait for a result."""
    initial: float | None = None
    """None stands for 0.5, and for 2 when fixed."""
    growth: float = 0.1
    """For `"exponential"`."""
    maximum: float | None = None
    """None stands for 15, and for 60 where the schedule may know ages at which no run ends: adaptive, or your own."""
    jitter: float = 0.15
    hint_maximum: float = 300.0
    faults: Backoff = Backoff()
    """Between polls that fail. A failed poll is not a failed run."""
    missing_grace: float = 60.0
    """How long after the service last knew the run a 404 counts as "not yet": some services need up to 33 s."""
    max_age: float | None = 86_400.0
    """A run that is older expires: nothing waits for ever. None for no bound. Of a run that was taken up by its token,
    the age counts from then."""
    stall_after: float = 900.0
    """A live run that shows no change for so long counts as stalled."""
    safety: float = 120.0
    """Between the polls of a run whose end is announced, by a webhook to a runtime with `webhooks=True`: they are for
    announcements that are lost. Half of each delay is random."""

    _plan: Schedule = field(init=False, repr=False, compare=False)
    shortest: float = field(init=False, repr=False, compare=False)
    """The shortest interval: `initial`, or what it stands for."""
    longest: float = field(init=False, repr=False, compare=False)
    """The longest interval: `maximum`, or what it stands for."""

    def __post_init__(self) -> None:
        shortest = self.initial if self.initial is not None else 2.0 if self.schedule == "fixed" else 0.5
        usual = 15.0 if self.schedule in ("exponential", "fixed") else 60.0
        longest = self.maximum if self.maximum is not None else max(usual, shortest)
        if not 0 < shortest <= longest < inf:
            raise UsageError(
                f"PollPolicy needs 0 < initial <= maximum, neither of them infinite, not {shortest} and {longest}."
            )

        if not self.growth >= 0 or not 0 <= self.jitter < 1:
            raise UsageError(f"PollPolicy needs growth >= 0 and 0 <= jitter < 1, not {self.growth} and {self.jitter}.")

        if not 0 < self.poll_cost_seconds < inf:
            raise UsageError(
                f"PollPolicy needs poll_cost_seconds > 0: how long a wait one request is worth, not "
                f"{self.poll_cost_seconds}."
            )

        if self.hint_maximum < 0 or self.missing_grace < 0:
            raise UsageError("PollPolicy needs hint_maximum >= 0 and missing_grace >= 0.")

        if not 0 < self.safety < inf:
            raise UsageError(f"PollPolicy needs safety > 0, and not infinite, not {self.safety}.")

        if self.stall_after <= 0 or (self.max_age is not None and self.max_age <= 0):
            raise UsageError("PollPolicy needs stall_after > 0 and max_age > 0, or None for no bound.")

        for name, value in (("shortest", shortest), ("longest", longest), ("_plan", self._made(shortest))):
            object.__setattr__(self, name, value)

    def first(self, draw: Draw, hint: float | None = None, hazard: Hazard = UNKNOWN) -> float:
        """Seconds from the answer to a start to the first poll."""
        part, floor = draw(), self._floor(hint)
        own = self._jittered(self._phase(part, hazard), draw())
        return max(own, floor + self._spread(0.0, hazard) * part) if floor else own

    def again(self, age: float, draw: Draw, hint: float | None = None, hazard: Hazard = UNKNOWN) -> float:
        """Seconds from taking a run up again to its next poll: soon, for it may have ended while nobody looked."""
        return self._floor(hint) + self._spread(age, hazard) * draw()

    def interval(self, age: float, draw: Draw, hint: float | None = None, hazard: Hazard = UNKNOWN) -> float:
        """Seconds to the next poll of a run that is `age` seconds old."""
        chance = draw()
        own = self._jittered(self._own(age, hazard), chance)
        return max(own, self._floor(hint) * (1 + self.jitter * chance))

    def safely(self, silence: float, draw: Draw, hint: float | None = None) -> float:
        """Seconds to the next poll of a run whose end is announced, `silence` seconds after the last word of it: as
        long again, up to `safety`. A service may announce an end before all of it shows it."""
        chance = draw()
        own = min(self.shortest + max(silence, 0.0), max(self.safety, self.shortest)) * (1 + chance) / 2
        return max(own, self._floor(hint) * (1 + self.jitter * chance))

    def after_fault(self, failures: int, draw: Draw, retry_after: float | None = None) -> float:
        """Seconds to the next try after `failures` polls in a row have failed."""
        return self.faults.delay(failures, draw, self._floor(retry_after))

    def after_refusal(self, draw: Draw) -> float:
        """Seconds to the next try after a refusal that will not pass by itself."""
        return self._jittered(self.longest, draw())

    def _own(self, age: float, hazard: Hazard) -> float:
        try:
            seconds = self._plan.interval(max(age, 0.0), hazard)
            return max(min(self.longest, seconds), self.shortest)  # in this order no number at all is the longest, too
        except Exception:  # a user's: it is to cost no run its poll
            logger.warning("%r gave no interval; the longest is taken", self.schedule, exc_info=True)
            return self.longest

    def _phase(self, part: float, hazard: Hazard) -> float:
        """A part of the first interval. Where hardly a run ends that early, it is spent late in the interval."""
        if isinstance(self._plan, Adaptive):
            part = self._plan.reach(0.0, part, hazard) / self._plan.reach(0.0, 1.0, hazard)

        return part * self._own(0.0, hazard)

    def _spread(self, age: float, hazard: Hazard) -> float:
        return min(self._own(age, hazard), SPREAD)

    def _jittered(self, seconds: float, chance: float) -> float:
        return seconds * (1 + self.jitter * (2 * chance - 1))

    def _floor(self, hint: float | None) -> float:
        return min(hint, self.hint_maximum) if hint is not None and hint > 0 else 0.0

    def _made(self, shortest: float) -> Schedule:
        match self.schedule:
            case "exponential":
                return Exponential(shortest, self.growth)
            case "fixed":
                return Fixed(shortest)
            case "adaptive":
                return Adaptive(self.poll_cost_seconds)
            case own if not isinstance(own, str | type) and callable(method := getattr(own, "interval", None)):
                if iscoroutinefunction(method):
                    raise UsageError(f"interval of {own!r} is async, and would never run: make it a plain method.")

                return own
            case other:
                raise UsageError(
                    f"PollPolicy needs a schedule: 'exponential', 'fixed', 'adaptive', or an object with a method "
                    f"interval(age, hazard) -> seconds, not {other!r:.80}."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPolicy:
    """How a stream is kept alive. All times are in seconds."""

    idle: float = 75.0
    """Silence for so long means that the connection is dead. OpenAI sends a keepalive about every 30 s."""
    quiet: float = 120.0
    """Nothing but keepalives for so long: ask once by a poll whether the run has ended."""
    attempts: int = 5
    """Connections in a row that bring no more of the answer, until the run is only polled."""
    reconnect: Backoff = Backoff(initial=0.2, maximum=15.0)
    """Between connections that bring nothing new."""
    spread: float = 0.1
    """One that brought something is followed by the next at a random moment within so long: nobody feels it, and
    thousands of streams that a proxy's restart has cut do not come back in one instant."""

    def __post_init__(self) -> None:
        if self.idle <= 0 or self.quiet <= 0 or self.attempts < 1 or not self.spread >= 0:
            raise UsageError("StreamPolicy needs idle > 0, quiet > 0, attempts >= 1 and spread >= 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often a call is sent again, within one `submit`, `run` or `cancel`. All times are in seconds.

    A start is sent again only when the first surely did no work at the service (see `ServiceUnavailable.unsent`).
    Polls of a runtime are not its business: they go by their `PollPolicy`, for as long as the run goes on.
    """

    attempts: int = 4
    """Tries of one call, the first included."""
    backoff: Backoff = Backoff(initial=0.5, maximum=8.0)
    patience: float = 30.0
    """A service that asks for more time than this is not waited for."""
    answer: float = 120.0
    """A poll or a cancel must be answered within this time: a client's own time-outs are per read, and a trickle of
    bytes resets them."""
    settling: float = 35.0
    """A start that the service refuses because it does not know the run before it (`PreviousRunNotFound`), or because
    another run is at work on the conversation (`ConversationLocked`), is sent again for so long, however many
    `attempts` that takes: Azure needs up to 33 s until it can read a streamed run."""

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.patience < 0 or self.answer <= 0 or self.settling < 0:
            raise UsageError("RetryPolicy needs attempts >= 1, patience >= 0, answer > 0 and settling >= 0.")
