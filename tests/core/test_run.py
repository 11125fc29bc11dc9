import copy
from dataclasses import replace

import pytest

from agentbg.core.bounds import CANCEL_GRACE
from agentbg.core.contact import NOTICE_GRACE
from agentbg.core.messages import (
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
    Notified,
    Overdue,
    Poll,
    Polled,
    PollFailed,
    Stalled,
    Started,
    StartFailed,
    StartLost,
    Streamed,
    StreamEnded,
    WakeAt,
)
from agentbg.core.model import EventKind, RunErrorInfo, RunRef, Snapshot, StartRequest, StreamEvent
from agentbg.core.record import RunRecord
from agentbg.core.rounds import FollowUp, Tooling
from agentbg.core.run import Run
from agentbg.core.schedule import PollPolicy, StreamPolicy
from agentbg.core.states import Phase
from agentbg.core.status import RunStatus
from agentbg.core.update import UpdateType
from agentbg.errors import AuthenticationFailed, RequestRejected, RunNotFound, ServiceUnavailable, StreamRefused

from .service import REF, event, record, snapshot

T0 = 1000.0
POLL = PollPolicy(jitter=0.0, max_age=3600.0)
STREAM = StreamPolicy()
DOWN, GONE, DENIED = ServiceUnavailable("503"), RunNotFound("404"), AuthenticationFailed("401")
STATUS, ITEM, TEXT, ERROR, END = EventKind.STATUS, EventKind.ITEM, EventKind.TEXT, EventKind.ERROR, EventKind.END
RUNNING, COMPLETED = RunStatus.RUNNING, RunStatus.COMPLETED
HELLO = [
    event(STATUS, 0, status="queued"),
    event(STATUS, 1, status="running"),
    event(ITEM, 2, index=0),
    event(TEXT, 3, "Hel", index=0),
    event(TEXT, 4, "lo", index=0),
]


def new(
    record: RunRecord,
    now: float = T0,
    *,
    poll: PollPolicy = POLL,
    age: float = 0.0,
    tools: Tooling | None = None,
    announced: bool = False,
) -> Run:
    return Run(record, poll=poll, stream=STREAM, draw=lambda: 0.5, now=now, age=age, tools=tools, announced=announced)


def polled(poll: PollPolicy = POLL, tools: Tooling | None = None) -> Run:
    """A run that is polled, and whose first poll is under way."""
    run = new(record(stream=False), poll=poll, tools=tools)
    run.feed(Started(snapshot()), T0)
    assert run.feed(Due(), T0 + 0.25) == [Poll()]
    return run


def streamed(*events: StreamEvent) -> Run:
    """A run that was started with a stream, which has brought these events."""
    run = new(record(stream=True))
    run.feed(Streamed(events or HELLO), T0)
    return run


def waiting(tools: Tooling | None = None) -> Run:
    run = polled(tools=tools)
    run.feed(Polled(snapshot(RunStatus.INPUT_REQUIRED, "Well?")), T0 + 1)
    assert run.phase is Phase.WAITING
    return run


def without_commits(commands: list[Command]) -> list[Command]:
    return [command for command in commands if not isinstance(command, Commit)]


def commit(commands: list[Command]) -> Commit:
    (only,) = [command for command in commands if isinstance(command, Commit)]
    return only


def text_of(commands: list[Command]) -> str:
    return "".join(update.text for update in commit(commands).updates)


# --- the start ---


def test_a_run_that_is_polled_gets_its_first_poll_within_the_first_interval() -> None:
    run = new(record(stream=False))
    first, wake = run.feed(Started(snapshot()), T0)
    assert (first, wake) == (Commit([]), WakeAt(T0 + 0.25))
    assert run.record.ref == REF


def test_a_run_that_was_started_without_its_stream_is_attached_from_the_beginning() -> None:
    run = new(record(stream=True))
    assert without_commits(run.feed(Started(snapshot()), T0)) == [Attach(None), WakeAt(T0 + STREAM.quiet)]


def test_a_start_that_is_answered_with_the_end_is_the_end() -> None:
    run = new(record(stream=False))
    commands = run.feed(Started(snapshot(COMPLETED, "Hello", ref=None)), T0)
    assert commit(commands).settled
    assert [update.type for update in commit(commands).updates] == [UpdateType.ITEM, UpdateType.END]
    assert (run.phase, run.response.text, run.token) == (Phase.DONE, "Hello", None)


