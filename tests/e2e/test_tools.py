"""A run that calls tools is one run: over any cut, each call is made once, and its model sees each thing once."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
from pydantic import BaseModel

from agentbg import AgentRunOptions, AgentThread, RunFailed, RunStatus, ToolFailed, tool
from agentbg.testing.server import (
    CutAfterEvent,
    Fault,
    FunctionCall,
    Message,
    Reply,
    Script,
    Status,
    TooOld,
    Turns,
)

from .desk import (
    ASKED,
    TWO_ROUNDS,
    Desk,
    Way,
    calls,
    check_context,
    check_thread,
    check_whole,
    house,
    outputs,
    polls,
    streams,
    told,
    ways,
    whole,
)
from .helpers import background

HOWS = ("fin", "rst", "clean")


@ways
async def test_each_call_is_made_once_and_each_thing_is_told_once(way: Way) -> None:
    desk = Desk()
    async with house(desk) as (server, agent, runtime):
        response = await way(agent, runtime)

    check_whole(server, desk, response)
    assert response.status is RunStatus.COMPLETED
    assert response.usage is not None
    assert response.usage.output_tokens == sum(run.final["usage"]["output_tokens"] for run in server.runs.values())
    assert server.count("cancel") == server.count("delete") == 0


@ways
async def test_calls_that_are_asked_for_together_are_made_together(way: Way) -> None:
    meeting = asyncio.Barrier(3)

    async def weather(city: str) -> str:
        async with asyncio.timeout(5):
            await meeting.wait()

        return f"rain in {city}"

    async with house(Desk(), Turns([calls("Rome", "Oslo", "Bern"), told]), tools=[weather]) as (_, agent, runtime):
        assert (await way(agent, runtime)).text == "rain in Rome, rain in Oslo, rain in Bern"


@ways
async def test_calls_that_share_an_id_are_answered_each_with_its_own_output_in_their_order(way: Way) -> None:
    oslo = asyncio.Event()

    async def weather(city: str) -> str:
        await oslo.wait() if city == "Rome" else oslo.set()
        return f"rain in {city}"

    rome, second = (FunctionCall("weather", f'{{"city": "{city}"}}', call_id="same") for city in ("Rome", "Oslo"))
    script = Turns([Script.of(rome, second), Script.text("Done.")])
    async with house(Desk(), script, tools=[weather]) as (server, agent, runtime):
        assert (await way(agent, runtime)).text == "Done."

    assert outputs(server) == ["rain in Rome", "rain in Oslo"]


class Report(BaseModel):
    city: str


@ways
async def test_a_follow_up_is_as_the_first_start_but_for_its_input(way: Way) -> None:
    script = Turns([calls("Rome"), calls("Bern"), Script.json({"city": "Rome"})])
    options = AgentRunOptions(
        metadata={"team": "sky"}, service_tier="flex", extra={"tool_choice": "required", "text": {"verbosity": "low"}}
    )
    settings: Any = {"instructions": "Be short.", "output_type": Report, "options": options}
    async with house(Desk(), script, **settings) as (server, agent, runtime):
        assert (await way(agent, runtime)).value == Report(city="Rome")

    first, *rest = [dict(request.json or {}) for request in server.requests if "create" in request.kinds]
    assert first["background"] is True
    assert first["text"]["format"]["name"] == "Report"
    assert first.pop("tool_choice") == "required"
    assert first.pop("input") == [{"type": "message", "role": "user", "content": ASKED}]
    for number, body in enumerate(rest):
        before = server.run(number)
        assert body.pop("previous_response_id") == before.id
        assert [(item["type"], item["call_id"]) for item in body.pop("input")] == [
            ("function_call_output", item["call_id"]) for item in before.output
        ]
        assert body == first, "no forced call is forced again, and all else stays"


@ways
@pytest.mark.parametrize("choice", ["auto", "none"])
async def test_a_choice_that_forces_nothing_stays(way: Way, choice: str) -> None:
    options = AgentRunOptions(extra={"tool_choice": choice})
    async with house(Desk(), options=options) as (server, agent, runtime):
        await way(agent, runtime)

    assert [request.json["tool_choice"] for request in server.requests if request.method == "POST"] == [choice] * 3


# --- bad lines ---


@streams
@pytest.mark.parametrize("round", [0, 1, 2])
async def test_a_cut_at_any_event_of_any_round_makes_no_call_twice(way: Way, round: int) -> None:
    """Those within the arguments of a call are among them."""
    async with house(Desk()) as (server, agent, runtime):
        await way(agent, runtime)
        places = range(1, len(server.run(round).events))
        kinds = {event["type"] for event in server.run(round).events}

    assert ("response.function_call_arguments.delta" in kinds) == (round < 2)

    async def cut_at(place: int) -> None:
        desk = Desk()
        async with house(desk, TWO_ROUNDS, CutAfterEvent(place, HOWS[place % 3], run=round)) as (
            server,
            agent,
            runtime,
        ):
            check_whole(server, desk, await way(agent, runtime))
            assert server.faults.pending == []
            assert server.count("attach") == 1

    await asyncio.gather(*map(cut_at, places))


async def test_a_stream_that_is_left_at_any_update_goes_on_from_it_and_makes_no_call_twice() -> None:
    """The seed's API, and a service that sends a whole round at once: what nobody has begun was not begun."""
    async with house(Desk()) as (_, agent, _):
        length = len([update async for update in agent.run_streaming(ASKED, agent.get_new_thread(), background())])

    async def leave_at(place: int) -> None:
        desk, seen = Desk(), []
        async with house(desk) as (server, agent, _):
            thread = agent.get_new_thread()
            async with agent.run_streaming(ASKED, thread, background()) as updates:
                async for update in updates:
                    seen.append(update)
                    if update.seq == place:
                        break

            if update.continuation_token is not None:
                thread = AgentThread.from_json(thread.to_json())
                options = background(str(update.continuation_token))
                seen += [update async for update in agent.run_streaming(None, thread, options)]

            response = whole(seen)
            check_whole(server, desk, response)
            check_thread(thread, response)
            assert not any("Error" in output for output in outputs(server))

    await asyncio.gather(*map(leave_at, range(1, length + 1)))


