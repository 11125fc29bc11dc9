"""A run that asks for calls, or for its user, and goes on: round by round, and what may go wrong in between."""

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

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
from agentbg.core.model import EventKind, RunErrorInfo, RunRef, Snapshot, StartRequest, StreamEvent, Usage
from agentbg.core.record import RunRecord
from agentbg.core.requests import REJECTED, Answer, InputRequest, RequestKind
from agentbg.core.rounds import INTERRUPTED, TOO_MANY_ROUNDS, TOOL_FAILED, CallState, FollowUp, Tooling, ToolRule
from agentbg.core.run import Run
from agentbg.core.schedule import PollPolicy, StreamPolicy
from agentbg.core.states import Phase
from agentbg.core.status import RunStatus
from agentbg.core.update import AgentRunResponseUpdate, UpdateType
from agentbg.errors import (
    AuthenticationFailed,
    PreviousRunNotFound,
    RequestRejected,
    RunNotFound,
    ServiceUnavailable,
    StreamRefused,
)

from .service import REF, event, record, snapshot

T0 = 1000.0
POLL = PollPolicy(jitter=0.0, max_age=3600.0)
DOWN, DENIED, REJECTED_START = (
    ServiceUnavailable("503"),
    AuthenticationFailed("401"),
    RequestRejected("No.", code="bad"),
)
TOOLS = Tooling(
    {"look": ToolRule(), "again": ToolRule(idempotent=True), "pay": ToolRule(requires_approval=True)},
    template=StartRequest((), instructions="as the agent says"),
)
SAME = replace(TOOLS, follow_up=FollowUp.SAME)
REFS = [RunRef("model", "here", {"id": f"run_{n}"}) for n in (1, 2, 3)]
STATUS, ITEM, TEXT, END = EventKind.STATUS, EventKind.ITEM, EventKind.TEXT, EventKind.END
LOOK, AGAIN, PAY, UNKNOWN = ("look", "a"), ("again", "b"), ("pay", "c"), ("who", "d")


def asked(name: str, call_id: str, *, mcp: bool = False) -> InputRequest:
    kind = RequestKind.APPROVAL if mcp else RequestKind.CALL
    item = {"type": "mcp_approval_request" if mcp else "function_call", "name": name}
    return InputRequest(call_id, kind, name, "{}", {**item, ("id" if mcp else "call_id"): call_id})


def requires(*calls: tuple[str, str], text: str = "", ref: RunRef = REFS[0], usage: Usage | None = None) -> Snapshot:
    """A snapshot of a run that ended in these calls."""
    requests = [asked(*call) for call in calls]
    items = [request.item for request in requests]
    return Snapshot(ref, RunStatus.INPUT_REQUIRED, "completed", text, items, usage=usage, requests=requests)


def done(text: str, ref: RunRef, usage: Usage | None = None) -> Snapshot:
    return replace(snapshot(RunStatus.COMPLETED, text, ref=ref), usage=usage)


def output(call_id: str, text: str) -> dict[str, str]:
    return {"type": "function_call_output", "call_id": call_id, "output": text}


class Shell:
    """A run with its clock, its journal and its store: does what the machine says about the last two."""

    def __init__(self, record: RunRecord, tools: Tooling = TOOLS, *, now: float = T0, poll: PollPolicy = POLL) -> None:
        self.now, self.tools, self.poll = now, tools, poll
        self.journal: list[AgentRunResponseUpdate] = []
        self.stored = copy.deepcopy(record)
        self.run = self._run(record)

    def _run(self, record: RunRecord) -> Run:
        return Run(
            record,
            poll=self.poll,
            stream=StreamPolicy(),
            draw=lambda: 0.5,
            now=self.now,
            age=self.now - record.created_at,
            parse=json.loads,
            tools=self.tools,
        )

    def feed(self, seen: Observation) -> list[Command]:
        return self._do(self.run.feed(seen, self.now))

    def dies(self, *, begins: bool = True) -> list[Command]:
        """Another process goes on with what is stored."""
        self.run = self._run(copy.deepcopy(self.stored))
        return self._do(self.run.begin(self.now)) if begins else []

    def _do(self, commands: Sequence[Command]) -> list[Command]:
        """Commit; the commands that are left are returned."""
        commits = [command for command in commands if isinstance(command, Commit)]
        assert len(commits) <= 1
        for commit in commits:
            self.journal += commit.updates
            self.stored = copy.deepcopy(self.run.record)
            last = commit.updates[-1].type if commit.updates else None
            assert commit.settled == (last in (UpdateType.END, UpdateType.WAITING))

        assert [update.seq for update in self.journal] == list(range(1, len(self.journal) + 1))
        return [command for command in commands if not isinstance(command, Commit)]

    @property
    def text(self) -> str:
        """What a consumer has."""
        text = ""
        for update in self.journal:
            text = update.text if update.type is UpdateType.RESET else text + update.text

        return text

    @property
    def types(self) -> list[UpdateType]:
        return [update.type for update in self.journal]

    @property
    def calls(self) -> list[CallState]:
        return [call.state for call in self.run.record.rounds[-1].calls]

    @property
    def error(self) -> str | None:
        error = self.run.response.error
        return error.code if error else None