def test_a_refused_start_fails_in_the_services_words() -> None:
    run = new(record())
    assert commit(run.feed(StartFailed(RequestRejected("No such model.", code="model_not_found")), T0)).settled
    assert (run.record.status, run.response.error) == (
        RunStatus.FAILED,
        RunErrorInfo("model_not_found", "No such model."),
    )


def test_a_lost_start_is_not_sent_again() -> None:
    run = new(record())
    assert without_commits(run.feed(StartLost("read time-out"), T0)) == []
    assert run.response.error == RunErrorInfo("submit_unknown", "read time-out")


def test_an_intent_that_a_dead_process_left_is_unknown() -> None:
    run = new(record())
    assert without_commits(run.begin(T0)) == []
    assert run.response.error is not None
    assert run.response.error.code == "submit_unknown"


def test_a_stream_that_ends_before_it_names_the_run_leaves_it_unknown() -> None:
    run = new(record())
    run.feed(Streamed([event(EventKind.KEEPALIVE, 0)]), T0)
    run.feed(StreamEnded(DOWN), T0)
    assert run.response.error is not None
    assert run.response.error.code == "submit_unknown"


def test_a_stream_that_is_only_an_error_fails_in_the_services_words_and_loses_no_update() -> None:
    run = new(record())
    error = replace(event(ERROR, 1), error=RunErrorInfo("server_error", "Sorry."))
    commands = run.feed(Streamed([event(EventKind.PROGRESS, 0), error]), T0)
    assert [(update.type, update.seq) for update in commit(commands).updates] == [
        (UpdateType.PROGRESS, 1),
        (UpdateType.END, 2),
    ]
    assert run.response.error == RunErrorInfo("server_error", "Sorry.")


def test_a_foreground_run_has_no_token() -> None:
    foreground = record()
    foreground.request = StartRequest(input=(), background=False)
    run = new(foreground)
    run.feed(Streamed(HELLO), T0)
    assert run.token is None


# --- polls ---


def test_the_next_poll_comes_by_the_runs_age_or_the_services_hint() -> None:
    assert polled().feed(Polled(snapshot()), T0 + 5)[-1] == WakeAt(T0 + 5 + 0.5 + 0.1 * 5)
    assert polled().feed(Polled(snapshot(poll_after=20)), T0 + 5)[-1] == WakeAt(T0 + 25)


def test_a_hint_holds_for_one_poll_only() -> None:
    run = polled()
    run.feed(Polled(snapshot(poll_after=20)), T0 + 5)
    run.feed(Due(), T0 + 25)
    assert run.feed(Polled(snapshot()), T0 + 25) == [WakeAt(T0 + 28)]


def test_a_poll_that_changes_nothing_writes_nothing() -> None:
    run = polled()
    assert [type(command) for command in run.feed(Polled(snapshot()), T0 + 1)] == [WakeAt]


def test_a_changed_status_is_an_update() -> None:
    run = new(record(stream=False))
    run.feed(Started(snapshot(RunStatus.QUEUED)), T0)
    run.feed(Due(), T0 + 1)
    assert [update.type for update in commit(run.feed(Polled(snapshot()), T0 + 1)).updates] == [UpdateType.STATUS]


def test_partial_text_is_delivered_as_it_grows() -> None:
    run = polled()
    texts = []
    for text in ("Hel", "Hel", "H", "Hello"):
        commands = run.feed(Polled(snapshot(text=text)), T0 + 1)
        texts.append(text_of(commands) if len(commands) > 1 else None)
        run.feed(Due(), T0 + 2)

    assert texts == ["Hel", None, None, "lo"]


def test_at_most_one_poll_is_under_way() -> None:
    run = polled()
    assert run.feed(Due(), T0 + 9) == []
    assert run.feed(Due(), T0 + 9) == []


@pytest.mark.parametrize("error", [DOWN, DENIED, RequestRejected("400")])
def test_a_failed_poll_is_not_a_failed_run(error: Exception) -> None:
    run = polled()
    for n in range(50):
        commands = run.feed(PollFailed(error), T0 + 1 + n)
        assert isinstance(commands[-1], WakeAt)
        assert run.feed(Due(), T0 + 1 + n) == [Poll()]

    run.feed(Polled(snapshot(COMPLETED, "Hello")), T0 + 100)
    assert run.response.text == "Hello"


