"""A conversation whose runs a runtime drives, and one that comes from another process. All in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentbg import (
    Agent,
    AgentRuntime,
    AgentThread,
    ConversationLocked,
    PreviousRunNotFound,
    RequestRejected,
    RetryPolicy,
    RunStatus,
    RuntimeClosed,
    ServiceUnavailable,
    SubmitUnknown,
    UsageError,
    tool,
)
from agentbg.providers import Cap, OpenAIResponses
from agentbg.stores import MemoryStore
from agentbg.testing import RunScript, ScriptedProvider, VirtualClock, approval, virtual_time
from agentbg.testing.server import FunctionCall, ResponsesServer, Script, Turns

KEEPS_NOTHING = Cap.STREAM_START | Cap.CANCEL


def runtime(store: Any = None, **settings: Any) -> AgentRuntime:
    return AgentRuntime(store, draw=lambda: 0.5, clock=VirtualClock(), **settings)


def scripted(*texts: str, seconds: float = 60.0, **settings: Any) -> ScriptedProvider:
    return ScriptedProvider(*(RunScript.text(text, seconds=seconds) for text in texts), **settings)


def said(thread: AgentThread) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in thread.messages]


def moved(thread: AgentThread) -> AgentThread:
    """The thread, as another process has it."""
    return AgentThread.from_json(thread.to_json())


@virtual_time
async def test_runs_of_a_runtime_and_calls_of_an_agent_are_one_conversation():
    provider = scripted("One.", "Two.", "Three.")
    agent = Agent(provider, clock=VirtualClock())
    thread = agent.get_new_thread()
    async with runtime() as running:
        first = await running.submit(agent, "First", thread=thread)
        assert said(thread) == [("user", "First")]
        await first.result(timeout=120)
        async with (await running.submit(agent, "Second", thread=thread, stream=True)).stream() as updates:
            async for _ in updates:
                pass

        await running.submit(agent, "Third", thread=thread)

    before = [None, *(run.ref for run in list(provider.runs.values())[:2])]
    assert [request.previous for request in provider.requests] == before
    assert [len(request.input) for request in provider.requests] == [1, 1, 1]
    assert [text for _, text in said(thread)] == ["First", "One.", "Second", "Two.", "Third"]


@virtual_time
async def test_of_two_submits_at_once_one_is_refused_and_so_is_one_while_a_run_goes_on():
    provider = scripted("One.", "Two.")
    agent = Agent(provider)
    thread = agent.get_new_thread()
    async with runtime() as running:
        both = (running.submit(agent, text, thread=thread) for text in ("a", "b"))
        first, second = await asyncio.gather(*both, return_exceptions=True)
        assert isinstance(second, UsageError)
        with pytest.raises(UsageError, match="still going"):
            await running.submit(agent, "c", thread=thread)

        other = await running.submit(agent, "d", thread=thread.copy())
        await asyncio.gather(first, other)

    assert (provider.count("start"), said(thread)) == (2, [("user", "a"), ("assistant", "One.")])


class TestSubmits:
    @pytest.mark.parametrize(
        ("error", "raised"),
        [
            (RequestRejected("no"), RequestRejected),
            (ServiceUnavailable("perhaps"), SubmitUnknown),
            (ServiceUnavailable("not now", unsent=True, retry_after=1000.0), ServiceUnavailable),
        ],
    )
    def test_one_that_fails_adds_nothing(self, error: Any, raised: Any):
        @virtual_time
        async def story():
            provider = scripted("One.")
            agent = Agent(provider)
            thread = agent.get_new_thread()
            provider.fail("start", error)
            async with runtime() as running:
                with pytest.raises(raised):
                    await running.submit(agent, "x", thread=thread)

                assert thread == AgentThread()
                await (await running.submit(agent, "x", thread=thread))

            assert said(thread) == [("user", "x"), ("assistant", "One.")]

        story()

    @pytest.mark.parametrize("fails", [False, True])
    def test_one_that_is_cancelled_is_part_of_the_thread_if_its_run_comes_to_be(self, fails: bool):
        @virtual_time
        async def story():
            provider = scripted("One.")
            provider.delay("start", 10)
            if fails:
                provider.fail("start", RequestRejected("no"))

            agent = Agent(provider)
            thread = agent.get_new_thread()
            async with runtime() as running:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(running.submit(agent, "x", thread=thread), 5)

                restored = moved(thread)
                with pytest.raises(UsageError, match="still going"):
                    await running.submit(agent, "y", thread=thread)

                await asyncio.sleep(100)
                assert said(thread) == ([] if fails else [("user", "x"), ("assistant", "One.")])
                await running.submit(agent, "y", thread=restored)
                assert said(restored) == [*said(thread), ("user", "y")]

        story()

    @virtual_time
    async def test_a_lost_run_leaves_the_thread_as_it_was_and_the_whole_conversation_can_be_sent(self):
        provider = scripted("One.", "Two.", retention=600)
        agent = Agent(provider, retry=RetryPolicy(settling=0))
        thread = agent.get_new_thread()
        async with runtime() as running:
            await (await running.submit(agent, "First", thread=thread))
            await asyncio.sleep(601)
            before = thread.to_json()
            with pytest.raises(PreviousRunNotFound):
                await running.submit(agent, "Second", thread=thread)

            assert thread.to_json() == before
            thread.client_side = True
            await (await running.submit(agent, "Second", thread=thread))

        assert [item["role"] for item in provider.requests[-1].input] == ["user", "assistant", "user"]
        assert [text for _, text in said(thread)] == ["First", "One.", "Second", "Two."]

    @virtual_time
    async def test_a_conversation_that_stays_busy_refuses_a_submit_after_a_while(self):
        script = [Script.text("One.").lasting(running=50), Script.text("Two.").lasting(running=50)]
        async with ResponsesServer(script=script) as server, runtime() as running:
            agent = Agent(OpenAIResponses("gpt-5", api_key="key", base_url=server.base_url))
            one, other = (agent.get_new_thread(conversation="conv_1") for _ in range(2))
            await running.submit(agent, "First", thread=one)
            with pytest.raises(ConversationLocked):
                await running.submit(agent, "Second", thread=other)

            assert other.turns == []
            await running.submit(agent, "Second", thread=other, stream=True)  # it is free within the next 35 s
            assert len(server.runs) == 2
            await agent.aclose()


class TestAnotherProcess:
    @pytest.mark.parametrize("by", ["get", "resume"])
    def test_a_restored_thread_takes_the_end_of_the_run_that_went_on(self, by: str):
        @virtual_time
        async def story():
            provider, store = scripted("One.", "Two."), MemoryStore()
            agent = Agent(provider)
            thread = agent.get_new_thread()
            async with runtime(store) as running:
                handle = await running.submit(agent, "First", thread=thread)
                text, run_id, token = thread.to_json(), handle.id, str(handle.token)

            async with runtime(store, agents=[agent]) as running:
                thread = AgentThread.from_json(text)
                with pytest.raises(UsageError, match="still going"):
                    await running.submit(agent, "Second", thread=thread)

                if by == "get":
                    handle = await running.get(run_id, thread=thread)
                else:
                    handle = await running.resume(token, agent=agent, thread=thread)

                assert said(thread) == [("user", "First")]
                await handle
                assert said(thread) == [("user", "First"), ("assistant", "One.")]
                await (await running.submit(agent, "Second", thread=thread))

            assert provider.requests[-1].previous == thread.turns[0].ref
            assert [text for _, text in said(thread)] == ["First", "One.", "Second", "Two."]

        story()

    @virtual_time
    async def test_the_end_of_a_run_is_taken_from_the_store_by_the_next_submit(self):
        provider, store = scripted("One.", "Two."), MemoryStore()
        agent = Agent(provider)
        thread = agent.get_new_thread()
        async with runtime(store) as running:
            handle = await running.submit(agent, "First", thread=thread)
            thread = moved(thread)
            await handle

        async with runtime(store, agents=[agent]) as running:
            await (await running.submit(agent, "Second", thread=thread))

        assert [text for _, text in said(thread)] == ["First", "One.", "Second", "Two."]

    @virtual_time
    async def test_where_the_store_is_gone_the_run_is_taken_up_by_its_token_or_left(self):
        provider = scripted("One.", "Two.", seconds=600)
        agent = Agent(provider)
        thread = agent.get_new_thread()
        async with runtime() as running:
            token = str((await running.submit(agent, "First", thread=thread)).token)

        thread = moved(thread)
        async with runtime() as running:
            with pytest.raises(UsageError, match=r"`thread\.copy\(\)` makes one"):
                await running.submit(agent, "Second", thread=thread)

            other = await running.submit(agent, "Second", thread=thread.copy())
            await (await running.resume(token, agent=agent, thread=thread))
            await other

        assert said(thread) == [("user", "First"), ("assistant", "One.")]

    @virtual_time
    async def test_a_thread_that_was_saved_before_the_submit_gets_input_and_answer_from_the_store(self):
        provider = scripted("One.")
        agent = Agent(provider)
        thread = agent.get_new_thread()
        async with runtime() as running:
            saved = moved(thread)
            handle = await running.submit(agent, "First", thread=thread)
            await running.get(handle.id, thread=saved)
            await running.get(handle.id, thread=saved)
            await handle

        assert said(saved) == said(thread) == [("user", "First"), ("assistant", "One.")]

    @virtual_time
    async def test_a_thread_takes_no_second_run_while_one_goes_on(self):
        provider = scripted("One.", "Two.", seconds=600)
        agent = Agent(provider)
        thread, other = agent.get_new_thread(), agent.get_new_thread()
        async with runtime() as running:
            token = (await running.submit(agent, "First", thread=thread)).token
            second = await running.submit(agent, "Second", thread=other)
            with pytest.raises(UsageError, match="still going"):
                await running.get(second.id, thread=thread)

        async with runtime() as running:
            assert token is not None
            with pytest.raises(UsageError, match="still going"):
                await running.resume(token, agent=agent, thread=other)

            assert await running.list() == []

        assert [said(thread), said(other)] == [[("user", "First")], [("user", "Second")]]

    @virtual_time
    async def test_a_runtime_that_is_closed_leaves_the_thread_open(self):
        provider = scripted("One.")
        agent = Agent(provider)
        thread = agent.get_new_thread()
        async with runtime() as running:
            handle = await running.submit(agent, "First", thread=thread)

        with pytest.raises(RuntimeClosed):
            await handle

        assert thread.current is not None


class Weather:
    """A tool that counts its calls, and the service that asks for it."""

    def __init__(self) -> None:
        self.calls = 0
        ask = Script.of(FunctionCall("weather", "{}", call_id="call_1")).lasting(running=30)
        self.script = Turns([Script.text("Hi."), ask, Script.text("It rains.").lasting(running=30)])

    async def weather(self) -> str:
        """The weather."""
        self.calls += 1
        return "rain"

    def agent(self, server: ResponsesServer) -> Agent[Any]:
        return Agent(
            OpenAIResponses("gpt-5", api_key="key", base_url=server.base_url),
            tools=[tool(self.weather)],
            clock=VirtualClock(),
        )


class TestTools:
    @pytest.mark.parametrize("taken_up", ["from the store", "by its token"])
    def test_a_conversation_of_ours_goes_along_whole_after_the_tools_in_another_process(self, taken_up: str):
        @virtual_time
        async def story():
            weather, store = Weather(), MemoryStore()
            async with ResponsesServer(script=weather.script, chaining="refused") as server:
                agent = weather.agent(server)
                thread = agent.get_new_thread()
                thread.client_side = True
                await agent.run("Hello", thread)
                async with runtime(store) as running:
                    handle = await running.submit(agent, "Weather?", thread=thread)
                    thread, token = moved(thread), str(handle.token)

                if taken_up == "from the store":
                    async with runtime(store, agents=[agent]) as running:
                        handle = await running.get(handle.id, thread=thread)
                        await handle.result(timeout=600)
                else:
                    async with runtime() as running:
                        await (await running.resume(token, agent=agent, thread=thread)).result(timeout=600)

                [*_, last] = [request.json for request in server.requests if "create" in request.kinds]
                sent = [item.get("role") or item["type"] for item in last["input"]]
                assert sent == ["user", "assistant", "user", "function_call", "function_call_output"]
                assert weather.calls == 1
                assert [text for _, text in said(thread)] == ["Hello", "Hi.", "Weather?", "It rains."]
                await agent.aclose()

        story()

    @virtual_time
    async def test_a_run_that_waits_for_its_user_is_answered_and_is_one_answer_in_the_end(self):
        provider = ScriptedProvider([RunScript.asks(approval("roll", id="mcpr_1")), RunScript.text("Seven.")])
        agent = Agent(provider)
        thread = agent.get_new_thread()
        async with runtime() as running:
            handle = await running.submit(agent, "Roll", thread=thread)
            assert await handle.wait() is RunStatus.INPUT_REQUIRED
            with pytest.raises(UsageError, match="waits for its user"):
                await running.submit(agent, "Again", thread=thread)

            thread, other = moved(thread), thread
            handle = await running.get(handle.id, thread=thread)
            [request] = handle.response.requests
            await handle.respond(request.approve())
            await handle

        assert said(thread) == said(other) == [("user", "Roll"), ("assistant", "Seven.")]

    @pytest.mark.parametrize("how", ["cancelled between two rounds", "failed"])
    def test_the_next_run_goes_on_from_the_answer_before_one_that_came_to_nothing(self, how: str):
        @virtual_time
        async def story():
            asks = RunScript.asks(approval("roll", id="mcpr_1"))
            ends = asks if how != "failed" else RunScript.failed("server_error", after="I was")
            provider = ScriptedProvider(RunScript.text("One."), [ends], RunScript.text("Three."), caps=KEEPS_NOTHING)
            agent = Agent(provider)
            thread = agent.get_new_thread()
            async with runtime() as running:
                await (await running.submit(agent, "First", thread=thread))
                handle = await running.submit(agent, "Second", thread=thread)
                if await handle.wait() is RunStatus.INPUT_REQUIRED:
                    await handle.cancel()

                await (await running.submit(agent, "Third", thread=thread))

            assert [item["role"] for item in provider.requests[-1].input] == ["user", "assistant", "user"]
            assert ("user", "Second") in said(thread)

        story()
