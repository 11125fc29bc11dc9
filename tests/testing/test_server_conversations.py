"""Tool loops, approvals and conversations, as people write them with the bare SDK."""

from __future__ import annotations

import asyncio
import json
import math

import openai
import pytest
from responses_client import JOB, ask, attach, create, sdk

from agentbg.testing.server import (
    CustomToolCall,
    CutAfterEvent,
    DropStart,
    FunctionCall,
    McpApprovalRequest,
    McpCall,
    Message,
    Reasoning,
    ResponsesServer,
    Script,
    Turns,
    answers,
    echo,
)

RUNNING = Script.text("Still at it").lasting(running=math.inf)
CALL = Script.call("get_weather", {"city": "Amsterdam"}, call_id="call_1")
TWO = Script.of(FunctionCall("get_weather", '{"city": "Amsterdam"}'), FunctionCall("get_weather", '{"city": "Paris"}'))
ROLL = Script.of(McpApprovalRequest("roll"))
HELLO = {"model": "gpt-5", "input": "Hello"}


def output(call_id, value="It rains.", kind="function_call_output"):
    return {"type": kind, "call_id": call_id, "output": value}


def approval(id, approve=True, **more):
    return {"type": "mcp_approval_response", "approval_request_id": id, "approve": approve, **more}


def outputs_of(response, tool=lambda call: f"Weather in {json.loads(call.arguments)['city']}"):
    return [output(item.call_id, tool(item)) for item in response.output if item.type == "function_call"]


def roll(request):
    """What a model says once its call is approved, or not."""
    [(request_id, approved)] = answers(request).items()
    call = McpCall("roll", output="7", approval_request_id=request_id)
    return Script.of(call, Message("Rolled")) if approved else Script.text("As you wish")


async def finished(client, **body):
    response = await client.responses.create(**{**JOB, **body})
    while response.status in ("queued", "in_progress"):
        response = await client.responses.retrieve(response.id)

    return response


async def loop(client, input, *, rounds=10, **body):
    """A tool loop as people write it; gives the last response."""
    response = await finished(client, input=input, **body)
    while (outputs := outputs_of(response)) and (rounds := rounds - 1):
        response = await finished(client, input=outputs, previous_response_id=response.id, **body)

    return response


async def refused(client, **body):
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(**{**HELLO, **body})

    return caught.value


def kinds(items):
    return [item.get("role") or item["type"] for item in items]


class TestTurns:
    async def test_a_tool_loop_goes_from_the_call_over_its_output_to_a_text_that_quotes_it(self):
        script = Turns([CALL, lambda request: Script.text(f"Told: {answers(request)['call_1']}")])
        async with ResponsesServer(script=script) as server, sdk(server) as client:
            response = await loop(client, "How is the weather?")
            assert response.output_text == "Told: Weather in Amsterdam"
            assert response.previous_response_id == server.run(0).id
            assert kinds(server.run().context) == ["user", "function_call", "function_call_output"]

    async def test_parallel_calls_over_several_rounds_have_ids_of_their_own(self):
        async with ResponsesServer(script=Turns([TWO, TWO, echo])) as server, sdk(server) as client:
            response = await loop(client, "How is the weather?")
            assert response.output_text == "You said: Weather in Paris"
            seen = server.run().context
            assert kinds(seen) == ["user", *(["function_call"] * 2 + ["function_call_output"] * 2) * 2]
            assert len({item["call_id"] for item in seen[1:]}) == 4
            assert len({item["id"] for item in seen}) == len(seen)

    async def test_one_script_is_for_all_turns_so_that_its_calls_never_end(self):
        async with ResponsesServer(script=Script.call("again", {"city": "Ys"})) as server, sdk(server) as client:
            assert (await loop(client, "Go", rounds=7)).output[0].type == "function_call"
            assert server.count("create") == 7

    async def test_each_conversation_has_turns_of_its_own(self):
        async with ResponsesServer(script=Turns([CALL, echo])) as server, sdk(server) as client:
            first, second = [await finished(client) for _ in range(2)]
            for response in (second, first):
                answer = await finished(client, input=outputs_of(response), previous_response_id=response.id)
                assert answer.output_text == "You said: Weather in Amsterdam"

    async def test_a_request_whose_answer_was_lost_gets_the_same_script_again(self):
        async with ResponsesServer(script=Turns([CALL, echo, Script.text("Too far")])) as server, sdk(server) as client:
            first = await finished(client)
            server.inject(DropStart("after"))
            again = {"input": outputs_of(first), "previous_response_id": first.id}
            with pytest.raises(openai.APIConnectionError):
                await client.responses.create(**{**JOB, **again})

            assert (await finished(client, **again)).output_text == server.run(1).text

    async def test_a_client_that_keeps_the_history_itself_has_the_same_turns(self):
        async with ResponsesServer(script=Turns([TWO, echo])) as server, sdk(server) as client:
            history = [{"role": "user", "content": "Hello"}]
            first = await finished(client, input=history, store=False)
            history += [item.to_dict() for item in first.output]
            history += outputs_of(first)
            assert (await finished(client, input=history)).output_text == "You said: Weather in Paris"

    def test_turns_without_a_script_are_refused(self):
        with pytest.raises(ValueError, match="no script"):
            Turns([])


