"""The run machine's table at work: a signal in; the next phase, and what to do about it, out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any, ClassVar

from .contact import Contact
from .dialogue import Dialogue
from .messages import Attach, Command, Complain, Detach, Poll, WakeAt
from .states import TABLE, Action, Phase, Signal


class Moves:
    """Where a run's machine stands, and the commands of each row of its table. No wake-up is after the deadline."""

    __slots__ = ("_contact", "_dialogue", "phase")

    def __init__(self, phase: Phase, contact: Contact, dialogue: Dialogue) -> None:
        self.phase = phase
        self._contact, self._dialogue = contact, dialogue

    def move(self, signal: Signal, now: float) -> list[Command]:
        """What to do about a signal. Nothing, when the phase's row does not have it."""
        row = TABLE[self.phase].get(signal)
        if row is None:
            return []

        self.phase, action = row
        return self._ACTIONS[action](self, now)

    def _nothing(self, _now: float) -> list[Command]:
        return []

    def _first_poll(self, now: float) -> list[Command]:
        return self._wake(self._contact.first_poll(now))

    def _next_poll(self, now: float) -> list[Command]:
        return self._wake(self._contact.next_poll(now))

    def _retry(self, now: float) -> list[Command]:
        return self._wake(self._contact.next_try(now))

    def _retry_stream(self, now: float) -> list[Command]:
        return self._wake(self._contact.next_connection(now))

    def _complain(self, now: float) -> list[Command]:
        assert self._contact.error is not None, "only a call's error is a complaint"
        return [Complain(self._contact.error), *self._wake(self._contact.late_try(now))]

    def _ask(self, _now: float) -> list[Command]:
        return [Poll()] if self._contact.ask() else []

    def _release(self, now: float) -> list[Command]:
        asked = self._ask(now) or self._wake(inf)  # one that is under way may be waiting for its turn
        return [*self._detach(now), *asked]

    def _attach(self, now: float, pause: float = 0.0) -> list[Command]:
        self._contact.attached = True
        return [Attach(self._dialogue.assembly.connect(), pause), *self.watch(now)]

    def _attach_again(self, now: float) -> list[Command]:
        return self._attach(now, self._contact.reconnect_after())

    def watch(self, now: float) -> list[Command]:
        """Look after the open stream in a while."""
        return self._wake(self._contact.next_look(now))

    def _detach(self, _now: float) -> list[Command]:
        attached, self._contact.attached = self._contact.attached, False
        return [Detach()] if attached else []

    def _settle(self, now: float) -> list[Command]:
        """A run that waits for its user does so up to its deadline."""
        return [*self._detach(now), *self.rest()] if self.phase is Phase.WAITING else self._detach(now)

    def rest(self) -> list[Command]:
        """Nothing is to be done for the run before its deadline."""
        self._contact.wait()
        return self._wake(inf)

    def _call(self, now: float) -> list[Command]:
        calls = self._dialogue.invoke()
        return [*self._detach(now), *calls, *self._wake(inf)] if calls else []

    def _send(self, _now: float) -> list[Command]:
        """The next round counts as sent before it is: the commit that comes first says so."""
        return [self._dialogue.send()]

    def _wake(self, at: float) -> list[Command]:
        at = min(at, self._contact.deadline)
        return [WakeAt(at)] if at < inf else []

    _ACTIONS: ClassVar[Mapping[Action, Callable[[Any, float], list[Command]]]] = {
        Action.NOTHING: _nothing,
        Action.FIRST_POLL: _first_poll,
        Action.NEXT_POLL: _next_poll,
        Action.RETRY_POLL: _retry,
        Action.RETRY_SEND: _retry,
        Action.CALL: _call,
        Action.SEND: _send,
        Action.RETRY_STREAM: _retry_stream,
        Action.COMPLAIN: _complain,
        Action.POLL: _ask,
        Action.RELEASE: _release,
        Action.ATTACH: _attach,
        Action.ATTACH_AGAIN: _attach_again,
        Action.WATCH: watch,
        Action.SETTLE: _settle,
    }
