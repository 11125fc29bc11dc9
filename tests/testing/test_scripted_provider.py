"""The scripted provider does what its script says, goes wrong as it is told, and remembers what came in."""

from __future__ import annotations

import asyncio
import json
import math
from contextlib import aclosing

import pytest

from agentbg.core.model import EventKind, RunErrorInfo, RunRef, StartRequest
from agentbg.core.status import RunStatus
from agentbg.errors import (
    PreviousRunNotFound,
    RequestRejected,
    RunNotFound,
    ServiceUnavailable,
    StreamRefused,
    Unsupported,
)
from agentbg.providers.base import Cap, Provider, Resume
from agentbg.testing import At, RunScript, ScriptedProvider, approval, function_call, message, virtual_time

ASK = StartRequest([{"role": "user", "content": "Hello?"}])


def now() -> float:
    return asyncio.get_running_loop().time()


async def collect(stream) -> list:
    """All events of a stream, and that it is closed."""
    async with aclosing(stream) as batches:
        return [event async for batch in batches for event in batch]


def text_of(events) -> str:
    return "".join(event.text for event in events)


class TestFaults:
    @virtual_time
    async def test_a_call_fails_as_often_as_it_is_told_from_the_call_it_is_told(self):
        provider = ScriptedProvider().fail("poll", call=2, times=2)
        ref = (await provider.start(ASK)).ref
        assert [await ok(provider.poll(ref)) for _ in range(5)] == [True, False, False, True, True]

    @virtual_time
    async def test_calls_are_counted_from_when_the_fault_is_said(self):
        provider = ScriptedProvider()
        ref = (await provider.start(ASK)).ref
        await provider.poll(ref)
        provider.fail("poll", RequestRejected("No.", status_code=400), times=None)
        for _ in range(10):
            with pytest.raises(RequestRejected, match="No"):
                await provider.poll(ref)

    @virtual_time
    async def test_a_fault_can_be_for_one_run_only(self):
        provider = ScriptedProvider().fail("poll", RunNotFound("Gone."), run=2, times=None)
        refs = [(await provider.start(ASK)).ref for _ in range(3)]
        assert [await ok(provider.poll(ref), RunNotFound) for ref in refs] == [True, False, True]

    @virtual_time
    async def test_a_refused_start_makes_no_run_and_a_lost_one_does(self):
        provider = ScriptedProvider().fail("start", ServiceUnavailable("Busy.", unsent=True)).lose("start", call=2)
        with pytest.raises(ServiceUnavailable) as refused:
            await provider.start(ASK)

        assert (len(provider.runs), refused.value.unsent) == (0, True)
        with pytest.raises(ServiceUnavailable) as lost:
            await provider.start(ASK)

        assert (len(provider.runs), lost.value.unsent) == (1, False)

    @virtual_time
    async def test_a_lost_open_has_started_the_run(self):
        provider = ScriptedProvider().lose("open")
        with pytest.raises(ServiceUnavailable):
            await collect(provider.open(ASK))

        assert list(provider.runs) == ["resp_1"]

    @virtual_time
    async def test_a_cut_stream_ends_in_silence_and_the_next_goes_on(self):
        provider = ScriptedProvider.text("Hello, world").cut(after=5)
        first = await collect(provider.open(ASK))
        rest = await collect(provider.attach(provider.run().ref, after=first[-1].cursor))
        assert len(first) == 5
        assert text_of(first + rest) == "Hello, world"
        assert rest[-1].kind is EventKind.END

    @virtual_time
    async def test_a_stream_can_break_with_an_error_after_some_events(self):
        provider = ScriptedProvider.text("Hello, world").cut(3, ServiceUnavailable("Reset."), call=2)
        await collect(provider.open(ASK))
        stream = provider.attach(provider.run().ref)
        assert not await anext(stream), "it is open"
        assert len(await anext(stream)) == 3
        with pytest.raises(ServiceUnavailable, match="Reset"):
            await anext(stream)

    @virtual_time
    async def test_a_stalled_stream_stays_open_and_brings_nothing(self):
        provider = ScriptedProvider.text("Hello, world").stall(after=4)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await collect(provider.open(ASK))

        assert now() == 3600
        assert provider.open_streams == 0

    @virtual_time
    async def test_an_attach_can_bring_again_what_was_seen(self):
        provider = ScriptedProvider().repeat(2)
        await collect(provider.open(ASK))
        events = await collect(provider.attach(provider.run().ref, after=5))
        assert [event.cursor for event in events[:3]] == [4, 5, 6]

    @virtual_time
    async def test_events_can_come_twice_and_under_other_numbers(self):
        provider = ScriptedProvider().double().renumber(100)
        first = await collect(provider.open(ASK))
        assert [event.cursor for event in first[:4]] == [0, 0, 1, 1]
        again = await collect(provider.attach(provider.run().ref))
        assert [event.cursor for event in again[:2]] == [100, 101]

    @virtual_time
    async def test_a_cursor_past_the_end_brings_an_empty_stream_once_the_run_has_ended(self):
        provider = ScriptedProvider.text("Hello", seconds=10)
        ref = (await provider.start(ASK)).ref
        assert await collect(provider.attach(ref, after=1000)) == []
        assert now() == 10

    @virtual_time
    async def test_an_answer_can_be_late_or_never_come(self):
        provider = ScriptedProvider().delay("poll", 30).delay("poll", math.inf, call=2)
        ref = (await provider.start(ASK)).ref
        await provider.poll(ref)
        assert now() == 30
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(provider.poll(ref), 60)

    @virtual_time
    async def test_an_unknown_an_expired_and_a_deleted_run_are_not_found(self):
        provider = ScriptedProvider(retention=60)
        ref = (await provider.start(ASK)).ref
        with pytest.raises(RunNotFound):
            await provider.poll(RunRef("scripted", "scripted", {"response": "resp_77"}))

        await asyncio.sleep(61)
        with pytest.raises(RunNotFound):
            await provider.poll(ref)

        young = (await provider.start(ASK)).ref
        await provider.delete(young)
        await provider.delete(young)
        with pytest.raises(RunNotFound):
            await provider.poll(young)

    @virtual_time
    async def test_a_run_can_be_too_old_to_be_streamed(self):
        provider = ScriptedProvider.text("Hello", seconds=1000, stream_window=300)
        ref = (await provider.start(ASK)).ref
        await asyncio.sleep(301)
        with pytest.raises(StreamRefused):
            await collect(provider.attach(ref))

        assert (await provider.poll(ref)).status is RunStatus.RUNNING

    @virtual_time
    async def test_what_the_service_cannot_do_is_unsupported_and_starts_nothing(self):
        provider = ScriptedProvider(caps=Cap(0), resume=Resume.NONE)
        ref = (await provider.start(ASK)).ref
        for call in (
            provider.cancel(ref),
            provider.respond(ref, []),
            provider.delete(ref),
            collect(provider.open(ASK)),
            collect(provider.attach(ref)),
        ):
            with pytest.raises(Unsupported):
                await call

        assert len(provider.runs) == 1

    def test_a_fault_that_can_never_strike_is_refused(self):
        with pytest.raises(ValueError, match="no method 'pol'"):
            ScriptedProvider().fail("pol")

        with pytest.raises(ValueError, match="from 1"):
            ScriptedProvider().fail("poll", call=0)

    def test_a_script_out_of_order_is_refused(self):
        with pytest.raises(ValueError, match="order"):
            RunScript([At(2, text="a"), At(1, text="b")])

        with pytest.raises(ValueError, match="last"):
            RunScript([At(1, status="completed"), At(2, text="b")])


