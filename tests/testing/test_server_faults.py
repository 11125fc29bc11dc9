"""Every fault of the server, as the real SDK or a bare socket sees it."""

from __future__ import annotations

import asyncio
import json
from contextlib import nullcontext
from dataclasses import dataclass

import openai
import pytest
from responses_client import JOB, STREAM, ask, attach, create, poll, sdk, text_of

from agentbg.testing.server import (
    BrokenJson,
    Comments,
    CorruptEvent,
    CutAfterByte,
    CutAfterEvent,
    DeadAtEnd,
    DropStart,
    Duplicate,
    EmptyBody,
    ErrorEvent,
    Fault,
    Fragment,
    FullReplay,
    Gap,
    HtmlBody,
    HtmlInsteadOfSse,
    IgnoreCursorAhead,
    JsonInsteadOfSse,
    Keepalives,
    NoTerminalEvent,
    NotFoundAfterCreate,
    PollHint,
    Renumber,
    Reply,
    ResetNumbering,
    ResponsesServer,
    Script,
    SlowBody,
    Stall,
    Status,
    StatusFlip,
    TerminalNamed,
    TooOld,
    UnknownEvent,
    Unsequenced,
)

STORY = Script.story(20)
LAST = 3 + 2 + 20 + 3
"""The number of the story's terminal event."""


def broken(*faults, script=STORY):
    return ResponsesServer(script=script, faults=faults)


async def gather_types(stream, seen):
    async for event in stream:
        seen.append(event.type)


# Which requests a fault strikes


async def test_faults_of_one_class_strike_one_after_the_other():
    async with broken(Status(500), Status(429), Status(503)) as server:
        await create(server)
        assert [(await poll(server)).status for _ in range(4)] == [500, 429, 503, 200]
        assert server.faults.pending == []


async def test_faults_of_several_classes_strike_the_same_request():
    async with broken(CutAfterEvent(2), Comments(), Duplicate(1)) as server:
        first = await create(server, stream=True)
        assert (first.numbers, first.text.count(b": ping\n\n"), first.whole) == ([0, 0], 2, False)
        assert (await attach(server)).whole


async def test_a_fault_that_answers_by_itself_leaves_those_after_it_for_later():
    async with broken(Status(500, on="create"), CutAfterEvent(1)) as server:
        assert (await create(server, stream=True)).status == 500
        assert (await create(server, stream=True)).numbers == [0]


async def test_a_fault_lets_some_requests_pass_and_strikes_so_often():
    async with broken(Status(500, on="poll", after=2, times=2)) as server:
        await create(server)
        assert [(await poll(server)).status for _ in range(5)] == [200, 200, 500, 500, 200]


async def test_a_fault_strikes_one_run_by_its_place_or_its_id():
    async with broken(Status(500, run=1, times=None), Status(404, run=0, on="create")) as server:
        assert (await create(server)).status == 404
        runs = [(await create(server)).json["id"] for _ in range(2)]
        assert [(await poll(server, run)).status for run in server.runs.values()] == [200, 500]
        server.inject(HtmlBody(run=runs[0]))
        assert (await poll(server, server.run(0))).headers["content-type"] == "text/html"


async def test_reset_makes_faults_new():
    async with broken(Status(500)) as server:
        assert (await ask(server, "GET", "/responses/x")).status == 500
        assert (await ask(server, "GET", "/responses/x")).status == 404
        server.reset()
        assert (await ask(server, "GET", "/responses/x")).status == 500


async def test_a_fault_of_ones_own_is_a_subclass():
    @dataclass(frozen=True)
    class Teapot(Fault):
        def answer(self, exchange, serve):
            return Reply.json({"was": serve().status, "method": exchange.request.method}, 418)

    async with broken(Teapot(on="poll")) as server:
        await create(server)
        answer = await poll(server)
        assert (answer.status, answer.json) == (418, {"was": 200, "method": "GET"})


# How a stream ends


