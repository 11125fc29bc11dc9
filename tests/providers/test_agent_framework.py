"""Agents of agent_framework as background runs: real ones, over its OpenAI client, against a server that breaks."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager

import pytest
from local_functions import check, joined, read
from openai import AsyncOpenAI
from pydantic import BaseModel

from agentbg import (
    Agent,
    AgentRunOptions,
    AgentRuntime,
    Backoff,
    PollPolicy,
    RequestRejected,
    RunCancelled,
    RunFailed,
    RunIncomplete,
    RunStatus,
    UpdateType,
    UsageError,
)
from agentbg.inputs import developer, file, image, user
from agentbg.providers import AgentFrameworkAgent, OpenAIResponses, Provider
from agentbg.stores import SQLiteStore
from agentbg.testing.server import (
    CutAfterEvent,
    FunctionCall,
    McpApprovalRequest,
    Message,
    NoTerminalEvent,
    Reasoning,
    ResponsesServer,
    Script,
    Status,
)

NEEDED = "needs the extra: pip install 'agentbg[agent-framework]' agent-framework-openai"
framework = pytest.importorskip("agent_framework", reason=NEEDED)
clients = pytest.importorskip("agent_framework_openai", reason=NEEDED)

POLL = PollPolicy(initial=0.01, growth=0.0, maximum=0.02, faults=Backoff(initial=0.01, maximum=0.02))
BACKGROUND = {"background": True}
STORY = "It was a bright cold day."
LOOKED_UP = [
    Script.of(Message("Let me see. "), FunctionCall("lookup", '{"city":"Delft"}')),
    Script.text("It is windy."),
]


class Weather(BaseModel):
    city: str
    wind: int


class Tool:
    """A tool, and what it was called with."""

    def __init__(self):
        self.cities = []

    @property
    def lookup(self):
        @framework.tool(approval_mode="never_require")
        async def lookup(city: str) -> str:
            """The weather of a city."""
            self.cities.append(city)
            return f"{city} is windy"

        return lookup


@asynccontextmanager
async def house(*, script=None, faults=(), background=False, settings=None, store=None, **own):
    """A server, a runtime, and an agent of ours around one of agent_framework's."""
    served = {} if script is None else {"script": script}
    async with (
        asyncio.timeout(20),
        ResponsesServer(**served, faults=faults) as server,
        AsyncOpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client,
    ):
        inner = framework.Agent(
            clients.OpenAIChatClient(model="test", async_client=client),
            name="inner",
            instructions="Be brief.",
            default_options=BACKGROUND if background else None,
            **own,
        )
        outer = Agent(AgentFrameworkAgent(inner, poll=POLL), name="outer", **(settings or {}))
        async with outer as agent, AgentRuntime(store, poll=POLL, agents=[agent]) as runtime:
            yield server, runtime, agent


async def failed(handle):
    with pytest.raises(RunFailed) as caught:
        await handle

    return caught.value.response


# --- streams and results ---


async def test_text_streams_as_it_comes_and_once_though_the_client_repeats_it():
    async with house(script=Script.text(STORY)) as (_, runtime, agent):
        handle = await runtime.submit(agent, "a story", stream=True)
        response = await handle
        updates = await read(handle)
        check(updates, STORY)
        assert [update.text for update in updates if update.text] == ["It", " was", " a", " bright", " cold", " day."]
        assert UpdateType.RESET not in {update.type for update in updates}

    assert isinstance(agent.provider, Provider)
    assert (response.text, response.status) == (STORY, RunStatus.COMPLETED)
    assert (response.usage.output_tokens, response.usage.total_tokens) == (6, 8)
    assert response.raw["agent_framework"]["finish_reason"] == "stop"
    assert response.raw["usage"] == {"input_tokens": 2, "output_tokens": 6, "total_tokens": 8}
    assert [message.text for message in response.messages] == [STORY]


async def test_a_message_of_several_texts_keeps_them_all():
    """agent_framework's own response has only the last of them."""
    script = Script.of(Reasoning("Hm."), Message("The first. "), Message("The second."))
    async with house(script=script) as (_, runtime, agent):
        handle = await runtime.submit(agent, "x", stream=True)
        assert (await handle).text == "The first. The second."
        updates = await read(handle)
        check(updates, "The first. The second.")
        assert UpdateType.RESET not in {update.type for update in updates}
        assert next(u.raw["content"]["type"] for u in updates if u.type is UpdateType.PROGRESS) == "text_reasoning"