def polled(*, tools: Tooling = TOOLS, poll: PollPolicy = POLL, **kept: Any) -> Shell:
    """A run whose first poll is under way."""
    shell = Shell(replace(record(stream=False), **kept), tools, poll=poll)
    shell.feed(Started(snapshot(ref=REFS[0])))
    assert shell.feed(Due()) == [Poll()]
    return shell


def calling(*calls: tuple[str, str], text: str = "", tools: Tooling = TOOLS, poll: PollPolicy = POLL) -> Shell:
    """A run whose first round has ended in these calls."""
    shell = polled(tools=tools, poll=poll)
    shell.feed(Polled(requires(*calls, text=text)))
    return shell


def sent(text: str = "", tools: Tooling = TOOLS, poll: PollPolicy = POLL) -> Shell:
    """A run whose second round is being started."""
    shell = calling(LOOK, text=text, tools=tools, poll=poll)
    shell.feed(Invoked("a", "42"))
    assert (shell.run.phase, shell.run.record.ref) == (Phase.STARTING, None)
    return shell


def the_send(commands: Sequence[Command]) -> Send:
    (send,) = [command for command in commands if isinstance(command, Send)]
    return send


# --- calls ---


def test_the_calls_of_a_round_are_begun_together_and_the_store_knows_it_first() -> None:
    shell = polled()
    commands = shell.feed(Polled(requires(LOOK, AGAIN, text="Let me see. ")))
    assert commands == [Invoke(asked(*LOOK)), Invoke(asked(*AGAIN)), WakeAt(T0 + 3600)]
    assert [call.state for call in shell.stored.rounds[0].calls] == [CallState.RUNNING] * 2
    assert (shell.run.phase, shell.run.record.status, shell.text) == (Phase.CALLING, RunStatus.RUNNING, "Let me see. ")


def test_each_call_is_answered_once_and_only_the_last_answer_sends_them() -> None:
    shell = calling(LOOK, AGAIN)
    assert shell.feed(Invoked("b", "two")) == []
    assert shell.feed(Invoked("b", "two again")) == []
    assert shell.feed(Invoked("nobody", "knows")) == []
    send = the_send(shell.feed(Invoked("a", "one")))
    assert send == Send(StartRequest([output("a", "one"), output("b", "two")], previous=REFS[0]), "r1.1")
    assert [update.raw for update in shell.journal[-2:]] == [
        {"type": "item", "item": output("b", "two")},
        {"type": "item", "item": output("a", "one")},
    ]


@pytest.mark.parametrize("late", [Invoked("a", "43"), InvokeFailed("a", "boom"), Answered(), Due(), StreamEnded()])
def test_late_news_of_a_round_that_was_sent_changes_nothing(late: Observation) -> None:
    shell = sent()
    if isinstance(late, StreamEnded):
        shell.feed(Started(snapshot(ref=REFS[1])))

    before = copy.deepcopy(shell.run.record)
    assert shell.feed(late) in ([], [Poll()])
    assert shell.run.record == before


def test_a_call_that_ends_the_run_ends_it_and_the_others_are_late() -> None:
    shell = calling(LOOK, AGAIN, text="Hm. ")
    shell.feed(InvokeFailed("a", "No such disk."))
    assert (shell.run.phase, shell.types[-1]) == (Phase.DONE, UpdateType.END)
    assert shell.run.response.error == RunErrorInfo(TOOL_FAILED, "No such disk.")
    assert (shell.text, shell.run.response.text) == ("Hm. ", "Hm. ")
    assert shell.feed(Invoked("b", "2")) == []


def test_a_model_that_never_stops_calling_is_stopped_before_its_calls_are_made() -> None:
    shell = sent(tools=replace(TOOLS, max_rounds=1))
    assert shell.feed(Started(requires(LOOK, ref=REFS[1]))) == []
    assert (shell.run.phase, shell.error) == (Phase.DONE, TOO_MANY_ROUNDS)


def test_a_round_too_many_that_only_asks_its_user_is_none() -> None:
    shell = sent(tools=replace(TOOLS, max_rounds=1))
    shell.feed(Started(requires(UNKNOWN, ref=REFS[1])))
    assert shell.run.phase is Phase.WAITING


# --- the user ---


def test_a_call_that_needs_leave_waits_for_it_and_is_made_then() -> None:
    shell = calling(PAY)
    assert (shell.run.phase, shell.types[-1], shell.run.token) == (Phase.WAITING, UpdateType.WAITING, None)
    (request,) = shell.run.response.requests
    assert (request.kind, shell.journal[-1].response) == (RequestKind.APPROVAL, shell.run.response)
    assert shell.feed(Answered([request.approve()])) == [Invoke(request), WakeAt(T0 + 3600)]
    assert the_send(shell.feed(Invoked("c", "paid"))).request.input == [output("c", "paid")]


def test_a_call_that_is_not_allowed_is_answered_with_the_reason() -> None:
    shell = calling(PAY)
    send = the_send(shell.feed(Answered([Answer("c", approve=False, reason="Too dear.")])))
    assert send.request.input == [output("c", f"{REJECTED} Too dear.")]


