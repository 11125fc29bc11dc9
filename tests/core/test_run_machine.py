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
    Attach,
    Cancel,
    CancelAnswered,
    CancelAsked,
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
    Streamed,
    StreamEnded,
    WakeAt,
)
from agentbg.core.model import EventKind, RunRef, StreamEvent
from agentbg.core.record import RunRecord
from agentbg.core.run import Run
from agentbg.core.schedule import PollPolicy, StreamPolicy
from agentbg.core.states import Phase
from agentbg.core.update import AgentRunResponseUpdate, UpdateType
from agentbg.errors import (
    AuthenticationFailed,
    RequestRejected,
    RunNotFound,
    ServiceUnavailable,
    StreamRefused,
)

from .service import REF, Service, Story, items, pieces, record, stories

FAULTS = (
    ServiceUnavailable("503"),
    ServiceUnavailable("429", retry_after=7.0),
    RunNotFound("404"),
    AuthenticationFailed("401"),
    RequestRejected("400"),
)
OURS = {"deadline", "not_found"}
SETTLED = (Phase.DONE, Phase.WAITING)


def joined(updates: Sequence[AgentRunResponseUpdate]) -> str:
    """What a consumer has who does as the updates say."""
    text = ""
    for update in updates:
        text = update.text if update.type is UpdateType.RESET else text + update.text

    return text


