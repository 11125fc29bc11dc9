"""A conversation over several runs, driven by its user: what is sent, what is kept, and what happens when it breaks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from served import background, joined, poll_to_end, served

from agentbg import (
    Agent,
    AgentThread,
    ConversationLocked,
    Message,
    PreviousRunNotFound,
    RequestRejected,
    RetryPolicy,
    RunStatus,
    SubmitUnknown,
    UsageError,
    inputs,
    tool,
)
from agentbg.core.model import RunRef, Snapshot, StartRequest
from agentbg.core.record import RunRecord
from agentbg.core.requests import InputRequest, RequestKind
from agentbg.core.rounds import Call, CallState, Round
from agentbg.providers import Cap, Local, LocalRun, OpenAIResponses
from agentbg.testing import RunScript, ScriptedProvider, VirtualClock, virtual_time
from agentbg.testing.server import DropStart, FunctionCall, Reasoning, ResponsesServer, Script, Status, Turns, WebSearch
from agentbg.testing.server import Message as Says
from agentbg.thread import Turn

LOOK_UP = Script.of(Reasoning(("Look it up.",)), FunctionCall("look_up", '{"city": "Ghent"}', call_id="call_1"))
TOOL_LOOP = Turns([LOOK_UP, Script.text("It rains."), Script.text("Still."), Script.text("Yes.")])


class Tools:
    """A tool that counts its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def look_up(self, city: str) -> str:
        """Look it up."""
        self.calls.append(city)
        return "rain"


def agent_of(server: ResponsesServer, provider: type[OpenAIResponses] = OpenAIResponses, **settings: Any) -> Agent[Any]:
    return Agent(provider("gpt-5", api_key="key", base_url=server.base_url), **settings)


def creates(server: ResponsesServer) -> list[Any]:
    return [request.json for request in server.requests if "create" in request.kinds]


def said(thread: AgentThread) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in thread.messages]


def kinds(items: Sequence[Any]) -> list[str]:
    return [item.get("role") or item["type"] for item in items]


def moved(thread: AgentThread) -> AgentThread:
    """The thread, as another process has it."""
    restored = AgentThread.from_json(thread.to_json())
    assert restored == thread
    return restored


class TestSending:
    async def test_each_run_names_the_one_before_and_sends_only_what_is_new(self):
        async with served([Script.text("One."), Script.text("Two."), Script.text("Three.")]) as (server, agent):
            thread = agent.get_new_thread()
            await poll_to_end(agent, thread, "First")
            async with agent.run_streaming("Second", thread, background()) as stream:
                async for _ in stream:
                    pass

            await agent.run("Third", thread)
            ids = list(server.runs)
            assert [create.get("previous_response_id") for create in creates(server)] == [None, ids[0], ids[1]]
            assert [[item["content"] for item in create["input"]] for create in creates(server)] == [
                ["First"],
                ["Second"],
                ["Third"],
            ]
            assert [text for _, text in said(thread)] == ["First", "One.", "Second", "Two.", "Third", "Three."]
            assert thread.last is not None
            assert thread.last.id == ids[2]

    async def test_without_a_thread_nothing_is_remembered_and_two_threads_are_apart(self):
        async with served() as (server, agent):
            one, other = agent.get_new_thread(), agent.get_new_thread()
            for thread in (None, None, one, other):
                await agent.run("Hello", thread)

            assert all("previous_response_id" not in create for create in creates(server))
            assert said(one) == said(other) == [("user", "Hello"), ("assistant", "You said: Hello")]

    async def test_a_conversation_of_the_services_is_named_and_nothing_else_also_in_tool_rounds(self):
        tools = Tools()
        async with ResponsesServer(script=TOOL_LOOP) as server, agent_of(server, tools=[tools.look_up]) as agent:
            thread = agent.get_new_thread(conversation="conv_1")
            await agent.run("Weather?", thread)
            await poll_to_end(agent, thread, "And now?")
            assert [create["conversation"] for create in creates(server)] == ["conv_1"] * 3
            assert [kinds(create["input"]) for create in creates(server)] == [
                ["user"],
                ["function_call_output"],
                ["user"],
            ]
            assert not any("previous_response_id" in create for create in creates(server))
            assert said(thread) == [
                ("user", "Weather?"),
                ("assistant", "It rains."),
                ("user", "And now?"),
                ("assistant", "Still."),
            ]

    async def test_a_run_on_a_conversation_that_is_taken_up_by_its_token_stays_on_it(self):
        tools = Tools()
        async with ResponsesServer(script=TOOL_LOOP) as server, agent_of(server, tools=[tools.look_up]) as agent:
            thread = agent.get_new_thread(conversation="conv_1")
            response = await agent.run("Weather?", thread, background())
            options = background(str(response.continuation_token))
            thread = moved(thread)
            while (response := await agent.run(None, thread, options)).continuation_token:
                options.continuation_token = response.continuation_token

            assert response.text == "It rains."
            assert [create.get("conversation") for create in creates(server)] == ["conv_1"] * 2

    def test_a_service_that_keeps_no_conversations_has_none_to_name(self):
        with pytest.raises(UsageError, match="keeps no conversations"):
            Agent(Local(answer)).get_new_thread(conversation="conv_1")

    async def test_the_first_run_at_another_service_sends_the_whole_conversation_and_the_next_goes_on_there(self):
        async with served(Script.text("One.")) as (_, here), served(Script.text("Two.")) as (server, there):
            thread = here.get_new_thread()
            await here.run("First", thread)
            await there.run("Second", thread)
            await there.run("Third", thread)
            second, third = creates(server)
            assert (kinds(second["input"]), second.get("previous_response_id")) == (["user", "assistant", "user"], None)
            assert (kinds(third["input"]), third["previous_response_id"]) == (["user"], server.run(0).id)