@pytest.mark.parametrize("background", [False, True])
async def test_its_tools_run_inside_and_once(background: bool):
    tool = Tool()
    async with house(script=LOOKED_UP, tools=[tool.lookup], background=background) as (server, runtime, agent):
        handle = await runtime.submit(agent, "How is Delft?", stream=True)
        response = await handle
        updates = await read(handle)
        check(updates, "Let me see. It is windy.")
        assert [call.json.get("background", False) for call in server.requests] == [background] * 2

    assert tool.cities == ["Delft"]
    assert [message.text for message in response.messages] == ["Let me see. ", "It is windy."]
    results = [u.raw["content"] for u in updates if u.type is UpdateType.PROGRESS]
    assert [r["result"] for r in results if r["type"] == "function_result"] == ["Delft is windy"]


async def test_a_run_that_is_not_streamed_has_the_same_result(tmp_path):
    async with house(script=Script.text(STORY), store=SQLiteStore(tmp_path / "runs.db")) as (_, runtime, agent):
        handle = await runtime.submit(agent, "a story")
        assert (await handle).text == STORY
        assert (await agent.run("a story")).text == STORY
        assert (await (await runtime.get(handle.id))).raw["agent_framework"]["type"] == "agent_response"


# --- ends ---


async def test_a_failed_response_is_a_failed_run_and_no_empty_success():
    async with house(script=Script.failed("boom", "Out of tea.", after="so far")) as (_, runtime, agent):
        handle = await runtime.submit(agent, "x", stream=True)
        response = await failed(handle)
        check(await read(handle), "so far")
        assert (response.error.code, response.error.message, response.text) == ("boom", "Out of tea.", "so far")


@pytest.mark.parametrize("background", [False, True])
async def test_an_error_event_fails_the_run_with_what_it_says(background: bool, caplog):
    script = Script.failed("boom", "Out of tea.", error_event="flat")
    async with house(script=script, background=background) as (_, runtime, agent):
        error = (await failed(await runtime.submit(agent, "x", stream=True))).error
        assert error.code == ("boom" if background else "ChatClientException")
        assert "Out of tea." in error.message


async def test_a_start_that_is_refused_fails_with_the_services_code(caplog):
    caplog.set_level(logging.CRITICAL, "agent_framework")
    said = {"error": {"message": "No such key.", "code": "invalid_api_key"}}
    async with house(faults=[Status(401, on="create", body=said)]) as (server, runtime, agent):
        error = (await failed(await runtime.submit(agent, "x"))).error
        assert error.code == "invalid_api_key"
        assert "No such key." in error.message
        assert server.count("create") == 1


async def test_an_incomplete_response_is_incomplete():
    async with house(script=Script.incomplete("It was a")) as (_, runtime, agent):
        with pytest.raises(RunIncomplete, match="max_output_tokens") as caught:
            await (await runtime.submit(agent, "x", stream=True))

        assert caught.value.response.text == "It was a"


async def test_a_response_that_was_cancelled_at_the_service_is_cancelled():
    async with house(script=Script((Message("It was"),), "cancelled"), background=True) as (_, runtime, agent):
        with pytest.raises(RunCancelled):
            await (await runtime.submit(agent, "x", stream=True))


@pytest.mark.parametrize(
    ("script", "wanted"),
    [
        (Script.call("danger", {"city": "Delft"}), "an approval of danger"),
        (Script.call("unknown", {}), None),
        (Script.of(McpApprovalRequest("fetch", "{}", "docs")), "an approval of fetch"),
    ],
)
async def test_a_run_that_asks_for_an_approval_fails_since_nobody_can_answer(script, wanted):
    @framework.tool(approval_mode="always_require")
    async def danger(city: str) -> str:
        raise AssertionError("not approved")

    async with house(script=[script, Script.text("done")], tools=[danger]) as (_, runtime, agent):
        handle = await runtime.submit(agent, "x", stream=True)
        if wanted is None:
            assert (await handle).text == "done", "agent_framework tells the model that there is no such function"
        else:
            error = (await failed(handle)).error
            assert error.code == "input_required"
            assert f"asks for {wanted}, and" in error.message


async def test_a_cancel_ends_the_run_and_closes_its_connection():
    async with house(script=Script.story(100).lasting(delay=0.05)) as (server, runtime, agent):
        handle = await runtime.submit(agent, "x", stream=True)
        async with handle.stream() as updates:
            async for update in updates:
                if update.text:
                    break

        assert await handle.cancel() is RunStatus.CANCELLED
        with pytest.raises(RunCancelled) as caught:
            await handle

        assert caught.value.response.text.startswith("Once")
        assert server.count("create") == 1


