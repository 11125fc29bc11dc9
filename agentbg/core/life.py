"""One run's present round at its service, as this process sees it."""

from __future__ import annotations

from .hazard import UNKNOWN, Hazard
from .record import RunRecord


class Life:
    """How old a round is, when it was last seen alive, and what it teaches a hazard.

    A round's age counts from the answer to its start: what the start waited for here is none of it. Only what was seen
    counts: the time between two sights of the run alive, and an end after such a sight. A run that was taken up when it
    was some age counts from the first sight; one whose polls have failed, from the next. What we ended ourselves, by a
    cancel or a deadline, has lived, but has not ended. A round that ends in calls, or in a question, has ended.
    """

    __slots__ = ("_counted", "_hazard", "_sure", "began", "in_sight", "known")

    def __init__(self, record: RunRecord, hazard: Hazard | None, began: float, now: float) -> None:
        self._hazard = None if record.cancel_requested else hazard
        # Whether `began` is when this round did: of a run known by its token, and of later rounds, nobody knows.
        self._sure = record.request is not None and not record.rounds
        self.began = began
        self.known = now if record.stream else began
        """When its service last knew it. One that was streamed may have ended just now, and be unknown for a while."""
        self.in_sight = False
        """True when its end, should it come, comes after `known`, and before it is seen."""
        self._counted = began  # up to when the hazard knows that it lived

    @property
    def hazard(self) -> Hazard:
        """What is known of such runs."""
        return UNKNOWN if self._hazard is None else self._hazard

    def begin(self, now: float) -> None:
        """The service has answered the start of a round."""
        self.began = self.known = self._counted = now
        self._sure = self.in_sight = True

    def hear(self, now: float) -> None:
        """The service sends something of it."""
        if not self.in_sight:
            self.in_sight, self._counted = True, now

        self.known = now

    def show(self, now: float, *, live: bool) -> None:
        """The service shows it: it goes on, or has ended."""
        if live:
            self.hear(now)
            self._count()
            return

        in_sight, known = self.in_sight, self.known
        self.lose_sight()
        self.known = now
        if in_sight and self._sure and self._hazard is not None and now > self.began:  # at once is no matter of polls
            self._hazard.ended(known - self.began, now - self.began)

    def lose_sight(self) -> None:
        """A poll has failed: should it end before it is seen again, nobody knows when that was."""
        self._count()
        self.in_sight = False

    def stop(self) -> None:
        """Its cancel was asked for: what is known of other runs says nothing about how it ends, nor it about theirs."""
        self.lose_sight()
        self._hazard = None

    def _count(self) -> None:
        if self.in_sight and self._sure and self._hazard is not None:
            self._hazard.survived(self._counted - self.began, self.known - self.began)
            self._counted = self.known