@pytest.mark.parametrize(
    ("how", "whole", "end"), [("clean", True, "fin"), ("fin", False, "fin"), ("rst", False, "rst")]
)
async def test_a_stream_is_cut_after_exactly_so_many_events(how, whole, end):
    async with broken(CutAfterEvent(6, how)) as server:
        cut = await create(server, stream=True)
        assert (cut.numbers, cut.whole, cut.end) == (list(range(6)), whole, end)
        assert (await attach(server, 5)).numbers == list(range(6, LAST + 1))


@pytest.mark.parametrize(
    ("how", "error"), [("clean", None), ("fin", openai.APIConnectionError), ("rst", openai.APIConnectionError)]
)
async def test_the_sdk_sees_a_cut_as_it_sees_a_real_one(how, error):
    async with broken(CutAfterEvent(6, how)) as server, sdk(server) as client:
        seen = []
        with nullcontext() if error is None else pytest.raises(error):
            await gather_types(await client.responses.create(**STREAM), seen)

        assert len(seen) == 6


async def test_a_cut_past_the_end_leaves_the_stream_alone():
    async with broken(CutAfterEvent(500, "rst"), CutAfterByte(10**6, "rst")) as server:
        answer = await create(server, stream=True)
        assert (answer.numbers[-1], answer.whole, answer.end) == (LAST, True, "fin")


@pytest.mark.parametrize("n", [0, 1, 100, 1234, 2000])
async def test_a_stream_is_cut_after_exactly_so_many_bytes(n):
    async with broken(CutAfterByte(n, "clean"), CutAfterByte(n, "fin"), CutAfterByte(n, "rst")) as server:
        whole = (await create(server, stream=True)).text
        assert len(whole) == n
        for end in ("fin", "rst"):
            answer = await attach(server)
            assert (answer.text, answer.whole, answer.end) == (whole, False, end)

        assert (await attach(server)).text.startswith(whole)


async def test_a_poll_is_cut_short_of_its_stated_length():
    async with broken(CutAfterByte(50, on="poll")) as server:
        await create(server)
        answer = await poll(server)
        assert len(answer.body) == 50 < int(answer.headers["content-length"])
        assert answer.end == "fin"


async def test_a_cut_strikes_a_connection_that_lives_on_events_yet_to_come():
    async with broken(CutAfterEvent(4), script=STORY.lasting(delay=0.002)) as server:
        assert (await create(server, stream=True)).numbers == [0, 1, 2, 3]


async def test_a_stalled_stream_stays_open_and_silent():
    async with broken(Stall(4)) as server:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.03):
                await create(server, stream=True)

        assert (await attach(server, 3)).numbers[0] == 4


async def test_a_stream_may_stay_open_after_its_terminal_event():
    async with broken(Stall(None)) as server, sdk(server) as client:
        stream = aiter(await client.responses.create(**STREAM))
        while (await anext(stream)).type != "response.completed":
            pass

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await anext(stream)


async def test_a_stream_ends_cleanly_without_its_terminal_event():
    async with broken(NoTerminalEvent()) as server:
        answer = await create(server, stream=True)
        assert (answer.numbers[-1], answer.whole) == (LAST - 1, True)
        assert (await poll(server)).json["status"] == "completed"


async def test_a_stream_hangs_without_its_terminal_event():
    async with broken(NoTerminalEvent("hang")) as server:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.03):
                await create(server, stream=True)


async def test_the_terminal_event_has_another_name_than_its_status():
    async with broken(TerminalNamed("response.completed"), script=Script.incomplete("Half")) as server:
        last = (await create(server, stream=True)).events[-1]
        assert (last["type"], last["response"]["status"]) == ("response.completed", "incomplete")


# What a stream holds


async def test_an_event_comes_twice():
    async with broken(Duplicate(6)) as server:
        assert (await create(server, stream=True)).numbers[4:8] == [4, 5, 5, 6]