@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_run_whose_process_died_is_lost_or_starts_again(idempotent: bool, tmp_path):
    def agent_of(inner):
        return Agent(AgentFrameworkAgent(inner, idempotent=idempotent), name="own")

    path, whole = tmp_path / "runs.db", Own(text("It was "), text("a bright day."))
    async with agent_of(Endless()) as agent, AgentRuntime(SQLiteStore(path), poll=POLL) as runtime:
        run_id = (await runtime.submit(agent, "x", stream=True)).id

    async with agent_of(whole) as agent, AgentRuntime(SQLiteStore(path), poll=POLL, agents=[agent]) as runtime:
        handle = await runtime.get(run_id)
        if idempotent:
            assert (await handle).text == "It was a bright day."
        else:
            assert (await failed(handle)).error.code == "lost"


# --- background responses ---


@pytest.mark.parametrize("fault", [CutAfterEvent(6), CutAfterEvent(6, how="clean"), NoTerminalEvent()])
async def test_a_background_response_whose_stream_breaks_is_polled_to_its_end(fault):
    script = Script.text(STORY).lasting(running=0.1)
    refused = [Status(503, on="poll", times=2)]
    async with house(script=script, background=True, faults=[fault, *refused]) as (server, runtime, agent):
        handle = await runtime.submit(agent, "x", stream=True)
        response = await handle
        updates = await read(handle)
        check(updates, STORY)
        assert UpdateType.RESET not in {update.type for update in updates}
        assert (server.count("create"), response.usage.output_tokens) == (1, 6)
        assert server.count("poll") >= 3


async def test_tools_of_polled_responses_run_once_and_what_they_lead_to_is_polled_too():
    tool = Tool()
    script = [each.lasting(running=0.05) for each in LOOKED_UP]
    async with house(script=script, tools=[tool.lookup], background=True, faults=[CutAfterEvent(5)]) as (
        server,
        runtime,
        agent,
    ):
        handle = await runtime.submit(agent, "How is Delft?", stream=True)
        response = await handle
        check(await read(handle), "Let me see. It is windy.")
        assert [message.text for message in response.messages] == ["Let me see. ", "It is windy."]
        assert [call.json["background"] for call in server.requests if call.method == "POST"] == [True, True]
        counted = sum(run.final["usage"]["output_tokens"] for run in server.runs.values())
        assert response.usage.output_tokens == counted

    assert tool.cities == ["Delft"]


async def test_a_poll_that_ran_a_tool_is_not_sent_again():
    tool = Tool()
    faults = [CutAfterEvent(5), Status(503, on="create", after=1)]
    async with house(script=LOOKED_UP, tools=[tool.lookup], background=True, faults=faults) as (_, runtime, agent):
        error = (await failed(await runtime.submit(agent, "How is Delft?", stream=True))).error
        assert "503" in error.message

    assert tool.cities == ["Delft"]


@pytest.mark.parametrize(("status", "polls"), [(404, 1), (503, 10)])
async def test_polls_are_sent_again_while_they_may_pass_and_not_for_ever(status, polls):
    faults = [CutAfterEvent(6), Status(status, on="poll", times=None)]
    async with house(background=True, faults=faults) as (server, runtime, agent):
        assert str(status) in (await failed(await runtime.submit(agent, "x", stream=True))).error.message
        assert server.count("poll") == polls


async def test_a_stream_in_the_foreground_that_breaks_fails_the_run():
    for fault, code in ((CutAfterEvent(6), "ChatClientException"), (NoTerminalEvent(), "stream_cut")):
        async with house(faults=[fault], script=Script.text(STORY)) as (server, runtime, agent):
            response = await failed(await runtime.submit(agent, "x", stream=True))
            assert response.error.code == code
            assert STORY.startswith(response.text)
            assert server.count("poll") == 0


async def test_extra_says_background_for_one_run():
    async with house(script=Script.text(STORY), faults=[CutAfterEvent(6)]) as (server, runtime, agent):
        handle = await runtime.submit(agent, "x", options=AgentRunOptions(extra=BACKGROUND))
        assert (await handle).text == STORY
        assert server.requests[0].json["background"] is True


# --- what is asked ---