def test_answers_may_come_one_by_one() -> None:
    shell = calling(PAY, UNKNOWN)
    assert shell.feed(Answered([Answer("d", output="me")])) == []
    assert [request.id for request in shell.run.response.requests] == ["c"]
    assert shell.types[-3:] == [UpdateType.STATUS, UpdateType.ITEM, UpdateType.WAITING]
    assert shell.feed(Answered([Answer("d", output="you"), Answer("nobody", output="")])) == []
    send = the_send(shell.feed(Answered([Answer("c", approve=False)])))
    assert send.request.input == [output("c", REJECTED), output("d", "me")]


def test_calls_that_are_ours_are_made_before_the_user_is_asked() -> None:
    shell = calling(LOOK, PAY)
    assert (shell.run.phase, shell.calls) == (Phase.CALLING, [CallState.RUNNING, CallState.ASKED])
    shell.feed(Invoked("a", "1"))
    assert (shell.run.phase, [request.id for request in shell.run.response.requests]) == (Phase.WAITING, ["c"])


def test_while_a_call_is_made_another_may_be_allowed_and_is_made_beside_it() -> None:
    shell = calling(LOOK, PAY, UNKNOWN)
    pay, unknown = shell.run.response.requests
    assert (pay.id, unknown.id) == ("c", "d")
    assert shell.feed(Answered([pay.approve()])) == [Invoke(pay), WakeAt(T0 + 3600)]
    assert shell.calls == [CallState.RUNNING, CallState.RUNNING, CallState.ASKED]
    shell.feed(Answered([unknown.answer("3")]))
    shell.feed(Invoked("a", "1"))
    send = the_send(shell.feed(Invoked("c", "2")))
    assert send.request.input == [output("a", "1"), output("c", "2"), output("d", "3")]


def test_the_leave_that_a_service_wants_for_a_call_of_its_own_is_told_to_it() -> None:
    shell = polled()
    request = asked("remote", "m", mcp=True)
    shell.feed(Polled(replace(requires(), requests=[request])))
    send = the_send(shell.feed(Answered([request.approve()])))
    assert send.request.input == [{"type": "mcp_approval_response", "approval_request_id": "m", "approve": True}]


def test_a_run_that_asks_for_nothing_in_particular_takes_any_message() -> None:
    shell = polled()
    shell.feed(Polled(requires(text="Well?")))
    (request,) = shell.run.response.requests
    send = the_send(shell.feed(Answered([request.answer("Yes.")])))
    assert send.request.input == [{"type": "message", "role": "user", "content": "Yes."}]


def test_time_spent_waiting_for_the_user_does_not_count() -> None:
    shell = calling(PAY)
    shell.now += 1e6
    assert shell.feed(Due()) == []
    commands = shell.feed(Answered([Answer("c", approve=True)]))
    assert commands[-1] == WakeAt(T0 + 1e6 + 3600)
    assert not shell.run.stalled(shell.now)


def test_time_spent_waiting_for_the_user_does_not_count_in_the_next_process_either() -> None:
    shell = calling(PAY, tools=Tooling({"pay": ToolRule(requires_approval=True, idempotent=True)}))
    shell.now += 1e6
    shell.run.record.renewed_at = shell.now  # the driver's part
    shell.feed(Answered([Answer("c", approve=True)]))
    assert shell.dies()[-1] == WakeAt(T0 + 1e6 + 3600)


def test_an_answer_after_the_runs_own_deadline_expires_it_and_sends_nothing() -> None:
    shell = polled(deadline_at=T0 + 60)
    shell.feed(Polled(requires(PAY)))
    shell.now += 61
    assert shell.feed(Answered([Answer("c", approve=True)])) == [Overdue()]
    assert (shell.run.record.status, shell.error) == (RunStatus.EXPIRED, "deadline")


# --- the process dies ---


@pytest.mark.parametrize("begins", [True, False])
def test_a_run_that_waits_takes_its_answer_in_another_process(begins: bool) -> None:
    shell = calling(PAY, text="May I? ")
    before = list(shell.journal)
    assert shell.dies(begins=begins) == []
    assert shell.journal == before
    assert [request.id for request in shell.run.response.requests] == ["c"]
    assert shell.run.response.text == "May I? "
    (invoke, _) = shell.feed(Answered([Answer("c", approve=True)]))
    assert invoke == Invoke(replace(asked(*PAY), kind=RequestKind.APPROVAL))


def test_a_call_that_was_begun_is_not_begun_again_unless_it_may_be() -> None:
    shell = calling(LOOK, AGAIN)
    assert shell.dies() == [Invoke(asked(*AGAIN)), WakeAt(T0 + 3600)]
    assert shell.journal[-1].raw == {"type": "item", "item": output("a", INTERRUPTED)}
    send = the_send(shell.feed(Invoked("b", "2")))
    assert send.request.input == [output("a", INTERRUPTED), output("b", "2")]


def test_a_call_that_was_decided_and_not_begun_is_made_in_the_next_process() -> None:
    shell = calling(PAY)
    shell.stored.rounds[0].calls[0].state = CallState.READY
    shell.stored.status = RunStatus.RUNNING
    assert isinstance(shell.dies()[0], Invoke)