@streams
async def test_cuts_in_all_rounds_make_no_call_twice(way: Way) -> None:
    desk = Desk()
    async with house(desk, TWO_ROUNDS, CutAfterEvent(2, "rst", times=None)) as (server, agent, runtime):
        check_whole(server, desk, await way(agent, runtime))


@streams
@pytest.mark.parametrize("round", [0, 1])
async def test_a_round_that_can_no_longer_be_streamed_is_polled(way: Way, round: int) -> None:
    faults = [CutAfterEvent(5, run=round), TooOld(run=round, times=None)]
    desk = Desk()
    async with house(desk, TWO_ROUNDS, *faults) as (server, agent, runtime):
        check_whole(server, desk, await way(agent, runtime))
        assert server.count("poll") >= 1


@polls
async def test_polls_that_fail_in_any_round_delay_it_only(way: Way) -> None:
    faults = [Status(503, run=run, times=2) for run in range(3)]
    desk = Desk()
    async with house(desk, TWO_ROUNDS, *faults) as (server, agent, runtime):
        check_whole(server, desk, await way(agent, runtime))
        assert server.faults.pending == []


@dataclass(frozen=True)
class AtOnce(Fault):
    """A create is answered with the run's end."""

    def answer(self, exchange: Any, serve: Any) -> Reply:
        serve()
        assert exchange.run is not None
        exchange.run.finish()
        return Reply(exchange.run.snapshot())


