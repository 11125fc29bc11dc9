"""The outputs of calls on a bad line: they are sent again only where they surely did not arrive, and no call is made
again."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import Any

import pytest

from agentbg import (
    AgentRuntime,
    AuthenticationFailed,
    RunExpired,
    RunFailed,
    RunStatus,
    RunTimeout,
    SubmitUnknown,
    UpdateType,
    tool,
)
from agentbg.stores import SQLiteStore
from agentbg.testing.server import DropStart, Fault, ResponsesServer, Status, Turns

from .desk import ASKED, TEXT, TWO_ROUNDS, Desk, Way, calls, check_context, check_whole, house, outputs, told, ways
from .helpers import POLL, STREAM, agent_of, background, bounded, collect

ONE_ROUND = Turns([calls("Rome"), told])
both = pytest.mark.parametrize("stream", [False, True])


# --- the outputs on their way ---


@ways
@pytest.mark.parametrize("round", [1, 2])
@pytest.mark.parametrize("status", [429, 503])
async def test_outputs_that_are_turned_away_are_sent_again(way: Way, status: int, round: int) -> None:
    """More often than one start is: the run goes on for as long as it may."""
    fault = Status(status, retry_after=0.01, on="create", after=round, times=6)
    desk = Desk()
    async with house(desk, TWO_ROUNDS, fault, poll=POLL) as (server, agent, runtime):
        check_whole(server, desk, await way(agent, runtime), rounds=9)
        assert server.faults.pending == []


@ways
async def test_outputs_that_find_nobody_at_home_are_sent_again(way: Way) -> None:
    """The service is away when the calls are done, and comes back at the same address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    server = ResponsesServer(script=ONE_ROUND, port=port)
    made: list[str] = []

    async def weather(city: str) -> str:
        await server.__aexit__()
        made.append(city)
        away.append(asyncio.get_running_loop().call_later(0.08, lambda: away.append(open_again())))
        return f"rain in {city}"

    away: list[Any] = []

    def open_again() -> asyncio.Task[Any]:
        return asyncio.ensure_future(server.__aenter__())

    async with server, agent_of(server, tools=[weather]) as agent, AgentRuntime(poll=POLL, stream=STREAM) as runtime:
        async with bounded():
            assert (await way(agent, runtime)).text == "rain in Rome"

        assert made == ["Rome"]
        check_context(server, 1)


@both
@pytest.mark.parametrize("status", [400, 403, 404, 422])
async def test_outputs_that_are_refused_end_the_run(stream: bool, status: int) -> None:
    desk = Desk()
    async with house(desk, ONE_ROUND, Status(status, on="create", after=1)) as (server, agent, runtime):
        thread = agent.get_new_thread()
        handle = await runtime.submit(agent, ASKED, thread=thread, stream=stream)
        with pytest.raises(RunFailed, match=f"HTTP {status}"):
            await handle.result()

        assert server.count("create") == 2
        assert desk.begun == ["Rome"]
        assert (await (await runtime.submit(agent, "Again", thread=thread)).result()).text == "rain in Rome"
        assert [message.text for message in thread.messages] == [ASKED, "Again", "rain in Rome"]


@both
async def test_a_key_that_is_refused_with_the_outputs_is_told_and_the_run_goes_on(stream: bool) -> None:
    desk = Desk()
    async with house(desk, ONE_ROUND, Status(401, on="create", after=1)) as (server, agent, runtime):
        handle = await runtime.submit(agent, ASKED, stream=stream)
        with pytest.raises(AuthenticationFailed):
            await handle.result()

        assert handle.status is RunStatus.RUNNING
        assert (await handle.result()).text == "rain in Rome"
        assert (desk.begun, server.count("create")) == (["Rome"], 3)


@both
async def test_a_key_that_is_refused_with_the_outputs_costs_the_token_nothing(stream: bool) -> None:
    """The seed's API: the token of before is still good, and no call is made again."""
    desk = Desk()
    async with house(desk, ONE_ROUND, Status(401, on="create", after=1)) as (server, agent, _):
        thread = agent.get_new_thread()
        poll = partial(agent.run, None, thread)
        token = (await agent.run(ASKED, thread, background())).continuation_token
        with pytest.raises(AuthenticationFailed):
            await (collect(agent.run_streaming(None, thread, background(token))) if stream else poll(background(token)))

        if stream:
            rest = [update async for update in agent.run_streaming(None, thread, background(token))]
            response = rest[-1].response
        else:
            response = await agent.run(thread=thread, options=background(token))
            response = await agent.run(thread=thread, options=background(response.continuation_token))

        assert response.text == "rain in Rome"
        assert desk.begun == ["Rome"]
        check_context(server, 1)