def test_polls_that_fail_back_off_and_one_that_is_answered_ends_that() -> None:
    run, waits = polled(), []
    for _ in range(4):
        (wake,) = run.feed(PollFailed(DOWN), T0)
        assert isinstance(wake, WakeAt)
        waits.append(wake.at - T0)
        run.feed(Due(), T0)

    assert waits == [0.75, 1.5, 3, 6]
    run.feed(Polled(snapshot()), T0)
    run.feed(Due(), T0)
    assert run.feed(PollFailed(DOWN), T0) == [WakeAt(T0 + 0.75)]


def test_retry_after_is_a_floor_and_spread_above_it() -> None:
    assert polled().feed(PollFailed(ServiceUnavailable("429", retry_after=30)), T0) == [WakeAt(T0 + 30 + 30 * 0.1 / 2)]


def test_a_refusal_is_told_to_those_who_wait_and_the_run_goes_on() -> None:
    assert polled().feed(PollFailed(DENIED), T0) == [Complain(DENIED), WakeAt(T0 + POLL.longest)]


def test_a_run_that_is_not_found_yet_is_asked_for_again() -> None:
    assert polled().feed(PollFailed(GONE), T0 + 33) == [WakeAt(T0 + 33 + 0.75)]


def test_a_run_that_was_known_a_moment_ago_is_asked_for_again() -> None:
    run = polled()
    run.feed(Polled(snapshot()), T0 + 600)
    run.feed(Due(), T0 + 630)
    assert run.feed(PollFailed(GONE), T0 + 630) == [WakeAt(T0 + 630.75)]


def test_a_run_that_the_service_has_forgotten_is_expired() -> None:
    run = polled()
    assert commit(run.feed(PollFailed(GONE), T0 + 61)).settled
    assert (run.record.status, run.phase) == (RunStatus.EXPIRED, Phase.DONE)


def test_a_service_that_gives_another_id_on_every_poll_is_known_by_its_first() -> None:
    run = polled()
    other = RunRef("model", "here", {"id": "another"})
    run.feed(Polled(snapshot(text="H", ref=other)), T0 + 1)
    assert (run.record.ref, run.response.response_id) == (REF, REF.id)
    run.feed(Polled(snapshot(COMPLETED, "Hello", ref=other)), T0 + 2)
    assert (run.record.ref, run.response.response_id) == (REF, REF.id)


# --- the deadline ---


def test_at_the_deadline_the_service_is_asked_a_last_time() -> None:
    run = polled()
    assert run.feed(Polled(snapshot()), T0 + 3599) == [WakeAt(T0 + 3600), Stalled()]
    assert run.feed(Due(), T0 + 3600) == [Poll()]
    run.feed(Polled(snapshot(COMPLETED, "Hello")), T0 + 3601)
    assert (run.record.status, run.response.text) == (COMPLETED, "Hello")


@pytest.mark.parametrize("seen", [Polled(snapshot()), PollFailed(DOWN), PollFailed(DENIED), PollFailed(GONE)])
def test_a_run_whose_last_poll_shows_no_end_is_expired(seen: Polled | PollFailed) -> None:
    run = polled()
    commands = run.feed(seen, T0 + 3600)
    assert commit(commands).settled
    assert commands[0] == Overdue()
    assert run.record.status is RunStatus.EXPIRED
    assert run.token == run.response.continuation_token == commit(commands).updates[-1].response.continuation_token
    assert run.token.ref == REF, "it may go on at its service"
    assert run.response.error is not None
    assert run.response.error.code == "deadline"


def test_a_run_that_ended_while_no_process_looked_is_not_lost() -> None:
    run = new(record(stream=False, ref=REF), T0, age=1e6)
    assert run.begin(T0) == [WakeAt(T0 - 1e6 + 3600)]
    assert run.feed(Due(), T0) == [Poll()]
    run.feed(Polled(snapshot(COMPLETED, "Hello")), T0)
    assert run.response.text == "Hello"


def test_a_stream_does_not_outlive_the_deadline_and_its_text_stands() -> None:
    run = streamed()
    assert run.feed(Due(), T0 + 3600) == [Poll()]
    commands = run.feed(Polled(snapshot()), T0 + 3600)
    assert without_commits(commands) == [Overdue(), Detach()]
    assert (run.record.status, run.response.text) == (RunStatus.EXPIRED, "Hello")


def late(*, stream: bool = False, cancel: bool = False, tools: Tooling | None = None) -> Run:
    """A run whose own deadline is at T0 + 10."""
    own = record(stream=stream)
    own.deadline_at, own.cancel_at_deadline = own.created_at + 10, cancel
    return new(own, tools=tools)