class TestClientSide:
    @pytest.mark.parametrize("by_token", [False, True], ids=["at once", "from another process"])
    async def test_all_that_was_said_is_sent_each_time_each_item_once_in_tool_rounds_too(self, by_token: bool):
        tools = Tools()
        script = Turns([Script.text("Hi."), LOOK_UP, Script.text("It rains."), Script.text("Yes.")])
        async with (
            ResponsesServer(script=script, chaining="refused") as server,
            agent_of(server, tools=[tools.look_up]) as agent,
        ):
            thread = agent.get_new_thread()
            thread.client_side = True
            await agent.run("Hello", thread)
            response = await agent.run("Weather?", thread, background())
            thread = moved(thread) if by_token else thread
            while response.continuation_token:
                response = await agent.run(None, thread, background(response.continuation_token))

            await agent.run("Sure?", thread)
            user, call = ["user", "assistant"], ["function_call", "function_call_output"]
            assert [kinds(create["input"]) for create in creates(server)] == [
                ["user"],
                [*user, "user"],
                [*user, "user", *call],
                [*user, "user", *call, "assistant", "user"],
            ]
            assert tools.calls == ["Ghent"]
            assert [message.text for message in thread.messages] == [
                "Hello",
                "Hi.",
                "Weather?",
                "It rains.",
                "Sure?",
                "Yes.",
            ]

    async def test_what_is_sent_again_has_the_form_that_every_server_takes(self):
        script = Script.of(Reasoning(("Hm.",)), WebSearch("tides"), Says("High "), Says("tide."))
        async with served([script, Script.text("Yes.")]) as (server, agent):
            thread = agent.get_new_thread()
            await agent.run("Tides?", thread)
            thread.client_side = True
            await agent.run("Sure?", thread)
            [asked, search, *told] = creates(server)[1]["input"]
            assert asked == {"type": "message", "role": "user", "content": "Tides?"}
            assert (search["type"], bool(search["id"])) == ("web_search_call", True), "its form has an id"
            assert told == [
                {"type": "message", "role": "assistant", "content": "High "},
                {"type": "message", "role": "assistant", "content": "tide."},
                {"type": "message", "role": "user", "content": "Sure?"},
            ]

    @pytest.mark.parametrize(
        ("item", "sent"),
        [
            ({"type": "reasoning", "id": "rs_1", "summary": []}, None),
            (
                {"type": "reasoning", "id": "rs_1", "status": None, "summary": [], "encrypted_content": "gAAA"},
                {"type": "reasoning", "summary": [], "encrypted_content": "gAAA"},
            ),
            (
                {"type": "reasoning", "id": "rs_1", "status": "completed", "content": [{"text": "Hm."}]},
                {"type": "reasoning", "id": "rs_1", "content": [{"text": "Hm."}]},
            ),
            (
                {"type": "custom_tool_call", "id": "ctc_1", "status": "completed", "call_id": "c", "input": "ls"},
                {"type": "custom_tool_call", "call_id": "c", "input": "ls"},
            ),
            (
                {
                    "type": "message",
                    "id": "msg_1",
                    "role": "assistant",
                    "content": [{"type": "refusal", "refusal": "No."}],
                },
                {"type": "message", "role": "assistant", "content": "No."},
            ),
            ({"type": "message", "id": "msg_1", "role": "assistant", "content": []}, None),
            ({"type": "mcp_approval_request", "id": "mcpr_1"}, {"type": "mcp_approval_request", "id": "mcpr_1"}),
            ({"role": "user", "content": "Hi"}, {"role": "user", "content": "Hi"}),
        ],
    )
    async def test_an_item_that_is_sent_again_has_no_id_that_nobody_may_know(self, item: Any, sent: Any):
        async with served(chaining="ignored") as (server, agent):
            thread = agent.get_new_thread()
            thread.client_side = True
            await agent.run([item, Message("user", "Hello")], thread)
            assert creates(server)[0]["input"][:-1] == ([] if sent is None else [sent])

    @virtual_time
    async def test_when_the_last_run_is_lost_the_whole_conversation_can_be_sent_instead(self):
        tools = Tools()
        async with (
            ResponsesServer(script=TOOL_LOOP, retention=3600) as server,
            agent_of(server, tools=[tools.look_up], retry=RetryPolicy(settling=0)) as agent,
        ):
            thread = agent.get_new_thread()
            await poll_to_end(agent, thread, "Weather?")
            server.advance(3601)
            before = thread.to_json()
            with pytest.raises(PreviousRunNotFound, match=r"thread\.client_side = True"):
                await agent.run("And now?", thread)

            assert thread.to_json() == before, "as if it had never been asked"
            thread.client_side = True
            assert (await agent.run("And now?", thread)).text == "Still."
            assert kinds(server.run().context) == [
                "user",
                "function_call",
                "function_call_output",
                "assistant",
                "user",
            ]
            thread.client_side = False
            assert (await agent.run("Sure?", thread)).text == "Yes.", "from here on the service has it again"
            assert server.run().request["previous_response_id"]
            assert tools.calls == ["Ghent"]

    async def test_a_function_of_yours_has_the_whole_conversation(self):
        agent = Agent(Local(answer))
        thread = agent.get_new_thread()
        await agent.run("One", thread)
        await poll_to_end(agent, thread, "Two")
        async with agent.run_streaming("Three", moved(thread)) as stream:
            assert joined([update async for update in stream]) == "One/1/Two/3/Three"

    async def test_a_provider_that_keeps_no_conversation_gets_all_of_it_each_time(self):
        async with ResponsesServer() as server, agent_of(server, Forgetful) as agent:
            thread = agent.get_new_thread()
            await poll_to_end(agent, thread, "First")
            await agent.run("Second", thread)
            assert kinds(creates(server)[1]["input"]) == ["user", "assistant", "user"]
            assert "previous_response_id" not in creates(server)[1]