@both
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_outputs_whose_answer_is_lost_are_sent_again_only_by_the_user(stream: bool, when: Any, how: Any) -> None:
    desk = Desk()
    fault = DropStart(when, how, on="create", after=1)
    async with house(desk, TWO_ROUNDS, fault) as (server, agent, runtime):
        handle = await runtime.submit(agent, ASKED, stream=stream)
        with pytest.raises(SubmitUnknown, match=r"handle\.respond\(\)") as caught:
            await handle.result()

        assert caught.value.run_id == handle.id
        assert (handle.status, handle.token) == (RunStatus.INPUT_REQUIRED, None)
        assert not handle.response.requests
        assert server.count("create") == 2
        assert await handle.respond() is RunStatus.RUNNING
        check_whole(server, desk, await handle.result(), rounds=4)
        updates = [update async for update in handle.stream()]
        assert [update.seq for update in updates] == list(range(1, len(updates) + 1))
        assert [update.type for update in updates].count(UpdateType.WAITING) == 1
        assert "".join(update.text for update in updates) == TEXT


@both
async def test_an_answer_that_is_lost_twice_is_asked_about_twice(stream: bool) -> None:
    desk = Desk()
    async with house(desk, ONE_ROUND, DropStart(after=1, times=2)) as (server, agent, runtime):
        handle = await runtime.submit(agent, ASKED, stream=stream)
        for _ in range(2):
            with pytest.raises(SubmitUnknown):
                await handle.result()

            await handle.respond()

        assert (await handle.result()).text == "rain in Rome"
        assert (desk.begun, server.count("create")) == (["Rome"], 4)


@both
async def test_a_run_whose_outputs_may_be_lost_can_be_cancelled(stream: bool) -> None:
    desk = Desk()
    async with house(desk, ONE_ROUND, DropStart(after=1)) as (server, agent, runtime):
        handle = await runtime.submit(agent, ASKED, stream=stream)
        await handle.wait()
        assert await handle.cancel() is RunStatus.CANCELLED
        assert server.count("create") == 2


@both
async def test_the_seeds_api_sends_outputs_whose_answer_was_lost_again_when_told_so(stream: bool) -> None:
    desk = Desk()
    async with house(desk, ONE_ROUND, DropStart(after=1)) as (server, agent, _):
        thread = agent.get_new_thread()
        if stream:
            updates = [update async for update in agent.run_streaming(ASKED, thread, background())]
            assert updates[-1].type is UpdateType.WAITING
            assert updates[-1].response.error.code == "submit_unknown"
            rest = [update async for update in agent.run_streaming([], thread, background())]
            response = rest[-1].response
            assert [update.seq for update in updates + rest] == list(range(1, len(updates + rest) + 1))
        else:
            token = (await agent.run(ASKED, thread, background())).continuation_token
            with pytest.raises(SubmitUnknown, match=r"agent\.run\(\[\], thread\)"):
                await agent.run(thread=thread, options=background(token))

            response = await agent.run([], thread, background())
            response = await agent.run(thread=thread, options=background(response.continuation_token))

        assert response.text == "rain in Rome"
        assert (desk.begun, server.count("create")) == (["Rome"], 3)
        check_context(server, 1)


# --- while a call is made ---


@both
async def test_a_cancel_while_a_call_is_made_ends_it_here_and_asks_nothing_of_the_service(stream: bool) -> None:
    desk = Desk()
    desk.open.clear()
    async with house(desk, ONE_ROUND) as (server, agent, runtime):
        handle = await runtime.submit(agent, ASKED, stream=stream)
        await desk.busy.wait()
        assert await handle.cancel("enough") is RunStatus.CANCELLED
        assert (server.count("cancel"), server.count("create")) == (0, 1)
        updates = [update async for update in handle.stream()]
        assert updates[-1].type is UpdateType.END

    assert desk.cancelled == ["Rome"]


@both
async def test_a_deadline_that_passes_while_a_call_is_made_ends_the_run(stream: bool) -> None:
    desk = Desk()
    desk.open.clear()
    async with house(desk, ONE_ROUND) as (server, agent, runtime):
        handle = await runtime.submit(agent, ASKED, stream=stream, deadline=0.3)
        with pytest.raises(RunExpired, match="deadline"):
            await handle.result()

        assert server.count("create") == 1

    assert desk.cancelled == ["Rome"]