class TestRules:
    @pytest.mark.parametrize(
        ("script", "input", "message"),
        [
            (CALL, "Hello?", "No tool output found for function call call_1."),
            (TWO, "Hello?", "No tool output found for function call call_"),
            (CALL, [output("call_2")], "No tool call found for function call output with call_id call_2."),
            (ROLL, "Hello?", "The following MCP approval requests do not have an approval: mcpr_"),
            (ROLL, [approval("mcpr_x")], "The following MCP approval requests have approval responses but weren't"),
            (Script.of(CustomToolCall("run", "ls", "call_1")), "Hello?", "No tool output found for custom tool call"),
            (
                Script.of(CustomToolCall("run", "ls", "call_1")),
                [output("call_1")],
                "No tool call found for function call output with call_id call_1.",
            ),
        ],
    )
    async def test_each_call_has_its_output_and_each_output_its_call(self, script, input, message):
        async with ResponsesServer(script=script) as server, sdk(server) as client:
            first = await client.responses.create(**HELLO)
            error = await refused(client, input=input, previous_response_id=first.id)
            assert error.body["message"].startswith(message)
            assert (error.type, error.param, error.code) == ("invalid_request_error", "input", None)
            assert len(server.runs) == 1

    async def test_an_output_needs_its_call_from_the_service_or_from_the_client(self):
        async with ResponsesServer(script=CALL) as server, sdk(server) as client:
            assert "No tool call found" in (await refused(client, input=[output("call_1")])).message
            call = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
            assert "No tool output found" in (await refused(client, input=[call])).message
            await client.responses.create(model="m", input=[call, output("call_1")])

    async def test_one_of_several_outputs_is_not_enough(self):
        async with ResponsesServer(script=TWO) as server, sdk(server) as client:
            first = await client.responses.create(**HELLO)
            some = outputs_of(first)
            error = await refused(client, input=some[:1], previous_response_id=first.id)
            assert some[1]["call_id"] in error.message

    async def test_a_conversation_and_a_previous_response_exclude_each_other(self):
        async with ResponsesServer() as server, sdk(server) as client:
            first = await client.responses.create(**HELLO)
            error = await refused(client, conversation="conv_1", previous_response_id=first.id)
            assert error.code == "mutually_exclusive_parameters"

    async def test_an_input_that_is_no_list_of_items_is_refused(self):
        async with ResponsesServer() as server, sdk(server) as client:
            assert (await refused(client, input=["Hello"])).param == "input"


