"""What a run asks of its user: approvals, calls that nobody here can make, and how they are answered."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentbg import (
    Agent,
    AgentRuntime,
    Answer,
    InputRequired,
    RequestKind,
    RunCancelled,
    RunContext,
    RunStatus,
    RuntimeClosed,
    UpdateType,
    UsageError,
    tool,
)
from agentbg.stores import SQLiteStore
from agentbg.testing.server import (
    CustomToolCall,
    FunctionCall,
    McpApprovalRequest,
    McpCall,
    Message,
    ResponsesServer,
    Script,
    Turns,
    answers,
)

from .desk import ASKED, Desk, calls, check_context, check_thread, house, outputs, told
from .helpers import POLL, STREAM, agent_of, background, bounded, collect

both = pytest.mark.parametrize("stream", [False, True])
UNKNOWN = {"type": "function", "name": "unknown", "description": "Yours.", "parameters": {"type": "object"}}
MIXED = Turns(
    [
        Script.of(
            *calls("Rome").items, FunctionCall("unknown"), FunctionCall("guarded"), LAST := FunctionCall("unknown")
        ),
        told,
    ]
)


class Guarded(Desk):
    """A desk with a tool that requires approval."""

    def tools(self) -> list[Any]:
        @tool(requires_approval=True)
        async def guarded(context: RunContext) -> str:
            self.begun.append("guarded")
            self.ids.append(context.call_id)
            self.busy.set()
            await self.open.wait()
            return "done"

        return [self.weather, guarded, UNKNOWN]


async def waiting(agent: Agent[Any], runtime: AgentRuntime, stream: bool) -> Any:
    """The handle of a run that waits for its user."""
    handle = await runtime.submit(agent, ASKED, stream=stream)
    with pytest.raises(InputRequired) as caught:
        await handle.result()

    assert caught.value.handle is handle
    assert handle.status is RunStatus.INPUT_REQUIRED
    assert handle.token is None
    assert await runtime.get(handle.id) == handle
    return handle


@both
async def test_a_call_of_an_unknown_function_is_the_users_to_answer(stream: bool) -> None:
    async with house(Desk(), Turns([Script.call("unknown", {"x": 1}), told]), tools=[UNKNOWN]) as (
        server,
        agent,
        runtime,
    ):
        handle = await waiting(agent, runtime, stream)
        (request,) = handle.response.requests
        assert (request.kind, request.name, request.arguments) == (RequestKind.CALL, "unknown", '{"x": 1}')
        with pytest.raises(UsageError, match="cannot be approved"):
            await handle.respond(request.approve())

        await handle.respond(request.answer("42"))
        assert (await handle.result()).text == "42"
        check_context(server, 1)


@both
@pytest.mark.parametrize("yes", [True, False])
async def test_a_tool_that_requires_approval_is_called_only_with_it(stream: bool, yes: bool) -> None:
    desk = Guarded()
    async with house(desk, Turns([Script.call("guarded", {}), told]), tools=desk.tools()) as (server, agent, runtime):
        handle = await waiting(agent, runtime, stream)
        (request,) = handle.response.requests
        assert (request.kind, desk.begun) == (RequestKind.APPROVAL, [])
        await handle.respond(request.approve() if yes else request.reject("too expensive"))
        text = (await handle.result()).text
        assert desk.begun == ["guarded"] * yes
        assert text == "done" if yes else text.endswith("too expensive")
        check_context(server, 1)


@both
@pytest.mark.parametrize("yes", [True, False])
async def test_an_approval_of_a_services_own_call_is_passed_on(stream: bool, yes: bool) -> None:
    script = Turns([
        Script.of(Message("May I? "), McpApprovalRequest("roll", '{"dice": "2d6"}')),
        lambda request: Script.of(McpCall("roll", output="7"), Message(str(answers(request)))),
    ])  # fmt: skip
    async with house(Desk(), script) as (server, agent, runtime):
        handle = await waiting(agent, runtime, stream)
        (request,) = handle.response.requests
        assert (request.kind, request.name, request.arguments) == (RequestKind.APPROVAL, "roll", '{"dice": "2d6"}')
        assert handle.response.text == "May I? "
        with pytest.raises(UsageError, match="approve or reject"):
            await handle.respond(request.answer("7"))

        await handle.respond(request.approve() if yes else request.reject("no dice"))
        assert (await handle.result()).text == f"May I? { ({request.id: yes}) }"
        reason = {} if yes else {"reason": "no dice"}
        assert server.requests[-1].json or server.count("create") == 2
        (sent,) = [body.json["input"] for body in server.requests if body.method == "POST"][1:]
        approval = {"type": "mcp_approval_response", "approval_request_id": request.id, "approve": yes, **reason}
        assert sent == [approval]


@both
async def test_a_custom_tools_call_is_answered_with_a_text(stream: bool) -> None:
    script = Turns([Script.of(CustomToolCall("sql", "select 1")), told])
    tools = [{"type": "custom", "name": "sql"}]
    async with house(Desk(), script, tools=tools) as (server, agent, runtime):
        handle = await waiting(agent, runtime, stream)
        (request,) = handle.response.requests
        assert (request.name, request.arguments) == ("sql", "select 1")
        await handle.respond(request.answer("1"))
        assert (await handle.result()).text == "1"
        check_context(server, 1, "custom_tool_call")


@both
@pytest.mark.parametrize("together", [False, True])
async def test_several_requests_are_answered_together_or_one_by_one(stream: bool, together: bool) -> None:
    desk = Guarded()
    async with house(desk, MIXED, tools=desk.tools()) as (server, agent, runtime):
        handle = await waiting(agent, runtime, stream)
        assert desk.begun == ["Rome"], "what needs nobody is done first"
        first, guarded, last = handle.response.requests
        given = [first.answer("one"), guarded.approve(), last.answer("two")]
        if together:
            await handle.respond(*given)
        else:
            for answer in given:
                await handle.respond(answer)

        assert (await handle.result()).text == "rain in Rome, one, done, two"
        assert desk.begun == ["Rome", "guarded"]
        assert server.count("create") == 2
        check_context(server, 4)


@both
async def test_a_run_may_be_answered_while_a_call_that_was_approved_is_made(stream: bool) -> None:
    desk = Guarded()
    desk.open.clear()
    script = Turns([Script.of(FunctionCall("guarded"), FunctionCall("guarded"), FunctionCall("unknown")), told])
    async with house(desk, script, tools=desk.tools()) as (server, agent, runtime):
        handle = await waiting(agent, runtime, stream)
        one, two, unknown = handle.response.requests
        await handle.respond(one.approve())
        await desk.busy.wait()
        await handle.respond(two.reject("no"))
        await handle.respond(unknown.answer("42"))
        desk.open.set()
        assert (await handle.result()).text == "done, The user did not allow this call. no, 42"
        assert desk.ids == [one.id]
        check_context(server, 3)


async def test_answers_that_do_not_fit_change_nothing() -> None:
    desk = Guarded()
    async with house(desk, MIXED, tools=desk.tools()) as (server, agent, runtime):
        handle = await waiting(agent, runtime, stream=False)
        first, guarded, last = handle.response.requests
        half = chr(0xD83D)
        wrong: list[tuple[list[Any], str]] = [
            ([True], "no answer"),
            ([first], "no answer"),
            ([[first.answer("x")]], "no answer"),
            ([Answer(17, output="x")], "not wait"),
            ([Answer(guarded.id, approve="no")], "True or False"),
            ([first.answer(17)], "a text"),
            ([first.answer(["x"])], "a text"),
            ([first.answer({"type": "x", "output": object()})], "no JSON"),
            ([first.answer(half)], "no JSON"),
            ([guarded.reject(half)], "no JSON"),
            ([Answer("call_nobody", output="x")], "call_nobody"),
            ([], first.id),
            ([Answer(first.id)], "neither"),
            ([Answer(first.id, approve=True, output="x")], "both"),
            ([first.answer("x"), first.answer("x")], first.id),
            ([first.answer("x"), Answer("call_nobody", approve=True)], "call_nobody"),
            ([guarded.answer({"output": "x"})], "type"),
        ]
        for given, match in wrong:
            with pytest.raises(UsageError, match=match):
                await handle.respond(*given)

        assert handle.response.requests == [first, guarded, last]
        await handle.respond(first.answer("one"))
        with pytest.raises(UsageError, match=first.id):
            await handle.respond(first.answer("once more"))

        await handle.respond(guarded.reject(), last.answer("two"))
        assert (await handle.result()).text.endswith(", two")
        with pytest.raises(UsageError, match="completed"):
            await handle.respond(first.answer("late"))

        assert server.count("create") == 2


async def test_a_run_that_waits_for_nobody_takes_no_answer() -> None:
    desk = Desk()
    desk.open.clear()
    async with house(desk, Turns([calls("Rome"), told])) as (_, agent, runtime):
        handle = await runtime.submit(agent, ASKED)
        for _ in range(2):
            with pytest.raises(UsageError, match="waits for no answer"):
                await handle.respond()

            await desk.busy.wait()

        desk.open.set()
        await handle.result()
        with pytest.raises(UsageError, match="completed"):
            await handle.respond()


@both
async def test_of_two_answers_at_the_same_time_one_counts(stream: bool) -> None:
    async with house(Desk(), Turns([Script.call("unknown", {}), told]), tools=[UNKNOWN]) as (server, agent, runtime):
        handle = await waiting(agent, runtime, stream)
        (request,) = handle.response.requests
        given = [handle.respond(request.answer(text)) for text in ("one", "two", "three")]
        ends = await asyncio.gather(*given, return_exceptions=True)
        assert [type(end) for end in ends] == [RunStatus, UsageError, UsageError]
        assert (await handle.result()).text == "one"
        assert server.count("create") == 2


@both
async def test_a_cancel_while_the_user_is_waited_for_ends_the_run_here(stream: bool) -> None:
    async with house(Desk(), Script.call("unknown", {}), tools=[UNKNOWN]) as (server, agent, runtime):
        handle = await waiting(agent, runtime, stream)
        (request,) = handle.response.requests
        assert await handle.cancel() is RunStatus.CANCELLED
        assert (server.count("cancel"), server.count("create")) == (0, 1)
        with pytest.raises(RunCancelled):
            await handle.result()

        with pytest.raises(UsageError, match="cancelled"):
            await handle.respond(request.answer("late"))


@both
async def test_an_answer_while_the_runtime_closes_is_kept_or_refused(stream: bool, tmp_path: Any) -> None:
    """Whatever it is, the next runtime goes on from there."""
    script = Turns([Script.call("unknown", {}), told])
    async with ResponsesServer(script=script) as server, agent_of(server, tools=[UNKNOWN]) as agent, bounded():
        for ticks in range(8):
            path = tmp_path / str(ticks)
            async with AgentRuntime(SQLiteStore(path), poll=POLL, stream=STREAM) as runtime:
                handle = await waiting(agent, runtime, stream)
                (request,) = handle.response.requests
                answering = asyncio.ensure_future(handle.respond(request.answer("42")))
                for _ in range(ticks):
                    await asyncio.sleep(0)

            (end,) = await asyncio.gather(answering, return_exceptions=True)
            async with AgentRuntime(SQLiteStore(path), poll=POLL, stream=STREAM, agents=[agent]) as runtime:
                handle = await runtime.get(handle.id)
                if isinstance(end, RuntimeClosed):
                    status = await handle.wait()
                    if status is RunStatus.INPUT_REQUIRED and handle.response.requests:
                        await handle.respond(request.answer("42"))

                if await handle.wait() is RunStatus.INPUT_REQUIRED:  # it was cut off on its way
                    await handle.respond()

                assert (await handle.result()).text == "42"


@both
async def test_the_last_answer_of_a_run_may_come_from_another_process(stream: bool, tmp_path: Any) -> None:
    desk = Guarded()
    path = tmp_path / "runs"
    async with ResponsesServer(script=MIXED) as server, agent_of(server, tools=desk.tools()) as agent, bounded():
        async with AgentRuntime(SQLiteStore(path), poll=POLL, stream=STREAM) as runtime:
            handle = await waiting(agent, runtime, stream)
            await handle.respond(handle.response.requests[0].answer("one"))

        for place in (0, 0):
            async with AgentRuntime(SQLiteStore(path), poll=POLL, stream=STREAM, agents=[agent]) as runtime:
                (handle,) = await runtime.list(status="input_required")
                request = handle.response.requests[place]
                await handle.respond(
                    request.approve() if request.kind is RequestKind.APPROVAL else request.answer("two")
                )
                await handle.wait()

        async with AgentRuntime(SQLiteStore(path), poll=POLL, stream=STREAM, agents=[agent]) as runtime:
            handle = await runtime.get(handle.id)
            assert (await handle.result()).text == "rain in Rome, one, done, two"
            updates = await collect(handle.stream())
            assert [update.seq for update in updates] == list(range(1, len(updates) + 1))
            assert "".join(update.text for update in updates) == "rain in Rome, one, done, two"

        assert desk.begun == ["Rome", "guarded"]
        check_context(server, 4)


async def test_a_runtime_that_does_not_know_the_agent_takes_no_answer(tmp_path: Any) -> None:
    path = tmp_path / "runs"
    script = Turns([Script.call("unknown", {}), told])
    async with ResponsesServer(script=script) as server, agent_of(server, tools=[UNKNOWN]) as agent, bounded():
        async with AgentRuntime(SQLiteStore(path), poll=POLL) as runtime:
            handle = await waiting(agent, runtime, stream=False)

        async with AgentRuntime(SQLiteStore(path), poll=POLL) as runtime:
            handle = await runtime.get(handle.id)
            assert handle.status is RunStatus.INPUT_REQUIRED
            with pytest.raises(UsageError, match=r"AgentRuntime\(agents="):
                await handle.respond(handle.response.requests[0].answer("42"))


@both
async def test_an_approved_call_whose_tool_is_gone_is_no_bug(stream: bool, tmp_path: Any) -> None:
    """The agent of the process that gets the approval has no such tool any more: its user may answer in its place."""
    desk = Guarded()
    path = tmp_path / "runs"
    async with ResponsesServer(script=Turns([Script.call("guarded", {}), told])) as server, bounded():
        async with (
            agent_of(server, tools=desk.tools()) as agent,
            AgentRuntime(SQLiteStore(path), poll=POLL, stream=STREAM) as runtime,
        ):
            handle = await waiting(agent, runtime, stream)

        async with (
            agent_of(server) as agent,
            AgentRuntime(SQLiteStore(path), poll=POLL, stream=STREAM, agents=[agent]) as runtime,
        ):
            handle = await runtime.get(handle.id)
            await handle.respond(handle.response.requests[0].approve())
            assert await handle.wait() is RunStatus.INPUT_REQUIRED
            await handle.respond(handle.response.requests[0].answer("by hand"))
            assert (await handle.result()).text == "by hand"


# --- the seed's API ---


@both
async def test_the_seeds_api_waits_for_its_user_and_goes_on_with_the_answers(stream: bool) -> None:
    desk = Guarded()
    async with house(desk, MIXED, tools=desk.tools()) as (server, agent, _):
        thread, options = agent.get_new_thread(), background()

        async def go(input: Any) -> Any:
            options.continuation_token = None
            if stream:
                updates = [update async for update in agent.run_streaming(input, thread, options)]
                assert updates[-1].type in (UpdateType.END, UpdateType.WAITING)
                return updates[-1].response

            response = await agent.run(input, thread, options)
            while (token := response.continuation_token) is not None:
                await asyncio.sleep(0.005)
                options.continuation_token = token
                response = await agent.run(thread=thread, options=options)

            return response

        response = await go(ASKED)
        assert (response.status, response.continuation_token) == (RunStatus.INPUT_REQUIRED, None)
        first, guarded, last = response.requests
        with pytest.raises(UsageError, match="waits for its user"):
            await go("Something else")

        with pytest.raises(UsageError, match="call_nobody"):
            await go([Answer("call_nobody", output="x")])

        thread = type(thread).from_json(thread.to_json())
        response = await go([first.answer("one"), guarded.approve()])
        assert [request.id for request in response.requests] == [last.id]
        response = await go(last.answer("two"))
        assert response.text == "rain in Rome, one, done, two"
        check_thread(thread, response)
        check_context(server, 4)
        assert outputs(server) == ["rain in Rome", "one", "done", "two"]
        assert desk.begun == ["Rome", "guarded"]


async def test_a_stream_that_was_left_anywhere_before_its_run_waited_still_ends_in_the_requests() -> None:
    desk = Guarded()
    async with house(desk, MIXED, tools=desk.tools()) as (_, agent, _):
        length = len(await collect(agent.run_streaming(ASKED, agent.get_new_thread(), background())))

    async def leave_at(place: int) -> None:
        desk, seen = Guarded(), []
        async with house(desk, MIXED, tools=desk.tools()) as (server, agent, _):
            thread = agent.get_new_thread()
            async with agent.run_streaming(ASKED, thread, background()) as updates:
                async for update in updates:
                    seen.append(update)
                    if update.seq == place:
                        break

            if update.continuation_token is not None:
                seen += await collect(agent.run_streaming(None, thread, background(update.continuation_token)))

            assert seen[-1].type is UpdateType.WAITING
            requests = seen[-1].response.requests
            seen += await collect(agent.run_streaming([request.reject() for request in requests], thread, background()))
            assert [update.seq for update in seen] == list(range(1, len(seen) + 1))
            assert seen[-1].response.text == "".join(update.text for update in seen)
            assert desk.begun == ["Rome"]
            check_thread(thread, seen[-1].response)
            check_context(server, 4)

    await asyncio.gather(*map(leave_at, range(1, length + 1)))