async def test_numbers_skip_and_the_cursor_still_fits():
    async with broken(Gap(6, size=3)) as server:
        assert (await create(server, stream=True)).numbers == [*range(6), *range(9, LAST + 4)]
        assert (await attach(server, 9)).numbers[0] == 10
        assert (await attach(server, 7)).numbers[0] == 9


async def test_an_event_with_broken_json_raises_in_the_sdk():
    async with broken(CorruptEvent(4)) as server, sdk(server) as client:
        with pytest.raises(json.JSONDecodeError):
            _ = [event async for event in await client.responses.create(**STREAM)]

        assert (await attach(server, 3)).numbers[0] == 4


async def test_comments_are_skipped_by_readers():
    async with broken(Comments("ping")) as server, sdk(server) as client:
        events = [event async for event in await client.responses.create(**STREAM)]
        assert len(events) == LAST + 1


async def test_chunks_may_end_anywhere():
    async with broken(Fragment(5), script=Script.text("Grüße aus Köln ☀ 🌊", 9)) as server, sdk(server) as client:
        events = [event async for event in await client.responses.create(**STREAM)]
        assert text_of(event.to_dict() for event in events) == "Grüße aus Köln ☀ 🌊"
        assert (await create(server, stream=True)).whole


async def test_an_unknown_event_has_a_number_and_is_replayed():
    async with broken(UnknownEvent(5)) as server:
        events = (await create(server, stream=True)).events
        assert (events[5]["type"], events[5]["sequence_number"]) == ("response.future.delta", 5)
        assert [event["sequence_number"] for event in events] == list(range(LAST + 2))
        assert (await attach(server, 4)).events == events[5:]


async def test_events_come_without_numbers():
    async with broken(Unsequenced(), Unsequenced(("response.output_text.delta",))) as server:
        assert not any("sequence_number" in event for event in (await create(server, stream=True)).events)
        unnumbered = [event["type"] for event in (await attach(server)).events if "sequence_number" not in event]
        assert unnumbered == ["response.output_text.delta"] * 20


async def test_keepalives_come_before_all_else_and_take_numbers():
    async with broken(Keepalives(first=2)) as server:
        answer = await create(server, stream=True)
        assert [event["type"] for event in answer.events[:3]] == ["keepalive", "keepalive", "response.created"]
        assert answer.numbers == list(range(LAST + 3))
        assert (await attach(server, 1)).numbers == answer.numbers[2:]


async def test_keepalives_fill_the_silence_and_stay_in_the_log():
    script = STORY.lasting(queued=60)
    async with broken(Keepalives(every=0.002), script=script) as server, sdk(server) as client:
        events = []
        async for event in await client.responses.create(**STREAM):
            events.append(event)
            if len(events) == 4:
                server.advance(60)

        kinds = [event.type for event in events]
        assert kinds[:4] == ["response.created", "response.queued", "keepalive", "keepalive"]
        assert [event.sequence_number for event in events] == list(range(len(kinds)))
        assert [event["type"] for event in (await attach(server)).events] == kinds


async def test_keepalives_without_numbers_leave_the_runs_numbers_alone():
    faults = Keepalives(every=0.01, first=1, numbered=False)
    async with broken(faults, script=STORY.lasting(queued=0.025)) as server:
        events = (await create(server, stream=True)).events
        assert events[0] == {"type": "keepalive"}
        assert [e["sequence_number"] for e in events if e["type"] != "keepalive"] == list(range(LAST + 1))


@pytest.mark.parametrize("shape", ["nested", "flat"])
async def test_an_error_event_ends_the_stream_and_the_run_goes_on(shape):
    async with broken(ErrorEvent(6, shape)) as server:
        answer = await create(server, stream=True)
        error = answer.events[-1]
        assert (answer.numbers, error["type"], answer.whole) == (list(range(7)), "error", True)
        assert (error["error"] if shape == "nested" else error)["code"] == "server_error"
        assert (await attach(server, 6)).numbers == list(range(7, LAST + 2))
        assert (await poll(server)).json["status"] == "completed"


