"""The public API as type checkers see it. Never run: pyright and mypy, both strict, read it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, assert_type

from openai import AsyncAzureOpenAI, AsyncOpenAI
from pydantic import BaseModel

import agentbg
from agentbg import (
    Agent,
    AgentRunOptions,
    AgentRunResponse,
    AgentRunResponseUpdate,
    AgentRuntime,
    AgentThread,
    Answer,
    BackgroundHandle,
    ContinuationToken,
    InputRequest,
    InputRequired,
    Message,
    Outcome,
    PollPolicy,
    Progress,
    RequestKind,
    ResumableStream,
    RunContext,
    RunError,
    RunErrorInfo,
    RunFailed,
    RunStatus,
    RunTimeout,
    StreamPolicy,
    SubmitUnknown,
    UpdateType,
    Usage,
    WebhookOutcome,
    tool,
)
from agentbg.inputs import developer, file, image, system, text, user
from agentbg.providers import AzureOpenAIResponses, OpenAIResponses, Provider
from agentbg.stores import MemoryStore, SQLiteStore


class Report(BaseModel):
    title: str


provider: Provider = OpenAIResponses("gpt-5", client=AsyncOpenAI())
azure: Provider = AzureOpenAIResponses("gpt-5", client=AsyncAzureOpenAI())
by_token: Provider = AzureOpenAIResponses("gpt-5", azure_endpoint="…", token_provider=lambda: "…", api_version="…")
agent = Agent(provider, name="researcher", instructions="…", tools=[{"type": "web_search"}], output_type=Report)
plain = Agent(OpenAIResponses(model="gpt-5", api_key="…", base_url="http://127.0.0.1/v1"))

assert_type(agent, Agent[Report])
assert_type(plain, Agent[str])
assert_type(Agent(provider, output_type=None), Agent[str])
assert_type(Agent(provider, output_type=str), Agent[str])
assert_type(Agent(provider, output_type=list[int]), Agent[list[int]])
assert_type(Agent(provider, output_type=bool), Agent[bool])
either: Agent[Any] = Agent(provider, output_type=Literal["yes", "no"])


async def the_seeds_own_api() -> None:
    thread = agent.get_new_thread()
    assert_type(thread, AgentThread)
    options = AgentRunOptions(allow_background_responses=True)
    response = await agent.run("What is the weather like in Amsterdam?", thread, options)
    while response.continuation_token is not None:
        await asyncio.sleep(2)
        options.continuation_token = response.continuation_token
        response = await agent.run(thread=thread, options=options)

    assert_type(response, AgentRunResponse[Report])
    assert_type(response.text, str)
    assert_type(response.value, Report)
    assert_type(response.value.title, str)
    assert_type(response.status, RunStatus)
    assert_type(response.messages, Sequence[Message])
    assert_type(response.response_id, str | None)
    assert_type(response.usage, Usage | None)
    assert_type(response.error, RunErrorInfo | None)
    assert_type((await plain.run("…")).value, str)

    update: AgentRunResponseUpdate | None = None
    async with agent.run_streaming("Tell me a joke about a pirate.", thread, options) as updates:
        assert_type(updates, ResumableStream)
        async for update in updates:
            print(update.text, end="")
            break

    assert update is not None
    assert_type(update.continuation_token, ContinuationToken | None)
    assert_type(update.type, UpdateType)
    assert_type(update.seq, int)
    options.continuation_token = update.continuation_token
    async for update in agent.run_streaming(thread=thread, options=options):
        assert_type(update, AgentRunResponseUpdate)


async def inputs_of_every_shape() -> None:
    await plain.run("text")
    await plain.run(Message("user", "text"))
    await plain.run({"role": "user", "content": "text"})
    await plain.run([Message("user", "text"), {"type": "item_reference", "id": "msg_1"}])
    await plain.run(user("text", image(Path("a.png"), detail="low"), file(b"%PDF-", name="a.pdf"), text("more")))
    await plain.run([system("rules"), developer("rules"), user("text")])
    await plain.run("text", options=AgentRunOptions(extra={"reasoning": {"effort": "high"}}))
    await plain.run(
        "text", options=AgentRunOptions(reasoning_effort="high", max_output_tokens=500, service_tier="flex")
    )
    Agent(provider, options=AgentRunOptions(metadata={"team": "research"}), output_type=Report)


async def streams_of_partials_and_by_token(token: ContinuationToken, handle: BackgroundHandle[Report]) -> None:
    async for update in agent.run_streaming("A report on tides", partial=True):
        if update.partial is not None:
            assert_type(str(update.partial["title"]), str)

    assert_type(handle.stream(after=3, partial=True), ResumableStream)
    assert_type(agentbg.resume_stream(agent, token, partial=True), ResumableStream)
    async with agentbg.resume_stream(plain, str(token), thread=AgentThread(), options=AgentRunOptions()) as updates:
        assert_type([update async for update in updates], list[AgentRunResponseUpdate])


def progress(so_far: Progress) -> None:
    print(so_far.done, so_far.total, so_far.eta)


async def many_runs(runtime: AgentRuntime, handles: list[BackgroundHandle[Report]]) -> None:
    assert_type(await runtime.gather(handles), Sequence[AgentRunResponse[Report]])
    either = await runtime.gather(handles, return_exceptions=True)
    assert_type(either, Sequence[AgentRunResponse[Report] | Exception])

    topics = (topic for topic in ("batteries", "robots"))
    batch = runtime.submit_many(agent, topics, max_active=2, deadline=600, on_deadline="cancel")
    async for outcome in batch:
        assert_type(outcome, Outcome[Report])
        assert_type(await outcome.result(), AgentRunResponse[Report])

    assert_type(await runtime.submit_many(agent, ["x"], max_active=2), list[AgentRunResponse[Report]])
    mixed = await runtime.submit_many(agent, ["x"], max_active=2, return_exceptions=True, on_progress=progress)
    assert_type(mixed, list[AgentRunResponse[Report] | Exception])
    assert_type(runtime.webhook(b"{}", {"webhook-id": "wh_1"}).outcome, WebhookOutcome)
    assert_type(runtime.webhook("{}", [(b"webhook-id", b"wh_1")]).response_id, str | None)
    assert_type(runtime.stats().runs[RunStatus.RUNNING], int)


async def the_runtime() -> None:
    thread = agent.get_new_thread()
    async with AgentRuntime(store=SQLiteStore("runs.db"), poll=PollPolicy(), stream=StreamPolicy()) as runtime:
        handle = await runtime.submit(agent, "Survey solid-state batteries", thread=thread)
        assert_type(handle, BackgroundHandle[Report])
        assert_type(await handle, AgentRunResponse[Report])
        response = await handle.result(timeout=600)
        assert_type(response, AgentRunResponse[Report])
        assert_type(response.value, Report)

        streamed = await runtime.submit(plain, "Tell me a story", stream=True, deadline=3600, metadata={"user": 7})
        assert_type(streamed, BackgroundHandle[str])
        assert_type((await streamed).value, str)
        async with streamed.stream() as updates:
            async for update in updates:
                print(update.text, end="")

        handles = [await runtime.submit(agent, topic) for topic in ("batteries", "robots")]
        assert_type(handles, list[BackgroundHandle[Report]])
        async for done in runtime.as_completed(handles):
            assert_type(done, BackgroundHandle[Report])
            assert_type(done.response.value, Report)

        responses = await asyncio.gather(*handles)
        assert_type(responses, list[AgentRunResponse[Report]])

        assert_type(handle.id, str)
        assert_type(handle.status, RunStatus)
        assert_type(handle.token, ContinuationToken | None)
        assert_type(handle.elapsed, float)
        assert_type(handle.done(), bool)
        assert_type(await handle.wait(timeout=1.0), RunStatus)
        assert_type(await handle.cancel(reason="superseded"), RunStatus)
        handle.add_done_callback(lambda done: print(assert_type(done, BackgroundHandle[Report]).id))
        token = str(handle.token)
        assert_type(ContinuationToken.parse(token), ContinuationToken)


def lookup(city: str) -> str:
    return city


@tool(requires_approval=True)
async def refund(order: int, context: RunContext) -> bool:
    return order > 0


clerk = Agent(provider, tools=[lookup, refund, {"type": "web_search"}], max_rounds=10, output_type=Report)
assert_type(clerk, Agent[Report])
assert_type(Agent(provider, tools=[refund]), Agent[str])
Agent(provider, tools=["web_search"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
Agent(provider, tools=lookup)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


async def the_user_is_asked(runtime: AgentRuntime, run_id: str) -> None:
    handle = await runtime.submit(clerk, "Refund order 7")
    try:
        await handle
    except InputRequired as error:
        assert_type(error.response.requests, Sequence[InputRequest])
        for request in error.response.requests:
            assert_type(request.kind, RequestKind)
            assert_type(request.name, str)
            assert_type(request.arguments, str)
            assert_type(request.approve(), Answer)
            assert_type(request.reject("too expensive"), Answer)
            assert_type(request.answer("42"), Answer)
            request.answer([text("42"), image("a.png")])
            request.answer(42)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

        assert_type(await handle.respond(*(request.approve() for request in error.response.requests)), RunStatus)

    assert_type(await handle.respond(), RunStatus)
    await handle.respond("yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    thread = clerk.get_new_thread()
    response = await clerk.run("Refund order 7", thread)
    assert_type(await clerk.run(response.requests[0].approve(), thread), AgentRunResponse[Report])
    assert_type(await clerk.run([request.reject() for request in response.requests], thread), AgentRunResponse[Report])
    clerk.run_streaming([Answer("call_1", output="42")], thread)


async def another_process_another_day(run_id: str, token: str, last_seen_seq: int) -> None:
    async with AgentRuntime(store=SQLiteStore("runs.db"), agents=[agent, plain]) as runtime:
        assert_type(await runtime.get(run_id), BackgroundHandle[Any])
        handle = await runtime.resume(token, agent=agent)
        assert_type(handle, BackgroundHandle[Report])
        async with handle.stream(after=last_seen_seq) as updates:
            async for update in updates:
                assert_type(update, AgentRunResponseUpdate)

        for each in await runtime.list(status="running"):
            assert_type(each, BackgroundHandle[Any])
            print(each.id, each.status, each.elapsed)

        await runtime.list(status=[RunStatus.QUEUED, "running"], agent="researcher", limit=10)

    async with AgentRuntime(MemoryStore()):
        pass


async def errors(handle: BackgroundHandle[Report]) -> None:
    try:
        await handle.result(timeout=1)
    except RunTimeout as error:
        assert_type(error.token, ContinuationToken | None)
    except RunFailed as error:
        assert_type(error.response.error, RunErrorInfo | None)
        assert_type(error.handle, BackgroundHandle[Any] | None)
    except RunError as error:
        assert_type(error.token, ContinuationToken | None)
    except SubmitUnknown as error:
        assert_type(error.reason, str)
        assert_type(error.run_id, str | None)


class Saved(BaseModel):
    token: ContinuationToken