@pytest.mark.parametrize("state", [CallState.READY, CallState.ASKED])
def test_a_call_without_its_tool_in_the_next_process_is_its_users_to_make(state: CallState) -> None:
    shell = calling(PAY)
    shell.tools = Tooling()
    if state is CallState.READY:
        shell.stored.rounds[0].calls[0].state = state
        shell.stored.status = RunStatus.RUNNING

    shell.dies()
    if state is CallState.ASKED:
        assert shell.feed(Answered([Answer("c", approve=True)])) == []

    (request,) = shell.run.response.requests
    assert (shell.run.phase, request.kind) == (Phase.WAITING, RequestKind.CALL)
    assert the_send(shell.feed(Answered([request.answer("paid")]))).request.input == [output("c", "paid")]


def test_answers_that_were_not_sent_are_sent_by_the_next_process() -> None:
    shell = sent()
    shell.feed(StartFailed(DOWN))
    assert the_send(shell.dies()).request.input == [output("a", "42")]


def test_answers_that_may_have_been_sent_are_not_sent_again_unless_the_user_says_so() -> None:
    shell = sent("One. ")
    assert shell.dies() == []
    assert (shell.run.phase, shell.error, shell.run.response.requests) == (Phase.WAITING, "submit_unknown", [])
    assert shell.dies() == []
    assert shell.error == "submit_unknown"
    send = the_send(shell.feed(Answered()))
    assert send == Send(StartRequest([output("a", "42")], previous=REFS[0]), "r1.1")
    shell.feed(Started(snapshot(ref=REFS[1])))
    assert shell.error is None
    shell.feed(Polled(done("Two.", REFS[1])))
    assert shell.text == shell.run.response.text == "One. Two."


# --- the next round cannot be started ---


def test_a_lost_follow_up_waits_for_its_user() -> None:
    shell = sent()
    assert shell.feed(StartLost("read time-out")) == []
    assert shell.run.response.error == RunErrorInfo("submit_unknown", "read time-out")
    assert (shell.run.phase, shell.types[-1]) == (Phase.WAITING, UpdateType.WAITING)
    assert shell.run.response.response_id == REF.id
    assert isinstance(the_send(shell.feed(Answered())), Send)


def test_a_stream_that_ends_before_it_names_the_next_round_is_a_lost_follow_up() -> None:
    shell = sent()
    shell.feed(Streamed([event(EventKind.PROGRESS, 0)]))
    assert shell.journal[-1].continuation_token is None
    assert shell.feed(StreamEnded(DOWN)) == []
    assert (shell.run.phase, shell.error) == (Phase.WAITING, "submit_unknown")


def test_a_follow_up_that_is_unavailable_is_sent_again_until_the_deadline() -> None:
    shell = sent()
    waits: list[float] = []
    for _ in range(100):
        (wake,) = shell.feed(StartFailed(DOWN))
        assert isinstance(wake, WakeAt)
        waits.append(wake.at - shell.now)
        assert shell.run.record.status is RunStatus.RUNNING
        shell.now = wake.at
        commands = shell.feed(Due())
        if shell.run.phase is Phase.DONE:
            break

        assert the_send(commands).key == "r1.1"

    assert waits[:4] == [0.75, 1.5, 3.0, 6.0]
    assert (shell.now, shell.error, commands) == (T0 + 3600, "deadline", [Overdue()])


def test_a_follow_up_waits_as_long_as_the_service_wishes() -> None:
    assert sent().feed(StartFailed(ServiceUnavailable("429", retry_after=30.0))) == [WakeAt(T0 + 30 + 30 * 0.1 / 2)]


def test_a_follow_up_that_is_refused_by_a_wrong_key_is_complained_of_and_sent_late() -> None:
    shell = sent()
    assert shell.feed(StartFailed(DENIED)) == [Complain(DENIED), WakeAt(T0 + POLL.longest)]
    shell.now += POLL.longest
    assert isinstance(the_send(shell.feed(Due())), Send)


def test_a_follow_up_whose_round_before_is_not_known_yet_is_sent_again_for_a_minute() -> None:
    shell = sent()
    for _ in range(3):
        (wake,) = shell.feed(StartFailed(PreviousRunNotFound("404")))
        assert isinstance(wake, WakeAt)
        assert shell.stored.ref == REFS[0], "it was not taken: another process may send it"
        shell.now = wake.at
        the_send(shell.feed(Due()))

    shell.now += POLL.missing_grace + 1
    shell.feed(StartFailed(PreviousRunNotFound("404", code="previous_response_not_found")))
    assert (shell.run.phase, shell.error) == (Phase.DONE, "previous_response_not_found")


def test_a_follow_up_that_is_refused_for_good_fails_the_run() -> None:
    shell = sent("One. ")
    assert shell.feed(StartFailed(REJECTED_START)) == []
    assert (shell.run.record.status, shell.error) == (RunStatus.FAILED, "bad")
    assert shell.text == shell.run.response.text == "One. "


def test_a_stream_that_is_only_an_error_fails_the_next_round_too() -> None:
    shell = sent("One. ")
    shell.feed(Streamed([replace(event(EventKind.ERROR, 0), error=RunErrorInfo("oops", "Sorry."))]))
    assert (shell.error, shell.run.response.text) == ("oops", "One. ")


# --- what is under way when a round ends ---