class TestRuns:
    @virtual_time
    async def test_a_poll_shows_the_run_as_it_is_by_then(self):
        provider = ScriptedProvider.text("Hello, world", seconds=10)
        first = await provider.start(ASK)
        assert (first.status, first.raw_status, first.text) == (RunStatus.QUEUED, "queued", "")
        await asyncio.sleep(5)
        middle = await provider.poll(first.ref)
        assert (middle.status, middle.raw_status, middle.text) == (RunStatus.RUNNING, "in_progress", "Hell")
        await asyncio.sleep(5)
        last = await provider.poll(first.ref)
        assert (last.status, last.text, last.usage.output_tokens) == (RunStatus.COMPLETED, "Hello, world", 10)
        assert last.items[0]["content"][0]["text"] == "Hello, world"
        assert last.items[0]["status"] == "completed"

    @virtual_time
    async def test_a_stream_brings_each_event_at_its_time(self):
        provider = ScriptedProvider(
            RunScript(
                [
                    At(0, status="queued"),
                    At(2, status="running"),
                    At(3, text="Hel"),
                    At(3, text="lo"),
                    At(60, status="completed"),
                ]
            )
        )
        seen = [(now(), [event.kind for event in batch]) async for batch in provider.open(ASK)]
        kinds = EventKind
        assert seen == [
            (0, [kinds.STATUS]),
            (2, [kinds.STATUS]),
            (3, [kinds.TEXT, kinds.TEXT]),
            (60, [kinds.END]),
        ]

    @virtual_time
    async def test_events_look_like_those_of_the_responses_api(self):
        provider = ScriptedProvider.text("Hi", deltas=2)
        events = await collect(provider.open(ASK))
        assert [event.raw["type"] for event in events] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.completed",
        ]
        assert [event.raw["sequence_number"] for event in events] == [event.cursor for event in events] == [*range(6)]
        assert events[-1].snapshot == await provider.poll(provider.run().ref)
        json.dumps([event.raw for event in events])

    @virtual_time
    async def test_an_attach_brings_exactly_what_follows_its_cursor(self):
        provider = ScriptedProvider.text("Hello, world", deltas=12)
        whole = await collect(provider.open(ASK))
        for event in whole:
            assert await collect(provider.attach(provider.run().ref, after=event.cursor)) == whole[event.cursor + 1 :]

    @virtual_time
    async def test_numbers_may_have_gaps(self):
        provider = ScriptedProvider(RunScript.text("Hello").skipping(7, before=2))
        events = await collect(provider.open(ASK))
        assert [event.cursor for event in events[:4]] == [0, 1, 9, 10]
        rest = await collect(provider.attach(provider.run().ref, after=9))
        assert rest[0].cursor == 10

    @virtual_time
    async def test_each_run_follows_the_next_script_and_the_last_one_repeats(self):
        provider = ScriptedProvider(RunScript.text("one", seconds=0), RunScript.text("two", seconds=0))
        assert [(await provider.start(ASK)).text for _ in range(3)] == ["one", "two", "two"]

    @pytest.mark.parametrize(
        ("script", "status", "text", "code"),
        [
            (RunScript.failed("rate_limit_exceeded", after="Hel"), RunStatus.FAILED, "Hel", "rate_limit_exceeded"),
            (RunScript.incomplete("Hel"), RunStatus.INCOMPLETE, "Hel", "max_output_tokens"),
            (RunScript.json({"answer": 42}), RunStatus.COMPLETED, '{"answer": 42}', None),
            (RunScript.asks(), RunStatus.INPUT_REQUIRED, "", None),
            (RunScript.call("look_up", {"city": "Amsterdam"}), RunStatus.INPUT_REQUIRED, "", None),
            (RunScript.endless("Hel"), RunStatus.RUNNING, "Hel", None),
            (RunScript.text("Hel").then(At(20, status="expired")), RunStatus.EXPIRED, "Hel", None),
        ],
    )
    @virtual_time
    async def test_runs_end_in_every_way(self, script, status, text, code):
        provider = ScriptedProvider(script)
        ref = (await provider.start(ASK)).ref
        await asyncio.sleep(20)
        snapshot = await provider.poll(ref)
        assert (snapshot.status, snapshot.text) == (status, text)
        assert (snapshot.error.code if snapshot.error else None) == code

    @virtual_time
    async def test_the_final_text_can_differ_from_the_streamed(self):
        provider = ScriptedProvider(RunScript.text("Hello").then(At(10, status="completed", text="Good bye")))
        events = await collect(provider.open(ASK))
        assert text_of(events) == "Hello"
        assert events[-1].snapshot.text == "Good bye"

    @virtual_time
    async def test_an_item_can_begin_again(self):
        script = RunScript.text("Hello").then(
            At(10, item=message("msg_2"), index=0), At(11, text="Anew"), At(12, status="completed")
        )
        provider = ScriptedProvider(script)
        events = await collect(provider.open(ASK))
        assert [event.index for event in events if event.kind is EventKind.ITEM] == [0, 0]
        assert events[-1].snapshot.text == "Anew"

    @virtual_time
    async def test_unknown_words_errors_keepalives_and_foreign_events_pass(self):
        provider = ScriptedProvider(
            RunScript(
                [
                    At(0, status="pondering"),
                    At(1, kind=EventKind.KEEPALIVE),
                    At(2, raw={"type": "response.shiny_new_thing", "x": 1}),
                    At(3, error=RunErrorInfo("overloaded", "Busy.")),
                    At(4, status="completed"),
                ]
            )
        )
        events = await collect(provider.open(ASK))
        kinds = EventKind
        assert [event.kind for event in events] == [
            kinds.STATUS,
            kinds.KEEPALIVE,
            kinds.PROGRESS,
            kinds.ERROR,
            kinds.END,
        ]
        assert (events[0].snapshot.status, events[0].snapshot.raw_status) == (RunStatus.RUNNING, "pondering")
        assert events[2].raw == {"type": "response.shiny_new_thing", "x": 1, "sequence_number": 2}
        assert events[3].error.code == "overloaded"
        assert events[4].snapshot.error is None

    @virtual_time
    async def test_a_service_can_wish_for_a_pace(self):
        provider = ScriptedProvider(
            RunScript([At(0, status="queued", poll_after=30), At(60, status="running", poll_after=5)])
        )
        ref = (await provider.start(ASK)).ref
        assert (await provider.poll(ref)).poll_after == 30
        await asyncio.sleep(60)
        assert (await provider.poll(ref)).poll_after == 5

    @virtual_time
    async def test_output_can_be_hidden_until_the_end(self):
        provider = ScriptedProvider.text("Hello, world", seconds=10, caps=Cap.CANCEL)
        ref = (await provider.start(ASK)).ref
        await asyncio.sleep(9)
        assert (await provider.poll(ref)).text == ""
        await asyncio.sleep(1)
        assert (await provider.poll(ref)).text == "Hello, world"