def test_a_deadline_of_the_runs_own_comes_first() -> None:
    run = late()
    run.feed(Started(snapshot(poll_after=60)), T0)
    assert run.feed(Due(), T0 + 10) == [Poll()]
    run.feed(Polled(snapshot()), T0 + 10)
    assert run.record.status is RunStatus.EXPIRED


def test_a_run_that_waits_for_its_user_expires_at_its_own_deadline_and_at_no_other() -> None:
    run = late()
    commands = run.feed(Started(snapshot(RunStatus.INPUT_REQUIRED, "Well?")), T0)
    assert without_commits(commands) == [WakeAt(T0 + 10)]
    assert run.feed(Due(), T0 + 9) == [], "it is early"
    commands = run.feed(Due(), T0 + 10)
    assert (commands[0], commit(commands).settled, run.record.status) == (Overdue(), True, RunStatus.EXPIRED)

    assert waiting().feed(Due(), T0 + 1e9) == [], "its age is no reason"


def test_a_run_that_waits_is_taken_up_with_its_deadline() -> None:
    run = late()
    run.feed(Started(snapshot(RunStatus.INPUT_REQUIRED, "Well?")), T0)
    again = new(run.record, T0 + 5, age=5.0)
    assert again.begin(T0 + 5) == [WakeAt(T0 + 10)]
    assert again.feed(Due(), T0 + 10)[0] == Overdue()


def test_a_run_that_is_to_be_cancelled_at_its_deadline_ends_as_its_service_says() -> None:
    run = late(cancel=True)
    run.feed(Started(snapshot()), T0)
    assert run.feed(Due(), T0 + 10) == [Poll()]
    commands = run.feed(Polled(snapshot()), T0 + 10)
    assert without_commits(commands) == [Overdue(), Cancel(), WakeAt(T0 + 11.5)]
    assert (run.record.cancel_requested, run.record.cancel_reason) == (True, "deadline")
    assert run.record.status is RUNNING, "that is for the service to say"
    commands = run.feed(CancelAnswered(snapshot(COMPLETED, "Just in time")), T0 + 10.5)
    assert Overdue() not in commands
    assert (run.record.status, run.response.text) == (COMPLETED, "Just in time")


@pytest.mark.parametrize("answer", [CancelAnswered(), CancelFailed()])
def test_a_cancel_at_the_deadline_that_brings_no_end_lets_go_of_the_run_in_the_end(
    answer: CancelAnswered | CancelFailed,
) -> None:
    run = late(cancel=True)
    run.feed(Started(snapshot()), T0)
    run.feed(Due(), T0 + 10)
    run.feed(Polled(snapshot()), T0 + 10)
    run.feed(answer, T0 + 11)
    run.feed(Polled(snapshot()), T0 + 12)
    assert run.record.status is RUNNING
    commands = run.feed(Polled(snapshot()), T0 + 10 + CANCEL_GRACE)
    assert Overdue() not in commands, "it was said before"
    assert Cancel() not in commands
    assert run.record.status is RunStatus.EXPIRED
    assert run.token is not None


def test_a_start_that_is_answered_after_the_deadline_is_cancelled_once() -> None:
    run = late(cancel=True)
    commands = run.feed(Started(snapshot()), T0 + 20)
    assert commands.count(Cancel()) == 1


def test_nothing_is_cancelled_of_a_run_that_waits_for_its_user() -> None:
    run = late(cancel=True)
    run.feed(Started(snapshot(RunStatus.INPUT_REQUIRED, "Well?")), T0)
    assert Cancel() not in run.feed(Due(), T0 + 10)
    assert run.record.status is RunStatus.EXPIRED


# --- standing still ---


def test_a_stall_is_told_once_for_each_time_that_the_run_stands_still() -> None:
    run = polled()
    assert Stalled() not in run.feed(Polled(snapshot()), T0 + 900)
    assert Stalled() in run.feed(Polled(snapshot()), T0 + 901)
    assert Stalled() not in run.feed(PollFailed(DOWN), T0 + 1800)
    run.feed(Polled(snapshot(text="News")), T0 + 1900)
    assert Stalled() in run.feed(Polled(snapshot(text="News")), T0 + 2801)


def test_before_a_stall_is_told_the_run_is_looked_at() -> None:
    run = polled()
    run.feed(Polled(snapshot()), T0 + 1)
    assert run.feed(Due(), T0 + 1000) == [Poll()]
    assert Stalled() in run.feed(PollFailed(DOWN), T0 + 1002)


# --- words from outside ---