async def test_messages_with_roles_images_and_files_arrive():
    async with house() as (server, runtime, agent):
        picture, page = b"\x89PNG\r\n\x1a\n", b"%PDF-1.7"
        asked = [
            developer("Be kind."),
            user("What is this?", image(picture, detail="low"), image("https://example.com/x"), image("file-1")),
            user(file(page), file(b"a,b", name="a.csv"), file("https://example.com/y.pdf"), file("file-2")),
            {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "seen"},
        ]
        await (await runtime.submit(agent, asked))
        sent = server.requests[-1].json

    rules, *items = sent["input"]
    assert (rules["role"], rules["content"][0]["text"]) == ("developer", "Be kind.")
    assert [part["type"] for part in items[0]["content"]] == ["input_text", *["input_image"] * 3]
    assert items[0]["content"][1]["image_url"].startswith("data:image/png;base64,")
    assert items[0]["content"][1]["detail"] == "low"
    assert items[0]["content"][2]["image_url"] == "https://example.com/x"
    assert items[0]["content"][3]["file_id"] == "file-1"
    csv = {"type": "input_file", "file_data": "data:text/csv;base64,YSxi", "filename": "a.csv"}
    assert items[1]["content"][0]["file_data"].startswith("data:application/pdf;base64,")
    assert items[1]["content"][1] == csv
    assert items[1]["content"][2]["file_url"] == "https://example.com/y.pdf"
    assert items[1]["content"][3]["file_id"] == "file-2"
    assert [(item["type"], item["call_id"]) for item in items[2:]] == [
        ("function_call", "c1"),
        ("function_call_output", "c1"),
    ]


async def test_a_thread_of_ours_is_the_conversation():
    async with house() as (server, runtime, agent):
        thread = agent.get_new_thread()
        for text in ("one", "two"):
            await (await runtime.submit(agent, text, thread=thread))

        sent = [(item["role"], item["content"][0]["text"]) for item in server.requests[-1].json["input"]]
        assert sent == [("user", "one"), ("assistant", "You said: one"), ("user", "two")]
        assert "previous_response_id" not in server.requests[-1].json


async def test_a_thread_that_began_at_another_service_goes_on_here():
    script = [Script.of(Reasoning(("Hm.",)), Message("One."))]
    async with ResponsesServer(script=script) as elsewhere, house() as (server, runtime, agent):
        first = Agent(OpenAIResponses("gpt-5", api_key="key", base_url=elsewhere.base_url))
        thread = first.get_new_thread()
        await first.run("one", thread)
        await (await runtime.submit(agent, "two", thread=thread))
        await first.aclose()
        assert [item["role"] for item in server.requests[-1].json["input"]] == ["user", "assistant", "user"]


async def test_what_our_agent_adds_goes_with_the_run():
    options = AgentRunOptions(max_output_tokens=99, metadata={"who": "me"}, extra={"reasoning": {"effort": "low"}})
    settings = {"instructions": "In Dutch.", "tools": [{"type": "web_search"}], "output_type": Weather}
    tool = Tool()
    script = [LOOKED_UP[0], Script.json({"city": "Delft", "wind": 5})]
    async with house(script=script, settings=settings, tools=[tool.lookup]) as (server, runtime, agent):
        response = await (await runtime.submit(agent, "x", options=options, stream=True))
        assert response.value == Weather(city="Delft", wind=5), "of the last message alone"

        sent = server.requests[0].json
        assert sent["instructions"] == "Be brief.\nIn Dutch."
        assert {tool["type"] for tool in sent["tools"]} == {"function", "web_search"}
        assert (sent["max_output_tokens"], sent["metadata"]) == (99, {"who": "me"})
        assert sent["reasoning"] == {"effort": "low"}
        form = sent["text"]["format"]
        assert (form["type"], form["name"], form["strict"]) == ("json_schema", "Weather", True)
        assert form["schema"]["required"] == ["city", "wind"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("input", "options", "said"),
    [
        ("x", AgentRunOptions(reasoning_effort="low"), "reasoning_effort: say it in the words"),
        ("x", AgentRunOptions(service_tier="flex"), "service_tier"),
        ({"type": "item_reference", "id": "x"}, None, "not an item of type 'item_reference'"),
        ({"role": "tool", "content": "x"}, None, "role 'tool'"),
        ({"role": "user", "content": None}, None, "texts, images and files"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, None, "texts, images and files"),
        ({"role": "user", "content": ["x"]}, None, "not 'x'"),
        (user(file("file-1"), {"type": "input_image", "image_url": "nowhere"}), None, "URI must contain a scheme"),
    ],
)
async def test_what_it_has_no_word_for_is_refused_where_it_is_submitted(input, options, said, stream):
    async with house() as (server, runtime, agent):
        with pytest.raises(RequestRejected, match=said):
            await runtime.submit(agent, input, options=options, stream=stream)

        assert not server.requests