class TestResume:
    @virtual_time
    async def test_a_log_brings_all_events_again(self):
        provider = ScriptedProvider.text("Hello", resume=Resume.LOG)
        whole = await collect(provider.open(ASK))
        assert await collect(provider.attach(provider.run().ref, after=5)) == whole

    @virtual_time
    async def test_a_snapshot_brings_the_run_as_it_is_then_what_follows_without_numbers(self):
        provider = ScriptedProvider.text("Hello, world", seconds=10, resume=Resume.SNAPSHOT)
        ref = (await provider.start(ASK)).ref
        await asyncio.sleep(5)
        events = await collect(provider.attach(ref))
        assert events[0].snapshot.text + text_of(events) == "Hello, world"
        assert {event.cursor for event in events} == {None}


class TestCancel:
    @virtual_time
    async def test_it_ends_the_run_and_its_open_streams(self):
        provider = ScriptedProvider.text("Hello, world", seconds=100)
        reading = asyncio.create_task(collect(provider.open(ASK)))
        await asyncio.sleep(50)
        snapshot = await provider.cancel(provider.run().ref)
        events = await reading
        assert now() == 50
        assert snapshot.status is events[-1].snapshot.status is RunStatus.CANCELLED

    @virtual_time
    async def test_it_can_take_its_time(self):
        provider = ScriptedProvider.text("Hello", seconds=100, cancel_delay=7)
        ref = (await provider.start(ASK)).ref
        assert await provider.cancel(ref) is None
        assert (await provider.poll(ref)).status.live
        await asyncio.sleep(7)
        assert (await provider.poll(ref)).status is RunStatus.CANCELLED

    @virtual_time
    async def test_a_run_that_ends_first_stays_as_it_ended(self):
        provider = ScriptedProvider.text("Hello", seconds=10, cancel_delay=7)
        ref = (await provider.start(ASK)).ref
        await asyncio.sleep(5)
        await provider.cancel(ref)
        await asyncio.sleep(7)
        assert (await provider.poll(ref)).status is RunStatus.COMPLETED
        assert (await provider.cancel(ref)).status is RunStatus.COMPLETED

    @virtual_time
    async def test_a_service_can_say_yes_and_go_on(self):
        provider = ScriptedProvider.text("Hello", seconds=10, cancel_delay=None)
        ref = (await provider.start(ASK)).ref
        assert await provider.cancel(ref) is None
        await asyncio.sleep(10)
        assert (await provider.poll(ref)).status is RunStatus.COMPLETED

    @virtual_time
    async def test_a_run_that_waits_for_its_user_can_be_cancelled(self):
        provider = ScriptedProvider(RunScript.asks(seconds=5))
        ref = (await provider.start(ASK)).ref
        await asyncio.sleep(6)
        assert (await provider.cancel(ref)).status is RunStatus.CANCELLED