class Forgetful(OpenAIResponses):
    caps = OpenAIResponses.caps & ~Cap.PREVIOUS


async def answer(run: LocalRun) -> str:
    items = [item["content"] for item in run.items if item["role"] == "user"]
    return "/".join([run.text] if len(items) == 1 else [*_known(run.items), run.text])


def _known(items: Sequence[Any]) -> list[str]:
    return [item["content"] if item["role"] == "user" else str(n) for n, item in enumerate(items[:-1])]


class TestBusyConversation:
    @virtual_time
    async def test_a_start_waits_for_a_conversation_that_is_soon_free(self):
        script = [Script.text("One.").lasting(running=20), Script.text("Two.")]
        async with ResponsesServer(script=script) as server, agent_of(server) as agent, agent_of(server) as other:
            await other.run("x", (elsewhere := other.get_new_thread(conversation="conv_1")), background())
            thread = agent.get_new_thread(conversation="conv_1")
            assert (await agent.run("Hello", thread)).text == "Two."
            assert said(thread) == [("user", "Hello"), ("assistant", "Two.")]
            assert 2 < server.count("create") < 12
            assert len(server.runs) == 2
            assert elsewhere.current is not None

    @pytest.mark.parametrize("streamed", [False, True])
    def test_one_that_stays_busy_is_an_error_that_says_so_and_the_thread_is_untouched(self, streamed: bool):
        @virtual_time
        async def story():
            script = [Script.text("One.").lasting(running=3600), Script.text("Two.")]
            async with ResponsesServer(script=script) as server, agent_of(server) as agent:
                await agent.run("x", agent.get_new_thread(conversation="conv_1"), background())
                thread = agent.get_new_thread(conversation="conv_1")
                since = asyncio.get_running_loop().time()
                ask = anext(agent.run_streaming("Hello", thread)) if streamed else agent.run("Hello", thread)
                with pytest.raises(ConversationLocked, match="Wait for it, or cancel it") as caught:
                    await ask

                assert caught.value.code == "conversation_locked"
                assert caught.value.unsent
                assert 35 <= asyncio.get_running_loop().time() - since < 36
                assert thread.turns == []
                server.run(0).finish()
                assert (await agent.run("Hello", thread)).text == "Two."

        story()

    @virtual_time
    async def test_the_services_own_wish_is_heeded_and_one_beyond_the_bound_is_not_waited_for(self):
        body = {"error": {"message": "Busy.", "code": "conversation_locked"}}
        async with ResponsesServer(faults=[Status(400, 20, body, on="create")]) as server, agent_of(server) as agent:
            since = asyncio.get_running_loop().time()
            await agent.run("Hello", agent.get_new_thread(conversation="conv_1"))
            assert 20 <= asyncio.get_running_loop().time() - since <= 20 * 1.1
            server.inject(Status(400, 60, body, on="create"))
            with pytest.raises(ConversationLocked):
                await agent.run("Hello", agent.get_new_thread(conversation="conv_1"))

            assert asyncio.get_running_loop().time() - since <= 20 * 1.1