def test_a_run_that_somebody_speaks_of_is_polled_at_once() -> None:
    run = polled()
    run.feed(Polled(snapshot()), T0 + 1)
    assert run.feed(Notified(), T0 + 2) == [Poll()]


def test_a_poll_that_was_sent_before_somebody_spoke_of_the_run_is_followed_by_another() -> None:
    run = polled()
    assert run.feed(Notified(), T0 + 1) == []
    assert without_commits(run.feed(Polled(snapshot()), T0 + 1.5)) == [WakeAt(T0 + 1.5)]
    assert run.feed(Due(), T0 + 1.5) == [Poll()]
    assert without_commits(run.feed(Polled(snapshot()), T0 + 2)) != [WakeAt(T0 + 2)], "it has been asked about by now"


def test_a_run_that_somebody_spoke_of_before_it_had_a_name_is_polled_as_soon_as_it_has() -> None:
    run = new(record(stream=False))
    assert run.feed(Notified(), T0) == []
    assert without_commits(run.feed(Started(snapshot()), T0 + 1)) == [WakeAt(T0 + 1)]


def test_an_open_stream_has_a_moment_to_bring_what_somebody_said() -> None:
    run = streamed()
    assert run.feed(Notified(), T0 + 5) == [WakeAt(T0 + 5 + NOTICE_GRACE)]
    assert run.feed(Due(), T0 + 5 + NOTICE_GRACE) == [Poll()]

    run = streamed()
    run.feed(Notified(), T0 + 5)
    commands = run.feed(Streamed([replace(event(END, 5), snapshot=snapshot(COMPLETED, "Hello"))]), T0 + 6)
    assert (without_commits(commands), run.phase) == ([Detach()], Phase.DONE)


@pytest.mark.parametrize("status", [RunStatus.INPUT_REQUIRED, COMPLETED])
def test_a_run_that_waits_for_its_user_or_is_over_has_nothing_to_be_asked(status: RunStatus) -> None:
    run = polled()
    run.feed(Polled(snapshot(status, "Well?")), T0 + 1)
    assert run.feed(Notified(), T0 + 2) == []


def test_a_run_whose_end_is_announced_is_polled_for_safety_only() -> None:
    run = new(record(stream=False), announced=True)
    assert without_commits(run.feed(Started(snapshot()), T0)) == [WakeAt(T0 + 90)]
    run.feed(Due(), T0 + 90)
    assert without_commits(run.feed(Polled(snapshot()), T0 + 91)) == [WakeAt(T0 + 91 + 90)]


def test_a_service_that_announces_an_end_before_it_shows_it_is_asked_again_soon_and_then_ever_later() -> None:
    run = new(record(stream=False), announced=True)
    run.feed(Started(snapshot()), T0)
    assert run.feed(Notified(), T0 + 50) == [Poll()]
    now, waits = T0 + 50, []
    for _ in range(12):
        [wake] = without_commits(run.feed(Polled(snapshot()), now))
        assert isinstance(wake, WakeAt)
        waits.append(wake.at - now)
        now = wake.at
        run.feed(Due(), now)

    assert waits[0] < 0.5
    assert waits == sorted(waits)
    assert (sum(wait < 1 for wait in waits), waits[-1]) == (2, 90)


def test_a_run_that_is_taken_up_is_asked_about_soon_although_its_end_is_announced() -> None:
    """Whoever announced it meanwhile was not heard."""
    run = new(record(stream=False, ref=REF), T0, age=500.0, announced=True)
    [wake] = run.begin(T0)
    assert isinstance(wake, WakeAt)
    assert wake.at <= T0 + 1


def test_a_wish_of_the_service_counts_for_safety_polls_too() -> None:
    run = new(record(stream=False), announced=True)
    assert without_commits(run.feed(Started(snapshot(poll_after=200)), T0)) == [WakeAt(T0 + 200)]


# --- streams ---


def test_a_stream_delivers_each_event_once_and_its_end_is_the_answer() -> None:
    run = new(record())
    commands = run.feed(Streamed(HELLO), T0)
    assert [update.type.value for update in commit(commands).updates] == ["status", "status", "item", "text", "text"]
    commands = run.feed(Streamed([replace(event(END, 5), snapshot=snapshot(COMPLETED, "Hello"))]), T0 + 1)
    assert [update.seq for update in commit(commands).updates] == [6]
    assert (run.response.text, run.phase) == ("Hello", Phase.DONE)
    assert without_commits(commands) == [Detach()]