class TestRecord:
    @virtual_time
    async def test_calls_are_noted_with_what_they_brought_and_when(self):
        provider = ScriptedProvider(latency=0.5).fail("poll")
        ref = (await provider.start(ASK, key="k")).ref
        with pytest.raises(ServiceUnavailable):
            await provider.poll(ref)

        await collect(provider.attach(ref, after=3))
        await provider.respond(ref, [{"type": "function_call_output", "call_id": "call_1", "output": "sunny"}])
        start, poll, attach, respond = provider.calls
        assert (start.method, start.at, start.ended_at, start.run) == ("start", 0, 0.5, "resp_1")
        assert (start.request, start.key) == (ASK, "k")
        assert (poll.at, poll.ended_at, type(poll.error)) == (0.5, 1, ServiceUnavailable)
        assert (attach.after, attach.run) == (3, "resp_1")
        assert (respond.answers, respond.run) == ({"call_1": "sunny"}, "resp_2")
        assert (provider.count("poll"), provider.count("poll", run=1), provider.times("poll")) == (1, 1, [0.5])

    @virtual_time
    async def test_what_is_under_way_at_once_is_counted(self):
        provider = ScriptedProvider(latency=1)
        first, second, _ = [snapshot.ref for snapshot in await asyncio.gather(*(provider.start(ASK) for _ in range(3)))]
        await asyncio.gather(provider.poll(first), provider.poll(first), provider.poll(second))
        await asyncio.gather(collect(provider.attach(first)), collect(provider.attach(second)))
        assert provider.max_in_flight == 3
        assert provider.pollers == {"resp_1": 2, "resp_2": 1, "resp_3": 0}
        assert (provider.max_streams, provider.open_streams) == (2, 0)

    @virtual_time
    async def test_a_cancelled_call_is_over(self):
        provider = ScriptedProvider().delay("poll", math.inf)
        ref = (await provider.start(ASK)).ref
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(provider.poll(ref), 5)

        assert provider.calls[-1].ended_at == 5
        assert provider._load.now["call"] == 0

    @virtual_time
    async def test_a_stream_that_is_closed_early_is_over(self):
        provider = ScriptedProvider()
        stream = provider.open(ASK)
        await anext(stream)
        assert provider.open_streams == 1
        await stream.aclose()
        assert provider.open_streams == 0

    async def test_it_is_a_provider_and_works_in_real_time(self):
        provider = ScriptedProvider.text("Hello", seconds=0.001)
        assert isinstance(provider, Provider)
        assert text_of(await collect(provider.open(ASK))) == "Hello"
        await provider.aclose()
        await provider.aclose()