class TestOneRunAtATime:
    async def test_a_run_that_goes_on_keeps_others_out_and_a_copy_goes_on_without_it(self):
        async with served([Script.text("One."), Script.text("Two.").lasting(running=3600), Script.text("3")]) as (
            server,
            agent,
        ):
            thread = agent.get_new_thread()
            await agent.run("First", thread)
            await agent.run("Second", thread, background())
            for ask in (agent.run, agent.run_streaming):
                with pytest.raises(UsageError, match="still going"):
                    await ask("Third", thread)

            other = thread.copy()
            await agent.run("Third", other)
            assert said(other) == [("user", "First"), ("assistant", "One."), ("user", "Third"), ("assistant", "3")]
            assert said(thread) == [("user", "First"), ("assistant", "One."), ("user", "Second")]
            assert creates(server)[-1]["previous_response_id"] == server.run(0).id

    async def test_a_token_of_another_run_is_refused_while_one_goes_on(self):
        async with served(Script.text("x").lasting(running=3600)) as (server, agent):
            thread, other = agent.get_new_thread(), agent.get_new_thread()
            await agent.run("First", thread, background())
            token = (await agent.run("Second", other, background())).continuation_token
            for ask in (agent.run, agent.run_streaming):
                with pytest.raises(UsageError, match="still going"):
                    await ask(None, thread, background(token))

            assert server.count("poll") == 0

    async def test_of_two_runs_at_once_one_is_refused(self):
        async with served(Script.text("One.")) as (server, agent):
            thread = agent.get_new_thread()
            done = await asyncio.gather(agent.run("a", thread), agent.run("b", thread), return_exceptions=True)
            assert [type(each) for each in done[1:]] == [UsageError]
            assert [text for _, text in said(thread)] == ["a", "One."]
            assert len(server.runs) == 1


class TestStarts:
    async def test_a_start_that_fails_adds_nothing(self):
        async with served(Script.text("One."), Status(400, on="create"), DropStart("after", on="create")) as (_, agent):
            thread = agent.get_new_thread()
            with pytest.raises(RequestRejected):
                await agent.run("Hello", thread)

            with pytest.raises(SubmitUnknown):
                await agent.run("Hello", thread)

            assert thread == AgentThread()
            await agent.run("Hello", thread)
            assert said(thread) == [("user", "Hello"), ("assistant", "One.")]

    @virtual_time
    async def test_a_start_that_is_cancelled_adds_nothing(self):
        provider = ScriptedProvider.text("One.")
        provider.delay("start", 10)
        agent = Agent(provider, clock=VirtualClock())
        thread = agent.get_new_thread()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(agent.run("Hello", thread), 5)

        assert thread == AgentThread()

    async def test_a_stream_that_nobody_reads_sends_and_adds_nothing(self):
        async with served() as (server, agent):
            thread = agent.get_new_thread()
            agent.run_streaming("Hello", thread)
            async with agent.run_streaming("Hello", thread):
                pass

            assert (thread, server.requests) == (AgentThread(), [])

    async def test_a_stream_of_a_thread_that_has_gone_on_since_is_refused(self):
        async with served() as (server, agent):
            thread = agent.get_new_thread()
            stream = agent.run_streaming("Second", thread)
            await agent.run("First", thread)
            with pytest.raises(UsageError, match="gone on since"):
                await anext(stream)

            assert len(server.runs) == len(thread.turns) == 1

    async def test_a_stream_that_is_left_can_be_gone_on_with_and_is_one_answer_in_the_end(self):
        story = Script.story(deltas=30)
        async with served([story, Script.text("Yes.")]) as (server, agent):
            thread = agent.get_new_thread()
            async with agent.run_streaming("A story", thread, background()) as stream:
                got = [await anext(stream) for _ in range(9)]

            with pytest.raises(UsageError, match="still going"):
                await agent.run("Sure?", thread)

            thread = moved(thread)
            token = str(got[-1].continuation_token)
            async with agent.run_streaming(None, thread, background(token)) as stream:
                got += [update async for update in stream]

            assert joined(got) == server.run().text
            assert said(thread) == [("user", "A story"), ("assistant", server.run().text)]
            await agent.run("Sure?", thread)
            assert creates(server)[-1]["previous_response_id"] == server.run(0).id

    async def test_who_leaves_a_stream_at_its_end_has_seen_the_end(self):
        async with served([Script.text("One."), Script.text("Two.")]) as (_, agent):
            thread = agent.get_new_thread()
            async with agent.run_streaming("First", thread, background()) as stream:
                while (await anext(stream)).continuation_token is not None:
                    pass

            assert said(thread) == [("user", "First"), ("assistant", "One.")]
            await agent.run("Second", thread)

    async def test_a_stream_in_the_foreground_that_is_left_is_over(self):
        """Nobody can take it up again, so nobody has to."""
        async with served([Script.story(deltas=30), Script.text("Yes.")]) as (server, agent):
            thread = agent.get_new_thread()
            async with agent.run_streaming("A story", thread) as stream:
                for _ in range(9):
                    await anext(stream)

            assert said(thread)[0] == ("user", "A story")
            assert thread.turns[0].status is RunStatus.CANCELLED
            await agent.run("Sure?", thread)
            assert "previous_response_id" not in creates(server)[-1]


