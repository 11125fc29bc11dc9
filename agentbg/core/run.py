"""The state machine of one run: observations in, commands out.

Rules:

- The machine is the table in `states`. Handlers (`_on_…`) turn an observation into updates and one signal; `moves`
  looks the signal up; the action in the row gives the commands. Nothing else changes the phase.
- At most one poll and one stream are under way at a time: `contact` keeps count.
- A run that ends in requests has closed a round: `dialogue` says what is to be done about them, and goes on.
- Times are readings of one monotonic clock, in seconds; random numbers come from `draw`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any, ClassVar

from ..errors import RunNotFound, StreamRefused
from .contact import Contact, signal_of
from .dialogue import Dialogue
from .endings import Endings
from .hazard import Hazard
from .life import Life
from .messages import (
    Answered,
    Cancel,
    CancelAnswered,
    CancelAsked,
    CancelFailed,
    Command,
    Commit,
    Due,
    Invoked,
    InvokeFailed,
    Notified,
    Observation,
    Polled,
    PollFailed,
    Stalled,
    Started,
    StartFailed,
    StartLost,
    Streamed,
    StreamEnded,
)
from .model import SUBMIT_UNKNOWN, EventKind, RunRef, Snapshot
from .moves import Moves
from .position import Position
from .record import RunRecord
from .rounds import TOOL_FAILED, Round, Tooling
from .schedule import Draw, PollPolicy, StreamPolicy
from .states import Phase, Signal, phase_of
from .status import RunStatus


class Run(Endings):
    """One run. Feed it what happened; do what it says."""

    __slots__ = ()

    def __init__(
        self,
        record: RunRecord,
        *,
        poll: PollPolicy,
        stream: StreamPolicy,
        draw: Draw,
        now: float,
        age: float = 0.0,
        parse: Callable[[str], Any] | None = None,
        tools: Tooling | None = None,
        hazard: Hazard | None = None,
        announced: bool = False,
    ) -> None:
        self.record = record
        began = now - age
        life = Life(record, hazard, began, now)
        self.contact = Contact(record, poll, stream, draw, life, now, began, announced=announced)
        self.dialogue = Dialogue(record, tools or Tooling())
        self.assembly = self.dialogue.assembly
        self._parse = parse
        self._moves = Moves(phase_of(record.status), self.contact, self.dialogue)

    # --- what it looks like from outside ---

    @property
    def phase(self) -> Phase:
        """What the machine is doing about the run."""
        return self._moves.phase

    @property
    def deadline(self) -> float:
        """When the run expires, at the latest."""
        return self.contact.deadline

    def stalled(self, now: float) -> bool:
        """True when a live run has shown no change for longer than the policy finds normal."""
        return self.contact.still(now) and self.record.status.live

    # --- in and out ---

    def catch_up(self, missed: Sequence[Round], ref: RunRef | None) -> list[Command]:
        """A token is of an earlier round than the run has come to: what was missed since. Then comes `begin`."""
        updates = self.dialogue.replay(missed, ref)
        waits = [self.assembly.wait(self.response)] if self.phase is Phase.WAITING else []
        return [Commit(self._keep([*updates, *waits]))]

    def begin(self, now: float) -> list[Command]:
        """Take up a run whose start was answered before: by another process, or as told by a token."""
        if self.phase is Phase.WAITING:
            return [*self._moves.rest(), *self._pass_cancel_on()]

        if self.dialogue.between:
            return [*self._go_on(now, self.dialogue.take_up()), *self._pass_cancel_on()]

        if self.record.ref is None:
            return self.feed(StartLost("the process ended before the start was answered"), now)

        signal = Signal.STREAMABLE if self._wants_stream() else Signal.ALIVE
        return [*self._moves.move(signal, now), *self._pass_cancel_on()]

    def feed(self, seen: Observation, now: float) -> list[Command]:
        """What to do now that this has happened. Nothing, when it no longer matters."""
        if self.phase is Phase.DONE:
            return []

        kind = type(seen)
        if kind in (Polled, PollFailed) and not self.contact.heard():
            return self._poll_afresh(now)

        unnamed = self.record.ref is None
        commands = self._HANDLERS[kind](self, seen, now)
        if unnamed and Cancel() not in commands:
            commands = [*commands, *self._pass_cancel_on()]

        if not self.contact.polling and self.contact.stalls(now) and self.record.status.live:
            commands = [*commands, Stalled()]

        return commands

    # --- handlers: observation -> updates and a signal ---

    def _on_started(self, seen: Started, now: float) -> list[Command]:
        self.contact.answered()
        return self._show(seen.snapshot, now)

    def _on_polled(self, seen: Polled, now: float) -> list[Command]:
        self.contact.answered()
        return self._show(seen.snapshot, now)

    def _on_start_failed(self, seen: StartFailed, now: float) -> list[Command]:
        """A first start that fails is no run. A later round's did no work, and is sent again while that may help."""
        error = seen.error
        self.contact.failed(error, now)
        if not self.record.rounds or not self.contact.may_pass(error, now):
            return self._end(RunStatus.FAILED, error.code or "rejected", str(error), now)

        self.dialogue.unsend()
        if self.record.cancel_requested and self.dialogue.ours:
            return self._stop(now)

        return [Commit(), *self._moves.move(signal_of(error), now)]

    def _on_start_lost(self, seen: StartLost, now: float) -> list[Command]:
        """Of a later round: its user may want it to be started again. Nobody else can know."""
        if not self.record.rounds:
            return self._end(RunStatus.FAILED, SUBMIT_UNKNOWN, seen.reason, now)

        self.dialogue.unsend(seen.reason, SUBMIT_UNKNOWN)
        return self._go_on(now)

    def _on_poll_failed(self, seen: PollFailed, now: float) -> list[Command]:
        error = seen.error
        self.contact.failed(error, now)
        if self.contact.passed(now):
            return self._expire(now)

        if self.phase is Phase.WAITING:
            return []

        if not isinstance(error, RunNotFound):
            return self._moves.move(signal_of(error), now)

        if not self.contact.forgotten(now, self.contact.life.known):
            return self._moves.move(Signal.FAULT, now)

        return self._end(RunStatus.EXPIRED, "not_found", f"The service no longer has the run: {error}", now)

    def _on_streamed(self, seen: Streamed, now: float) -> list[Command]:
        if not self.contact.attached and (self.phase is not Phase.STARTING or self.dialogue.between):
            return []

        self.contact.attached = True
        self.contact.life.hear(now)
        before = self.assembly.position
        learned = False
        updates = self.assembly.go_on(seen.events)
        for event in seen.events[len(updates) :]:
            if event.snapshot is not None and not self.assembly.is_repeat(event):
                learned = True
                self._learn(event.snapshot, now)
                if not event.snapshot.status.live:
                    return self._conclude(event.snapshot, now, updates, event)

            if event.kind is EventKind.ERROR and self.record.ref is None:
                return self._refuse_open(event, now, updates)

            updates += self.assembly.add(event)

        self._note_progress(before, now)
        commit: list[Command] = [Commit(self._keep(updates), whole=learned)] if updates else []
        return [*commit, *self._moves.move(Signal.EVENTS, now)] if self.record.ref else commit

    def _on_stream_ended(self, seen: StreamEnded, now: float) -> list[Command]:
        if self.phase is Phase.STARTING and self.record.ref is None:
            self.contact.attached = False
            return self._on_start_lost(StartLost("the stream ended before it named the run"), now)

        if not self.contact.attached:
            return []

        self.contact.attached = False
        if isinstance(seen.error, StreamRefused):
            self._give_up_streaming()
            return [Commit(), *self._moves.move(Signal.REFUSED, now)]

        if not self.assembly.fresh:
            self._count_dry()

        return self._moves.move(Signal.CUT if self.assembly.moved and not self.record.refused else Signal.DRY, now)

    def _on_cancel_asked(self, _seen: CancelAsked, now: float) -> list[Command]:
        self.record.cancel_requested = True
        self.contact.life.stop()
        self.dialogue.reissue()
        if self.dialogue.ours:
            return self._stop(now)

        return [Commit()] if self.record.ref is None else [Commit(), Cancel()]

    def _on_cancel_answered(self, seen: CancelAnswered, now: float) -> list[Command]:
        if seen.snapshot is not None and seen.snapshot.status.terminal and self.record.ref is not None:
            return self._show(seen.snapshot, now)

        return self._moves.move(Signal.CANCELLING, now)

    def _on_cancel_failed(self, _seen: CancelFailed, _now: float) -> list[Command]:
        self.record.cancel_requested = False
        self.dialogue.reissue()
        return [Commit()]

    def _on_due(self, seen: Due, now: float) -> list[Command]:
        """At the deadline, too, the service is asked: it may have ended the run while nobody looked. A stream that was
        not asked for yet is waited for: to give up its turn would bring it to the end of the line."""
        late = self.contact.passed(now)
        if self.phase is Phase.WAITING:
            return self._expire(now) if late else []

        if self.phase is Phase.STARTING and not self.dialogue.between:
            return []

        if self.dialogue.between:
            return self._go_on(now) if late or self.phase is Phase.STARTING else []

        if self.phase is Phase.ATTACHING:
            if seen.queued and not late and not self.contact.unasked:
                return self._moves.watch(now)

            if not seen.queued:
                self._count_dry()

        since = inf if late else now - self.contact.changed
        quiet = self.phase is Phase.STREAMING and self.contact.is_quiet(since)
        return self._moves.move(Signal.QUIET if quiet else Signal.DUE, now)

    def _on_invoked(self, seen: Invoked, now: float) -> list[Command]:
        call = self.dialogue.running(seen.id)
        if call is None:
            return []

        self.contact.changed = now
        return self._go_on(now, self.dialogue.invoked(call, seen.output))

    def _on_invoke_failed(self, seen: InvokeFailed, now: float) -> list[Command]:
        late = self.dialogue.running(seen.id) is None
        return [] if late else self._end(RunStatus.FAILED, TOOL_FAILED, seen.reason, now)

    def _on_answered(self, seen: Answered, now: float) -> list[Command]:
        asked = self.phase is Phase.WAITING or (self.phase is Phase.CALLING and seen.answers)
        if not asked or not self.dialogue.between:
            return []

        self.contact.renew(now)
        return self._go_on(now, self.dialogue.answered(seen.answers))

    def _on_notified(self, _seen: Notified, now: float) -> list[Command]:
        """A stream that is open is to bring it by itself; where it does not, the next look asks."""
        if self.dialogue.between:
            return []

        self.contact.notified(now)
        streaming = self.phase in (Phase.ATTACHING, Phase.STREAMING)
        return self._moves.watch(now) if streaming else self._moves.move(Signal.DUE, now)

    # --- what snapshots do ---

    def _show(self, snapshot: Snapshot, now: float) -> list[Command]:
        """A whole run was shown. One that shows nothing new writes nothing."""
        if self.phase is Phase.WAITING and not snapshot.status.terminal:
            return []

        news = (snapshot.status, snapshot.raw_status) != (self.record.status, self.record.raw_status)
        first = self.record.ref is None
        self._learn(snapshot, now)
        if not snapshot.status.live:
            return self._conclude(snapshot, now)

        if self.contact.passed(now):
            return self._expire(now)

        attached = self.contact.attached
        updates = [self.assembly.status()] if news and not first and not attached else []
        if not attached and not self._wants_stream():
            updates += self.assembly.follow(snapshot)  # text that a stream is still to bring would come twice

        if updates or news:
            self.contact.changed = now
            self.record.snapshot = snapshot.kept

        commit = [Commit(self._keep(updates))] if updates or news or first else []
        return [*commit, *self._moves.move(Signal.STREAMABLE if self._wants_stream() else Signal.ALIVE, now)]

    def _learn(self, snapshot: Snapshot, now: float) -> None:
        """The ref that the start gave is the run's for good: some services give another id on every poll."""
        if self.record.ref is None and snapshot.ref is not None:
            self.dialogue.named(snapshot.ref)
            self.contact.life.begin(now)

        self.contact.life.show(now, live=snapshot.status.live)
        self.record.status = snapshot.status
        self.record.raw_status = snapshot.raw_status
        self.contact.hint = snapshot.poll_after

    def _give_up_streaming(self) -> None:
        self.record.refused = True
        self.dialogue.reissue()

    def _count_dry(self) -> None:
        if self.contact.fruitless():
            self._give_up_streaming()

    def _poll_afresh(self, now: float) -> list[Command]:
        """What a poll brought is out of date: whoever asked meanwhile is still to be answered."""
        if self.contact.passed(now):
            return self._on_due(Due(), now)

        return self._moves.move(Signal.DUE, now) if self.phase in (Phase.POLLING, Phase.STREAMING) else []

    # --- small parts ---

    def _note_progress(self, before: Position, now: float) -> None:
        if self.assembly.fresh:
            self.contact.fruitful()

        if self.assembly.position.seq != before.seq:
            self.contact.changed = now

    def _wants_stream(self) -> bool:
        return self.record.may_stream and not self.contact.attached

    def _pass_cancel_on(self) -> list[Command]:
        """A cancel that nobody could pass on so far: the run had no ref yet, or the process died."""
        record = self.record
        wanted = record.cancel_requested and record.ref is not None and not record.status.terminal
        return [Cancel()] if wanted else []

    _HANDLERS: ClassVar[Mapping[type[Observation], Callable[[Any, Any, float], list[Command]]]] = {
        Started: _on_started,
        StartFailed: _on_start_failed,
        StartLost: _on_start_lost,
        Polled: _on_polled,
        PollFailed: _on_poll_failed,
        Streamed: _on_streamed,
        StreamEnded: _on_stream_ended,
        CancelAsked: _on_cancel_asked,
        CancelAnswered: _on_cancel_answered,
        CancelFailed: _on_cancel_failed,
        Invoked: _on_invoked,
        InvokeFailed: _on_invoke_failed,
        Answered: _on_answered,
        Due: _on_due,
        Notified: _on_notified,
    }
