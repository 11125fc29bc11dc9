"""A run's rounds as they go: closed, worked on, answered, sent. Keeps the record and the assembly in step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..errors import UsageError
from .assembly import Assembly
from .messages import Invoke, Send
from .model import RunErrorInfo, RunRef, Snapshot, StreamEvent
from .record import RunRecord
from .requests import Answer, Output, check_answer, output_item, require_answer
from .rounds import (
    Call,
    CallState,
    FollowUp,
    Round,
    Tooling,
    begin_calls,
    decide,
    follow_up,
    open_requests,
    open_round,
    said,
    settle,
    take_up,
)
from .states import Signal
from .status import RunStatus
from .token import ContinuationToken
from .update import AgentRunResponseUpdate, TokenIssuer


def check_answers(record: RunRecord, answers: Sequence[Answer]) -> None:
    """Raise UsageError for answers that do not fit what the run waits for. None at all fit one that waits to be told
    whether to send again what was decided before. While some calls are being made, others may be answered."""
    requests = {request.id: request for request in open_requests(record.rounds)}
    if not requests and record.status is not RunStatus.INPUT_REQUIRED:
        raise UsageError(f"The run is {record.status}, and waits for no answer.")

    if requests and not answers:
        raise UsageError(f"The run waits for answers to: {', '.join(requests)}. Pass at least one.")

    for answer in answers:
        require_answer(answer)
        check_answer(requests.pop(answer.id, None), answer)


class Dialogue:
    """The rounds of one run. Between two, `record.ref` is still that of the one that was closed."""

    __slots__ = ("_record", "_tools", "assembly")

    def __init__(self, record: RunRecord, tools: Tooling) -> None:
        self._record = record
        self._tools = tools
        before = record.rounds[:-1] if self.between else record.rounds
        self.assembly = Assembly(record.position, said(before))
        self.reissue()

    @property
    def between(self) -> bool:
        """True while the service has done its part, and the next is ours, or our user's."""
        rounds = self._record.rounds
        return bool(rounds) and not rounds[-1].sent

    @property
    def ours(self) -> bool:
        """True when there is nothing at the service that could be cancelled."""
        return self.between and self._tools.follow_up is not FollowUp.SAME

    @property
    def too_long(self) -> bool:
        """True when a model that goes on calling is to be stopped."""
        rounds = self._record.rounds
        return len(rounds) > self._tools.max_rounds and CallState.READY in rounds[-1].states()

    @property
    def signal(self) -> Signal:
        """What the calls of the last round ask for."""
        states = self._record.rounds[-1].states()
        if states & {CallState.READY, CallState.RUNNING}:
            return Signal.CALLS

        unsure = self._record.rounds[-1].error is not None
        return Signal.ASKED if CallState.ASKED in states or unsure else Signal.ANSWERED

    @property
    def token(self) -> ContinuationToken | None:
        """What resumes the run from here. While the next round has no name yet, it leads to the one before; so it does
        for a run that was let go of between two."""
        record = self._record
        last = record.rounds[-1] if record.rounds else None
        before = last if last and (record.ref is None or (record.detached and record.ref == last.ref)) else None
        ref, position = (before.ref, before.position) if before else (record.ref, self.assembly.position)
        issuer = self._issuer(ref) if record.status.live or record.detached else None
        return issuer.issue(position) if issuer else None

    def issuer(self, seq: int) -> TokenIssuer | None:
        """What issues the token of the update with this `seq`: for the round that it is of."""
        record = self._record
        return self._issuer(next((each.ref for each in record.rounds if seq <= each.position.seq), record.ref))

    def reissue(self) -> None:
        """From here on, tokens say what may be done with the run now."""
        self.assembly.issuer = self._issuer(self._record.ref)

    def close(self, snapshot: Snapshot, event: StreamEvent | None) -> list[AgentRunResponseUpdate]:
        """The service has ended a round in requests. One that was closed before goes on as it stands."""
        record = self._record
        updates = self.assembly.close_round(snapshot, event)
        if not self.between:
            closed = open_round(snapshot, record.ref, self.assembly.position, self._tools.rules)
            record.rounds = [*record.rounds, closed]

        kept = Snapshot(record.ref, snapshot.status, snapshot.raw_status, error=snapshot.error, raw=snapshot.raw)
        record.snapshot = kept
        self.reissue()
        return updates

    def replay(self, missed: Sequence[Round], ref: RunRef | None) -> list[AgentRunResponseUpdate]:
        """The run went on while nobody was told: these rounds were closed meanwhile, and `ref` is the present one's."""
        record = self._record
        updates: list[AgentRunResponseUpdate] = []
        for closed in missed:
            record.ref = closed.ref
            self.reissue()
            shown = Snapshot(closed.ref, RunStatus.INPUT_REQUIRED, "", closed.text, closed.items)
            updates += self.assembly.close_round(shown)
            record.rounds = [*record.rounds, replace(closed, position=self.assembly.position)]
            if closed.sent:
                self.assembly.begin_round(said(record.rounds))

        record.ref = ref
        self.reissue()
        return updates

    def retell(self, lost: int, text: str | None) -> list[AgentRunResponseUpdate]:
        """The owner before has told this `text`, where it is known. It may have told up to `lost` updates that are not
        stored: then what stands is told again under numbers that nobody had.

        Between rounds, and before the run has a name, nothing was told that is not stored.
        """
        if self._record.ref is None or self.between or not self._record.status.live:
            return []

        if not lost:
            self.assembly.recall(text)
            return []

        update = self.assembly.retell(self.assembly.position.seq + lost, text)
        self._record.position = self.assembly.position
        return [update]

    def take_up(self) -> list[AgentRunResponseUpdate]:
        """Another process has begun what is to be done now."""
        interrupted = take_up(self._record.rounds[-1], self._tools.rules)
        return [self.assembly.answer(item) for item in interrupted]

    def invoke(self) -> list[Invoke]:
        """The calls to make now."""
        return [Invoke(request) for request in begin_calls(self._record.rounds[-1])]

    def uninvoke(self, call_id: str) -> None:
        """A call that was to be made was not begun."""
        call = self.running(call_id)
        if call is not None:
            call.state = CallState.READY

    def running(self, call_id: str) -> Call | None:
        """A call that is under way. Of any other, news is late."""
        return self._record.rounds[-1].find(call_id, CallState.RUNNING) if self.between else None

    def invoked(self, call: Call, output: Output) -> list[AgentRunResponseUpdate]:
        """A call was made."""
        return [self.assembly.answer(settle(call, output_item(call.request, output)))]

    def answered(self, answers: Sequence[Answer]) -> list[AgentRunResponseUpdate]:
        """The user has decided, and wants to go on where nobody knows whether the answers were sent."""
        waiting = self._record.rounds[-1]
        waiting.error = None
        updates = [self.assembly.status()]
        for answer in answers:
            call = waiting.find(answer.id, CallState.ASKED)
            if call is not None:
                decide(call, answer, self._tools.rules)
                updates += [self.assembly.answer(call.answer)] if call.answer is not None else []

        return updates

    def send(self) -> Send:
        """Go on to the next round, which has no name yet. Like the first, it may be streamed."""
        record, last = self._record, self._record.rounds[-1]
        how = self._tools.follow_up
        request = follow_up(record.request or self._tools.template, record.rounds, how)
        waiting, record.ref = record.ref, None
        record.refused = False
        last.sent = True
        last.position = replace(last.position, seq=self.assembly.position.seq)
        self.assembly.begin_round(said(record.rounds))
        record.position = self.assembly.position
        self.reissue()
        return Send(request, f"{record.id}.{len(record.rounds)}", waiting if how is FollowUp.SAME else None)

    def unsend(self, lost: str | None = None, code: str = "") -> None:
        """The next round did not begin; with `lost`, nobody knows whether it did."""
        last = self._record.rounds[-1]
        self._record.ref, last.sent = last.ref, False
        self.assembly.go_back(last.position, said(self._record.rounds[:-1]))
        self._record.position = self.assembly.position
        self.reissue()
        if lost is not None:
            last.error = RunErrorInfo(code, lost)

    def named(self, ref: RunRef) -> None:
        """The next round has a name. A service that waits itself may go on under the one before: no new round then.
        Any other has begun one, even where it gives all its runs the same name."""
        rounds = self._record.rounds
        if rounds and rounds[-1].ref == ref and self._tools.follow_up is FollowUp.SAME:
            self._reopen()

        self._record.ref = ref
        self.reissue()

    def conclude(self, *, final: bool) -> None:
        """Nothing follows. The service's own last word is about the round that was closed; ours comes after it."""
        rounds = self._record.rounds
        if self.between and final:
            self._reopen()
        elif self.between:
            rounds[-1].sent = True
            self.assembly.begin_round(said(rounds))

    def known(self, text: str) -> Snapshot:
        """The present round as it is known, with `text`; between rounds there is none."""
        record = self._record
        shown = record.snapshot or Snapshot(None, record.status, record.raw_status)
        error = (record.rounds[-1].error if self.between else None) or shown.error
        return Snapshot(
            record.ref,
            record.status,
            record.raw_status,
            "" if self.between else text,
            () if self.between else shown.items,
            error,
            shown.usage,
            raw=shown.raw,
        )

    def _reopen(self) -> None:
        """The last round is the present one again."""
        *before, last = self._record.rounds
        self._record.rounds = before
        self.assembly.go_back(last.position, said(before))

    def _issuer(self, ref: RunRef | None) -> TokenIssuer | None:
        """None for a run that nobody can resume: it has no name yet, or runs in the foreground. One that has closed its
        round is polled: its text may be ahead of its cursor."""
        record = self._record
        if ref is None or not (record.request is None or record.request.background):
            return None

        return TokenIssuer(ref, record.created_at, record.may_stream and ref == record.ref and not self.between)