class TestEnds:
    @pytest.mark.parametrize(
        ("script", "status", "goes_on"),
        [
            (Script.failed("server_error", "Bad luck.", after="Once"), RunStatus.FAILED, False),
            (Script.incomplete("Once", "max_output_tokens"), RunStatus.INCOMPLETE, True),
            (Script.incomplete("", "content_filter"), RunStatus.INCOMPLETE, False),
            (Script.of(), RunStatus.COMPLETED, True),
        ],
        ids=["failed", "cut short", "cut short before it spoke", "nothing to say"],
    )
    @pytest.mark.parametrize("client_side", [False, True])
    async def test_what_the_next_run_goes_on_from(self, script: Any, status: Any, goes_on: bool, client_side: bool):
        async with served([Script.text("One."), script, Script.text("Three.")]) as (server, agent):
            thread = agent.get_new_thread()
            thread.client_side = client_side
            await agent.run("First", thread)
            response = await poll_to_end(agent, thread, "Second")
            assert response.status is status
            await agent.run("Third", thread)
            spoken = [("assistant", response.text)] if response.messages else []
            assert said(thread)[2:-2] == [("user", "Second"), *spoken], "it stays in the thread"
            seen = [item["content"] for item in server.run().context if item.get("role") == "user"]
            texts = [part if isinstance(part, str) else part[0]["text"] for part in seen]
            assert texts == ["First", *(["Second"] if goes_on else []), "Third"]

    async def test_polling_an_older_run_of_a_thread_again_changes_nothing(self):
        tools = Tools()
        script = Turns([LOOK_UP, Script.text("It rains."), Script.text("Still.")])
        async with ResponsesServer(script=script) as server, agent_of(server, tools=[tools.look_up]) as agent:
            thread = agent.get_new_thread()
            first = await agent.run("First", thread, background())
            await poll_to_end_of(agent, thread, first)
            await poll_to_end(agent, thread, "Second")
            before = thread.to_json()
            again = await agent.run(None, thread, background(first.continuation_token))
            assert (again.status, again.text) == (RunStatus.COMPLETED, "It rains."), "a token stands for its run"
            async with agent.run_streaming(None, thread, background(first.continuation_token)) as stream:
                assert joined([update async for update in stream]) == "It rains."

            assert thread.to_json() == before
            assert tools.calls == ["Ghent"]
            assert len(server.runs) == 3

    @pytest.mark.parametrize("streamed", [False, True])
    async def test_a_token_from_before_its_tools_ran_makes_no_call_twice_in_another_process(self, streamed: bool):
        tools = Tools()
        script = Turns([LOOK_UP, Script.text("It rains.").lasting(running=3600)])
        async with ResponsesServer(script=script) as server, agent_of(server, tools=[tools.look_up]) as agent:
            thread = agent.get_new_thread()
            first = await agent.run("First", thread, background())
            second = await agent.run(None, thread, background(first.continuation_token))
            assert (second.continuation_token is not None, tools.calls) == (True, ["Ghent"])
            thread = moved(thread)
            server.run().finish()
            old = background(str(first.continuation_token))
            if streamed:
                async with agent.run_streaming(None, thread, old) as stream:
                    assert joined([update async for update in stream]) == "It rains."
            else:
                assert (await agent.run(None, thread, old)).text == "It rains."

            assert said(thread) == [("user", "First"), ("assistant", "It rains.")]
            assert (tools.calls, len(server.runs)) == (["Ghent"], 2)

    async def test_a_token_of_a_run_that_was_ended_here_asks_nobody(self):
        def look_up(city: str) -> str:
            raise AssertionError("no")

        script = Turns([LOOK_UP])
        agent_settings: Any = {"tools": [look_up], "max_rounds": 1}
        async with ResponsesServer(script=script) as server, agent_of(server, **agent_settings) as agent:
            thread = agent.get_new_thread()
            first = await agent.run("First", thread, background())
            response = await poll_to_end_of(agent, thread, first)
            assert (response.status, response.error.code) == (RunStatus.FAILED, "too_many_rounds")
            asked = len(server.requests)
            with pytest.raises(UsageError, match="was ended here, failed"):
                await agent.run(None, thread, background(first.continuation_token))

            assert len(server.requests) == asked
            assert said(thread) == [("user", "First")]
            await agent.run("Second", thread)
            assert kinds(creates(server)[2]["input"]) == ["user"]


