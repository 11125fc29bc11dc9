"""The server's endpoints and scripts, driven by the real SDK and by bare bytes."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import sys

import openai
import pytest
from responses_client import JOB, ask, attach, create, poll, sdk, text_of

from agentbg.testing import run
from agentbg.testing.server import (
    FunctionCall,
    McpApprovalRequest,
    Message,
    RawItem,
    Reasoning,
    ResponsesServer,
    Script,
    StreamFault,
    WebSearch,
)

NEVER = Script.text("Never").lasting(queued=math.inf)
RUNNING = Script.text("Still at it").lasting(running=math.inf)


async def test_a_background_run_is_queued_at_once_and_completed_at_a_poll():
    async with ResponsesServer(script=Script.text("Hello there")) as server, sdk(server) as client:
        response = await client.responses.create(**JOB)
        assert (response.status, response.output, response.usage) == ("queued", [], None)

        response = await client.responses.retrieve(response.id)
        assert (response.status, response.output_text) == ("completed", "Hello there")
        assert response.usage.total_tokens == 4 + 2
        assert response.id.startswith("resp_")
        assert len(response.id) == 5 + 48


async def test_the_default_script_says_back_what_it_was_told():
    async with ResponsesServer() as server, sdk(server) as client:
        assert (await client.responses.create(model="gpt-5", input="a b")).output_text == "You said: a b"


async def test_a_stream_is_gapless_from_zero_and_ends_with_the_terminal_event():
    async with ResponsesServer(script=Script.story(40)) as server, sdk(server) as client:
        events = [event async for event in await client.responses.create(**JOB, stream=True)]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert [event.type for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]
        assert sum(event.type == "response.output_text.delta" for event in events) == 40
        assert events[-1].response.output_text == server.run().text


async def test_a_resumed_stream_begins_after_the_cursor_and_repeats_the_bytes():
    async with ResponsesServer(script=Script.story(20)) as server:
        whole = (await create(server, stream=True)).text
        for cursor in (0, 7, 25):
            tail = await attach(server, cursor)
            assert tail.numbers[0] == cursor + 1
            assert whole.endswith(tail.text)

        assert (await attach(server)).text == whole


async def test_a_cursor_at_or_past_the_end_of_a_finished_run_gives_an_empty_stream():
    async with ResponsesServer(script=Script.text("Hi")) as server:
        last = (await create(server, stream=True)).numbers[-1]
        for cursor in (last, last + 50):
            tail = await attach(server, cursor)
            assert (tail.status, tail.events, tail.whole) == (200, [], True)


async def test_two_streams_of_a_live_run_both_get_what_comes():
    async with ResponsesServer(script=RUNNING) as server:
        first = asyncio.create_task(create(server, stream=True))
        while not server.runs:
            await asyncio.sleep(0)

        second = asyncio.create_task(attach(server, 3))
        await asyncio.sleep(0.005)
        server.run().finish()
        assert (await first).numbers[4:] == (await second).numbers
        assert (await second).events[-1]["type"] == "response.completed"


async def test_the_status_goes_from_queued_over_in_progress_to_completed_with_the_clock():
    async with ResponsesServer(script=Script.text("Hi").lasting(queued=10, running=20)) as server:
        await create(server)
        seen = []
        for seconds in (0, 9, 2, 18, 2):
            server.advance(seconds)
            seen.append((await poll(server)).json["status"])

        assert seen == ["queued", "queued", "in_progress", "in_progress", "completed"]
        assert (await poll(server)).json["completed_at"] == server.run().created_at + 30


async def test_events_come_a_delay_apart():
    async with ResponsesServer(script=Script.text("a b c").lasting(queued=1, delay=0.5)) as server:
        await create(server)
        run = server.run()
        assert [entry.at for entry in run.log[:6]] == [0, 0, 1, 1.5, 2, 2.5]
        assert run.duration == run.log[-1].at == 1 + 0.5 * (len(run.log) - 3)


async def test_a_live_stream_goes_on_when_time_has_passed():
    async with (
        ResponsesServer(script=Script.text("a b c").lasting(queued=60, delay=60)) as server,
        sdk(server) as client,
    ):
        stream = await client.responses.create(**JOB, stream=True)
        numbers = []
        async for event in stream:
            numbers.append(event.sequence_number)
            if len(numbers) > 1:
                server.advance(60)

        assert numbers == [event["sequence_number"] for event in server.run().events]


async def test_a_foreground_run_answers_when_it_is_done_and_has_no_queue():
    async with ResponsesServer(script=Script.text("Hi").lasting(running=0.005)) as server, sdk(server) as client:
        assert (await client.responses.create(model="m", input="x")).status == "completed"
        events = [event async for event in await client.responses.create(model="m", input="x", stream=True)]
        assert [event.type for event in events[:3]] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
        ]
        assert events[0].response.status == "in_progress"
        assert all(event.obfuscation for event in events if event.type.endswith(".delta"))


async def test_a_foreground_run_cannot_be_read_while_it_runs_nor_when_it_is_not_stored():
    async with ResponsesServer(script=[RUNNING, Script.text("Hi")]) as server:
        running = asyncio.create_task(create(server, background=False))
        while not server.runs:
            await asyncio.sleep(0)

        assert (await poll(server)).status == 404
        server.run().finish()
        assert (await running).json["status"] == "completed"
        assert (await poll(server)).status == 200
        await create(server, background=False, store=False)
        assert (await poll(server)).status == 404


@pytest.mark.parametrize(
    ("body", "message"),
    [({"background": False, "stream": True}, "background=true"), ({"stream": False}, "stream=true")],
)
async def test_only_a_run_created_with_background_and_stream_can_be_streamed_again(body, message):
    async with ResponsesServer() as server:
        await create(server, **body)
        answer = await attach(server, 0)
        assert answer.status == 400
        assert answer.json["error"] == {
            "message": f"This response cannot be streamed because it was not created with {message}.",
            "type": "invalid_request_error",
            "param": "stream",
            "code": "invalid_request_error",
        }


async def test_after_the_window_a_run_can_be_polled_but_not_streamed():
    async with ResponsesServer() as server:
        await create(server, stream=True)
        server.advance(299)
        assert (await attach(server, 0)).status == 200
        server.advance(2)
        answer = await attach(server, 0)
        assert (answer.status, "more than 5 minutes old" in answer.json["error"]["message"]) == (400, True)
        assert (await poll(server)).status == 200


async def test_a_run_past_its_retention_is_not_found():
    async with ResponsesServer(retention=600) as server:
        await create(server)
        assert (await poll(server)).status == 200
        server.advance(601)
        assert (await poll(server)).status == 404


async def test_a_cursor_that_is_no_integer_is_refused():
    async with ResponsesServer() as server:
        await create(server, stream=True)
        answer = await attach(server, "abc")
        assert (answer.status, answer.json["error"]["param"]) == (400, "starting_after")


async def test_a_cancelled_run_stays_cancelled_and_its_stream_ends_with_failed():
    async with ResponsesServer(script=RUNNING) as server, sdk(server) as client:
        stream = await client.responses.create(**JOB, stream=True)
        types = []
        async for event in stream:
            types.append(event.type)
            if event.type == "response.output_item.done":
                response = await client.responses.cancel(server.run().id)
                assert (response.status, response.output, response.usage) == ("cancelled", [], None)

        assert types[-1] == "response.failed"
        assert event.response.status == "cancelled"
        assert (await client.responses.cancel(server.run().id)).status == "cancelled"
        assert (await client.responses.retrieve(server.run().id)).status == "cancelled"


@pytest.mark.parametrize(
    ("script", "body", "status", "told"),
    [
        (Script.text("Hi"), {"stream": False}, 200, "completed"),
        (Script.text("Hi"), {"stream": True}, 400, "Cannot cancel a completed response."),
        (Script.failed(), {}, 400, "Cannot cancel a failed response."),
        (Script.incomplete("Hi"), {}, 400, "Cannot cancel an incomplete response."),
        (Script.text("Hi"), {"background": False}, 400, "Cannot cancel a synchronous response."),
    ],
)
async def test_what_is_over_cannot_be_cancelled(script, body, status, told):
    async with ResponsesServer(script=script) as server:
        await create(server, **body)
        answer = await ask(server, "POST", f"/responses/{server.run().id}/cancel")
        assert answer.status == status
        assert (answer.json["status"] if status == 200 else answer.json["error"]["message"]) == told


async def test_a_deleted_run_is_gone_and_a_running_one_cannot_be_deleted():
    async with ResponsesServer(script=[Script.text("Hi"), NEVER]) as server:
        await create(server)
        run = server.run()
        answer = await ask(server, "DELETE", f"/responses/{run.id}")
        assert answer.json == {"id": run.id, "object": "response.deleted", "deleted": True}
        assert (await poll(server, run)).json["error"] == {
            "message": f"Response with id '{run.id}' not found.",
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        }
        await create(server)
        assert (await ask(server, "DELETE", f"/responses/{server.run().id}")).status == 400


async def test_input_items_come_newest_first_in_pages():
    async with ResponsesServer() as server, sdk(server) as client:
        words = [{"role": "user", "content": word} for word in "abcde"]
        response = await client.responses.create(model="m", input=words)
        items = [item async for item in client.responses.input_items.list(response.id, limit=2)]
        assert [item.content[0].text for item in items] == list("edcba")
        page = await client.responses.input_items.list(response.id, order="asc")
        assert [item.content[0].text for item in page.data] == list("abcde")
        assert (page.has_more, page.first_id, page.last_id) == (False, page.data[0].id, page.data[-1].id)
        with pytest.raises(openai.BadRequestError):
            await client.responses.input_items.list(response.id, limit=101)


async def test_a_run_goes_on_only_from_a_finished_one():
    async with ResponsesServer(script=[Script.text("Hi"), NEVER]) as server, sdk(server) as client:
        first = await client.responses.create(model="m", input="x")
        second = await client.responses.create(**JOB, previous_response_id=first.id)
        assert second.previous_response_id == first.id
        for unknown in ("resp_nothing", second.id):
            with pytest.raises(openai.BadRequestError) as caught:
                await client.responses.create(**JOB, previous_response_id=unknown)

            assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")


async def test_a_conversation_takes_one_run_at_a_time():
    async with ResponsesServer(script=RUNNING) as server, sdk(server) as client:
        first = await client.responses.create(**JOB, conversation="conv_1")
        assert first.conversation.id == "conv_1"
        assert (await client.responses.create(**JOB, conversation="conv_2")).status == "queued"
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(**JOB, conversation={"id": "conv_1"})

        assert (caught.value.code, caught.value.param) == ("conversation_locked", "conversation")
        server.run(0).finish()
        assert (await client.responses.create(**JOB, conversation="conv_1")).status == "queued"


async def test_keys_and_models_are_checked():
    async with ResponsesServer(api_key="right", models={"gpt-5"}) as server:
        async with sdk(server, "wrong") as client:
            with pytest.raises(openai.AuthenticationError) as caught:
                await client.responses.create(**JOB)

            assert caught.value.code == "invalid_api_key"

        async with sdk(server, "right") as client:
            assert (await client.responses.create(**JOB)).status == "queued"
            with pytest.raises(openai.NotFoundError) as missing:
                await client.responses.create(model="other", input="x")

            assert missing.value.code == "model_not_found"
            assert missing.value.request_id.startswith("req_")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nothing", None, 404),
        ("PUT", "/responses", None, 404),
        ("GET", "/responses/resp_x", None, 404),
        ("GET", "/responses/resp_x?stream=true", None, 404),
        ("GET", "/responses/resp_x/input_items", None, 404),
        ("POST", "/responses/resp_x/cancel", None, 404),
        ("DELETE", "/responses/resp_x", None, 404),
        ("POST", "/responses", b"{broken", 400),
        ("POST", "/responses", b"[1]", 400),
        ("POST", "/responses", {"input": "no model"}, 400),
    ],
)
async def test_a_bad_request_gets_an_error_in_the_services_shape(method, path, body, status):
    async with ResponsesServer() as server:
        answer = await ask(server, method, path, body)
        assert answer.status == status
        assert set(answer.json["error"]) == {"message", "type", "param", "code"}
        assert not server.runs


async def test_what_is_no_http_gets_a_400_and_the_server_goes_on():
    async with ResponsesServer() as server:
        assert (await ask(server, "GET", "/bad path")).status == 400
        assert (await create(server)).status == 200


async def test_requests_are_logged_and_counted_and_forgotten_on_reset():
    async with ResponsesServer() as server, sdk(server) as client:
        response = await client.responses.create(**JOB)
        await client.responses.retrieve(response.id)
        await client.responses.retrieve(response.id)
        assert (server.count("GET"), server.count("poll"), server.count("create"), server.count("cancel")) == (
            2,
            2,
            1,
            0,
        )
        first, second, _ = server.requests
        assert (first.method, first.path, first.json) == ("POST", "/v1/responses", JOB)
        assert first.headers["authorization"] == "Bearer any"
        assert second.time >= first.time
        server.reset()
        assert (server.requests, dict(server.runs)) == ([], {})


async def test_many_requests_share_one_connection():
    async with ResponsesServer() as server:
        port = server.base_url.split(":")[2].split("/")[0]
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        for _ in range(3):
            writer.write(b"GET /v1/responses/x HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 404")
            await reader.readuntil(b"\r\n\r\n")
            await reader.readuntil(b"}}")

        writer.close()
        await writer.wait_closed()


async def test_leaving_the_block_ends_open_streams():
    async with ResponsesServer(script=NEVER) as server:
        hanging = asyncio.create_task(create(server, stream=True))
        while not server.runs:
            await asyncio.sleep(0)

    assert not (await hanging).whole


async def test_a_server_that_does_not_run_has_no_address():
    with pytest.raises(RuntimeError, match="async with"):
        _ = ResponsesServer().base_url


async def test_an_error_in_a_script_is_raised_when_the_block_is_left():
    def script(request):
        raise KeyError("no such story")

    with pytest.raises(KeyError, match="no such story"):
        async with ResponsesServer(script=script) as server:
            assert (await create(server)).status == 0


async def test_an_error_in_a_fault_is_raised_when_the_block_is_left():
    class Broken(StreamFault):
        def rewrite(self, exchange, run, steps):
            yield next(steps)
            raise RuntimeError("a fault at fault")

    with pytest.raises(RuntimeError, match="a fault at fault"):
        async with ResponsesServer(faults=[Broken()]) as server:
            assert not (await create(server, stream=True)).whole


# Scripts


async def test_each_run_takes_the_next_script_and_the_last_one_repeats():
    async with ResponsesServer(script=[Script.text("one"), Script.text("two")]) as server, sdk(server) as client:
        texts = [(await client.responses.create(model="m", input="x")).output_text for _ in range(3)]
        assert texts == ["one", "two", "two"]


async def test_a_script_may_depend_on_the_request():
    async with (
        ResponsesServer(script=lambda body: Script.json({"asked": body["input"]})) as server,
        sdk(server) as client,
    ):
        assert json.loads((await client.responses.create(model="m", input="x")).output_text) == {"asked": "x"}


async def test_every_kind_of_item_is_streamed_as_it_stands_in_the_final_output():
    items = (
        Reasoning(("First part.", "Second part.")),
        WebSearch("tides"),
        Message("Look here", annotations=({"type": "url_citation", "url": "https://example.com"},)),
        FunctionCall("look", '{"at": "sea"}', deltas=4),
        McpApprovalRequest("roll", '{"dice": 2}'),
        RawItem({"type": "image_generation_call", "status": "completed", "result": "AA=="}, "ig"),
    )
    async with ResponsesServer(script=Script.of(*items)) as server, sdk(server) as client:
        events = [event async for event in await client.responses.create(**JOB, stream=True)]
        done = [event.item.to_dict() for event in events if event.type == "response.output_item.done"]
        added = [event.item for event in events if event.type == "response.output_item.added"]
        final = (await client.responses.retrieve(server.run().id)).to_dict()["output"]
        assert done == final == events[-1].response.to_dict()["output"]
        assert [item.id for item in added] == [item["id"] for item in final]
        assert [event.output_index for event in events if event.type == "response.output_item.added"] == list(range(6))
        arguments = "".join(e.delta for e in events if e.type == "response.function_call_arguments.delta")
        assert arguments == '{"at": "sea"}'


async def test_a_failed_run_leaves_its_item_open_and_has_no_output():
    script = Script.failed("rate_limit_exceeded", "Too much.", after="I was about", error_event="flat")
    async with ResponsesServer(script=script) as server, sdk(server) as client:
        events = [event async for event in await client.responses.create(**JOB, stream=True)]
        assert [event.type for event in events[-3:]] == ["response.output_text.delta", "error", "response.failed"]
        assert events[-2].code == "rate_limit_exceeded"
        response = await client.responses.retrieve(server.run().id)
        assert (response.status, response.output, response.usage) == ("failed", [], None)
        assert response.error.message == "Too much."


async def test_an_incomplete_run_has_a_reason_and_an_incomplete_item():
    async with ResponsesServer(script=Script.incomplete("Half a")) as server, sdk(server) as client:
        response = await client.responses.create(model="m", input="x")
        assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
        assert (response.output[0].status, response.output_text) == ("incomplete", "Half a")


def test_a_text_is_cut_into_exactly_so_many_deltas():
    assert "".join(Message("Ein schöner Tag ☀", 5).pieces) == "Ein schöner Tag ☀"
    assert len(Message("Ein schöner Tag ☀", 5).pieces) == 5
    assert Message(" two words \n").pieces == (" two", " words \n")
    assert Message("").pieces == ()
    with pytest.raises(ValueError, match=r"Script\.story"):
        _ = Message("ab", 3).pieces


def test_a_script_ends_only_as_runs_end():
    with pytest.raises(ValueError, match="completed"):
        Script(status="done")


# Recordings


@pytest.mark.parametrize(
    ("name", "status", "types"),
    [
        ("story", "completed", {"response.output_text.delta"}),
        ("tool_call", "completed", {"response.reasoning_summary_text.delta", "response.function_call_arguments.delta"}),
        ("web_search", "completed", {"response.web_search_call.searching", "response.output_text.annotation.added"}),
        ("failed", "failed", {"error", "response.failed"}),
    ],
)
async def test_a_recording_plays_back_under_its_own_id(name, status, types):
    script = Script.recording(name)
    async with ResponsesServer(script=script) as server:
        streamed = await create(server, stream=True)
        assert streamed.events == list(script.recorded)
        assert types <= {event["type"] for event in streamed.events}
        assert (await attach(server, 4)).events == streamed.events[5:]
        snapshot = (await poll(server)).json
        assert snapshot["id"] == script.recorded[0]["response"]["id"]
        assert snapshot["status"] == status


async def test_a_second_run_of_a_recording_gets_ids_of_its_own():
    async with ResponsesServer(script=Script.recording("story")) as server:
        first, second = (await create(server, stream=True)).events, (await create(server, stream=True)).events
        assert text_of(first) == text_of(second)
        ids = {events[0]["response"]["id"] for events in (first, second)}
        items = {events[3]["item"]["id"] for events in (first, second)}
        assert (len(ids), len(items), set(server.runs)) == (2, 2, ids)


async def test_a_recording_keeps_its_status_to_the_clock():
    script = Script.recording("story").lasting(queued=10, running=20)
    async with ResponsesServer(script=script) as server:
        assert (await create(server)).json["status"] == "queued"
        for seconds, status in ((1, "queued"), (10, "in_progress"), (20, "completed")):
            server.advance(seconds)
            assert (await poll(server)).json["status"] == status


async def test_an_unfinished_recording_runs_for_ever():
    script = Script.from_events(Script.recording("story").recorded[:20])
    async with ResponsesServer(script=script) as server:
        await create(server)
        assert (await poll(server)).json["status"] == "in_progress"


def test_an_empty_recording_is_refused():
    with pytest.raises(ValueError, match="no event"):
        Script.from_events(": nothing\n\n")


# The command line


async def test_the_server_runs_as_a_process_and_stops_at_sigterm():
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agentbg.testing.server", "--deltas", "3"), stdout=asyncio.subprocess.PIPE
    )
    ready = (await process.stdout.readline()).decode()
    assert ready.startswith("READY http://127.0.0.1:")

    class Address:
        base_url = ready.split()[1]

    async with sdk(Address) as client:
        assert (await client.responses.create(model="m", input="x")).output_text == "Once upon a"

    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0


@pytest.mark.parametrize("born", [0.1, 1 / 3, 0.7, 6.789, 1e6 + 0.1])
def test_in_virtual_time_a_stream_ends_whatever_the_times_round_to(born: float):
    async def streamed() -> str:
        async with ResponsesServer(script=Script.story(30).lasting(queued=0.5, delay=0.2)) as server:
            await asyncio.sleep(born)
            answer = await create(server, stream=True)
            assert answer.whole
            return server.run().status

    assert run(streamed()) == "completed"
