"""How our contact with a run's service stands, and when to seek it again. All times are readings of one clock."""

from __future__ import annotations

from ..errors import AuthenticationFailed, PreviousRunNotFound, ProviderError, ServiceUnavailable
from .bounds import NEVER, Bounds
from .life import Life
from .record import RunRecord
from .schedule import Draw, PollPolicy, StreamPolicy
from .states import Signal

NOTICE_GRACE = 2.0
"""Seconds that an open stream has to bring by itself what was said of its run elsewhere."""


def signal_of(error: ProviderError) -> Signal:
    """What a call that failed means: it may pass, or it will not."""
    return Signal.FAULT if isinstance(error, ServiceUnavailable | PreviousRunNotFound) else Signal.DENIED


class Contact(Bounds):
    """One poll and one stream at most are under way at a time; how they fared says when the next is due."""

    __slots__ = (
        "_draw", "_dry", "_faults", "_outdated", "_stream", "_word",
        "attached", "error", "failing_since", "hint", "life", "polling", "unasked",
    )  # fmt: skip

    def __init__(
        self,
        record: RunRecord,
        poll: PollPolicy,
        stream: StreamPolicy,
        draw: Draw,
        life: Life,
        now: float,
        began: float,
        *,
        announced: bool = False,
    ) -> None:
        super().__init__(record, poll, now, began)
        self._stream, self._draw = stream, draw
        # When somebody last spoke of a run whose end is announced; None where the service announces nothing.
        self._word = NEVER if announced else None
        self.unasked = False
        """Somebody spoke of the run, and no poll was sent since."""
        self.life = life
        """The present round's: its age is what the next poll goes by."""
        self.polling = False
        """A poll is under way."""
        self._outdated = False  # ... which was sent before the run's present round began
        self.attached = False
        """A stream is open, or being opened."""
        self.error: ProviderError | None = None
        """Of the last call that failed."""
        self.hint: float | None = None
        """The service's last wish, in seconds."""
        self.failing_since = 0.0
        """When the first of the calls in a row that failed did so."""
        self._faults = 0  # how many they are
        self._dry = 0  # connections in a row that brought no more of the answer

    def notified(self, now: float) -> None:
        """Somebody says that the run has changed: whatever is under way may have been sent before it did."""
        self.unasked = True
        if self._word is not None:
            self._word = now

    def ask(self) -> bool:
        """A poll is to be sent; False when one is under way."""
        if self.polling:
            return False

        self.polling, self.unasked = True, False
        return True

    def turn(self) -> None:
        """A round is over. What a poll under way will say is about that one."""
        self._outdated = self.polling
        self._dry = 0

    def heard(self) -> bool:
        """A poll has come back, well or badly. False when what it says is out of date."""
        current = not self._outdated
        self.polling = self._outdated = False
        return current

    def answered(self) -> None:
        """A call was answered."""
        self._faults = 0

    def failed(self, error: ProviderError, now: float) -> None:
        """A poll, or the start of a round, was not answered, or answered with an error."""
        self.failing_since = self.failing_since if self._faults else now
        self._faults += 1
        self.error = error
        self.life.lose_sight()
        self.hint = error.retry_after if isinstance(error, ServiceUnavailable) else None

    def may_pass(self, error: ProviderError, now: float) -> bool:
        """True when the start of a later round, refused so, may be taken yet: some services need up to 33 s until they
        know the round before."""
        if isinstance(error, PreviousRunNotFound):
            return not self.forgotten(now, self.failing_since)

        return isinstance(error, ServiceUnavailable | AuthenticationFailed)

    def fruitless(self) -> bool:
        """A connection brought no more of the answer; True when it is the last of too many."""
        self._dry += 1
        return self._dry >= self._stream.attempts

    def fruitful(self) -> None:
        """A connection brought more of the answer."""
        self._dry = 0

    def forgotten(self, now: float, last_seen: float) -> bool:
        """True when a service that does not know the run any more is to be believed."""
        return now - last_seen > self._poll.missing_grace

    def first_poll(self, now: float) -> float:
        """When to poll a run that was just started, or taken up."""
        life = self.life
        if self.unasked:
            return now

        if not life.in_sight:
            return now + self._poll.again(now - life.began, self._draw, self.hint, life.hazard)

        if self._word is not None:
            return self._safe_poll(now, self._word)

        return now + self._poll.first(self._draw, self.hint, life.hazard)

    def next_poll(self, now: float) -> float:
        """When to poll next, after a poll that was answered."""
        if self.unasked:
            return now

        if self._word is not None:
            return self._safe_poll(now, self._word)

        return now + self._poll.interval(now - self.life.began, self._draw, self.hint, self.life.hazard)

    def next_try(self, now: float) -> float:
        """When to try again, after a call that failed."""
        return now + self._poll.after_fault(max(self._faults, 1), self._draw, self.hint)

    def late_try(self, now: float) -> float:
        """When to try again, after a refusal that will not pass by itself."""
        return now + self._poll.after_refusal(self._draw)

    def reconnect_after(self) -> float:
        """Seconds to wait before connecting again, after a connection that brought something."""
        return self._stream.spread * self._draw()

    def next_connection(self, now: float) -> float:
        """When to connect again, after a connection that brought nothing new."""
        return now if self.unasked else now + self._stream.reconnect.delay(max(self._dry, 1), self._draw)

    def next_look(self, now: float) -> float:
        """When to look after a stream that is open."""
        return now + (NOTICE_GRACE if self.unasked else self._stream.quiet)

    def is_quiet(self, silence: float) -> bool:
        """True when a stream has brought nothing for too long, or not what was said of its run elsewhere."""
        return self.unasked or silence >= self._stream.quiet

    def _safe_poll(self, now: float, word: float) -> float:
        return now + self._poll.safely(now - word, self._draw, self.hint)
