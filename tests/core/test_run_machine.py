"""A run against a service and a network that do everything that real ones do, in any order."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentbg.core.messages import (
    Answered,
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
    Invoke,
    Invoked,
    InvokeFailed,
    Notified,
    Observation,
    Overdue,
    Poll,
    Polled,
    PollFailed,
    Send,
    Stalled,
    Started,
    StartFailed,
    StartLost,
    Streamed,
    StreamEnded,
    WakeAt,
)
from agentbg.core.model import EventKind, RunRef, StreamEvent
from agentbg.core.record import RunRecord
from agentbg.core.requests import Answer, InputRequest, RequestKind
from agentbg.core.rounds import TOO_MANY_ROUNDS, TOOL_FAILED, CallState, FollowUp, Tooling
from agentbg.core.run import Run
from agentbg.core.schedule import PollPolicy, StreamPolicy
from agentbg.core.states import Phase
from agentbg.core.status import RunStatus
from agentbg.core.update import AgentRunResponseUpdate, UpdateType
from agentbg.errors import (
    AuthenticationFailed,
    RequestRejected,
    RunNotFound,
    ServiceUnavailable,
    StreamRefused,
)

from .service import TOOLS, Service, Story, items, pieces, record, stories

FAULTS = (
    ServiceUnavailable("503"),
    ServiceUnavailable("429", retry_after=7.0),
    RunNotFound("404"),
    AuthenticationFailed("401"),
    RequestRejected("400"),
)
START_FAULTS = (ServiceUnavailable("503"), ServiceUnavailable("429", retry_after=7.0), AuthenticationFailed("401"))
OURS = {"deadline", "not_found", "cancelled", "rejected", TOOL_FAILED, TOO_MANY_ROUNDS}
LAST = Story([["The end."]], True, [1], [None], RunStatus.COMPLETED, False, False, False, [])
SETTLED = (Phase.DONE, Phase.WAITING)


def joined(updates: Sequence[AgentRunResponseUpdate]) -> str:
    """What a consumer has who does as the updates say."""
    text = ""
    for update in updates:
        text = update.text if update.type is UpdateType.RESET else text + update.text

    return text


def possible_answers(request: InputRequest) -> list[Answer]:
    if request.kind is not RequestKind.APPROVAL:
        return [request.answer("so"), request.reject("no")]

    return [request.approve(), request.reject()]


class RunMachine(RuleBasedStateMachine):
    @initialize(
        plots=st.lists(stories, min_size=1, max_size=3),
        follow_up=st.sampled_from(FollowUp),
        max_rounds=st.sampled_from([1, 9, 9]),
        stream=st.sampled_from([True, True, False]),
        opened=st.booleans(),
        bound=st.sampled_from(["", "", "age", "detach", "cancel"]),
        faithful=st.booleans(),
        seed=st.integers(0, 9),
    )
    def start(
        self,
        plots: list[Story],
        follow_up: FollowUp,
        max_rounds: int,
        stream: bool,
        opened: bool,
        bound: str,
        faithful: bool,
        seed: int,
    ) -> None:
        *firsts, last = plots
        plots = [*(replace(story, ending=RunStatus.INPUT_REQUIRED, items=story.items[:1]) for story in firsts), last]
        if faithful:
            plots = [replace(story, numbered=True, rewrites=False) for story in plots]

        self.plots = plots
        self.faithful = faithful
        """The service sends no text that does not belong to the final one: then nothing is ever taken back."""
        self.tools = Tooling(TOOLS, max_rounds, follow_up)
        self.nothing_has_happened()
        self.a_round_begins()
        self.draw = random.Random(seed).random
        self.policy = PollPolicy(max_age=600.0 if bound == "age" else None, stall_after=100.0)
        self.streams = StreamPolicy(attempts=3, quiet=5.0)
        self.now = 1000.0
        self.journal: list[AgentRunResponseUpdate] = []
        self.saved = record(stream=stream)
        if bound in ("detach", "cancel"):
            self.saved.deadline_at = self.saved.created_at + 300.0
            self.saved.cancel_at_deadline = bound == "cancel"

        self.lives = 0
        self.be_born(self.saved)
        if stream and opened:
            self.stream_at: int | None = 0
            self.attaches = 1
        else:
            self.service.head = 1
            self.tell(Started(self.service.shown(1)))

    def nothing_has_happened(self) -> None:
        self.services: list[Service] = []
        """Of each round, the service's run."""
        self.names = 0
        self.begun: set[tuple[int, str]] = set()
        """The calls that were begun, by round and id."""
        self.unsure: set[int] = set()
        """The rounds of which nobody knows whether they were followed by another."""
        self.unknown = ""
        """What earlier rounds said that the present process does not know."""
        self.held = ""
        """What the consumer has of it all the same: less, when a RESET in an unknowing process took it back."""
        self.taken_at = 0
        """Where in the journal the last process began that knew nothing but a token."""
        self.may_reset = False

    # --- the shell around the machine, as a runtime would be ---

    def be_born(self, record: RunRecord) -> None:
        age = self.now - record.created_at
        self.run = Run(
            record, poll=self.policy, stream=self.streams, draw=self.draw, now=self.now, age=age, tools=self.tools
        )
        self.lives += 1
        self.overdue = 0
        self.wake: float | None = None
        self.polling: Service | None = None
        self.cancelling: Service | None = None
        self.calls: list[InputRequest] = []
        self.sending: Send | None = None
        self.stream_at = None
        self.attaches = self.ends = 0

    def tell(self, seen: Observation) -> None:
        was = self.run.phase
        commands = self.run.feed(seen, self.now)
        assert was is not Phase.DONE or commands == []
        self.do(commands)

    def do(self, commands: Sequence[Command]) -> None:
        assert sum(isinstance(command, Commit) for command in commands) <= 1
        for command in commands:
            getattr(self, f"do_{type(command).__name__.lower()}")(command)

    def do_commit(self, commit: Commit) -> None:
        assert not self.journal or self.journal[-1].type is not UpdateType.END or not commit.updates
        self.journal += commit.updates
        self.saved = copy.deepcopy(self.run.record)
        at = self.saved.position
        assert at.seq == len(self.journal)
        if self.journal:
            last = self.journal[-1].position
            assert (at.seq, at.chars, at.digest) == (last.seq, last.chars, last.digest)
            issuer = self.journal[-1].issuer
            if issuer is not None and issuer.ref == self.saved.ref:
                assert at.items == last.items
                assert last.cursor is None or (at.cursor is not None and at.cursor >= last.cursor)

        last_type = commit.updates[-1].type if commit.updates else None
        assert commit.settled == (last_type in (UpdateType.END, UpdateType.WAITING))
        if commit.settled:
            self.wake = None

    def do_stalled(self, _command: Stalled) -> None:
        assert self.is_live()

    def do_overdue(self, _command: Overdue) -> None:
        self.overdue += 1
        assert self.overdue == 1

    def do_wakeat(self, command: WakeAt) -> None:
        assert self.run.phase is not Phase.DONE
        assert self.run.phase is not Phase.WAITING or self.saved.deadline_at is not None
        self.wake = command.at

    def do_poll(self, _command: Poll) -> None:
        assert self.polling is None
        assert self.run.record.ref == self.service.ref
        self.polling = self.service

    def do_attach(self, command: Attach) -> None:
        assert self.stream_at is None
        self.attaches += 1
        self.stream_at = self.service.after(command.after)
        if not self.service.story.numbered and self.journal:
            self.may_reset = True

    def do_detach(self, _command: Detach) -> None:
        assert self.stream_at is not None
        self.stream_at = None
        self.ends += 1

    def do_cancel(self, _command: Cancel) -> None:
        assert self.run.record.ref is not None
        self.cancelling = self.service

    def do_complain(self, command: Complain) -> None:
        assert command.error in (*FAULTS, *START_FAULTS)

    def do_invoke(self, command: Invoke) -> None:
        request, call = command.request, (len(self.services), command.request.id)
        assert self.saved.rounds[-1].find(request.id, CallState.RUNNING), "the store knows of it first"
        assert call not in self.begun or TOOLS[request.name].idempotent
        assert request not in self.calls
        self.goes_on()
        self.begun.add(call)
        self.calls.append(request)

    def do_send(self, command: Send) -> None:
        last = self.saved.rounds[-1]
        assert (last.sent, last.states(), self.saved.ref) == (True, {CallState.ANSWERED}, None), "the store knows first"
        assert len(self.services) not in self.unsure, "nobody pays twice without knowing"
        assert self.sending is None
        assert not self.calls
        self.goes_on()
        assert last.ref == self.service.ref
        how = self.tools.follow_up
        assert command.waiting == (last.ref if how is FollowUp.SAME else None)
        assert command.request.previous == (None if how is FollowUp.WHOLE else last.ref)
        assert list(command.request.input)[-len(last.calls) :] == [call.answer for call in last.calls]
        self.sending = command

    def goes_on(self) -> None:
        assert self.stream_at is None, "the round before is over"
        assert not self.saved.cancel_requested or self.tools.follow_up is FollowUp.SAME

    @property
    def service(self) -> Service:
        return self.services[-1]

    def a_round_begins(self) -> None:
        self.names += 1
        at = len(self.services)
        story = self.plots[at] if at < len(self.plots) else LAST
        self.services.append(Service(story, RunRef("model", "here", {"id": f"run_{self.names}"})))
        self.may_reset = self.may_reset or story.rewrites

    def is_live(self) -> bool:
        return self.run.phase not in SETTLED

    def is_streaming(self) -> bool:
        return self.stream_at is not None

    def is_polling(self) -> bool:
        return self.polling is not None

    def is_sending(self) -> bool:
        return self.sending is not None

    def is_unnamed(self) -> bool:
        """The next round's stream is open, and has not said whose it is."""
        return self.stream_at is not None and self.run.record.ref is None and bool(self.run.record.rounds)

    # --- the service ---

    @rule(more=st.integers(1, 6))
    def the_service_works(self, more: int) -> None:
        self.service.head = min(self.service.head + more, len(self.service.log))

    @precondition(lambda self: not self.faithful and self.is_live() and not self.service.ended)
    @rule(index=st.integers(0, 2), items=items)
    def the_service_begins_an_item_again(self, index: int, items: Sequence[Sequence[str]]) -> None:
        self.service.begins_again(index, items)
        self.may_reset = True

    # --- the stream ---

    def send(self, events: Sequence[StreamEvent]) -> None:
        if self.stream_at is None:
            return

        self.tell(Streamed(events))

    @precondition(is_streaming)
    @rule()
    def an_event_arrives(self) -> None:
        self.events_arrive(count=1)

    @precondition(is_streaming)
    @rule(count=st.integers(0, 6))
    def events_arrive(self, count: int) -> None:
        assert self.stream_at is not None
        events = self.service.log[self.stream_at : self.stream_at + count]
        self.stream_at += len(events)
        self.service.head = max(self.service.head, self.stream_at)
        self.send(events)

    @precondition(is_streaming)
    @rule(back=st.integers(1, 8), count=st.integers(1, 9))
    def events_arrive_again(self, back: int, count: int) -> None:
        assert self.stream_at is not None
        self.stream_at = max(self.stream_at - back, 0)
        self.may_reset = self.may_reset or not self.service.story.numbered
        self.events_arrive(count)

    @precondition(is_streaming)
    @rule()
    def everything_is_replayed(self) -> None:
        self.events_arrive_again(back=len(self.service.log), count=self.service.head)

    @precondition(
        lambda self: (
            not self.faithful
            and self.is_streaming()
            and not self.is_unnamed()
            and self.stream_at + 1 < self.service.head
        )
    )
    @rule()
    def an_event_is_lost(self) -> None:
        assert self.stream_at is not None
        self.stream_at += 1
        self.may_reset = True

    @precondition(is_streaming)
    @rule(kind=st.sampled_from([EventKind.KEEPALIVE, EventKind.PROGRESS]))
    def an_event_without_a_number_arrives(self, kind: EventKind) -> None:
        self.send([StreamEvent(kind, {"type": "unknown"})])

    @precondition(lambda self: not self.faithful and self.is_streaming())
    @rule(text=pieces)
    def text_without_a_number_arrives(self, text: str) -> None:
        if self.run.record.ref is not None:
            self.may_reset = True
            self.send([StreamEvent(EventKind.TEXT, {"type": "unknown"}, text)])

    @precondition(lambda self: self.is_streaming() and self.run.record.ref is not None)
    @rule(error=st.sampled_from([None, ServiceUnavailable("cut"), StreamRefused("5 minutes")]))
    def the_connection_ends(self, error: Exception | None) -> None:
        self.stream_at = None
        self.ends += 1
        self.tell(StreamEnded(error))

    # --- polls ---

    @precondition(is_polling)
    @rule(error=st.sampled_from(FAULTS))
    def a_poll_fails(self, error: Exception) -> None:
        self.polling = None
        self.tell(PollFailed(error))

    @precondition(is_polling)
    @rule(ago=st.integers(0, 5), other=st.booleans())
    def a_poll_is_answered(self, ago: int, other: bool) -> None:
        assert self.polling is not None
        service, self.polling = self.polling, None
        shown = service.shown(max(service.head - ago, 0))
        if other:
            shown = replace(shown, ref=RunRef("model", "here", {"id": "another"}))

        self.tell(Polled(shown))

    # --- time ---

    @precondition(lambda self: self.wake is not None)
    @rule(late=st.sampled_from([0.0, 0.1, 30.0, 200.0]))
    def the_time_comes(self, late: float) -> None:
        assert self.wake is not None
        self.now = max(self.now, self.wake) + late
        self.wake = None
        self.tell(Due())

    @rule()
    def somebody_speaks_of_the_run(self) -> None:
        self.tell(Notified())

    @precondition(lambda self: self.run.phase is Phase.STREAMING and self.wake is not None)
    @rule()
    def a_round_ends_while_its_quiet_stream_is_asked_about(self) -> None:
        self.the_time_comes(late=6.0)
        if self.stream_at is not None:
            self.service.head = len(self.service.log)
            self.events_arrive(self.service.head - self.stream_at)

    @precondition(lambda self: self.polling not in (None, self.service))
    @rule(ago=st.integers(0, 5))
    def a_poll_of_a_round_that_is_over_is_answered(self, ago: int) -> None:
        self.a_poll_is_answered(ago=ago, other=False)

    @rule(seconds=st.sampled_from([0.01, 1.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    # --- the user ---

    @precondition(lambda self: self.run.phase is not Phase.DONE)
    @rule(really=st.sampled_from([True, False, False]))
    def the_user_cancels(self, really: bool) -> None:
        if not really or (self.run.record.ref is None and not self.run.record.rounds):
            return

        self.tell(CancelAsked())
        assert self.saved.cancel_requested

    @precondition(lambda self: self.cancelling)
    @rule(heard=st.booleans(), shows=st.booleans())
    def the_cancel_is_answered(self, heard: bool, shows: bool) -> None:
        assert self.cancelling is not None
        service, self.cancelling = self.cancelling, None
        if heard:
            service.is_cancelled()

        self.tell(CancelAnswered(service.shown(service.head) if shows else None))

    @precondition(lambda self: self.cancelling)
    @rule()
    def the_cancel_fails(self) -> None:
        self.cancelling = None
        self.tell(CancelFailed())

    @precondition(lambda self: self.run.phase is Phase.WAITING or self.run.response.requests)
    @rule(data=st.data())
    def the_user_answers(self, data: st.DataObject) -> None:
        requests = self.run.response.requests
        some = (
            data.draw(st.lists(st.sampled_from(requests), min_size=1, unique_by=lambda request: request.id))
            if requests
            else []
        )
        answers = [data.draw(st.sampled_from(possible_answers(request))) for request in some]
        self.answer(answers)

    @precondition(lambda self: self.run.phase is not Phase.WAITING)
    @rule()
    def the_user_answers_what_nobody_asked(self) -> None:
        assert self.run.feed(Answered(), self.now) in ([], [Stalled()])

    def answer(self, answers: Sequence[Answer]) -> None:
        if not self.run.response.requests:
            error = self.run.response.error
            assert error is not None
            assert error.code == "submit_unknown"
            self.unsure.discard(len(self.services))

        self.run.record.renewed_at = self.now
        self.tell(Answered(answers))

    # --- our part: calls and follow-ups ---

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def a_call_is_made(self, data: st.DataObject) -> None:
        self.calls_end(data.draw(st.sampled_from(self.calls)))

    def calls_end(self, request: InputRequest) -> None:
        self.calls.remove(request)
        self.tell(Invoked(request.id, "42"))

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), really=st.sampled_from([True, False, False]))
    def a_call_goes_wrong_for_good(self, data: st.DataObject, really: bool) -> None:
        if not really:
            return

        request = data.draw(st.sampled_from(self.calls))
        self.calls.remove(request)
        self.tell(InvokeFailed(request.id, "No."))

    @precondition(is_sending)
    @rule(opens=st.booleans(), head=st.sampled_from([1, 1, 2, 100]))
    def a_follow_up_is_answered(self, opens: bool, head: int) -> None:
        self.sending = None
        self.a_round_begins()
        if opens and self.run.record.stream and self.run.phase is not Phase.DONE:
            self.stream_at = 0
            self.attaches += 1
            return

        self.service.head = min(head, len(self.service.log))
        self.tell(Started(self.service.shown(self.service.head)))

    @precondition(is_sending)
    @rule(error=st.sampled_from(START_FAULTS))
    def a_follow_up_fails(self, error: Exception) -> None:
        self.sending = None
        self.tell(StartFailed(error))

    @precondition(is_sending)
    @rule(really=st.sampled_from([True, False, False]))
    def a_follow_up_is_refused_for_good(self, really: bool) -> None:
        if really:
            self.sending = None
            self.tell(StartFailed(RequestRejected("400")))

    @precondition(is_sending)
    @rule()
    def a_follow_up_is_lost(self) -> None:
        self.sending = None
        self.unsure.add(len(self.services))
        self.tell(StartLost("read time-out"))

    @precondition(is_unnamed)
    @rule()
    def a_follow_ups_stream_is_cut_before_it_says_anything(self) -> None:
        self.forget_the_unnamed()
        self.stream_at = None
        self.ends += 1
        self.tell(StreamEnded(ServiceUnavailable("cut")))

    def forget_the_unnamed(self) -> None:
        """The service's run that was started last, if there is one, will never be known."""
        if self.is_unnamed():
            self.services.pop()

        if self.run.record.rounds and self.run.record.ref is None:
            self.unsure.add(len(self.services))

    # --- the process ---

    @precondition(lambda self: self.run.phase is not Phase.DONE and (self.saved.ref or self.saved.rounds))
    @rule(begins=st.booleans())
    def the_process_dies_and_another_goes_on(self, begins: bool) -> None:
        self.forget_the_unnamed()
        self.be_born(copy.deepcopy(self.saved))
        if begins or self.run.phase is not Phase.WAITING:
            self.do(self.run.begin(self.now))

    @precondition(lambda self: self.lives < 6 and any(update.continuation_token for update in self.journal))
    @rule(data=st.data())
    def another_goes_on_from_a_token(self, data: st.DataObject) -> None:
        tokens = [update.continuation_token for update in reversed(self.journal) if update.continuation_token]
        token = self.run.token if data.draw(st.booleans()) else None
        token = token or data.draw(st.sampled_from(tokens))
        if token.position.seq == len(self.journal) and self.run.phase is Phase.DONE:
            self.journal[-1] = replace(
                self.journal[-1], type=UpdateType.STATUS
            )  # the next run has a journal of its own

        (at,) = (n for n, service in enumerate(self.services) if service.ref == token.ref)
        del self.services[at + 1 :]
        self.begun.clear()
        self.unsure.clear()
        self.unknown = "".join(service.final.text for service in self.services[:-1])
        self.taken_at = token.position.seq
        del self.journal[token.position.seq :]
        self.held = joined(self.journal)[: token.position.before]
        self.saved = record(stream=token.streamed, ref=token.ref)
        self.saved.position = token.position
        self.be_born(copy.deepcopy(self.saved))
        self.do(self.run.begin(self.now))

    # --- what must hold, always ---

    @invariant()
    def all_holds(self) -> None:
        self.seqs_are_gapless()
        self.only_the_last_update_is_an_end()
        self.only_the_last_update_waits_for_the_user()
        self.a_live_run_will_be_woken()
        self.a_settled_run_has_no_stream()
        self.a_token_is_none_exactly_when_nothing_is_left()
        self.nothing_is_taken_back_without_a_reason()
        self.a_stream_is_opened_again_only_after_it_ended()
        self.the_run_keeps_the_id_of_its_start()
        self.the_text_is_the_answer()

    def seqs_are_gapless(self) -> None:
        assert [update.seq for update in self.journal] == list(range(1, len(self.journal) + 1))
        assert self.run.assembly.position.seq >= self.run.record.position.seq == len(self.journal)

    def only_the_last_update_is_an_end(self) -> None:
        assert UpdateType.END not in [update.type for update in self.journal[:-1]]
        assert bool(self.journal and self.journal[-1].type is UpdateType.END) == (self.run.phase is Phase.DONE)

    def only_the_last_update_waits_for_the_user(self) -> None:
        waits = self.run.phase is Phase.WAITING
        assert bool(self.journal and self.journal[-1].type is UpdateType.WAITING) == waits
        assert (self.run.record.status is RunStatus.INPUT_REQUIRED) == waits
        if waits:
            response = self.journal[-1].response
            assert response is not None
            assert (response.requests, response.error) == (self.run.response.requests, self.run.response.error)
            assert response.requests or response.error

    def a_live_run_will_be_woken(self) -> None:
        if self.run.phase is Phase.CALLING:
            assert self.calls
        elif self.run.phase is Phase.STARTING:
            assert self.sending or self.is_streaming() or self.wake is not None
        elif self.is_live():
            assert self.wake is not None or self.polling

    def a_settled_run_has_no_stream(self) -> None:
        if not self.is_live():
            assert self.stream_at is None

    def a_token_is_none_exactly_when_nothing_is_left(self) -> None:
        if self.run.phase is Phase.STARTING and not self.run.record.rounds:
            return

        if self.run.token is not None:
            assert self.run.token.ref == (self.services[-2] if self.is_unnamed() else self.service).ref

        assert self.run.record.status.live == self.is_live()
        assert (self.run.token is not None) == (self.is_live() or self.run.record.detached)
        assert self.run.response.continuation_token == self.run.token
        if self.run.phase is Phase.DONE:
            assert self.journal[-1].response is not None
            assert self.journal[-1].response.continuation_token == self.run.token
        for update in self.journal:
            token = update.continuation_token
            assert (token is None) == (update.type in (UpdateType.END, UpdateType.WAITING) or update.issuer is None)
            assert token is None or token.position.seq == update.seq

    def nothing_is_taken_back_without_a_reason(self) -> None:
        if not self.may_reset:
            assert UpdateType.RESET not in [update.type for update in self.journal]
            assert self.whole_text().startswith(joined(self.journal)) or self.story_hides()

    def a_stream_is_opened_again_only_after_it_ended(self) -> None:
        assert self.attaches <= self.ends + 1

    def the_run_keeps_the_id_of_its_start(self) -> None:
        assert self.run.record.ref in (None, self.service.ref)

    def the_text_is_the_answer(self) -> None:
        if self.run.phase is not Phase.DONE:
            return

        response = self.journal[-1].response
        assert response is not None
        by_us = response.error is not None and response.error.code in OURS
        if not by_us and not self.story_hides():
            assert self.unknown + response.text == self.whole_text()

        if self.lives == 1 or not (by_us or self.story_hides()):
            anew = UpdateType.RESET in [update.type for update in self.journal[self.taken_at :]]
            assert joined(self.journal) == ("" if anew else self.held) + response.text

    def whole_text(self) -> str:
        return "".join(service.final.text for service in self.services)

    def story_hides(self) -> bool:
        final = self.service.final
        return not final.items and not final.text

    # --- how it ends ---

    @precondition(lambda self: self.run.phase not in SETTLED and (self.run.record.ref or self.run.record.rounds))
    @rule(steps=st.integers(1, 4))
    def all_goes_well_for_a_while(self, steps: int) -> None:
        for _ in range(steps):
            if self.is_live():
                self.service.head = len(self.service.log)
                self.take_the_next_good_step()

    def teardown(self) -> None:
        """From here on all goes well: then every run ends, soon, and with the truth."""
        if sys.exc_info()[0] is not None:  # it has failed before: say that, and not what came of it
            return

        for _ in range(80):
            if self.run.phase is Phase.DONE:
                break

            self.service.head = len(self.service.log)
            self.take_the_next_good_step()

        assert self.run.phase is Phase.DONE
        self.all_holds()

    @precondition(lambda self: self.run.phase is not Phase.DONE and (self.run.record.ref or self.run.record.rounds))
    @rule()
    def take_the_next_good_step(self) -> None:
        if self.is_unnamed():
            self.service.head = max(self.service.head, 1)

        if self.run.phase is Phase.WAITING:
            self.answer([possible_answers(request)[0] for request in self.run.response.requests])
        elif self.calls:
            self.calls_end(self.calls[0])
        elif self.sending:
            self.a_follow_up_is_answered(opens=self.names % 2 == 0, head=1)
        elif self.stream_at is not None and self.stream_at < self.service.head:
            self.events_arrive(self.service.head - self.stream_at)
        elif self.polling:
            self.a_poll_is_answered(ago=0, other=False)
        elif self.stream_at is not None:
            self.the_connection_ends(None)
        else:
            self.the_time_comes(late=0.0)


RunMachine.TestCase.settings = settings(max_examples=4 * settings().max_examples, stateful_step_count=40)
TestRunMachine = RunMachine.TestCase