def test_the_answer_so_far_is_what_was_delivered() -> None:
    assert streamed().response.text == "Hello"
    run = new(record())
    run.feed(Started(snapshot()), T0)
    run.feed(Streamed(HELLO), T0)
    assert run.response.text == "Hello"


def test_a_stream_that_was_cut_goes_on_at_once_after_its_cursor() -> None:
    run = streamed()
    assert run.feed(StreamEnded(DOWN), T0 + 1) == [Attach(4), WakeAt(T0 + 1 + STREAM.quiet)]


def test_a_clean_end_without_a_terminal_status_was_a_cut() -> None:
    assert streamed().feed(StreamEnded(), T0 + 1)[0] == Attach(4)


def test_a_connection_that_brings_nothing_new_waits_and_polls_before_the_next() -> None:
    run = streamed()
    run.feed(StreamEnded(), T0)
    run.feed(Streamed(HELLO), T0)
    assert run.feed(StreamEnded(), T0) == [WakeAt(T0 + 0.15)]
    assert run.feed(Due(), T0 + 1) == [Poll()]
    assert run.feed(Polled(snapshot()), T0 + 1)[0] == Attach(4)


@pytest.mark.parametrize("hang", [False, True], ids=["ends", "hangs"])
def test_connections_that_bring_nothing_new_are_not_tried_for_ever(hang: bool) -> None:
    run, tries = streamed(), 0
    commands = run.feed(StreamEnded(), T0)
    while any(isinstance(command, Attach) for command in commands):
        tries += 1
        run.feed(Due() if hang else StreamEnded(), T0)
        run.feed(Due(), T0)
        commands = run.feed(Polled(snapshot()), T0)

    assert tries == STREAM.attempts
    assert run.record.refused


def test_news_renews_the_budget() -> None:
    run = streamed()
    for cursor in range(5, 30):
        run.feed(StreamEnded(), T0)
        run.feed(StreamEnded(), T0)
        run.feed(Due(), T0)
        run.feed(Polled(snapshot()), T0)
        run.feed(Streamed([event(TEXT, cursor, "!", index=0)]), T0)

    assert run.phase is Phase.STREAMING


def test_a_run_that_may_not_be_streamed_is_polled_and_yields_exactly_the_missing_tail() -> None:
    run = streamed(*HELLO[:-1])
    commands = run.feed(StreamEnded(StreamRefused("more than 5 minutes old")), T0 + 301)
    assert without_commits(commands) == [Poll()]
    assert run.record.refused
    assert text_of(run.feed(Polled(snapshot(text="Hell")), T0 + 301)) == "l"
    run.feed(Due(), T0 + 303)
    assert text_of(run.feed(Polled(snapshot(COMPLETED, "Hello!")), T0 + 303)) == "o!"


def test_a_service_that_starts_the_run_and_sends_no_stream_is_polled() -> None:
    run = new(record())
    run.feed(Streamed(HELLO[:1]), T0)
    assert without_commits(run.feed(StreamEnded(StreamRefused("JSON")), T0)) == [Poll()]


def test_a_silent_stream_is_checked_by_a_poll_and_kept() -> None:
    run = streamed()
    run.feed(Streamed([event(EventKind.KEEPALIVE, 9)]), T0 + 100)
    assert run.feed(Due(), T0 + 120) == [Poll()]
    assert run.feed(Polled(snapshot()), T0 + 121) == [WakeAt(T0 + 121 + STREAM.quiet)]


def test_a_stream_that_talks_is_not_polled() -> None:
    run = streamed()
    run.feed(Streamed([event(TEXT, 5, "!", index=0)]), T0 + 100)
    assert run.feed(Due(), T0 + 120) == [WakeAt(T0 + 120 + STREAM.quiet)]


def test_a_poll_beside_a_stream_brings_no_text_twice() -> None:
    run = streamed(*HELLO[:-1])
    run.feed(Due(), T0 + 120)
    run.feed(Polled(snapshot(text="Hello")), T0 + 120)
    run.feed(Streamed(HELLO[-1:]), T0 + 121)
    assert run.response.text == "Hello"
    assert run.assembly.position.chars == 5


def test_a_poll_between_two_connections_brings_no_text_that_the_next_one_is_to_bring() -> None:
    run = streamed(*HELLO[:-1])
    run.feed(StreamEnded(), T0)
    run.feed(StreamEnded(), T0)
    run.feed(Due(), T0 + 1)
    assert run.feed(Polled(snapshot(text="Hello")), T0 + 1)[0] == Attach(3)
    assert text_of(run.feed(Streamed(HELLO[-1:]), T0 + 1)) == "lo"