@both
async def test_waiting_and_working_are_apart_while_a_call_is_made(stream: bool) -> None:
    desk = Desk()
    desk.open.clear()
    async with house(desk, ONE_ROUND) as (_, agent, runtime):
        handle = await runtime.submit(agent, ASKED, stream=stream)
        await desk.busy.wait()
        assert await handle.wait(timeout=0.01) is RunStatus.RUNNING
        with pytest.raises(RunTimeout):
            await handle.result(timeout=0.01)

        waiter = asyncio.ensure_future(handle.result())
        await asyncio.sleep(0)
        waiter.cancel()
        async with handle.stream() as updates:
            await anext(updates)

        assert handle.token is not None
        desk.open.set()
        assert (await handle.result()).text == "rain in Rome"
        assert (desk.begun, desk.cancelled) == (["Rome"], [])


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_a_stream_of_the_seeds_cancels_the_call_and_the_model_is_told(stream: bool) -> None:
    desk = Desk()
    desk.open.clear()
    async with house(desk, ONE_ROUND) as (server, agent, _):
        thread = agent.get_new_thread()
        token = (await agent.run(ASKED, thread, background())).continuation_token
        assert token is not None

        async def poll() -> None:
            if stream:
                _ = [update async for update in agent.run_streaming(None, thread, background(token))]
            else:
                await agent.run(thread=thread, options=background(token))

        task = asyncio.ensure_future(poll())
        await desk.busy.wait()
        task.cancel()
        await asyncio.wait([task])
        assert (task.cancelled(), desk.cancelled) == (True, ["Rome"])
        desk.open.set()
        response = await agent.run(thread=thread, options=background(token))
        await agent.run(thread=thread, options=background(response.continuation_token))
        assert desk.begun == ["Rome"]
        assert outputs(server)[0].startswith("Error: the process ended while this call was being made.")


# --- the runtime closes ---


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentbg.hosting.CLOSING_GRACE", 0.1)


@both
async def test_closing_waits_for_a_call_and_for_its_outputs_to_be_sent(stream: bool, tmp_path: Any) -> None:
    desk = Desk()
    desk.open.clear()
    async with ResponsesServer(script=ONE_ROUND) as server, agent_of(server, tools=[desk.weather]) as agent, bounded():
        async with AgentRuntime(SQLiteStore(tmp_path / "runs"), poll=POLL, stream=STREAM) as runtime:
            handle = await runtime.submit(agent, ASKED, stream=stream)
            await desk.busy.wait()
            asyncio.get_running_loop().call_later(0.05, desk.open.set)

        assert (server.count("create"), desk.cancelled) == (2, [])
        async with AgentRuntime(SQLiteStore(tmp_path / "runs"), poll=POLL, stream=STREAM, agents=[agent]) as runtime:
            assert (await (await runtime.get(handle.id)).result()).text == "rain in Rome"

        assert (server.count("create"), desk.begun) == (2, ["Rome"])


@both
@pytest.mark.parametrize("idempotent", [False, True])
@pytest.mark.usefixtures("short_grace")
async def test_a_call_that_closing_cuts_off_is_told_to_the_model_or_made_again(
    stream: bool, idempotent: bool, tmp_path: Any
) -> None:
    desk = Desk()
    desk.open.clear()
    path = tmp_path / "runs"
    tools = [tool(desk.weather, idempotent=idempotent)]
    async with ResponsesServer(script=ONE_ROUND) as server, agent_of(server, tools=tools) as agent, bounded():
        async with AgentRuntime(SQLiteStore(path), poll=POLL, stream=STREAM) as runtime:
            handle = await runtime.submit(agent, ASKED, stream=stream)
            await desk.busy.wait()

        assert desk.cancelled == ["Rome"]
        desk.open.set()
        async with AgentRuntime(SQLiteStore(path), poll=POLL, stream=STREAM, agents=[agent]) as runtime:
            text = (await (await runtime.get(handle.id)).result()).text

        assert desk.begun == ["Rome"] * (1 + idempotent)
        assert len(set(desk.ids)) == 1
        assert text == "rain in Rome" if idempotent else text.startswith("Error: the process ended")
        check_context(server, 1)


@both
async def test_outputs_that_wait_to_be_sent_again_survive_a_restart(stream: bool, tmp_path: Any) -> None:
    desk = Desk()
    path = tmp_path / "runs"
    refused: list[Fault] = [Status(503, retry_after=60, on="create", after=1)]
    async with ResponsesServer(script=ONE_ROUND, faults=refused) as server, bounded():
        async with agent_of(server, tools=[desk.weather]) as agent:
            async with AgentRuntime(SQLiteStore(path), poll=POLL, stream=STREAM) as runtime:
                handle = await runtime.submit(agent, ASKED, stream=stream)
                while server.count("create") < 2:
                    await asyncio.sleep(0.005)

            async with AgentRuntime(SQLiteStore(path), poll=POLL, stream=STREAM, agents=[agent]) as runtime:
                assert (await (await runtime.get(handle.id)).result()).text == "rain in Rome"

        assert (server.count("create"), desk.begun) == (3, ["Rome"])
