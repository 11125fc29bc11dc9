"""How long a run may last, and how long it may stand still. Times are readings of one monotonic clock, in seconds."""

from __future__ import annotations

from math import inf

from .record import RunRecord
from .schedule import PollPolicy

CANCEL_GRACE = 120.0
"""Seconds from the cancel at a deadline until the run ends without the service's word: as long as a call may take."""

NEVER = -inf
"""One object for all runs: there are very many."""


class Bounds:
    """The deadline of a run, and its last change. A `Contact` is bounded so."""

    __slots__ = ("_own", "_poll", "_told", "changed", "deadline")

    def __init__(self, record: RunRecord, poll: PollPolicy, now: float, began: float) -> None:
        self._poll = poll
        self.changed = now
        """When the run last showed something new."""
        self._told = NEVER  # the change after which a stall was told
        # The run's own deadline; -inf once it has passed, and the present one is the second.
        self._own = inf if record.deadline_at is None else began + record.allowed
        known_since = now if record.request is None else began + record.renewed  # a token's may be of any age
        self.deadline = min(self._own, known_since + _or_ever(poll.max_age))

    @property
    def extended(self) -> bool:
        """True when the deadline has passed, and the present one is the second."""
        return self._own == NEVER

    def passed(self, now: float) -> bool:
        """True when the run has had its time."""
        return now >= self.deadline

    def wait(self) -> None:
        """The run waits for its user, who may take any time but what its own deadline leaves."""
        if not self.extended:
            self.deadline = self._own

    def renew(self, now: float) -> None:
        """The user has answered: the bound for a run's age counts from here."""
        self.changed = now
        if not self.extended:
            self.deadline = min(self._own, now + _or_ever(self._poll.max_age))

    def extend(self, now: float) -> None:
        """The run is cancelled at its deadline, and gets some time to end by that."""
        self._own, self.deadline = NEVER, now + CANCEL_GRACE

    def still(self, now: float) -> bool:
        """True when nothing has changed for longer than the policy finds normal."""
        return now - self.changed > self._poll.stall_after

    def stalls(self, now: float) -> bool:
        """The same, once for each time that the run stands still."""
        if not self.still(now) or self._told == self.changed:
            return False

        self._told = self.changed
        return True


def _or_ever(seconds: float | None) -> float:
    return inf if seconds is None else seconds