async def test_an_error_event_is_followed_by_the_failure():
    async with broken(ErrorEvent(6, then_failed=True)) as server, sdk(server) as client:
        with pytest.raises(openai.APIError, match="An error occurred"):
            _ = [event async for event in await client.responses.create(**STREAM)]

        assert [event["type"] for event in (await attach(server, 5)).events] == ["error", "response.failed"]
        response = await client.responses.retrieve(server.run().id)
        assert (response.status, response.error.code) == ("failed", "server_error")


async def test_a_stream_may_be_one_error_event_and_no_id():
    async with broken(ErrorEvent(0)) as server:
        events = (await create(server, stream=True)).events
        assert [(event["type"], event["sequence_number"]) for event in events] == [("error", 0)]


# What comes after a reconnect


async def test_the_cursor_is_ignored_and_all_comes_again():
    async with broken(FullReplay()) as server:
        whole = (await create(server, stream=True)).text
        assert (await attach(server, 10)).text == whole


async def test_a_cursor_ahead_of_the_newest_event_is_ignored():
    async with broken(IgnoreCursorAhead(), script=STORY.lasting(queued=60)) as server:
        await ask(server, "POST", "/responses", STREAM, limit=1)
        stream = asyncio.create_task(attach(server, 60))
        while not server.count("attach"):
            await asyncio.sleep(0)

        server.advance(60)
        assert (await stream).numbers[0] == 2


async def test_numbers_begin_again_at_zero_after_a_reconnect():
    async with broken(ResetNumbering()) as server:
        whole = await create(server, stream=True)
        rest = await attach(server, 10)
        assert rest.numbers == list(range(LAST - 10))
        assert text_of(rest.events) == text_of(whole.events[11:])
        assert (await attach(server, 3)).numbers[0] == 4


async def test_an_item_is_sent_again_under_new_numbers_after_a_reconnect():
    async with broken(CutAfterEvent(12), Renumber()) as server:
        first = await create(server, stream=True)
        again = await attach(server, 11)
        assert again.numbers == list(range(13, 13 + len(again.events)))
        assert again.events[0]["type"] == "response.output_item.added"
        assert again.events[0]["output_index"] == 0
        assert text_of(again.events) == server.run().text
        assert server.run().text.startswith(text_of(first.events) or "nothing")
        assert (await attach(server, 13)).numbers[0] == 14
        assert (await poll(server)).json["status"] == "completed"


async def test_nothing_is_sent_again_before_an_item_has_begun():
    async with broken(Renumber()) as server:
        whole = await create(server, stream=True)
        assert (await attach(server, 1)).events == whole.events[2:]


async def test_to_attach_at_the_end_hangs():
    async with broken(DeadAtEnd()) as server:
        await create(server, stream=True)
        for cursor in (LAST, LAST + 9):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.03):
                    await attach(server, cursor)

        assert (await attach(server, LAST - 1)).numbers == [LAST]


async def test_a_stream_is_refused_as_too_old_and_polls_work():
    async with broken(TooOld()) as server:
        await create(server, stream=True)
        answer = await attach(server, 3)
        assert (answer.status, "more than 5 minutes old" in answer.json["error"]["message"]) == (400, True)
        assert (await poll(server)).status == 200


