"""The state machine of one run: observations in, commands out.

Rules:

- The machine is the table in `states`. Handlers (`_on_…`) turn an observation into updates and one signal; `_move`
  looks the signal up; the action in the row gives the commands. Nothing else changes the phase.
- At most one poll and one stream are under way at a time.
- Times are readings of one monotonic clock, in seconds; random numbers come from `draw`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any, ClassVar

from ..errors import ProviderError, RunNotFound, ServiceUnavailable, StreamRefused
from .assembly import Assembly
from .messages import (
    Attach,
    Cancel,
    CancelAnswered,
    CancelAsked,
    CancelFailed,
    Command,
    Commit,
    Complain,
    Detach,
    Due,
    Observation,
    Poll,
    Polled,
    PollFailed,
    Started,
    StartFailed,
    StartLost,
    Streamed,
    StreamEnded,
    WakeAt,
)
from .model import SUBMIT_UNKNOWN, EventKind, RunErrorInfo, RunRef, Snapshot, StreamEvent
from .position import Position
from .record import RunRecord
from .response import AgentRunResponse, build_response
from .schedule import Draw, PollPolicy, StreamPolicy
from .states import TABLE, Action, Phase, Signal
from .status import RunStatus
from .token import ContinuationToken
from .update import AgentRunResponseUpdate, TokenIssuer


class Run:
    """One run. Feed it what happened; do what it says."""

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
    ) -> None:
        self.record = record
        self.phase = _phase_of(record.status)
        self.assembly = Assembly(record.position)
        self._poll, self._stream, self._draw, self._parse = poll, stream, draw, parse
        self._started = now - age
        known_since = now if record.request is None else self._started  # a token's run may be older than any bound
        self._deadline = min(self._started + _allowed(record), known_since + _or_ever(poll.max_age))
        # When the service last knew the run. One that was streamed may have ended just now, and be unknown for a while.
        self._last_seen = now if record.stream else self._started
        self._last_change = now
        self._hint: float | None = None
        self._polling = False
        self._faults = 0  # polls that failed in a row
        self._error: ProviderError | None = None  # of the last failed poll
        self._attached = False  # a stream is open, or being opened
        self._dry = 0  # connections in a row that brought no more of the answer
        if record.ref is not None:
            self._identify(record.ref)

    # --- what it looks like from outside ---

    @property
    def response(self) -> AgentRunResponse[Any]:
        """The run's answer so far, or in the end."""
        return build_response(self._known(), self.token, self._parse)

    @property
    def token(self) -> ContinuationToken | None:
        """What resumes the run from here; None when nothing is left to poll or resume."""
        issuer = self.assembly.issuer
        return issuer.issue(self.assembly.position) if issuer and self.record.status.live else None

    def stalled(self, now: float) -> bool:
        """True when a live run has shown no change for longer than the policy finds normal."""
        return self.record.status.live and now - self._last_change > self._poll.stall_after

    # --- in and out ---

    def begin(self, now: float) -> list[Command]:
        """Take up a run whose start was answered before: by another process, or as told by a token."""
        if self.record.ref is None:
            return self.feed(StartLost("the process ended before the start was answered"), now)

        signal = Signal.STREAMABLE if self._wants_stream() else Signal.ALIVE
        return [*self._move(signal, now), *self._pass_cancel_on()]

    def feed(self, seen: Observation, now: float) -> list[Command]:
        """What to do now that this has happened. Nothing, when it no longer matters."""
        if self.phase is Phase.DONE:
            return []

        unnamed = self.record.ref is None
        commands = self._HANDLERS[type(seen)](self, seen, now)
        return [*commands, *self._pass_cancel_on()] if unnamed else commands

    # --- handlers: observation -> updates and a signal ---

    def _on_started(self, seen: Started, now: float) -> list[Command]:
        return self._show(seen.snapshot, now)

    def _on_polled(self, seen: Polled, now: float) -> list[Command]:
        self._polling = False
        self._faults = 0
        return self._show(seen.snapshot, now)

    def _on_start_failed(self, seen: StartFailed, now: float) -> list[Command]:
        return self._end(RunStatus.FAILED, seen.error.code or "rejected", str(seen.error), now)

    def _on_start_lost(self, seen: StartLost, now: float) -> list[Command]:
        return self._end(RunStatus.FAILED, SUBMIT_UNKNOWN, seen.reason, now)

    def _on_poll_failed(self, seen: PollFailed, now: float) -> list[Command]:
        self._polling = False
        self._faults += 1
        self._error = error = seen.error
        self._hint = error.retry_after if isinstance(error, ServiceUnavailable) else None
        if now >= self._deadline:
            return self._expire(now)

        if not isinstance(error, RunNotFound):
            return self._move(Signal.FAULT if isinstance(error, ServiceUnavailable) else Signal.DENIED, now)

        if now - self._last_seen <= self._poll.missing_grace:
            return self._move(Signal.FAULT, now)

        return self._end(RunStatus.EXPIRED, "not_found", f"The service no longer has the run: {error}", now)

    def _on_streamed(self, seen: Streamed, now: float) -> list[Command]:
        if not self._attached and self.phase is not Phase.STARTING:
            return []

        self._attached = True
        self._last_seen = now
        before = self.assembly.position
        updates: list[AgentRunResponseUpdate] = []
        for event in seen.events:
            if event.snapshot is not None and not self.assembly.is_repeat(event):
                self._learn(event.snapshot)
                if not event.snapshot.status.live:
                    return self._conclude(event.snapshot, now, updates, event)

            if event.kind is EventKind.ERROR and self.record.ref is None:
                return self._refuse_open(event, now, updates)

            updates += self.assembly.add(event)

        self._note_progress(before, now)
        commit: list[Command] = [Commit(self._keep(updates))] if updates else []
        return [*commit, *self._move(Signal.EVENTS, now)] if self.record.ref else commit

    def _on_stream_ended(self, seen: StreamEnded, now: float) -> list[Command]:
        if self.phase is Phase.STARTING and self.record.ref is None:
            return self._end(RunStatus.FAILED, SUBMIT_UNKNOWN, "the stream ended before it named the run", now)

        if not self._attached:
            return []

        self._attached = False
        if isinstance(seen.error, StreamRefused):
            self._give_up_streaming()
            return [Commit(), *self._move(Signal.REFUSED, now)]

        if not self.assembly.fresh:
            self._count_dry()

        return self._move(Signal.CUT if self.assembly.moved and not self.record.refused else Signal.DRY, now)

    def _on_cancel_asked(self, _seen: CancelAsked, _now: float) -> list[Command]:
        self.record.cancel_requested = True
        self._reissue()
        return [Commit()] if self.record.ref is None else [Commit(), Cancel()]

    def _on_cancel_answered(self, seen: CancelAnswered, now: float) -> list[Command]:
        if seen.snapshot is not None and not seen.snapshot.status.live:
            return self._show(seen.snapshot, now)

        return self._move(Signal.CANCELLING, now)

    def _on_cancel_failed(self, _seen: CancelFailed, _now: float) -> list[Command]:
        self.record.cancel_requested = False
        self._reissue()
        return [Commit()]

    def _on_due(self, _seen: Due, now: float) -> list[Command]:
        """At the deadline, too, the service is asked: it may have ended the run while nobody looked."""
        if self.phase is Phase.ATTACHING:
            self._count_dry()

        since = inf if now >= self._deadline else now - self._last_change
        quiet = self.phase is Phase.STREAMING and since >= self._stream.quiet
        return self._move(Signal.QUIET if quiet else Signal.DUE, now)

    # --- what snapshots do ---

    def _show(self, snapshot: Snapshot, now: float) -> list[Command]:
        """A whole run was shown. One that shows nothing new writes nothing."""
        if self.phase is Phase.WAITING and not snapshot.status.terminal:
            return []

        self._last_seen = now
        news = (snapshot.status, snapshot.raw_status) != (self.record.status, self.record.raw_status)
        first = self.record.ref is None
        self._learn(snapshot)
        if not snapshot.status.live:
            return self._conclude(snapshot, now)

        if now >= self._deadline:
            return self._expire(now)

        updates = [self.assembly.status()] if news and not first and not self._attached else []
        if not self._attached and not self._wants_stream():
            updates += self.assembly.follow(snapshot)  # text that a stream is still to bring would come twice

        if updates or news:
            self._last_change = now
            self.record.snapshot = snapshot

        commit = [Commit(self._keep(updates))] if updates or news or first else []
        return [*commit, *self._move(Signal.STREAMABLE if self._wants_stream() else Signal.ALIVE, now)]

    def _learn(self, snapshot: Snapshot) -> None:
        """The ref that the start gave is the run's for good: some services give another id on every poll."""
        if self.record.ref is None and snapshot.ref is not None:
            self._identify(snapshot.ref)

        self.record.status = snapshot.status
        self.record.raw_status = snapshot.raw_status
        self._hint = snapshot.poll_after

    def _give_up_streaming(self) -> None:
        self.record.refused = True
        self._reissue()

    def _count_dry(self) -> None:
        self._dry += 1
        if self._dry >= self._stream.attempts:
            self._give_up_streaming()

    def _identify(self, ref: RunRef) -> None:
        self.record.ref = ref
        self._reissue()

    def _reissue(self) -> None:
        """From here on, tokens say what may be done with the run now."""
        record = self.record
        background = record.request is None or record.request.background  # a foreground run cannot be resumed
        if record.ref is not None and background:
            self.assembly.issuer = TokenIssuer(record.ref, record.created_at, self._may_stream())

    def _conclude(
        self,
        snapshot: Snapshot,
        now: float,
        updates: Sequence[AgentRunResponseUpdate] = (),
        event: StreamEvent | None = None,
        *,
        final: bool = True,
    ) -> list[Command]:
        """Nothing follows this snapshot: the run has ended, or waits for its user."""
        if _shows_nothing(snapshot):  # then what was delivered stands
            snapshot, final = replace(snapshot, text=self._known().text), False

        snapshot = replace(snapshot, ref=self.record.ref or snapshot.ref)
        self.record.status, self.record.raw_status = snapshot.status, snapshot.raw_status
        self.record.snapshot = snapshot
        self._last_change = now
        if self.phase is not Phase.WAITING:  # it has had its last update
            response = build_response(snapshot, None, self._parse)
            updates = [*updates, *self.assembly.finish(snapshot, response, event, final=final)]

        commit = Commit(self._keep(updates), settled=True)
        signal = Signal.ASKED if snapshot.status is RunStatus.INPUT_REQUIRED else Signal.FINISHED
        return [commit, *self._move(signal, now)]

    def _end(
        self, status: RunStatus, code: str, message: str, now: float, updates: Sequence[AgentRunResponseUpdate] = ()
    ) -> list[Command]:
        """The run ends without the service's word. What was delivered of its text stands."""
        if self.phase is Phase.WAITING:
            return []

        ended = replace(self._known(), status=status, error=RunErrorInfo(code, message))
        return self._conclude(ended, now, updates, final=False)

    def _expire(self, now: float) -> list[Command]:
        return self._end(RunStatus.EXPIRED, "deadline", "The run's deadline passed before it ended.", now)

    def _refuse_open(self, event: StreamEvent, now: float, updates: Sequence[AgentRunResponseUpdate]) -> list[Command]:
        error = event.error or RunErrorInfo("error", "The service sent an error before it named the run.")
        return self._end(RunStatus.FAILED, error.code, error.message, now, updates)

    def _known(self) -> Snapshot:
        """The latest that the service showed, or what amounts to it."""
        record = self.record
        known = record.snapshot or Snapshot(None, record.status, record.raw_status)
        text = self.assembly.merged(known.text)
        return replace(known, ref=record.ref, status=record.status, raw_status=record.raw_status, text=text)

    # --- small parts ---

    def _keep(self, updates: Sequence[AgentRunResponseUpdate]) -> Sequence[AgentRunResponseUpdate]:
        self.record.position = self.assembly.position
        return updates

    def _note_progress(self, before: Position, now: float) -> None:
        if self.assembly.fresh:
            self._dry = 0

        if self.assembly.position.seq != before.seq:
            self._last_change = now

    def _may_stream(self) -> bool:
        return self.record.stream and not self.record.refused and not self.record.cancel_requested

    def _wants_stream(self) -> bool:
        return self._may_stream() and not self._attached

    def _pass_cancel_on(self) -> list[Command]:
        """A cancel that nobody could pass on so far: the run had no ref yet, or the process died."""
        record = self.record
        wanted = record.cancel_requested and record.ref is not None and not record.status.terminal
        return [Cancel()] if wanted else []

    # --- the table and its actions ---

    def _move(self, signal: Signal, now: float) -> list[Command]:
        row = TABLE[self.phase].get(signal)
        if row is None:
            return []

        self.phase, action = row
        return self._ACTIONS[action](self, now)

    def _nothing(self, _now: float) -> list[Command]:
        return []

    def _first_poll(self, now: float) -> list[Command]:
        return self._wake(now + self._poll.first(self._draw, self._hint))

    def _next_poll(self, now: float) -> list[Command]:
        return self._wake(now + self._poll.interval(now - self._started, self._draw, self._hint))

    def _retry_poll(self, now: float) -> list[Command]:
        return self._wake(now + self._poll.after_fault(max(self._faults, 1), self._draw, self._hint))

    def _retry_stream(self, now: float) -> list[Command]:
        return self._wake(now + self._stream.reconnect.delay(max(self._dry, 1), self._draw))

    def _complain(self, now: float) -> list[Command]:
        assert self._error is not None, "only a poll's error is a complaint"
        return [Complain(self._error), *self._wake(now + self._poll.maximum)]

    def _ask(self, _now: float) -> list[Command]:
        if self._polling:
            return []

        self._polling = True
        return [Poll()]

    def _release(self, now: float) -> list[Command]:
        return [*self._detach(now), *self._ask(now)]

    def _attach(self, now: float) -> list[Command]:
        self._attached = True
        return [Attach(self.assembly.connect()), *self._watch(now)]

    def _watch(self, now: float) -> list[Command]:
        return self._wake(now + self._stream.quiet)

    def _detach(self, _now: float) -> list[Command]:
        attached, self._attached = self._attached, False
        return [Detach()] if attached else []

    def _wake(self, at: float) -> list[Command]:
        return [WakeAt(min(at, self._deadline))]

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
        Due: _on_due,
    }

    _ACTIONS: ClassVar[Mapping[Action, Callable[[Any, float], list[Command]]]] = {
        Action.NOTHING: _nothing,
        Action.FIRST_POLL: _first_poll,
        Action.NEXT_POLL: _next_poll,
        Action.RETRY_POLL: _retry_poll,
        Action.RETRY_STREAM: _retry_stream,
        Action.COMPLAIN: _complain,
        Action.POLL: _ask,
        Action.RELEASE: _release,
        Action.ATTACH: _attach,
        Action.WATCH: _watch,
        Action.SETTLE: _detach,
    }


def _shows_nothing(snapshot: Snapshot) -> bool:
    """True for a run that was cut short and whose service does not show what there was of it."""
    return snapshot.status is not RunStatus.COMPLETED and not snapshot.items and not snapshot.text


def _phase_of(status: RunStatus) -> Phase:
    if status.terminal:
        return Phase.DONE

    return Phase.WAITING if status is RunStatus.INPUT_REQUIRED else Phase.STARTING


def _allowed(record: RunRecord) -> float:
    """Seconds from a run's start to the deadline of its own."""
    return inf if record.deadline_at is None else max(record.deadline_at - record.created_at, 0.0)


def _or_ever(seconds: float | None) -> float:
    return inf if seconds is None else seconds
