"""Every way in which a stream is known to go wrong, or may, and the tests that hold agentbg to its promise there.

The names say where a case is from: `wild-…` is what users of the Responses API have reported, `server-…` what servers
of that API were seen to do, and `unknown-…` one of the things that a service may do where nobody knows what it does.
The numbers are those of the notes that they were gathered in; those that are missing there are about polls alone.

A test is a file below `tests/`, a function in it, and, in brackets, the one parameter that makes the case.
"""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    """One line that says what happens, and the tests of it."""

    what: str
    tests: tuple[str, ...]


def case(what: str, *tests: str) -> Case:
    return Case(what, tests)


_FAULTS = "e2e/test_faults.py::"
_CASES = "e2e/test_stream_cases.py::"
_EXACT = _FAULTS + "test_a_fault_in_a_stream_changes_nothing_for_its_consumer"
_PASSING = _FAULTS + "test_a_service_that_comes_back_while_the_run_goes_on_streams_the_rest"
_LOOSE = _FAULTS + "test_whatever_a_stream_lacks_its_consumer_gets_in_the_end"
_ODD = _CASES + "test_oddities_that_cost_a_consumer_nothing"
_AT_THE_END = _CASES + "test_a_cursor_at_the_end_brings_the_end_whatever_it_is_answered"
_REFUSED = _CASES + "test_a_stream_that_is_refused_is_polled_and_not_asked_for_again"
_ENDS = _CASES + "test_every_end_is_seen_be_it_shown_or_not"
_CANCEL = _CASES + "test_a_cancel_ends_the_stream_whatever_the_service_does_with_it"