async def poll_to_end_of(agent: Agent[Any], thread: AgentThread, response: Any) -> Any:
    while response.continuation_token:
        response = await agent.run(None, thread, background(response.continuation_token))

    return response


# --- whatever breaks ---


@dataclass(frozen=True)
class Plan:
    """How one run of a conversation goes."""

    calls: bool
    """Whether it calls a tool. A stream that is left just then may cut the call off, which is another story."""
    streamed: bool
    pieces: tuple[int, ...]
    """How many updates are read at a time; or how many tokens old the token of each poll is."""


PIECES = st.lists(st.integers(0, 6), min_size=1, max_size=6).map(lambda sizes: tuple(sizes))
PLANS = st.builds(Plan, st.booleans(), st.just(False), PIECES) | st.builds(Plan, st.just(False), st.just(True), PIECES)


async def poll_badly(agent: Agent[Any], thread: AgentThread, input: str, plan: Plan) -> AgentThread:
    """Poll to the end, in another process each time, with any of the tokens so far."""
    response = await agent.run(input, thread, background())
    tokens: list[str] = []
    for age in cycle(plan.pieces):
        if response.continuation_token is None:
            return thread

        tokens.append(str(response.continuation_token))
        thread = moved(thread)
        await asyncio.sleep(2)
        response = await agent.run(None, thread, background(tokens[-1 - age % len(tokens)]))

    raise AssertionError("unreachable")


async def stream_badly(agent: Agent[Any], thread: AgentThread, input: str, plan: Plan) -> AgentThread:
    """Read a few updates at a time, in another process each time; what was read is the text."""
    asked: str | None = input
    token: str | None = None
    got: list[Any] = []
    for piece in cycle(plan.pieces):
        if got and got[-1].continuation_token is None:
            assert joined(got) == got[-1].response.text
            return thread

        async with agent.run_streaming(asked, thread, background(token)) as stream:
            async for update in stream:
                got.append(update)
                if piece and len(got) % (piece + 1) == 0:
                    break

        asked, token, thread = None, str(got[-1].continuation_token), moved(thread)

    raise AssertionError("unreachable")


@given(st.lists(PLANS, min_size=1, max_size=4), st.booleans())
@settings(deadline=None, max_examples=60)
def test_whatever_breaks_each_input_is_there_once_and_each_run_is_one_answer(plans: list[Plan], client_side: bool):
    @virtual_time
    async def story():
        def script(n: int, plan: Plan) -> list[RunScript]:
            call = [RunScript.call("look_up", {"city": str(n)}, call_id=f"call_{n}")] if plan.calls else []
            return [*call, RunScript.text(f"This is answer {n}.", deltas=5)]

        tools = Tools()
        caps = Cap.STREAM_START | Cap.CANCEL | Cap.PARTIAL_ON_POLL | Cap.PREVIOUS
        provider = ScriptedProvider(*(script(n, plan) for n, plan in enumerate(plans)), caps=caps)
        agent = Agent(provider, tools=[tools.look_up], clock=VirtualClock())
        thread = agent.get_new_thread()
        thread.client_side = client_side
        for n, plan in enumerate(plans):
            thread = await (stream_badly if plan.streamed else poll_badly)(agent, thread, f"Question {n}", plan)

        spoken = [(("user", f"Question {n}"), ("assistant", f"This is answer {n}.")) for n in range(len(plans))]
        assert said(thread) == [message for both in spoken for message in both]
        assert tools.calls == [str(n) for n, plan in enumerate(plans) if plan.calls]
        assert provider.count("start") + provider.count("open") == len(plans) + len(tools.calls)
        calls = [["function_call", "function_call_output"] if plan.calls else [] for plan in plans]
        seen = [kind for each in calls for kind in ("user", *each, "assistant")]
        newest = provider.run(len(provider.runs))
        assert kinds(newest.context) == seen[:-1], "its model saw all that was said, each once"

    story()