@ways
async def test_a_service_that_answers_at_once_is_answered_at_once(way: Way) -> None:
    desk = Desk()
    async with house(desk, TWO_ROUNDS, AtOnce(on="create", times=None)) as (server, agent, runtime):
        check_whole(server, desk, await way(agent, runtime))
        assert server.count("GET") == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_foreground_run_calls_tools_in_the_foreground(stream: bool) -> None:
    desk = Desk()
    async with house(desk) as (server, agent, _):
        if stream:
            updates = [update async for update in agent.run_streaming(ASKED)]
            assert {update.continuation_token for update in updates} == {None}
            response = updates[-1].response
        else:
            response = await agent.run(ASKED)

        check_whole(server, desk, response)
        assert ["background" in request.json for request in server.requests] == [False] * 3


@pytest.mark.parametrize("stream", [False, True])
async def test_a_run_with_a_conversation_of_the_services_goes_on_in_it(stream: bool) -> None:
    desk = Desk()
    async with house(desk) as (server, agent, runtime):
        thread = agent.get_new_thread(conversation="conv_1")
        response = await (await runtime.submit(agent, ASKED, thread=thread, stream=stream)).result()
        check_whole(server, desk, response)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_previous_response_of_the_callers_own_is_for_the_first_round(stream: bool) -> None:
    desk = Desk()
    script = [Script.text("Hello"), calls("Rome"), told]
    async with house(desk, script) as (server, agent, runtime):
        before = await agent.run("Hi")
        options = AgentRunOptions(extra={"previous_response_id": before.response_id})
        response = await (await runtime.submit(agent, ASKED, options=options, stream=stream)).result()
        assert response.text == "rain in Rome"
        assert [item.get("role", item["type"]) for item in server.run().context] == [
            "user", "assistant", "user", "function_call", "function_call_output"
        ]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
async def test_a_run_that_is_not_to_be_stored_is_told_as_a_whole_each_time(stream: bool) -> None:
    desk = Desk()
    async with house(desk) as (server, agent, _):
        options = AgentRunOptions(extra={"store": False})
        if stream:
            response = [update async for update in agent.run_streaming(ASKED, options=options)][-1].response
        else:
            response = await agent.run(ASKED, options=options)

        assert response.text == "Let me look. rain in Rome, rain in Oslo, rain in Bern"
        check_context(server, 3)
        assert ["previous_response_id" in request.json for request in server.requests] == [False] * 3


@pytest.mark.parametrize("stream", [False, True])
async def test_options_of_a_call_stay_with_the_run_while_they_are_passed(stream: bool) -> None:
    desk = Desk()
    async with house(desk) as (server, agent, _):
        thread = agent.get_new_thread()
        options = replace(background(), metadata={"team": "sky"}, extra={"truncation": "auto"})
        response = await agent.run(ASKED, thread, options)
        while (token := response.continuation_token) is not None:
            options.continuation_token = token
            if stream:
                response = [update async for update in agent.run_streaming(None, thread, options)][-1].response
            else:
                response = await agent.run(thread=thread, options=options)

        check_whole(server, desk, response)
        starts = [request.json for request in server.requests if request.method == "POST"]
        assert [(body["metadata"], body["truncation"]) for body in starts] == [({"team": "sky"}, "auto")] * 3


# --- calls that go wrong ---


@ways
async def test_what_goes_wrong_in_a_call_is_told_to_the_model(way: Way) -> None:
    async def raising(city: str) -> str:
        raise LookupError(f"no {city}")

    @tool(timeout=0.01)
    async def hanging(city: str) -> str:
        await asyncio.Event().wait()
        return city

    def counting(number: int) -> int:
        return number

    async def leaking(city: str) -> str:
        raise asyncio.CancelledError

    asks = [
        FunctionCall("raising", '{"city": "Rome"}'),
        FunctionCall("hanging", '{"city": "Rome"}'),
        FunctionCall("counting", '{"number": "many"}'),
        FunctionCall("counting", '{"number": 1'),
        FunctionCall("leaking", '{"city": "Rome"}'),
    ]
    tools = [raising, hanging, counting, leaking]
    async with house(Desk(), Turns([Script.of(*asks), told]), tools=tools) as (server, agent, runtime):
        assert (await way(agent, runtime)).status is RunStatus.COMPLETED
        check_context(server, 5)
        lookup, timeout, wrong, broken, leaked = outputs(server)

    assert lookup == "Error: LookupError: no Rome"
    assert timeout == "Error: ToolTimeout: hanging did not answer within 0.01 s."
    assert "number: Input should be a valid integer" in wrong
    assert "JSON" in broken
    assert leaked.startswith("Error: ToolError: The tool raised CancelledError")


