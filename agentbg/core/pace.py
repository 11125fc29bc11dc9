"""How fast a service may be asked, by how it answers: it is not to be hammered while it is in trouble, nor when it is
back.

The rules. All times are in seconds, by one clock:

1. A service that is well is asked as fast as the budget allows.
2. **A refusal** (429, or 503 with Retry-After) pauses everything for as long as the service wishes, and up to a tenth
   longer; without a wish, by a backoff. Then it is asked at half the rate that was too much.
3. **Down** is a service when `MANY` different runs in a row were not answered: a connection that fails, a time-out,
   5xx, garbage. One run's own trouble is not the service's, and where fewer runs wait there is no herd. Everything
   pauses, by a backoff. Then it is asked at a tenth of the rate that was.
4. After each pause at most `TRIES` requests are under way, until one of them is answered; when they fail as those
   before, another pause follows. What was sent before a pause says nothing about the time after it: but an answer shows
   that a service is not down, and a refusal may wish for a longer pause.
5. **Recovery** is gradual: each answer adds `GAIN` to the rate, so that one that is used in full grows by a tenth per
   second. Once a minute has passed since the pause, and nobody waits, there is no limit any more.
"""

from __future__ import annotations

from math import exp, inf

from .schedule import Backoff, Draw

MANY = 8
"""Different runs in a row without an answer. Where one run in five is sick, that is an accident of one in 400,000."""
TRIES = 3
GAIN = 0.1
FLOOR = 1.0
"""Requests per second that recovery begins with, at least."""
CALM = 60.0
LONGEST_PAUSE = 300.0
"""No wish for a longer one is heeded in full; after it the service is asked, and may wish again."""
SPREAD = 0.1
"""Other processes that were told the same are not to come back in the same moment."""
BACKOFF = Backoff(initial=1.0, maximum=30.0)
_SPAN = 2.0


class Tempo:
    """How often something happens: the mean of the last seconds, the latest counting most."""

    def __init__(self) -> None:
        self._level = 0.0
        self._at = 0.0

    def note(self, now: float) -> None:
        """It happened."""
        self._level = self._level * exp((self._at - now) / _SPAN) + 1.0
        self._at = now

    def per_second(self, now: float) -> float:
        """How often it happens in a second."""
        return self._level * exp((self._at - now) / _SPAN) / _SPAN


class Pace:
    """The pace of one service."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self.tempo = Tempo()
        self.rate = inf
        """Requests per second that it may be asked."""
        self.not_before = -inf
        """When its pause ends, or ended."""
        self.down = False
        self.era = 0
        """Grows by one with each pause."""
        self._pauses = 0  # in a row, without an answer
        self._trying = 0  # under way since the last pause, until there is an answer
        self._failing: set[str] = set()  # the runs that were not answered since the last answer
        self._began_with = 0.0  # the rate of this recovery's beginning

    @property
    def may_try(self) -> bool:
        """False while those under way are to tell first whether the service is back."""
        return not self._pauses or self._trying < TRIES

    def sent(self, now: float) -> int:
        """A request is sent: the era that it belongs to."""
        self.tempo.note(now)
        self._trying += self._pauses > 0
        return self.era

    def withdrawn(self, era: int) -> None:
        """A request ended, and nobody knows what would have come of it. Also comes before each of the others."""
        self._trying -= self._trying > 0 and era == self.era

    def answered(self, era: int, now: float, *, waiting: bool) -> None:
        """A request was answered, if with a no. `waiting` says whether others wait for their turn."""
        self._failing.clear()
        if self.rate == inf or (era < self.era and not self.down):
            return

        if self.down:
            self.down, self.not_before = False, now

        self._pauses = self._trying = 0
        self.rate += GAIN
        if not waiting and now - self.not_before > CALM:
            self.rate, self._began_with = inf, 0.0

    def refused(self, era: int, now: float, wish: float | None) -> None:
        """A request was not taken: there are too many, or the service has no time."""
        self._failing.clear()
        pause = None if wish is None else min(wish, LONGEST_PAUSE) * (1 + SPREAD * self._draw())
        if era == self.era:
            self.down = False
            self._pause(now, 1 / 2, pause)
        elif pause is not None:
            self.not_before = max(self.not_before, now + pause)

    def failed(self, era: int, run: str, now: float) -> None:
        """A request about this run was not answered."""
        if era < self.era:
            return

        self._failing.add(run)
        if self.down or len(self._failing) >= MANY:
            self._pause(now, 1.0 if self.down else 1 / 10)
            self.down = True

    def _pause(self, now: float, share: float, seconds: float | None = None) -> None:
        base = min(self.rate, max(self.tempo.per_second(now), self._began_with))
        self.rate = self._began_with = max(base * share, FLOOR)
        self.era += 1
        self._pauses += 1
        self._trying = 0
        self._failing.clear()
        self.not_before = now + (BACKOFF.delay(self._pauses, self._draw) if seconds is None else seconds)