# Answers


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (408, openai.APIStatusError),
        (409, openai.ConflictError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
async def test_a_status_raises_the_sdks_error_and_says_when_to_come_back(status, error):
    async with broken(Status(status, retry_after=7, on="create")) as server, sdk(server) as client:
        with pytest.raises(error) as caught:
            await client.responses.create(**JOB)

        assert caught.value.response.headers["retry-after"] == "7"
        assert not server.runs


async def test_a_status_may_have_any_body():
    async with broken(Status(502, body=b"<html>"), Status(500, body={"detail": "no"})) as server:
        assert (await ask(server, "GET", "/responses/x")).body == b"<html>"
        assert (await ask(server, "GET", "/responses/x")).json == {"detail": "no"}


async def test_a_new_run_is_not_found_for_some_requests():
    async with broken(NotFoundAfterCreate(times=2)) as server:
        await create(server)
        assert [(await poll(server)).status for _ in range(3)] == [404, 404, 200]


async def test_a_new_run_is_not_found_for_some_seconds():
    async with broken(NotFoundAfterCreate(seconds=5)) as server:
        await create(server, stream=True)
        assert [(await poll(server)).status, (await attach(server)).status, (await poll(server)).status] == [404] * 3
        server.advance(5)
        assert (await poll(server)).status == 200


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize(("when", "runs"), [("before", 0), ("after", 1)])
async def test_a_start_gets_no_answer_whether_or_not_the_run_exists(how, when, runs):
    async with broken(DropStart(when, how)) as server:
        answer = await create(server)
        assert (answer.status, answer.end, len(server.runs)) == (0, how, runs)
        async with sdk(server) as client:
            assert (await client.responses.create(**JOB)).status == "queued"


async def test_the_sdk_sees_a_dropped_start_as_a_connection_error():
    async with broken(DropStart("after")) as server, sdk(server) as client:
        with pytest.raises(openai.APIConnectionError):
            await client.responses.create(**JOB)


@pytest.mark.parametrize("make", [HtmlInsteadOfSse, JsonInsteadOfSse])
async def test_another_content_than_a_stream_gives_the_sdk_no_event(make):
    async with broken(make()) as server, sdk(server) as client:
        assert [event async for event in await client.responses.create(**STREAM)] == []
        assert len(server.runs) == 1


async def test_json_instead_of_a_stream_is_the_runs_snapshot():
    async with broken(JsonInsteadOfSse(on="attach")) as server:
        await create(server, stream=True)
        answer = await attach(server, 3)
        assert (answer.headers["content-type"], answer.json["id"]) == ("application/json", server.run().id)


async def test_polls_get_html_or_half_a_json_or_nothing():
    async with broken(HtmlBody(), BrokenJson(on="poll", after=1), EmptyBody(after=2)) as server, sdk(server) as client:
        response = await client.responses.create(**JOB)
        assert isinstance(await client.responses.retrieve(response.id), str)
        with pytest.raises(json.JSONDecodeError):
            await client.responses.retrieve(response.id)

        answer = await poll(server)
        assert (answer.status, answer.body) == (200, b"")
        assert (await poll(server)).json["status"] == "completed"


async def test_a_body_comes_slowly_and_whole():
    async with broken(SlowBody(0.02)) as server:
        await create(server)
        begin = asyncio.get_running_loop().time()
        assert (await poll(server)).json["status"] == "completed"
        assert asyncio.get_running_loop().time() - begin >= 0.015


async def test_polls_carry_hints_when_to_come_back():
    async with broken(PollHint(milliseconds=2500, retry_after=3)) as server:
        await create(server)
        headers = (await poll(server)).headers
        assert (headers["openai-poll-after-ms"], headers["retry-after"]) == ("2500", "3")


async def test_a_cancelled_run_completes_after_all():
    async with broken(StatusFlip(5), script=STORY.lasting(running=9)) as server:
        await create(server)
        assert (await ask(server, "POST", f"/responses/{server.run().id}/cancel")).json["status"] == "cancelled"
        assert (await poll(server)).json["status"] == "cancelled"
        server.advance(5)
        assert (await poll(server)).json["status"] == "in_progress"
        server.advance(5)
        assert (await poll(server)).json["status"] == "completed"


async def test_a_cancelled_run_goes_on_at_once_and_so_does_its_stream():
    async with broken(StatusFlip(), script=STORY.lasting(running=9)) as server:
        stream = asyncio.create_task(create(server, stream=True))
        while not server.runs:
            await asyncio.sleep(0)

        assert (await ask(server, "POST", f"/responses/{server.run().id}/cancel")).status == 200
        server.advance(10)
        assert (await stream).events[-1]["type"] == "response.completed"