async def test_functions_belong_to_the_agent_inside():
    async with house(settings={"tools": [{"type": "function", "name": "look"}]}) as (server, runtime, agent):
        with pytest.raises(RequestRejected, match="the functions look, not the agent around it"):
            await runtime.submit(agent, "x")

        assert not server.requests


@pytest.mark.parametrize("made", [None, "agent", object(), Agent])
def test_anything_but_an_agent_is_refused(made):
    with pytest.raises(UsageError, match="takes an agent"):
        AgentFrameworkAgent(made)


# --- agents of one's own ---


class Own(framework.BaseAgent):
    """Tells updates as they are, by an iterator; `run` takes no options."""

    def __init__(self, *updates, **settings):
        super().__init__(name="own", **settings)
        self.updates = updates

    async def run(self, messages=None, *, stream=False, session=None, **kwargs):
        async def tell():
            for update in self.updates:
                await asyncio.sleep(0)
                yield framework.AgentResponseUpdate(role="assistant", **update)

        return tell()


class Endless(Own):
    async def run(self, messages=None, *, stream=False, session=None, **kwargs):
        await asyncio.Event().wait()


def text(said: str, mode=None):
    return {"contents": [framework.Content.from_text(said, merge_mode=mode)]}


def by(author: str, said: str, mode=None):
    return {**text(said, mode), "author_name": author}


async def run_own(*updates, **settings):
    async with AgentRuntime(poll=POLL) as runtime, Agent(AgentFrameworkAgent(Own(*updates)), **settings) as agent:
        handle = await runtime.submit(agent, "x", stream=True)
        await handle.wait()
        return await read(handle)


@pytest.mark.parametrize(
    ("updates", "whole"),
    [
        ([text("a"), text("b")], "ab"),
        ([text("a", "append"), text("ab", "replace"), text("abc", "replace")], "abc"),
        ([text("a"), text("a", "replace"), text("b"), text("b", "replace")], "ab"),
        ([text("a"), text("ab", "replace"), text("x"), text("y", "replace")], "aby"),
        ([text("wrong"), text("right", "replace"), text("er")], "righter"),
        ([text("a"), {**text("b"), "merge_mode": "replace"}], "b"),
        ([text("a", "replace"), text("", "append"), text("b", "replace")], "ab"),
        ([{**text("a"), "message_id": "1"}, {**text("b"), "message_id": "2"}], "ab"),
        ([by("A", "a"), by("B", "b"), by("A", "aa", "replace"), by("B", "bb", "replace")], "abab"),
        ([], ""),
    ],
)
async def test_text_is_told_once_and_right_however_it_is_merged(updates, whole):
    told = await run_own(*updates)
    assert joined(told) == whole
    assert told[-1].response.text == whole
    assert told[-1].response.status is RunStatus.COMPLETED


async def test_a_workflow_runs_as_an_agent():
    async with (
        ResponsesServer() as server,
        AsyncOpenAI(base_url=server.base_url, api_key="any") as client,
        AgentRuntime(poll=POLL) as runtime,
    ):
        first, *others = (
            framework.Agent(clients.OpenAIChatClient(model="test", async_client=client), name=name) for name in "ABC"
        )
        flow = framework.WorkflowBuilder(start_executor=first).add_fan_out_edges(first, others).build()
        async with Agent(AgentFrameworkAgent(flow.as_agent(name="flow"))) as agent:
            handle = await runtime.submit(agent, "x", stream=True)
            response = await handle
            assert [message.text for message in response.messages].count("You said: You said: x") == 2
            check(await read(handle), response.text)


async def test_an_error_among_the_contents_fails_the_run():
    content = framework.Content.from_error(message="no ink", error_code="ink")
    [*_, end] = await run_own(text("so far"), {"contents": [content]})
    assert (end.response.status, end.response.text) == (RunStatus.FAILED, "so far")
    assert (end.response.error.code, end.response.error.message) == ("ink", "no ink")


async def test_a_reason_to_finish_early_is_an_incomplete_run():
    [*_, end] = await run_own({**text("so"), "finish_reason": "length"})
    assert (end.response.status, end.response.error.code) == (RunStatus.INCOMPLETE, "length")


async def test_a_token_that_cannot_be_polled_fails_the_run():
    [*_, end] = await run_own({**text("so"), "continuation_token": {"task": "1"}})
    assert (end.response.status, end.response.error.code) == (RunStatus.FAILED, "stream_cut")


async def test_an_agent_without_options_is_given_none_in_silence():
    agent = Agent(AgentFrameworkAgent(Own()), instructions="Be kind.", output_type=Weather)
    with pytest.raises(RequestRejected, match="cannot be given: instructions, response_format"):
        await agent.run("x")