class TestItems:
    async def test_an_approval_goes_to_the_service_with_its_reason(self):
        async with ResponsesServer(script=Turns([ROLL, roll])) as server, sdk(server) as client:
            for approve, text in ((True, "Rolled"), (False, "As you wish")):
                first = await client.responses.create(**HELLO)
                word = approval(first.output[0].id, approve, reason="Because")
                second = await client.responses.create(model="m", input=[word], previous_response_id=first.id)
                assert second.output_text == text
                assert second.output[0].type == ("mcp_call" if approve else "message")
                assert server.run().context[-1]["reason"] == "Because"

    async def test_a_custom_tool_call_streams_its_input(self):
        call = CustomToolCall("run", "ls -l /", deltas=3)
        async with ResponsesServer(script=Turns([Script.of(call), echo])) as server, sdk(server) as client:
            events = [event async for event in await client.responses.create(**HELLO, stream=True)]
            assert [event.type.removeprefix("response.") for event in events[2:-1]] == [
                "output_item.added",
                *["custom_tool_call_input.delta"] * 3,
                "custom_tool_call_input.done",
                "output_item.done",
            ]
            assert (events[2].item.input, events[-2].item.input) == ("", "ls -l /")
            first = events[-1].response
            said = [output(first.output[0].call_id, "bin", "custom_tool_call_output")]
            second = await client.responses.create(model="m", input=said, previous_response_id=first.id)
            assert second.output_text == "You said: bin"

    async def test_a_streamed_call_can_be_cut_at_every_event_and_goes_on_from_there(self):
        async with ResponsesServer(script=TWO) as server:
            whole = (await create(server, stream=True)).events
            server.inject(*(CutAfterEvent(place, on="create") for place in range(1, len(whole))))
            for place in range(1, len(whole)):
                head = (await create(server, stream=True)).events
                tail = (await attach(server, head[-1]["sequence_number"])).events
                assert [event["type"] for event in head + tail] == [event["type"] for event in whole]
                assert len(head) == place
                assert tail[-1]["response"]["output"] == server.run().output


class TestConversations:
    async def test_a_conversation_is_made_and_seen_and_deleted(self):
        async with ResponsesServer() as server, sdk(server) as client:
            system = {"type": "message", "role": "system", "content": "Be brief"}
            made = await client.conversations.create(items=[system], metadata={"topic": "test"})
            response = await client.responses.create(**HELLO, conversation=made.id)
            assert response.conversation.id == made.id
            assert (await client.conversations.retrieve(made.id)).metadata == {"topic": "test"}
            items = [item async for item in client.conversations.items.list(made.id, order="asc")]
            assert [item.role for item in items] == ["system", "user", "assistant"]
            assert kinds(server.run().context) == ["system", "user"]
            assert (await client.conversations.delete(made.id)).deleted
            with pytest.raises(openai.NotFoundError, match=made.id):
                await client.responses.create(**HELLO, conversation=made.id)

            with pytest.raises(openai.NotFoundError):
                await client.conversations.retrieve(made.id)

            assert (await ask(server, "PUT", f"/conversations/{made.id}")).status == 404

    async def test_a_run_joins_its_conversation_when_it_completes(self):
        async with ResponsesServer(script=[RUNNING, echo]) as server, sdk(server) as client:
            await client.responses.create(**JOB, conversation="conv_1")
            assert server.conversations["conv_1"].items == []
            server.run().finish()
            await client.responses.create(**HELLO, conversation={"id": "conv_1"})
            assert kinds(server.run().context) == ["user", "assistant", "user"]
            assert kinds(server.conversations["conv_1"].items) == ["user", "assistant"] * 2

    async def test_a_run_that_fails_or_is_cancelled_leaves_no_trace_in_it(self):
        async with ResponsesServer(script=[Script.failed(after="No"), RUNNING, echo]) as server, sdk(server) as client:
            await client.responses.create(**HELLO, conversation="conv_1")
            second = await client.responses.create(**JOB, conversation="conv_1")
            await client.responses.cancel(second.id)
            await client.responses.create(**HELLO, conversation="conv_1")
            assert kinds(server.run().context) == ["user"]

    async def test_calls_in_a_conversation_go_on_without_a_previous_response(self):
        async with ResponsesServer(script=Turns([CALL, echo])) as server, sdk(server) as client:
            first = await client.responses.create(**HELLO, conversation="conv_1")
            assert "call_1" in (await refused(client, conversation="conv_1")).message
            second = await client.responses.create(model="m", input=outputs_of(first), conversation="conv_1")
            assert second.output_text == "You said: Weather in Amsterdam"

    async def test_a_background_run_locks_its_conversation_unless_it_is_told_not_to(self):
        async with ResponsesServer(script=RUNNING) as server, sdk(server) as client:
            await client.responses.create(**JOB, conversation="conv_1")
            error = await refused(client, conversation="conv_1")
            assert (error.code, error.param) == ("conversation_locked", "conversation")
            server.run().finish()
            await client.responses.create(**JOB, conversation="conv_1")

        async with ResponsesServer(script=[RUNNING, echo], background_locks=False) as server, sdk(server) as client:
            await client.responses.create(**JOB, conversation="conv_1")
            await client.responses.create(**HELLO, conversation="conv_1")

    async def test_a_foreground_run_always_locks_its_conversation(self):
        async with ResponsesServer(script=RUNNING, background_locks=False) as server, sdk(server) as client:
            running = asyncio.create_task(client.responses.create(**HELLO, conversation="conv_1"))
            while not server.runs:
                await asyncio.sleep(0)

            assert (await refused(client, conversation="conv_1")).code == "conversation_locked"
            server.run().finish()
            await running

    async def test_what_a_run_saw_is_its_input_items(self):
        async with ResponsesServer() as server, sdk(server) as client:
            first = await client.responses.create(**HELLO)
            second = await client.responses.create(**HELLO, previous_response_id=first.id)
            listed = [item.id async for item in client.responses.input_items.list(second.id, order="asc")]
            assert listed == [item["id"] for item in server.run().context]