def quiet(*calls: tuple[str, str], tools: Tooling = TOOLS) -> Shell:
    """A run whose quiet stream has ended in these calls while a poll was under way."""
    shell = Shell(record(stream=True), tools)
    shell.feed(Streamed([replace(event(STATUS, 0), snapshot=snapshot(ref=REFS[0]))]))
    shell.now += 130
    assert shell.feed(Due()) == [Poll()]
    shell.feed(Streamed([replace(event(END, 1), snapshot=requires(*calls))]))
    return shell


@pytest.mark.parametrize(
    "late", [Polled(snapshot(ref=REFS[0])), Polled(requires(LOOK)), PollFailed(RunNotFound("404"))]
)
@pytest.mark.parametrize("when", ["calling", "sent", "again"])
def test_a_poll_of_a_round_that_is_over_is_no_news_of_the_next(late: Observation, when: str) -> None:
    shell = quiet(LOOK)
    if when != "calling":
        the_send(shell.feed(Invoked("a", "42")))

    if when == "again":
        shell.feed(StartFailed(DOWN))

    shell.now += 100
    before = copy.deepcopy(shell.run.record)
    phase = shell.run.phase
    assert shell.feed(late) == []
    assert (shell.run.record, shell.run.phase) == (before, phase)


@pytest.mark.parametrize("late", [Polled(requires(LOOK)), PollFailed(DOWN)])
def test_a_poll_of_a_round_that_is_over_does_not_keep_the_next_from_being_polled(late: Observation) -> None:
    shell = quiet(LOOK)
    shell.run.record.stream = False
    shell.feed(Invoked("a", "42"))
    shell.feed(Started(snapshot(ref=REFS[1])))
    assert shell.feed(Due()) == []  # one at a time
    assert shell.feed(late) == [Poll()]
    shell.feed(Polled(done("Two.", REFS[1])))
    assert shell.run.response.text == "Two."


def test_a_poll_of_a_round_that_is_over_does_not_leave_a_quiet_stream_alone() -> None:
    shell = quiet(LOOK)
    shell.feed(Invoked("a", "42"))
    shell.feed(Streamed([replace(event(STATUS, 0), snapshot=snapshot(ref=REFS[1]))]))
    shell.now += 130
    assert shell.feed(Due()) == []
    assert shell.feed(Polled(requires(LOOK))) == [WakeAt(shell.now + 120)]


def test_a_stream_is_closed_before_calls_are_made() -> None:
    shell = Shell(record(stream=True))
    shell.feed(Streamed([replace(event(STATUS, 0), snapshot=snapshot(ref=REFS[0]))]))
    commands = shell.feed(Streamed([replace(event(END, 1), snapshot=requires(LOOK))]))
    assert commands[:2] == [Detach(), Invoke(asked(*LOOK))]
    assert shell.feed(Streamed([event(TEXT, 2, "late")])) == shell.feed(StreamEnded()) == []


# --- cancel ---


def test_a_run_is_cancelled_while_its_calls_are_made() -> None:
    shell = calling(LOOK, text="One. ")
    assert shell.feed(CancelAsked()) == []
    assert (shell.run.phase, shell.run.record.status, shell.text) == (Phase.DONE, RunStatus.CANCELLED, "One. ")
    assert shell.feed(Invoked("a", "42")) == []


@pytest.mark.parametrize("begins", [True, False])
def test_a_run_is_cancelled_while_it_waits_also_in_another_process(begins: bool) -> None:
    shell = calling(PAY)
    shell.dies(begins=begins)
    assert shell.feed(CancelAsked()) == []
    assert (shell.run.record.status, shell.types[-1]) == (RunStatus.CANCELLED, UpdateType.END)


def test_a_run_is_cancelled_while_its_answers_cannot_be_sent() -> None:
    shell = sent()
    shell.feed(StartFailed(DOWN))
    assert shell.feed(CancelAsked()) == []
    assert shell.run.record.status is RunStatus.CANCELLED


def test_a_cancel_while_answers_are_on_their_way_is_passed_on_once_the_round_has_a_name() -> None:
    shell = sent()
    assert shell.feed(CancelAsked()) == []
    assert shell.feed(Started(snapshot(ref=REFS[1])))[-1] == Cancel()
    shell.feed(CancelAnswered(replace(snapshot(RunStatus.CANCELLED), ref=REFS[1])))
    assert shell.run.record.status is RunStatus.CANCELLED


@pytest.mark.parametrize("seen", [StartFailed(DOWN), StartLost("cut"), Started(requires(LOOK, ref=REFS[1])), None])
def test_a_cancelled_run_goes_no_further_whatever_came_of_its_answers(seen: Observation | None) -> None:
    shell = sent("One. ")
    shell.feed(CancelAsked())
    assert (shell.dies() if seen is None else shell.feed(seen)) == []
    assert (shell.run.record.status, shell.run.response.text) == (RunStatus.CANCELLED, "One. ")


def test_a_cancel_that_comes_too_late_to_stop_a_round_stops_its_calls() -> None:
    shell = polled()
    assert shell.feed(CancelAsked()) == [Cancel()]
    shell.feed(CancelAnswered(requires(LOOK, text="One. ")))
    assert shell.feed(Polled(requires(LOOK, text="One. "))) == []
    assert (shell.run.phase, shell.run.record.status) == (Phase.DONE, RunStatus.CANCELLED)
    assert shell.text == shell.run.response.text == "One. "