# --- as plain data ---

TEXTS = st.text(st.characters()) | st.sampled_from(["\ud800", "\x00", "a\u2028b", ""])
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
ITEMS = st.dictionaries(TEXTS, PLAIN, max_size=3) | st.just({"type": "message", "role": "assistant", "content": "x"})
REFS = st.none() | st.builds(RunRef, TEXTS, TEXTS, st.dictionaries(TEXTS, TEXTS, max_size=2))
MESSAGES = st.builds(Message, TEXTS, TEXTS, ITEMS) | st.just(inputs.user("See", inputs.image("https://x/y.png")))
CALLS = st.builds(
    Call,
    st.builds(InputRequest, TEXTS, st.sampled_from(RequestKind), TEXTS, TEXTS, ITEMS),
    st.sampled_from(CallState),
    st.none() | ITEMS,
)
ROUNDS = st.builds(
    Round, REFS, TEXTS, st.lists(ITEMS, max_size=2), calls=st.lists(CALLS, max_size=2), sent=st.booleans()
)
TURNS = st.builds(
    Turn,
    st.lists(MESSAGES, max_size=2),
    TEXTS,
    st.sampled_from(RunStatus),
    st.lists(ROUNDS, max_size=2),
    REFS,
    output=st.lists(ITEMS, max_size=2),
)


@given(st.builds(AgentThread, st.none() | TEXTS, st.booleans(), st.lists(TURNS, max_size=3)))
def test_a_thread_is_the_same_in_another_process(thread: AgentThread):
    text = thread.to_json()
    text.encode()
    restored = AgentThread.from_json(text.encode())
    assert restored == thread
    assert restored.to_json() == text
    assert (restored.items, restored.last, restored.pending) == (thread.items, thread.last, thread.pending)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"version": 1, "turns": "x"}',
        '{"version": 1, "turns": [{"input": []}]}',
        '{"version": "x"}',
        '{"version": 0}',
        '{"version": true}',
        AgentThread().to_json()[:-1],
        "[" * 100_000,
        b"\xff",
    ],
)
def test_any_other_text_is_no_thread(text: str | bytes):
    with pytest.raises(UsageError, match="no thread that `to_json` wrote"):
        AgentThread.from_json(text)


def test_a_thread_of_a_newer_agentbg_says_so_whatever_is_in_it():
    with pytest.raises(UsageError, match="newer agentbg"):
        AgentThread.from_json('{"version": 2, "turns": {"in": "another shape"}}')


def test_a_thread_is_a_field_of_a_pydantic_model():
    class Session(BaseModel):
        user: str
        thread: AgentThread

    thread = AgentThread(turns=[Turn([Message("user", "Hello")], "run_1", RunStatus.COMPLETED)])
    session = Session(user="Ann", thread=thread)
    assert session.thread is thread
    assert Session.model_validate_json(session.model_dump_json()) == session


# --- what is noted, and when ---


def record(status: RunStatus, *items: Any, text: str = "", ref: Any = None, rounds: Any = (), **more: Any) -> RunRecord:
    snapshot = Snapshot(ref, status, "", text, items)
    made = RunRecord("run_1", "a", "p", "e", False, 0.0, status=status, ref=ref, snapshot=snapshot, **more)
    made.rounds = list(rounds)
    return made


def test_the_answer_is_one_message_over_all_rounds_and_parts_with_its_annotations():
    def spoke(*texts: str) -> Any:
        parts = [{"type": "output_text", "text": text, "annotations": [text]} for text in texts]
        return {"type": "message", "role": "assistant", "id": f"msg_{texts}", "content": parts}

    ref = RunRef("p", "e", {"response": "r"})
    closed = Round(RunRef("p", "e", {"response": "q"}), "a", [spoke("a"), {"type": "function_call"}], sent=True)
    thread = AgentThread()
    turn = thread.begin([Message("user", "Hi"), Message("system", "Be kind.")], "run_1")
    ended = record(RunStatus.COMPLETED, {"type": "reasoning"}, spoke("b", "c"), spoke("d"), ref=ref, rounds=[closed])
    for _ in range(3):
        thread.take(turn, ended)

    assert said(thread) == [("user", "Hi"), ("system", "Be kind."), ("assistant", "abcd")]
    raw = thread.messages[-1].raw
    assert (raw["role"], [part["annotations"] for part in raw["content"]]) == (
        "assistant",
        [["a"], ["b"], ["c"], ["d"]],
    )
    assert thread.last == ref


