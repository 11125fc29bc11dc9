"""What follows when the service has done its part: the next round, a wait for the user, or the end of the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from .assembly import Assembly
from .contact import Contact
from .dialogue import Dialogue
from .messages import Cancel, Command, Commit, Overdue
from .model import DEADLINE, RunErrorInfo, Snapshot, StreamEvent
from .moves import Moves
from .record import RunRecord
from .response import AgentRunResponse, build_response
from .rounds import TOO_MANY_ROUNDS
from .states import Signal
from .status import RunStatus
from .token import ContinuationToken
from .update import AgentRunResponseUpdate

_LET_GO = "The run's deadline passed before it ended. It was let go of here, and may go on at the service."
_ENDLESS = "The model went on calling tools for more rounds than the agent allows: see Agent(…, max_rounds=…)."


class Endings:
    """How a run goes on from a round that is closed, or ends. `Run` is the rest of the machine, and decides when."""

    __slots__ = ("_moves", "_parse", "assembly", "contact", "dialogue", "record")

    record: RunRecord
    contact: Contact
    dialogue: Dialogue
    assembly: Assembly
    _moves: Moves
    _parse: Callable[[str], Any] | None

    @property
    def response(self) -> AgentRunResponse[Any]:
        """The run's answer so far, or in the end."""
        return build_response(self._known(), self.token, self._parse, self.record.rounds)

    @property
    def token(self) -> ContinuationToken | None:
        """What resumes the run from here; None when nothing is left to poll or resume."""
        return self.dialogue.token

    def _conclude(
        self,
        snapshot: Snapshot,
        now: float,
        updates: Sequence[AgentRunResponseUpdate] = (),
        event: StreamEvent | None = None,
        *,
        final: bool = True,
    ) -> list[Command]:
        """Nothing follows this snapshot: the run has ended, or asks for something."""
        self.contact.changed = now
        if snapshot.status is RunStatus.INPUT_REQUIRED:
            return self._go_on(now, [*updates, *self.dialogue.close(snapshot, event)])

        if snapshot.hides:  # then what was delivered stands
            snapshot, final = replace(snapshot, text=self._known().text), False

        snapshot = replace(snapshot, ref=self.record.ref or snapshot.ref)
        self.record.status, self.record.raw_status = snapshot.status, snapshot.raw_status
        self.record.snapshot = snapshot
        self.dialogue.conclude(final=final)
        response = build_response(snapshot, None, self._parse, self.record.rounds)
        updates = [*updates, *self.assembly.finish(snapshot, response, event, final=final)]
        if snapshot.detached:  # its token is of the place after all that was delivered
            updates[-1].response = self.response

        return [Commit(self._keep(updates), settled=True), *self._moves.move(Signal.FINISHED, now)]

    def _go_on(self, now: float, updates: Sequence[AgentRunResponseUpdate] = ()) -> list[Command]:
        """Between rounds: make the calls that are ours, ask the user for the rest, then send the answers."""
        if (self.record.cancel_requested or self.contact.extended) and self.dialogue.ours:
            return self._stop(now, updates)

        if self.dialogue.too_long:
            return self._end(RunStatus.FAILED, TOO_MANY_ROUNDS, _ENDLESS, now, updates)

        signal = self.dialogue.signal
        if signal is Signal.ASKED:
            self.record.status = RunStatus.INPUT_REQUIRED
            updates = [*updates, self.assembly.wait(self.response)]
            return [Commit(self._keep(updates), settled=True), *self._moves.move(signal, now)]

        if self.contact.passed(now):
            return self._expire(now, updates)

        self.record.status = RunStatus.RUNNING
        self.contact.turn()
        return [Commit(self._keep(updates)), *self._moves.move(signal, now)]

    def _end(
        self, status: RunStatus, code: str, message: str, now: float, updates: Sequence[AgentRunResponseUpdate] = ()
    ) -> list[Command]:
        """The run ends without the service's word. What was delivered of its text stands."""
        ended = replace(self._known(), status=status, error=RunErrorInfo(code, message))
        return self._conclude(ended, now, updates, final=False)

    def _stop(self, now: float, updates: Sequence[AgentRunResponseUpdate] = ()) -> list[Command]:
        """A cancel of a run of which the service does nothing: it ends here."""
        return self._end(RunStatus.CANCELLED, "cancelled", "The run was cancelled between two rounds.", now, updates)

    def _expire(self, now: float, updates: Sequence[AgentRunResponseUpdate] = ()) -> list[Command]:
        """The run has had its time. Where the service is to cancel it, that is asked first, and for a while its word
        counts; then the run is let go of."""
        if self.contact.extended:
            return self._end(RunStatus.EXPIRED, DEADLINE, _LET_GO, now, updates)

        if self.dialogue.between or not self.record.cancel_at_deadline:
            return [Overdue(), *self._end(RunStatus.EXPIRED, DEADLINE, _LET_GO, now, updates)]

        self.contact.extend(now)
        self.record.cancel_requested = True
        self.record.cancel_reason = self.record.cancel_reason or DEADLINE
        self.contact.life.stop()
        self.dialogue.reissue()
        return [Overdue(), Commit(self._keep(updates)), Cancel(), *self._moves.move(Signal.ALIVE, now)]

    def _refuse_open(self, event: StreamEvent, now: float, updates: Sequence[AgentRunResponseUpdate]) -> list[Command]:
        error = event.error or RunErrorInfo("error", "The service sent an error before it named the run.")
        return self._end(RunStatus.FAILED, error.code, error.message, now, updates)

    def _known(self) -> Snapshot:
        """The latest that the service showed of this round, or what amounts to it."""
        shown = self.record.snapshot
        return self.dialogue.known(self.assembly.merged(shown.text if shown else ""))

    def _keep(self, updates: Sequence[AgentRunResponseUpdate]) -> Sequence[AgentRunResponseUpdate]:
        self.record.position = self.assembly.position
        return updates