@ways
@pytest.mark.parametrize("how", ["ToolFailed", "on_error"])
async def test_a_tool_may_end_the_run(way: Way, how: str) -> None:
    desk = Desk()
    desk.open.clear()

    @tool(on_error="fail" if how == "on_error" else "answer")
    async def ending(city: str) -> str:
        await desk.busy.wait()
        raise ToolFailed("enough") if how == "ToolFailed" else LookupError("enough")

    script = Script.of(*calls("Oslo").items, *calls("Rome", name="ending").items)
    async with house(desk, script, tools=[desk.weather, ending]) as (server, agent, runtime):
        try:
            response = await way(agent, runtime)
        except RunFailed as error:
            response = error.response

        assert response.status is RunStatus.FAILED
        assert response.error is not None
        assert response.error.code == "tool_failed"
        assert "enough" in response.error.message
        assert server.count("create") == 1

    assert (desk.begun, desk.cancelled) == (["Oslo"], ["Oslo"]), "nobody waits for the other call"


@ways
async def test_a_model_that_never_stops_calling_is_stopped(way: Way) -> None:
    desk = Desk()
    async with house(desk, calls("Rome"), max_rounds=3) as (server, agent, runtime):
        try:
            response = await way(agent, runtime)
        except RunFailed as error:
            response = error.response

        assert response.error is not None
        assert response.error.code == "too_many_rounds"
        assert desk.begun == ["Rome"] * 3
        assert server.count("create") == 4


async def test_arguments_that_are_wrong_do_not_end_a_run_that_errors_end() -> None:
    @tool(on_error="fail")
    def counting(number: int) -> int:
        return number

    script = Turns([Script.call("counting", {"number": "x"}), Script.call("counting", {"number": 7}), told])
    async with house(Desk(), script, tools=[counting]) as (_, agent, runtime):
        assert (await (await runtime.submit(agent, ASKED)).result()).text == "7"


# --- after a run that ended between its rounds ---


@pytest.mark.parametrize("client_side", [False, True])
@pytest.mark.parametrize("how", ["failed", "cancelled"])
async def test_a_thread_goes_on_after_a_run_that_ended_in_its_calls(how: str, client_side: bool) -> None:
    """The service refuses to go on from calls that have no output."""
    desk = Desk()
    desk.open.clear()

    async def ending(city: str) -> str:
        raise ToolFailed("enough")

    name = "ending" if how == "failed" else "weather"
    script = [
        Script.text("Hello"),
        Script.of(Message("Let me look. "), *calls("Rome", name=name).items),
        Script.text("Done"),
    ]
    async with house(desk, script, tools=[desk.weather, ending]) as (server, agent, runtime):
        thread = agent.get_new_thread()
        thread.client_side = client_side
        await (await runtime.submit(agent, "Hi", thread=thread)).result()
        handle = await runtime.submit(agent, ASKED, thread=thread)
        if how == "cancelled":
            await desk.busy.wait()
            await handle.cancel()

        await handle.wait()
        assert handle.status == how
        assert (await (await runtime.submit(agent, "Again", thread=thread)).result()).text == "Done"
        said = [item for item in server.run().context if item["type"] == "message"]
        assert [item["role"] for item in said if item["role"] == "user"][-1] == "user"
        assert json.dumps(said).count("Hello") == 1