_WILD = {
    "wild-01": case(
        "The stream is cut right after its first event, and the run stays queued for ever.",
        _CASES + "test_a_run_that_is_queued_for_ever_after_its_stream_was_cut_ends_at_its_deadline",
    ),
    "wild-02": case(
        "The run goes on, but is too old to be streamed again.",
        _LOOSE + "[too old]",
        _LOOSE + "[too old before a word]",
        _REFUSED + "[too old]",
    ),
    "wild-03": case(
        "Minutes of keepalives come before the first event, and then an error.",
        _CASES + "test_a_start_that_stalls_under_keepalives_and_then_fails_has_failed",
    ),
    "wild-04": case(
        "Keepalives, which are in no documentation, with and without numbers.",
        _FAULTS + "test_a_slow_run_with_keepalives_in_every_silence_arrives_whole",
        _EXACT + "[keepalives first]",
        _EXACT + "[keepalives first, without numbers]",
    ),
    "wild-05": case(
        "An error event in the middle that says nothing; the run may go on, or have failed.",
        _LOOSE + "[error event, nested, and the run goes on]",
        _LOOSE + "[error event, flat, and the run goes on]",
        _FAULTS + "test_a_failure_in_a_stream_is_told_with_its_reason_and_keeps_the_text",
    ),
    "wild-06": case(
        "The stream ends cleanly with no terminal event.", _LOOSE + "[no end, cleanly]", _ENDS + "[not shown]"
    ),
    "wild-07a": case(
        "The connection stays open after the terminal event.", _ODD + "[the connection stays open after the end]"
    ),
    "wild-07b": case("The terminal event has a name of the vendor's own.", _EXACT + "[an end under another name]"),
    "wild-08": case(
        "The connection breaks in the middle, at any event and at any byte.",
        "e2e/test_cuts.py::test_a_cut_at_any_event_boundary_loses_nothing_and_repeats_nothing",
        "e2e/test_cuts.py::test_a_cut_at_any_byte_loses_nothing_and_repeats_nothing",
        "e2e/test_cuts.py::test_a_stream_that_is_cut_again_and_again_still_arrives_whole",
    ),
    "wild-09a": case(
        "A streamed run is not found for half a minute after its end.",
        "providers/test_azure.py::test_a_streamed_run_that_is_cut_and_then_not_found_for_33_seconds_is_whole",
    ),
    "wild-09b": case(
        "The next turn is refused until the streamed one before it can be read.",
        "providers/test_azure.py::test_the_next_turn_waits_until_the_one_before_can_be_read[True]",
    ),
    "wild-10": case(
        "A foreground stream is cut, and its run cannot be read.",
        _CASES + "test_a_foreground_stream_that_is_cut_never_looks_finished",
    ),
    "wild-11": case(
        "The service refuses the stream: the run was not created in the background.",
        _REFUSED + "[not of the background]",
    ),
    "wild-12a": case(
        "A cancelled run is shown as completed later.",
        _FAULTS + "test_a_cancelled_run_that_the_service_revives_stays_cancelled",
    ),
    "wild-12b": case("The stream goes on after the cancel.", _CANCEL + "[the run goes on]"),
    "wild-13": case(
        "A cancel of a streamed run comes too late, and is refused.",
        _FAULTS + "test_a_cancel_that_comes_too_late_gives_the_runs_true_end",
    ),
    "wild-16": case(
        "A failed run is a good answer with a bad status in it.",
        _FAULTS + "test_a_failed_run_fails_in_its_last_update",
        _ENDS + "[failed]",
    ),
    "wild-17": case(
        "Error events are flat in the documentation, and nested on the wire.",
        _FAULTS + "test_a_failed_run_fails_in_its_last_update[nested]",
        _FAULTS + "test_a_failed_run_fails_in_its_last_update[flat]",
    ),
    "wild-18": case(
        "The error event hides the failure that follows it.",
        _FAULTS + "test_a_failure_in_a_stream_is_told_with_its_reason_and_keeps_the_text",
    ),
    "wild-19": case(
        "Each resume of a stream makes the calls again.",
        "agent/test_seed_conformance.py::test_x6_a_function_is_called_exactly_once_over_a_background_stream",
        "e2e/test_tools.py::test_a_stream_that_is_left_at_any_update_goes_on_from_it_and_makes_no_call_twice",
    ),
    "wild-20a": case(
        "Deltas do not name their run, so that a resumed stream has no new token.",
        "e2e/test_resume_process.py::test_a_token_given_on_from_process_to_process_still_gives_exactly_the_rest",
        "agent/test_seed_conformance.py::test_x5_a_resumed_stream_has_tokens_without_allowing_background_again",
    ),
    "wild-20b": case(
        "A stream breaks in the middle of a call's arguments.",
        "agent/test_measured_defects.py::test_a_stream_that_breaks_in_a_calls_arguments_calls_the_function_once",
        "e2e/test_tools.py::test_a_cut_at_any_event_of_any_round_makes_no_call_twice",
    ),
    "wild-21": case(
        "Nobody can tell a replay of everything from the rest.",
        _EXACT + "[full replay]",
        _EXACT + "[full replay, again and again]",
        "e2e/test_resume_process.py::test_a_token_of_any_update_gives_another_process_exactly_the_rest[replay]",
    ),
    "wild-22": case(
        "The client keeps the cursor to itself, and everything is sent again.",
        _CASES + "test_a_reconnect_names_the_cursor_and_nothing_else",
    ),
    "wild-23": case(
        "A terminal event whose number is below the cursor is dropped as one that was seen.",
        _ODD + "[an end below the cursor]",
        _ODD + "[an end below the cursor, after a cut]",
    ),
    "wild-24": case(
        "A streamed start finds its conversation locked.",
        "agent/test_threads.py::test_one_that_stays_busy_is_an_error_that_says_so_and_the_thread_is_untouched[True]",
    ),
    "wild-25": case(
        "The service deletes the run while it is streamed.",
        _CASES + "test_a_run_that_is_deleted_while_it_is_streamed_expires_and_keeps_its_text",
    ),
    "wild-26": case(
        "What a start may ask to be shown is refused on a reconnect.",
        _CASES + "test_what_a_start_asks_to_be_shown_is_not_asked_of_polls_and_reconnects",
    ),
    "wild-27": case(
        "The first word takes long to come.",
        _CASES + "test_a_run_that_is_slow_to_begin_is_waited_for[in silence]",
        _CASES + "test_a_run_that_is_slow_to_begin_is_waited_for[with keepalives]",
    ),
    "wild-28a": case("A proxy does not pass the resume on.", _LOOSE + "[json instead of the rest]"),
    "wild-28b": case(
        "A proxy shows a run as completed, and with no output, once its client was gone.",
        _CASES + "test_a_run_that_completes_with_nothing_after_it_was_streamed_takes_it_back",
    ),
    "wild-29a": case("Numbers come twice.", _EXACT + "[duplicate]"),
    "wild-29b": case(
        "Numbers go back: two lives of the run in one stream.",
        _ODD + "[two lives with the same numbers]",
        _ODD + "[two lives with the same numbers, the first nearly whole]",
        _CASES + "test_a_second_life_that_says_something_else_takes_the_first_back",
    ),
    "wild-29c": case(
        "There are no numbers, or not on all events.",
        _LOOSE + "[no numbers at all]",
        _LOOSE + "[no numbers at all, and a cut]",
        _LOOSE + "[deltas without numbers, and a cut]",
        _LOOSE + "[deltas without numbers, cut again and again]",
        _ODD + "[an end without a number]",
        "e2e/test_strangers.py::test_a_stream_that_only_repeats_itself_is_given_up_for_a_poll",
    ),
    "wild-30": case(
        "The stream of a failed, cancelled or incomplete run hangs where its end should be.",
        _ENDS + "[failed-silence instead]",
        _ENDS + "[cancelled-silence instead]",
        _ENDS + "[incomplete-silence instead]",
    ),
    "wild-31": case("Polls say queued for ever.", _ODD + "[polls that say queued for ever]"),
    "wild-33": case(
        "The token of one run is used in the conversation of another.",
        "agent/test_threads.py::test_a_token_of_another_run_is_refused_while_one_goes_on",
        "agent/test_seed_conformance.py::test_c08_token_with_messages_is_refused_when_streaming",
    ),
    "wild-34": case("A run is incomplete, and there is nothing to see of it.", _ENDS + "[incomplete with nothing]"),
    "wild-35": case(
        "A run stays in progress for ever after a fault of the service.",
        _CASES + "test_a_run_whose_service_was_killed_keeps_its_text_and_ends_at_its_deadline",
    ),
    "wild-36": case(
        "To stream a run that was started without a stream blocks.",
        _CASES + "test_a_run_that_was_started_without_a_stream_is_never_attached_to",
    ),
    "wild-37": case(
        "The service knows no background.",
        _FAULTS + "test_a_start_that_is_refused_is_refused_at_once",
    ),
    "wild-38": case(
        "A start is sent twice because its answer took long, or was cut.",
        _FAULTS + "test_a_streamed_start_whose_answer_is_lost_is_not_sent_again",
        _FAULTS + "test_a_start_that_takes_longer_than_its_client_allows_is_not_sent_again[True]",
        _FAULTS + "test_a_streamed_start_that_names_no_run_is_not_sent_again",
    ),
    "wild-40a": case("A completed run has no output.", _ENDS + "[completed with nothing]"),
    "wild-40b": case(
        "A good answer is a page of HTML, or nothing.",
        _PASSING + "[html instead of the rest]",
        _PASSING + "[empty 200 instead of the rest]",
        _LOOSE + "[html for ever instead of the rest]",
    ),
}
_SERVERS = {
    "server-01": case(
        "The terminal event's name is not the status.",
        _FAULTS + "test_an_incomplete_run_under_the_name_of_a_completed_one_is_incomplete",
        _CANCEL + "[a failure that says cancelled]",
    ),
    "server-02a": case("After a cancel the stream hangs.", _CANCEL + "[silence]"),
    "server-02b": case("After a cancel the stream ends with no end.", _CANCEL + "[no end]"),
    "server-02c": case("After a cancel the output goes on.", _CANCEL + "[the run goes on, as the answer says]"),
    "server-03a": case("JSON comes where a stream should be.", _LOOSE + "[json instead of the rest]"),
    "server-03b": case("JSON comes where the first stream should be.", _LOOSE + "[json instead of the stream]"),
    "server-04": case(
        "A stream of a run that was not streamed is opened, and breaks.",
        _CASES + "test_a_run_that_was_started_without_a_stream_is_never_attached_to",
        _AT_THE_END + "[a connection that breaks]",
    ),
    "server-05": case(
        "The whole stream is one error, with no run.",
        _CASES + "test_a_stream_that_is_nothing_but_an_error_is_a_failed_run",
    ),
    "server-06": case("A cursor ahead of the newest event is ignored.", _EXACT + "[cursor ahead]"),
    "server-07": case("Numbers skip before the end.", _EXACT + "[gap before the end]", _EXACT + "[gap]"),
    "server-08": case("A cancelled run cannot be streamed any more.", _CANCEL + "[no more streams]"),
    "server-09": case(
        "The service was killed: in progress for ever, and unknown to a cancel.",
        _CASES + "test_a_run_whose_service_was_killed_keeps_its_text_and_ends_at_its_deadline",
    ),
    "server-10": case(
        "After a restart all is sent again under new numbers.",
        _LOOSE + "[the item again under new numbers]",
        _LOOSE + "[the item again, twice]",
        _LOOSE + "[numbers reset]",
        _CASES + "test_a_second_life_that_says_something_else_takes_the_first_back[True]",
    ),
    "server-11": case(
        "A second start with the same key is a second run.",
        _CASES + "test_a_lost_start_is_not_sent_again_whether_or_not_the_service_knows_keys[False]",
    ),
    "server-12": case("A reconnect brings nothing, again and again.", _LOOSE + "[keepalives only]"),
    "server-13": case(
        "A stream that is left keeps its connection.",
        "e2e/test_lifecycle.py::test_a_bare_break_leaves_no_connection_and_no_task",
        "e2e/test_lifecycle.py::test_however_a_loop_over_a_stream_is_left_nothing_stays_open",
    ),
    "server-azure": case(
        "In progress from the start; resumes are exact, over many of them.",
        "peers/test_azure.py::test_a_stream_that_is_cut_again_and_again_is_whole",
        "peers/test_azure.py::test_a_run_is_taken_up_by_its_token_where_the_stream_was_left",
        "peers/test_azure.py::test_a_cancelled_run_is_cancelled_at_the_service[True]",
    ),
    "server-vllm": case(
        "At or past the last event a stream hangs for ever.",
        _AT_THE_END + "[silence at the end only]",
        _LOOSE + "[no end, dead at the end]",
        _LOOSE + "[an end that is never shown to a stream]",
    ),
    "server-litellm": case("The run has another id in every answer.", _ODD + "[another id on every answer]"),
    "server-ogx": case(
        "A streamed start in the background is refused.",
        _CASES + "test_a_service_that_has_no_streams_in_the_background_says_so_at_the_start",
    ),
    "server-smg": case("The run is not found right after its start.", _PASSING + "[404 on attach, just after create]"),
}
_UNKNOWN = {
    "unknown-end-1": case("At the last event: nothing, cleanly.", _AT_THE_END + "[nothing]"),
    "unknown-end-2": case("At the last event: silence.", _AT_THE_END + "[silence]"),
    "unknown-end-3": case("At the last event: everything again.", _AT_THE_END + "[everything again]"),
    "unknown-end-4": case("At the last event: a 400.", _AT_THE_END + "[400]"),
    "unknown-end-5": case("At the last event: a 404.", _AT_THE_END + "[404]"),
    "unknown-end-6": case("At the last event: a conflict, the cursor has expired.", _AT_THE_END + "[409]"),
    "unknown-end-7": case("At the last event: gone, or out of range.", _AT_THE_END + "[410]", _AT_THE_END + "[416]"),
    "unknown-end-8": case("At the last event: JSON, or HTML.", _AT_THE_END + "[json]", _AT_THE_END + "[html]"),
    "unknown-end-9": case(
        "The last event is broken, and does not come again.",
        _CASES + "test_a_last_event_that_is_broken_is_asked_for_again",
    ),
    "unknown-old-1": case("Too old, under another code.", _REFUSED + "[too old, another code]"),
    "unknown-old-2": case("Too old, for another parameter.", _REFUSED + "[too old, another param]"),
    "unknown-old-3": case("Too old, with neither.", _REFUSED + "[too old, no code and no param]"),
    "unknown-old-4": case(
        "Any other refusal: not streamed, no longer kept, no JSON, another status.",
        _REFUSED + "[not created with stream]",
        _REFUSED + "[kept no longer]",
        _REFUSED + "[no json]",
        _REFUSED + "[405]",
        _REFUSED + "[422]",
    ),
    "unknown-cancel-1": case("After a cancel the connection breaks.", _CANCEL + "[a broken connection]"),
    "unknown-cancel-2": case("The answer to the cancel is lost.", _CANCEL + "[its answer is lost]"),
    "unknown-cancel-3": case(
        "The answer to the cancel is lost, and the stream has no end.", _CANCEL + "[its answer is lost, and no end]"
    ),
    "unknown-key": case(
        "The service takes a second start with the same key as the same run.",
        _CASES + "test_a_lost_start_is_not_sent_again_whether_or_not_the_service_knows_keys[True]",
    ),
    "unknown-lock-1": case(
        "A streamed run locks its conversation to its end.",
        _CASES + "test_the_next_turn_is_streamed_whether_or_not_a_run_locks_its_conversation[True]",
    ),
    "unknown-lock-2": case(
        "A streamed run locks nothing.",
        _CASES + "test_the_next_turn_is_streamed_whether_or_not_a_run_locks_its_conversation[False]",
    ),
    "unknown-hint": case("Polls after a refused stream say when to come again.", _REFUSED + "[too old]"),
    "unknown-limit": case(
        "Reconnects count as requests, and are limited.",
        _PASSING + "[429 on attach]",
        _PASSING + "[503 with Retry-After on attach]",
    ),
    "unknown-query": case(
        "A cursor without a stream is an error: polls have none.",
        _CASES + "test_what_a_start_asks_to_be_shown_is_not_asked_of_polls_and_reconnects",
    ),
}
CASES: dict[str, Case] = {**_WILD, **_SERVERS, **_UNKNOWN}