@pytest.mark.parametrize("kind", [END, STATUS, ERROR])
def test_the_status_ends_a_run_and_not_the_events_name(kind: EventKind) -> None:
    run = streamed()
    run.feed(Streamed([replace(event(kind, 5), snapshot=snapshot(RunStatus.INCOMPLETE, "Hello"))]), T0)
    assert (run.phase, run.record.status) == (Phase.DONE, RunStatus.INCOMPLETE)
    live = streamed()
    live.feed(Streamed([replace(event(kind, 5), snapshot=snapshot())]), T0)
    assert (live.phase, live.record.status) == (Phase.STREAMING, RUNNING)


def test_an_error_event_is_not_the_end() -> None:
    run = streamed()
    commands = run.feed(Streamed([event(ERROR, 5)]), T0)
    assert [update.type for update in commit(commands).updates] == [UpdateType.ERROR]
    assert run.token is not None


def test_an_end_below_the_cursor_is_no_repeat() -> None:
    run = streamed()
    run.feed(Streamed([replace(event(END, 1), snapshot=snapshot(RunStatus.FAILED, "Hello"))]), T0)
    assert run.record.status is RunStatus.FAILED


def test_a_replay_does_not_turn_the_status_back() -> None:
    run = streamed()
    run.feed(StreamEnded(), T0)
    run.feed(Streamed(HELLO[:1]), T0)
    assert run.record.status is RUNNING


def test_events_that_come_after_the_stream_was_closed_are_not_taken() -> None:
    run = streamed()
    run.feed(CancelAsked(), T0)
    run.feed(CancelAnswered(), T0)
    assert run.feed(Streamed([event(TEXT, 5, "!")]), T0) == []
    assert run.feed(StreamEnded(), T0) == []


# --- cancel ---


def test_a_cancel_is_stored_before_it_is_sent_and_closes_the_stream_when_answered() -> None:
    run = streamed()
    assert run.feed(CancelAsked(), T0) == [Commit(), Cancel()]
    assert run.feed(CancelAnswered(), T0) == [Detach(), Poll()]
    run.feed(Polled(snapshot(RunStatus.CANCELLED)), T0)
    assert run.record.status is RunStatus.CANCELLED


@pytest.mark.parametrize("stream", [False, True])
def test_a_cancel_asked_before_the_run_has_an_id_is_sent_when_it_has_one(stream: bool) -> None:
    run = new(record(stream=stream))
    assert run.feed(CancelAsked(), T0) == [Commit()]
    commands = run.feed(Streamed(HELLO) if stream else Started(snapshot()), T0)
    assert commands[-1] == Cancel()
    assert commands.count(Cancel()) == 1


def test_a_cancel_asked_before_a_start_that_is_answered_with_the_end_is_not_sent() -> None:
    run = new(record(stream=False))
    run.feed(CancelAsked(), T0)
    assert Cancel() not in run.feed(Started(snapshot(COMPLETED, "Hello")), T0)


def test_a_cancel_survives_the_process() -> None:
    run = streamed()
    run.feed(CancelAsked(), T0)
    assert Cancel() in new(copy.deepcopy(run.record)).begin(T0)


def test_a_cancel_that_came_too_late_shows_the_truth() -> None:
    run = polled()
    run.feed(CancelAsked(), T0)
    run.feed(CancelAnswered(snapshot(COMPLETED, "Hello")), T0)
    assert (run.record.status, run.response.text) == (COMPLETED, "Hello")


def test_a_run_whose_cancel_changes_nothing_is_followed_by_polls() -> None:
    run = streamed()
    run.feed(CancelAsked(), T0)
    run.feed(CancelAnswered(), T0)
    assert text_of(run.feed(Polled(snapshot(text="Hello, and")), T0)) == ", and"
    assert run.token is not None
    assert not run.token.streamed


def test_what_was_delivered_of_a_cancelled_run_stands() -> None:
    run = streamed()
    run.feed(CancelAsked(), T0)
    commands = run.feed(CancelAnswered(snapshot(RunStatus.CANCELLED)), T0)
    assert [update.type for update in commit(commands).updates] == [UpdateType.END]
    assert run.response.text == "Hello"


# --- a run that waits for its user ---


def test_a_run_that_waits_for_its_user_is_settled_and_has_no_token() -> None:
    run = waiting()
    assert (run.token, run.response.text) == (None, "Well?")