class TestForgetting:
    async def gone(self, client, response):
        error = await refused(client, previous_response_id=response.id)
        assert (error.code, error.param) == ("previous_response_not_found", "previous_response_id")

    async def test_what_was_deleted_expired_or_never_stored_cannot_be_continued(self):
        async with ResponsesServer(retention=60) as server, sdk(server) as client:
            deleted, expired = [await client.responses.create(**HELLO) for _ in range(2)]
            await self.gone(client, await client.responses.create(**HELLO, store=False))
            await client.responses.delete(deleted.id)
            await self.gone(client, deleted)
            server.advance(61)
            await self.gone(client, expired)

    async def test_a_run_still_knows_what_it_saw_when_that_is_deleted(self):
        async with ResponsesServer() as server, sdk(server) as client:
            first = await client.responses.create(**HELLO)
            second = await client.responses.create(**HELLO, previous_response_id=first.id)
            await client.responses.delete(first.id)
            await client.responses.create(**HELLO, previous_response_id=second.id)
            assert kinds(server.run().context) == ["user", "assistant"] * 2 + ["user"]

    async def test_a_service_that_keeps_nothing_refuses_every_previous_response(self):
        async with ResponsesServer(chaining="refused") as server, sdk(server) as client:
            first = await client.responses.create(**HELLO)
            await self.gone(client, first)
            assert (await client.responses.retrieve(first.id)).status == "completed"

    async def test_a_service_may_ignore_a_previous_response_without_a_word(self):
        async with ResponsesServer(script=Turns([CALL, echo]), chaining="ignored") as server, sdk(server) as client:
            first = await client.responses.create(**HELLO)
            said = {"model": "m", "input": outputs_of(first), "previous_response_id": first.id}
            second = await client.responses.create(**said)
            assert second.previous_response_id is None
            assert second.output[0].type == "function_call", "as if it were the first turn"
            assert kinds(server.run().context) == ["function_call_output"]
            assert server.requests[-1].json["previous_response_id"] == first.id

    async def test_reasoning_by_its_id_alone_is_looked_up_among_what_is_kept(self):
        script = Script.of(Reasoning(), Message("Hi"))
        async with ResponsesServer(script=script, retention=60) as server, sdk(server) as client:
            first = await client.responses.create(**HELLO)
            history = [{"role": "user", "content": "Hello"}, *(item.to_dict() for item in first.output)]
            await client.responses.create(model="gpt-5", input=history)
            server.advance(61)
            with pytest.raises(openai.NotFoundError, match="Item with id 'rs_"):
                await client.responses.create(model="gpt-5", input=history)

            whole = [{**item, "encrypted_content": "gAAA"} for item in history]
            await client.responses.create(model="gpt-5", input=whole)


class TestIdempotency:
    @pytest.mark.parametrize(("idempotent", "runs"), [(True, 2), (False, 3)])
    async def test_a_create_with_the_same_key_is_the_same_run_where_the_service_says_so(self, idempotent, runs):
        async with ResponsesServer(faults=[DropStart("after")], idempotent=idempotent) as server, sdk(server) as client:
            keyed = {**JOB, "extra_headers": {"Idempotency-Key": "key_1"}}
            with pytest.raises(openai.APIConnectionError):
                await client.responses.create(**keyed)

            again = await client.responses.create(**keyed)
            assert (again.id == server.run(0).id) is idempotent
            await client.responses.create(**{**keyed, "extra_headers": {"Idempotency-Key": "key_2"}})
            assert len(server.runs) == runs