def test_a_cancel_that_failed_stops_nothing() -> None:
    shell = polled()
    shell.feed(CancelAsked())
    shell.feed(CancelFailed())
    assert shell.feed(Polled(requires(LOOK)))[0] == Invoke(asked(*LOOK))


# --- the deadline ---


def test_a_deadline_ends_a_run_whose_calls_take_too_long() -> None:
    shell = calling(LOOK)
    shell.now += 1800
    assert shell.feed(Due()) == [Stalled()]
    assert shell.run.phase is Phase.CALLING
    shell.now += 1800
    assert shell.feed(Due()) == [Overdue()]
    assert (shell.run.record.status, shell.error) == (RunStatus.EXPIRED, "deadline")


def test_answers_that_are_ready_after_the_deadline_are_not_sent() -> None:
    shell = calling(LOOK)
    shell.now += 3600
    assert shell.feed(Invoked("a", "42")) == [Overdue()]
    assert (shell.error, shell.types[-2:]) == ("deadline", [UpdateType.ITEM, UpdateType.END])


def test_a_deadline_while_answers_are_on_their_way_is_heeded_once_their_fate_is_known() -> None:
    shell = sent()
    shell.now += 3600
    assert shell.feed(Due()) == [Stalled()]
    assert shell.run.phase is Phase.STARTING
    shell.feed(Started(snapshot(ref=REFS[1])))
    assert (shell.run.record.status, shell.run.response.response_id) == (RunStatus.EXPIRED, REFS[1].id)


# --- what comes out ---


def test_the_text_the_usage_and_the_messages_are_those_of_all_rounds_and_the_value_is_the_last_ones() -> None:
    shell = polled()
    shell.feed(Polled(requires(LOOK, text="Let me see. ", usage=Usage(1, 2, 3))))
    shell.feed(Invoked("a", "42"))
    shell.feed(Started(snapshot(ref=REFS[1])))
    shell.feed(Due())
    shell.feed(Polled(requires(LOOK, text="Once more. ", ref=REFS[1], usage=Usage(10, 20, 30))))
    assert (shell.run.response.usage, shell.run.response.text) == (Usage(11, 22, 33), "Let me see. Once more. ")
    shell.feed(Invoked("a", "43"))
    shell.feed(Started(done('{"a": 1}', REFS[2], Usage(100, 200, 300, {"last": True}))))
    response = shell.run.response
    assert shell.text == response.text == 'Let me see. Once more. {"a": 1}'
    assert (response.said, response.value) == (23, {"a": 1})
    assert response.usage == Usage(111, 222, 333, {"last": True})
    assert response.response_id == REFS[2].id
    assert [shell.run.record.rounds[n].ref for n in (0, 1)] == REFS[:2]


def test_a_round_has_its_own_place_in_the_text() -> None:
    shell = sent("One. ")
    at = shell.run.assembly.position
    assert (at.chars, at.before, at.cursor, at.items) == (5, 5, None, 0)
    assert shell.stored.position == at
    shell.feed(Started(snapshot(ref=REFS[1], text="Tw")))
    assert (shell.run.assembly.position.chars, shell.run.assembly.position.before) == (7, 5)


def test_tokens_lead_to_the_round_they_are_of_and_before_a_round_has_a_name_to_the_one_before() -> None:
    shell = calling(LOOK, text="One. ")
    tokens = [shell.run.token]
    shell.feed(Invoked("a", "42"))
    tokens.append(shell.run.token)
    shell.feed(StartFailed(DOWN))
    tokens.append(shell.run.token)
    shell.dies()
    tokens.append(shell.run.token)
    assert [(token.ref, token.position.chars, token.position.before) for token in tokens if token] == [
        (REFS[0], 5, 0)
    ] * 4
    assert [token.position.seq for token in tokens if token] == [len(shell.journal) - 1] + [len(shell.journal)] * 3
    shell.feed(Started(snapshot(ref=REFS[1])))
    token = shell.run.token
    assert token is not None
    assert (token.ref, token.position.before) == (REFS[1], 5)


def test_a_token_between_rounds_brings_nothing_twice_elsewhere() -> None:
    shell = sent("One. ")
    shell.feed(StartFailed(DOWN))
    token = shell.run.token
    assert token is not None
    elsewhere = Shell(replace(record(stream=False, ref=token.ref), request=None, position=token.position))
    elsewhere.run.begin(T0)
    elsewhere.run.feed(Due(), T0)
    commands = elsewhere.run.feed(Polled(requires(LOOK, text="One. ")), T0)
    assert isinstance(commands[0], Commit)
    assert commands[0].updates == []
    assert isinstance(commands[1], Invoke)
    send = the_send(elsewhere.run.feed(Invoked("a", "42"), T0))
    assert (send.request.instructions, send.request.previous) == ("as the agent says", REFS[0])


def test_a_forced_call_is_forced_in_the_first_round_only() -> None:
    for choice, kept in (
        ("required", {}),
        ({"type": "function", "name": "look"}, {}),
        ("auto", {"tool_choice": "auto"}),
    ):
        shell = polled(request=StartRequest([], extra={"tool_choice": choice}))
        shell.feed(Polled(requires(LOOK)))
        assert the_send(shell.feed(Invoked("a", "42"))).request.extra == kept


