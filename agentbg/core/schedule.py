"""When to poll, and how long to wait after trouble."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from backoff import expo  # pyright: ignore[reportUnknownVariableType] -- its generators are not fully annotated

from ..errors import UsageError

Draw = Callable[[], float]
"""A source of random numbers in [0, 1)."""


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
        """Seconds to wait after `failures` failures in a row (1 or more); never below the service's own `floor`."""
        whole = next(islice(expo(factor=self.initial, max_value=self.maximum), failures, None))
        return max(whole * (0.5 + 0.5 * draw()), floor or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PollPolicy:
    """When to ask the service how a run stands.

    The interval grows with the run's age: `initial + growth * age`, at most `maximum` seconds. That is the closed form
    of an exponential backoff with base `1 + growth`, so the delay in seeing a result stays a fixed share of the run's
    length (about half of `growth`); as a function of age alone it needs no memory and survives a restart.

    The first poll comes at a random moment of the first interval, so that runs submitted together are polled apart;
    `jitter` spreads each later interval by that share up and down. The service's word comes first: its hint, and its
    Retry-After, are floors, up to `hint_maximum` seconds.

    The defaults are those of a simulation over chats and deep research (0.5 s, x1.1, cap 15 s: 23 polls for a mean
    delay of 2.1 s); the jitter of 15 % is from the same study. All times are in seconds.
    """

    initial: float = 0.5
    growth: float = 0.1
    maximum: float = 15.0
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

    def __post_init__(self) -> None:
        if not 0 < self.initial <= self.maximum:
            raise UsageError(f"PollPolicy needs 0 < initial <= maximum, not {self.initial} and {self.maximum}.")

        if not self.growth >= 0 or not 0 <= self.jitter < 1:
            raise UsageError(f"PollPolicy needs growth >= 0 and 0 <= jitter < 1, not {self.growth} and {self.jitter}.")

        if self.hint_maximum < 0 or self.missing_grace < 0:
            raise UsageError("PollPolicy needs hint_maximum >= 0 and missing_grace >= 0.")

        if self.stall_after <= 0 or (self.max_age is not None and self.max_age <= 0):
            raise UsageError("PollPolicy needs stall_after > 0 and max_age > 0, or None for no bound.")

    def first(self, draw: Draw, hint: float | None = None) -> float:
        """Seconds from the start, or from taking a run up again, to the first poll."""
        return self._floored(self.initial * draw(), hint)

    def interval(self, age: float, draw: Draw, hint: float | None = None) -> float:
        """Seconds to the next poll of a run that is `age` seconds old."""
        base = min(self.initial + self.growth * max(age, 0.0), self.maximum)
        return self._floored(base * (1 + self.jitter * (2 * draw() - 1)), hint)

    def after_fault(self, failures: int, draw: Draw, retry_after: float | None = None) -> float:
        """Seconds to the next try after `failures` polls in a row have failed."""
        floor = None if retry_after is None else min(retry_after, self.hint_maximum)
        return self.faults.delay(failures, draw, floor)

    def _floored(self, own: float, hint: float | None) -> float:
        return own if hint is None else max(own, min(hint, self.hint_maximum))


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
    """Between connections that bring nothing new. One that did is followed by the next at once."""

    def __post_init__(self) -> None:
        if self.idle <= 0 or self.quiet <= 0 or self.attempts < 1:
            raise UsageError("StreamPolicy needs idle > 0, quiet > 0 and attempts >= 1.")


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