@pytest.mark.parametrize(
    "late",
    [
        Polled(snapshot()),
        Polled(snapshot(RunStatus.INPUT_REQUIRED, "Well?")),
        PollFailed(GONE),
        PollFailed(DOWN),
        Due(),
        StreamEnded(),
        Streamed(HELLO),
    ],
)
def test_late_news_of_a_run_that_waits_changes_nothing(late: Polled | PollFailed | Due | StreamEnded) -> None:
    run = waiting()
    before = copy.deepcopy(run.record)
    assert run.feed(late, T0 + 1e5) == []
    assert (run.record, run.phase) == (before, Phase.WAITING)


def test_a_run_that_waits_ends_with_its_cancel_since_there_is_nothing_at_the_service() -> None:
    run = waiting()
    ended = commit(run.feed(CancelAsked(), T0))
    assert (ended.settled, [update.type for update in ended.updates]) == (True, [UpdateType.END])
    assert (run.phase, run.record.status, run.response.text) == (Phase.DONE, RunStatus.CANCELLED, "Well?")


def test_a_service_that_waits_itself_is_asked_to_cancel() -> None:
    run = waiting(Tooling(follow_up=FollowUp.SAME))
    assert run.feed(CancelAsked(), T0) == [Commit(), Cancel()]
    assert run.feed(CancelAnswered(), T0) == [Poll()]
    ended = commit(run.feed(Polled(snapshot(RunStatus.CANCELLED, "Well?")), T0))
    assert [update.type for update in ended.updates] == [UpdateType.END]
    assert (run.phase, run.record.status, run.response.text) == (Phase.DONE, RunStatus.CANCELLED, "Well?")


# --- after the end, and another process ---


def test_nothing_matters_after_the_end() -> None:
    run = polled()
    run.feed(Polled(snapshot(COMPLETED, "Hello")), T0)
    for late in (Due(), Polled(snapshot()), CancelAsked(), Streamed(HELLO), StreamEnded(), PollFailed(GONE)):
        assert run.feed(late, T0 + 1e6) == []


@pytest.mark.parametrize("status", [RunStatus.CANCELLED, RunStatus.INPUT_REQUIRED])
def test_a_run_that_was_settled_is_not_taken_up_again(status: RunStatus) -> None:
    settled = record(ref=REF)
    settled.status = status
    assert new(settled).begin(T0) == []


def test_another_process_goes_on_after_the_last_update_that_was_stored() -> None:
    run = streamed()
    after = new(copy.deepcopy(run.record))
    assert after.begin(T0)[0] == Attach(4)
    commands = after.feed(Streamed([event(TEXT, 5, "!", index=0)]), T0)
    assert [(update.seq, update.text) for update in commit(commands).updates] == [(6, "!")]
    after.feed(Streamed([replace(event(END, 6), snapshot=snapshot(COMPLETED, "Hello!"))]), T0)
    assert UpdateType.RESET not in [update.type for update in commit(commands).updates]
    assert after.response.text == "Hello!"


def test_a_fragment_is_never_shown_as_the_answer() -> None:
    after = new(copy.deepcopy(streamed().record), age=3601.0)
    after.begin(T0)
    after.feed(Streamed([event(TEXT, 5, ", world, and so on", index=0)]), T0)
    after.feed(Due(), T0)
    after.feed(PollFailed(DOWN), T0)
    assert (after.record.status, after.response.text) == (RunStatus.EXPIRED, "")


def test_a_run_that_shows_no_change_for_long_is_stalled() -> None:
    run = polled()
    run.feed(Polled(snapshot()), T0 + 900)
    assert (run.stalled(T0 + 900), run.stalled(T0 + 901)) == (False, True)
    run.feed(Polled(snapshot(text="H")), T0 + 901)
    assert not run.stalled(T0 + 902)


def test_a_snapshot_without_a_ref_leaves_the_runs_own() -> None:
    run = polled()
    run.feed(Polled(Snapshot(None, COMPLETED, "completed", "Hello")), T0)
    assert run.response.response_id == REF.id


def test_a_run_taken_up_by_its_token_has_its_whole_time_from_then():
    poll = PollPolicy(max_age=3600.0)
    asked, taken_up = record(stream=False), record(stream=False)
    asked.request, taken_up.request = StartRequest(input=[]), None
    for run, alive in ((new(asked, poll=poll, age=7200.0), False), (new(taken_up, poll=poll, age=7200.0), True)):
        run.record.ref = REF
        run.begin(T0)
        run.feed(Due(), T0 + 1)
        run.feed(Polled(snapshot()), T0 + 1)
        assert run.record.status.live is alive