# --- other ways to go on ---


def test_a_service_that_keeps_nothing_is_sent_all_there_was() -> None:
    shell = polled(tools=replace(TOOLS, follow_up=FollowUp.WHOLE), request=StartRequest([{"n": 1}]))
    shell.feed(Polled(requires(LOOK)))
    first = [{"n": 1}, asked(*LOOK).item, output("a", "42")]
    send = the_send(shell.feed(Invoked("a", "42")))
    assert (send.request.input, send.request.previous) == (first, None)
    shell.feed(Started(requires(AGAIN, ref=REFS[1])))
    send = the_send(shell.feed(Invoked("b", "43")))
    assert (send.request.input, send.key) == ([*first, asked(*AGAIN).item, output("b", "43")], "r1.2")


def test_a_service_that_waits_itself_is_told_and_may_go_on_under_the_same_name() -> None:
    shell = calling(LOOK, text="One. ", tools=SAME)
    send = the_send(shell.feed(Invoked("a", "42")))
    assert send.waiting == REFS[0]
    shell.feed(Started(snapshot(ref=REFS[0], text="One. ")))
    assert (shell.run.record.rounds, shell.run.record.ref, shell.text) == ([], REFS[0], "One. ")
    shell.feed(Due())
    shell.feed(Polled(done("One. Two.", REFS[0])))
    assert shell.text == shell.run.response.text == "One. Two."


@pytest.mark.parametrize("how", [FollowUp.PREVIOUS, FollowUp.WHOLE])
def test_a_service_that_gives_all_its_runs_one_name_loses_no_round(how: FollowUp) -> None:
    shell = calling(LOOK, text="One. ", tools=replace(TOOLS, follow_up=how, max_rounds=1))
    shell.feed(Invoked("a", "42"))
    shell.feed(Started(snapshot(ref=REFS[0])))
    shell.feed(Due())
    shell.feed(Polled(requires(AGAIN, text="Two. ", ref=REFS[0])))
    assert (len(shell.run.record.rounds), shell.text, shell.error) == (2, "One. Two. ", TOO_MANY_ROUNDS)


def test_a_service_that_waits_itself_may_go_on_under_a_new_name() -> None:
    shell = calling(LOOK, text="One. ", tools=SAME)
    shell.feed(Invoked("a", "42"))
    shell.feed(Started(snapshot(ref=REFS[1])))
    shell.feed(Due())
    shell.feed(Polled(done("Two.", REFS[1])))
    assert shell.text == shell.run.response.text == "One. Two."


def test_a_service_that_waits_itself_is_asked_to_cancel_whenever_it_has_a_name() -> None:
    shell = calling(AGAIN, tools=SAME)
    assert shell.feed(CancelAsked()) == [Cancel()]
    assert shell.dies()[-1] == Cancel()
    assert the_send(shell.feed(Invoked("b", "42"))).waiting == REFS[0]
    assert shell.feed(StartFailed(DOWN))[-1] == Cancel()
    assert shell.feed(CancelAnswered(snapshot(RunStatus.CANCELLED))) == []
    assert shell.run.record.status is RunStatus.CANCELLED


def test_a_run_at_a_service_that_waits_itself_ends_when_the_service_says_so() -> None:
    shell = calling(PAY, text="One. ", tools=SAME)
    shell.feed(CancelAsked())
    shell.feed(CancelAnswered(replace(snapshot(RunStatus.CANCELLED, "One. "), ref=REFS[0])))
    assert (shell.run.record.status, shell.text, shell.run.response.text) == (RunStatus.CANCELLED, "One. ", "One. ")


# --- streams ---


def second_round(*events: StreamEvent) -> Shell:
    """A streamed run whose second round's stream has brought these events."""
    shell = Shell(record(stream=True))
    shell.feed(Streamed([replace(event(STATUS, 0), snapshot=snapshot(ref=REFS[0])), event(ITEM, 1, index=0)]))
    shell.feed(Streamed([event(TEXT, 2, "One. ", index=0)]))
    shell.feed(Streamed([replace(event(END, 3), snapshot=requires(LOOK, text="One. "))]))
    shell.feed(Invoked("a", "42"))
    begun = replace(event(STATUS, 0), snapshot=snapshot(ref=REFS[1]))
    shell.feed(Streamed([begun, event(ITEM, 1, index=0), event(TEXT, 2, "Tw", index=0), *events]))
    assert shell.run.phase is Phase.STREAMING
    return shell


def test_a_stream_that_is_cut_within_the_second_round_resumes_exactly_there() -> None:
    shell = second_round()
    assert shell.feed(StreamEnded(DOWN))[0] == Attach(2)
    shell.feed(Streamed([event(TEXT, 2, "Tw", index=0), event(TEXT, 3, "o.", index=0)]))
    shell.feed(Streamed([replace(event(END, 4), snapshot=done("Two.", REFS[1]))]))
    assert (shell.text, shell.run.response.text) == ("One. Two.", "One. Two.")
    assert UpdateType.RESET not in shell.types