async def ok(call, error=ServiceUnavailable) -> bool:
    try:
        await call
    except error:
        return False

    return True


LOOK = RunScript.call("look", {"at": "sea"}, seconds=5)
BOTH = RunScript.asks(function_call("look", {}, call_id="call_1"), function_call("look", {}, call_id="call_2"))


async def answer(provider, snapshot, *calls, method="start"):
    """The run that answers these calls of another."""
    items = [{"type": "function_call_output", "call_id": call, "output": "blue"} for call in calls]
    request = StartRequest(items, previous=snapshot.ref)
    if method == "start":
        return await provider.start(request)

    return (await collect(provider.open(request)))[-1].snapshot


async def ended(provider, request=ASK):
    """A run that has come to its end, or to a question."""
    snapshot = await provider.start(request)
    await asyncio.sleep(60)
    return await provider.poll(snapshot.ref)


class TestAnswers:
    @pytest.mark.parametrize("method", ["start", "open"])
    @virtual_time
    async def test_a_start_that_brings_outputs_gets_the_next_script_of_its_runs_list(self, method):
        provider = ScriptedProvider([LOOK, LOOK, RunScript.text("The sea is blue.")], RunScript.text("Another run"))
        first = await ended(provider)
        other = await ended(provider)
        second = await answer(provider, first, "call_1", method=method)
        await asyncio.sleep(60)
        third = await answer(provider, second, "call_1")
        await asyncio.sleep(60)
        texts = [(await provider.poll(run.ref)).text for run in (other, third)]
        assert texts == ["Another run", "The sea is blue."]
        assert [call.answered for call in provider.calls if call.request] == ["", "", "resp_1", "resp_3"]
        assert (provider.count("answer"), provider.count("answer", run=4)) == (2, 1)
        assert provider.requests[2].input[0]["output"] == "blue"
        kinds = [item.get("role") or item["type"] for item in provider.run(4).context]
        assert kinds == ["user", *["function_call", "function_call_output"] * 2]

    @virtual_time
    async def test_scripts_without_a_list_go_on_one_after_the_other(self):
        provider = ScriptedProvider(LOOK, RunScript.text("blue"))
        assert (await answer(provider, await ended(provider), "call_1")).ref.id == "resp_2"
        assert provider.run(2).steps == list(RunScript.text("blue").steps)

    @virtual_time
    async def test_the_last_script_of_a_list_repeats_so_that_calls_can_be_endless(self):
        provider = ScriptedProvider([LOOK])
        run = await ended(provider)
        for _ in range(9):
            run = await answer(provider, run, "call_1")
            await asyncio.sleep(60)
            assert (await provider.poll(run.ref)).status is RunStatus.INPUT_REQUIRED

    @virtual_time
    async def test_outputs_that_are_sent_again_get_the_same_script(self):
        provider = ScriptedProvider([LOOK, RunScript.text("blue"), RunScript.text("too far")]).lose("answer")
        first = await ended(provider)
        with pytest.raises(ServiceUnavailable):
            await answer(provider, first, "call_1")

        await answer(provider, first, "call_1")
        assert provider.run(2).steps == provider.run(3).steps

    @virtual_time
    async def test_a_history_that_the_client_keeps_finds_the_run_that_it_answers(self):
        provider = ScriptedProvider([BOTH, RunScript.text("blue")], caps=Cap(0))
        asked = (await ended(provider)).items
        outputs = [{"type": "function_call_output", "call_id": call["call_id"], "output": "blue"} for call in asked]
        history = [*ASK.input, *asked, *outputs]
        assert (await ended(provider, StartRequest(history))).text == "blue"
        said = {"type": "message", "role": "assistant", "content": "blue"}
        await provider.start(StartRequest([*history, said, *ASK.input]))
        assert [call.answered for call in provider.calls if call.request] == ["", "resp_1", ""]

    @virtual_time
    async def test_failures_are_for_the_start_that_brings_answers_and_for_one_run_of_several(self):
        provider = ScriptedProvider([LOOK, RunScript.text("blue")])
        busy = ServiceUnavailable("Busy.", unsent=True)
        provider.fail("answer", busy, run=2).fail("answer", RequestRejected("No.", status_code=400), run=2, call=2)
        one, two = await ended(provider), await ended(provider)
        await answer(provider, one, "call_1")
        for error in (ServiceUnavailable, RequestRejected):
            with pytest.raises(error):
                await answer(provider, two, "call_1")

        await answer(provider, two, "call_1")
        assert len(provider.runs) == 4

    @pytest.mark.parametrize(
        ("calls", "message"),
        [(["call_1"], "No tool output found for function call call_2."), (["call_1", "call_2", "call_3"], "call_3")],
    )
    @virtual_time
    async def test_outputs_must_be_those_that_were_asked_for(self, calls, message):
        provider = ScriptedProvider([BOTH, RunScript.text("blue")])
        first = await ended(provider)
        with pytest.raises(RequestRejected, match=message):
            await answer(provider, first, *calls)

        assert len(provider.runs) == 1

    def test_an_empty_list_of_scripts_is_refused(self):
        with pytest.raises(ValueError, match="empty"):
            ScriptedProvider([])

    @virtual_time
    async def test_an_approval_is_an_answer(self):
        provider = ScriptedProvider([RunScript.asks(approval("delete", id="mcpr_7")), RunScript.text("Gone.")])
        first = await ended(provider)
        word = {"type": "mcp_approval_response", "approval_request_id": "mcpr_7", "approve": False}
        assert (await ended(provider, StartRequest([word], previous=first.ref))).text == "Gone."
        assert provider.calls[-2].answers == {"mcpr_7": False}

    @virtual_time
    async def test_a_run_that_is_gone_or_not_at_its_end_cannot_be_continued(self):
        provider = ScriptedProvider(RunScript.text("Hello", seconds=10), retention=100)
        deleted, expired = [await provider.start(ASK) for _ in range(2)]

        async def gone(run):
            with pytest.raises(PreviousRunNotFound):
                await provider.start(StartRequest(ASK.input, previous=run.ref))

        await gone(expired)
        await asyncio.sleep(20)
        await provider.start(StartRequest(ASK.input, previous=expired.ref))
        await provider.delete(deleted.ref)
        await gone(deleted)
        await asyncio.sleep(100)
        await gone(expired)


@pytest.mark.parametrize("idempotent", [True, False])
def test_a_start_with_a_key_that_was_used_is_that_run_where_starts_are_idempotent(idempotent):
    @virtual_time
    async def story():
        caps = Cap.IDEMPOTENT_START | Cap.STREAM_START if idempotent else Cap.STREAM_START
        provider = ScriptedProvider.text("Hello", caps=caps)
        first, again = [await provider.start(ASK, key="run_1") for _ in range(2)]
        assert (first.ref == again.ref) is idempotent
        assert text_of(await collect(provider.open(ASK, key="run_1"))) == "Hello"
        assert len(provider.runs) == (1 if idempotent else 3)
        assert (await provider.start(ASK)).ref != (await provider.start(ASK)).ref

    story()