class RunMachine(RuleBasedStateMachine):
    @initialize(
        story=stories,
        stream=st.sampled_from([True, True, False]),
        opened=st.booleans(),
        bound=st.booleans(),
        faithful=st.booleans(),
        seed=st.integers(0, 9),
    )
    def start(self, story: Story, stream: bool, opened: bool, bound: bool, faithful: bool, seed: int) -> None:
        if faithful:
            story = replace(story, numbered=True, rewrites=False)

        self.faithful = faithful
        """The service sends no text that does not belong to the final one: then nothing is ever taken back."""
        self.service = Service(story)
        self.draw = random.Random(seed).random
        self.policy = PollPolicy(max_age=600.0 if bound else None)
        self.streams = StreamPolicy(attempts=3)
        self.now = 1000.0
        self.journal: list[AgentRunResponseUpdate] = []
        self.saved = record(stream=stream)
        self.lives = 0
        self.may_reset = story.rewrites
        self.be_born(self.saved)
        if stream and opened:
            self.stream_at: int | None = 0
            self.attaches = 1
        else:
            self.service.head = 1
            self.tell(Started(self.service.shown(1)))

    # --- the shell around the machine, as a runtime would be ---

    def be_born(self, record: RunRecord) -> None:
        age = self.now - record.created_at
        self.run = Run(record, poll=self.policy, stream=self.streams, draw=self.draw, now=self.now, age=age)
        self.lives += 1
        self.wake: float | None = None
        self.polling = self.cancelling = False
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
            assert (at.seq, at.chars, at.digest, at.items) == (last.seq, last.chars, last.digest, last.items)
            assert last.cursor is None or (at.cursor is not None and at.cursor >= last.cursor)

        assert commit.settled == bool(commit.updates and commit.updates[-1].type is UpdateType.END)

    def do_wakeat(self, command: WakeAt) -> None:
        assert self.run.phase not in SETTLED
        self.wake = command.at

    def do_poll(self, _command: Poll) -> None:
        assert not self.polling
        self.polling = True

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
        self.cancelling = True

    def do_complain(self, command: Complain) -> None:
        assert command.error in FAULTS

    def is_live(self) -> bool:
        return self.run.phase not in SETTLED

    def is_streaming(self) -> bool:
        return self.stream_at is not None

    def is_polling(self) -> bool:
        return self.polling

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

    @precondition(lambda self: not self.faithful and self.is_streaming() and self.stream_at + 1 < self.service.head)
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
        self.polling = False
        self.tell(PollFailed(error))

    @precondition(is_polling)
    @rule(ago=st.integers(0, 5), other=st.booleans())
    def a_poll_is_answered(self, ago: int, other: bool) -> None:
        self.polling = False
        shown = self.service.shown(max(self.service.head - ago, 0))
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

    @rule(seconds=st.sampled_from([0.01, 1.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    # --- the user ---

    @precondition(lambda self: self.run.phase is not Phase.DONE)
    @rule()
    def the_user_cancels(self) -> None:
        if self.run.record.ref is None:
            return

        self.tell(CancelAsked())
        assert self.saved.cancel_requested

    @precondition(lambda self: self.cancelling)
    @rule(heard=st.booleans(), shows=st.booleans())
    def the_cancel_is_answered(self, heard: bool, shows: bool) -> None:
        self.cancelling = False
        if heard:
            self.service.is_cancelled()

        self.tell(CancelAnswered(self.service.shown(self.service.head) if shows else None))

    # --- the process ---

    @precondition(lambda self: self.saved.ref is not None)
    @rule()
    def the_process_dies_and_another_goes_on(self) -> None:
        self.be_born(copy.deepcopy(self.saved))
        self.do(self.run.begin(self.now))

    @precondition(lambda self: any(update.continuation_token for update in self.journal))
    @rule(data=st.data())
    def another_goes_on_from_a_token(self, data: st.DataObject) -> None:
        tokens = [update.continuation_token for update in reversed(self.journal) if update.continuation_token]
        token = data.draw(st.sampled_from(tokens))
        del self.journal[token.position.seq :]
        self.saved = record(stream=token.streamed, ref=token.ref)
        self.saved.position = token.position
        self.be_born(copy.deepcopy(self.saved))
        self.do(self.run.begin(self.now))

    # --- what must hold, always ---

    @invariant()
    def all_holds(self) -> None:
        self.seqs_are_gapless()
        self.only_the_last_update_is_an_end()
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
        assert bool(self.journal and self.journal[-1].type is UpdateType.END) == (not self.is_live())

    def a_live_run_will_be_woken(self) -> None:
        if self.is_live() and self.run.phase is not Phase.STARTING:
            assert self.wake is not None or self.polling

    def a_settled_run_has_no_stream(self) -> None:
        if not self.is_live():
            assert self.stream_at is None

    def a_token_is_none_exactly_when_nothing_is_left(self) -> None:
        if self.run.phase is Phase.STARTING:
            return

        assert self.run.record.status.live == self.is_live() == (self.run.token is not None)
        assert (self.run.response.continuation_token is not None) == self.is_live()
        for update in self.journal:
            token = update.continuation_token
            assert (token is None) == (update.type is UpdateType.END or update.issuer is None)
            assert token is None or token.position.seq == update.seq

    def nothing_is_taken_back_without_a_reason(self) -> None:
        if not self.may_reset:
            assert UpdateType.RESET not in [update.type for update in self.journal]
            assert self.service.final.text.startswith(joined(self.journal)) or self.story_hides()

    def a_stream_is_opened_again_only_after_it_ended(self) -> None:
        assert self.attaches <= self.ends + 1

    def the_run_keeps_the_id_of_its_start(self) -> None:
        assert self.run.record.ref in (None, REF)

    def the_text_is_the_answer(self) -> None:
        if self.is_live():
            return

        response = self.journal[-1].response
        assert response is not None
        by_us = response.error is not None and response.error.code in OURS
        if not by_us and not self.story_hides():
            assert response.text == self.service.final.text

        if self.lives == 1 or not (by_us or self.story_hides()):
            assert joined(self.journal) == response.text

    def story_hides(self) -> bool:
        final = self.service.final
        return not final.items and not final.text

    # --- how it ends ---

    def teardown(self) -> None:
        """From here on all goes well: then every run ends, soon, and with the truth."""
        if sys.exc_info()[0] is not None:  # it has failed before: say that, and not what came of it
            return

        self.service.head = len(self.service.log)
        for _ in range(20):
            if not self.is_live():
                break

            self.take_the_next_good_step()

        assert not self.is_live()
        self.all_holds()

    @precondition(lambda self: self.run.phase not in (Phase.STARTING, *SETTLED))
    @rule()
    def take_the_next_good_step(self) -> None:
        if self.stream_at is not None and self.stream_at < self.service.head:
            self.events_arrive(self.service.head - self.stream_at)
        elif self.polling:
            self.a_poll_is_answered(ago=0, other=False)
        elif self.stream_at is not None:
            self.the_connection_ends(None)
        else:
            self.the_time_comes(late=0.0)


RunMachine.TestCase.settings = settings(max_examples=4 * settings().max_examples, stateful_step_count=40)
TestRunMachine = RunMachine.TestCase