def test_the_next_process_resumes_the_second_rounds_stream_exactly_there() -> None:
    shell = second_round()
    assert shell.dies()[0] == Attach(2)
    shell.feed(Streamed([event(TEXT, 3, "o.", index=0)]))
    shell.feed(Streamed([replace(event(END, 4), snapshot=done("Two.", REFS[1]))]))
    assert (shell.text, shell.run.response.text) == ("One. Two.", "One. Two.")


@pytest.mark.parametrize("dies", [False, True])
def test_what_is_taken_back_in_the_second_round_leaves_the_first_alone(dies: bool) -> None:
    shell = second_round()
    if dies:
        shell.dies()

    shell.feed(Streamed([event(ITEM, 3, index=0), event(TEXT, 4, "2.", index=0)]))
    assert (shell.types[-3], shell.text) == (UpdateType.RESET, "One. 2.")
    shell.feed(Streamed([replace(event(END, 5), snapshot=done("Zwei.", REFS[1]))]))
    assert shell.text == shell.run.response.text == "One. Zwei."
    assert shell.journal[-1].response == shell.run.response
    assert shell.run.response.said == 5


def test_a_token_of_the_second_round_is_taken_up_where_no_rounds_are_known() -> None:
    shell = second_round()
    token = shell.journal[-1].continuation_token
    assert token is not None
    assert (token.ref, token.position.before) == (REFS[1], 5)
    other = Shell(replace(record(stream=True, ref=token.ref), request=None, position=token.position))
    (attach, _) = other.run.begin(T0)
    assert attach == Attach(2)
    (commit, *_) = other.run.feed(Streamed([event(TEXT, 3, "o", index=0)]), T0)
    assert isinstance(commit, Commit)
    (end, *_) = other.run.feed(Streamed([replace(event(END, 4), snapshot=done("Two.", REFS[1]))]), T0)
    assert isinstance(end, Commit)
    assert [(update.type, update.text) for update in (*commit.updates, *end.updates)] == [
        (UpdateType.TEXT, "o"),
        (UpdateType.END, "."),
    ]
    assert other.run.response.text == "Two."  # all that this process can know


def test_a_stream_that_was_refused_in_one_round_is_tried_again_in_the_next() -> None:
    shell = Shell(record(stream=True))
    shell.feed(Started(snapshot(ref=REFS[0])))
    shell.feed(StreamEnded(StreamRefused("not started so")))
    shell.feed(Polled(requires(LOOK)))
    shell.feed(Invoked("a", "42"))
    assert shell.feed(Started(snapshot(ref=REFS[1])))[0] == Attach(None)


def test_the_tokens_of_stored_updates_lead_to_the_round_they_are_of() -> None:
    shell = second_round()
    for update in shell.journal:
        issuer = shell.run.dialogue.issuer(update.seq)
        token = update.continuation_token
        assert issuer is not None
        assert token is not None
        assert issuer.ref == token.ref


def test_a_round_that_a_poll_has_closed_is_polled_by_whoever_takes_up_its_token() -> None:
    shell = Shell(record(stream=True))
    shell.feed(Streamed([replace(event(STATUS, 0), snapshot=snapshot(ref=REFS[0])), event(TEXT, 1, "O")]))
    shell.feed(StreamEnded(StreamRefused("too old")))
    shell.feed(Polled(requires(LOOK, text="One. ")))
    shell.feed(Invoked("a", "42"))
    for token in (shell.journal[-1].continuation_token, shell.run.token):
        assert token is not None
        assert (token.ref, token.streamed, token.position.chars) == (REFS[0], False, 5)


def test_the_next_round_is_sent_from_where_the_store_stands() -> None:
    shell = sent("One. ")
    shell.feed(StartFailed(DOWN))
    assert shell.stored.position == shell.run.assembly.position
    assert (shell.stored.position.chars, shell.stored.position.before) == (5, 0)


def test_who_comes_with_a_token_of_an_earlier_round_gets_what_was_missed_and_goes_on_in_the_present_one() -> None:
    here = second_round()
    token = here.journal[2].continuation_token  # within round one, after its text
    assert token is not None
    known = replace(record(stream=True, ref=token.ref), request=None, position=token.position)
    there = Shell(known)
    (commit,) = there.run.catch_up(here.run.record.rounds, here.run.record.ref)
    assert isinstance(commit, Commit)
    assert (there.run.record.ref, there.run.assembly.position.before) == (REFS[1], 5)
    tokens = [update.continuation_token for update in commit.updates]
    assert [(each.ref, each.streamed) for each in tokens if each] == [(REFS[0], False)] * len(tokens)
    (attach, _) = there.run.begin(T0)
    assert attach == Attach(None)
    begun = replace(event(STATUS, 0), snapshot=snapshot(ref=REFS[1]))
    (first, _) = there.run.feed(Streamed([begun, event(TEXT, 1, "Two.", index=0)]), T0)
    (end, _) = there.run.feed(Streamed([replace(event(END, 2), snapshot=done("Two.", REFS[1]))]), T0)
    assert isinstance(first, Commit)
    assert isinstance(end, Commit)
    assert "".join(update.text for update in (*first.updates, *end.updates)) == "Two."
    assert there.run.response.text == "One. Two."