def test_a_text_without_items_is_an_answer_and_a_single_message_is_kept_as_it_came():
    thread = AgentThread()
    thread.take(thread.begin([], "run_1"), record(RunStatus.COMPLETED, text="Hello"))
    item = {"type": "message", "role": "assistant", "content": "Bye", "id": "msg_1"}
    thread.take(thread.begin([], "run_2"), record(RunStatus.COMPLETED, item))
    assert said(thread) == [("assistant", "Hello"), ("assistant", "Bye")]
    assert thread.messages[-1].raw == item


def test_an_end_is_noted_once_and_what_comes_late_changes_nothing():
    ref = RunRef("p", "e", {"response": "r"})
    thread = AgentThread()
    turn = thread.begin([Message("user", "Hi")], "run_1")
    thread.take(turn, record(RunStatus.COMPLETED, text="Hello", ref=ref))
    before = thread.to_json()
    for status in RunStatus:
        thread.take(turn, record(status, text="Late"))

    assert thread.to_json() == before


def test_a_run_that_ended_without_ever_having_a_name_was_never_part_of_it():
    thread = AgentThread()
    thread.take(thread.begin([Message("user", "Hi")], "run_1"), record(RunStatus.FAILED))
    assert thread == AgentThread()


@pytest.mark.parametrize("whole", [False, True])
def test_a_thread_that_was_saved_before_the_start_gets_the_input_from_the_record(whole: bool):
    thread = AgentThread()
    thread.take(thread.begin([Message("user", "Hi")], "run_0"), record(RunStatus.COMPLETED, text="Hello"))
    new = Message("user", "And now?").item
    request = StartRequest([*(thread.items if whole else []), new], whole=whole)
    thread.adopt(record(RunStatus.RUNNING, request=request))
    assert [text for _, text in said(thread)] == ["Hi", "Hello", "And now?"]


@virtual_time
async def test_a_script_of_the_scripted_provider_has_the_same_conversation():
    provider = ScriptedProvider(RunScript.text("One."), RunScript.text("Two."), caps=Cap.STREAM_START | Cap.CANCEL)
    agent = Agent(provider, clock=VirtualClock())
    thread = agent.get_new_thread()
    await poll_to_end(agent, thread, "First")
    await agent.run("Second", thread)
    assert kinds(provider.requests[-1].input) == ["user", "assistant", "user"]
    assert json.loads(thread.to_json())["turns"][1]["input"][0]["text"] == "Second"


class TestOptions:
    """What a run was started with holds for all its rounds, whoever calls."""

    async def test_a_follow_up_keeps_the_options_of_the_start_when_the_poll_names_none(self):
        async def look_up(city: str) -> str:
            return city

        script = Turns([Script.call("look_up", {"city": "Ghent"}).lasting(running=0.05), Script.text("18.")])
        async with served(script, tools=[look_up]) as (server, agent):
            thread = agent.get_new_thread()
            wishes = background()
            wishes.reasoning_effort, wishes.max_output_tokens = "high", 77
            response = await agent.run("Weather?", thread, wishes)
            thread = AgentThread.from_json(thread.to_json())
            while response.continuation_token is not None:
                await asyncio.sleep(0.02)
                response = await agent.run(thread=thread, options=background(response.continuation_token))

        assert response.text == "18."
        first, second = [request.json for request in server.requests if request.method == "POST"]
        assert first["reasoning"] == second["reasoning"] == {"effort": "high"}
        assert first["max_output_tokens"] == second["max_output_tokens"] == 77

    async def test_a_foreground_run_stays_in_the_foreground_when_it_is_answered(self):
        @tool(requires_approval=True)
        async def pay(euro: int) -> str:
            """Pay."""
            return "paid"

        script = Turns([Script.call("pay", {"euro": 5}), Script.text("Done.")])
        async with served(script, tools=[pay]) as (server, agent):
            thread = agent.get_new_thread()
            (request,) = (await agent.run("Pay.", thread)).requests
            response = await agent.run(request.approve(), thread)

        assert (response.text, response.continuation_token) == ("Done.", None)
        assert [request.json.get("background") for request in server.requests] == [None, None]
