"""A process that is killed in a tool loop: the next one goes on, makes no call twice, and says what it cannot know."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentbg import AgentRuntime, BackgroundHandle, RunStatus, SubmitUnknown, tool
from agentbg.stores import SQLiteStore
from agentbg.testing.server import Exchange, Fault, Pause, Reply, ResponsesServer, Script, Status, Turns

from .desk import Desk, calls, told
from .helpers import POLL, STREAM, agent_of, bounded, collect, joined
from .test_resume_process import start

INTERRUPTED = "Error: the process ended while this call was being made."
SCRIPT = Turns([Script.of(*calls("Rome").items, *calls("Oslo").items), told])

DRIVE = """
import asyncio, sys
from agentbg import Agent, AgentRuntime, AuthenticationFailed, PollPolicy, RunContext, tool
from agentbg.providers import OpenAIResponses
from agentbg.stores import SQLiteStore

hanging = []

async def weather(city: str, context: RunContext) -> str:
    if city in hanging:
        print("hangs", context.call_id, flush=True)
        await asyncio.sleep(60)

    return f"rain in {city}"

async def watch(handle):
    if not hanging:
        try:
            print(await handle.wait(), flush=True)
        except AuthenticationFailed:
            print("denied", flush=True)

    async for update in handle.stream():
        if update.raw and update.raw.get("item", {}).get("type") == "function_call_output":
            print("made", flush=True)

async def main(url, path, idempotent, approval, *cities):
    hanging.extend(cities)
    tools = [tool(weather, idempotent=idempotent == "True", requires_approval=approval == "True")]
    agent = Agent(OpenAIResponses("test", base_url=url, api_key="any"), tools=tools)
    async with agent, AgentRuntime(SQLiteStore(path), poll=PollPolicy(initial=0.01, maximum=60)) as runtime:
        async with asyncio.TaskGroup() as group:
            for stream in (False, True):
                group.create_task(watch(await runtime.submit(agent, "Weather?", stream=stream)))

        await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


@dataclass(frozen=True)
class Unanswered(Fault):
    """A create does its work, and its answer never comes."""

    def answer(self, exchange: Exchange, serve: Callable[[], Reply]) -> Reply:
        return serve().with_body(iter((Pause(),)))


async def said(process: asyncio.subprocess.Process, **wanted: int) -> dict[str, list[str]]:
    """What the process has said once it has said each word so often: what came after each."""
    assert process.stdout is not None
    heard: dict[str, list[str]] = {word: [] for word in wanted}
    while any(len(heard[word]) < times for word, times in wanted.items()):
        line = (await process.stdout.readline()).decode().strip()
        assert line, "the process has ended"
        word, _, rest = line.partition(" ")
        heard.setdefault(word, []).append(rest)

    return heard


@asynccontextmanager
async def killed(
    server: ResponsesServer, path: Path, *, hangs: Sequence[str] = (), idempotent: bool = False, approval: bool = False
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process with two runs, one polled and one streamed. It is killed at the end of the block."""
    process = await start(DRIVE, server.base_url, str(path), str(idempotent), str(approval), *hangs)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        assert await process.wait() == -signal.SIGKILL


@asynccontextmanager
async def next_process(
    server: ResponsesServer, path: Path, desk: Desk, **settings: Any
) -> AsyncIterator[Sequence[BackgroundHandle[Any]]]:
    """The two runs in this process."""
    tools = [tool(desk.weather, **settings)]
    async with (
        agent_of(server, tools=tools) as agent,
        AgentRuntime(SQLiteStore(path), poll=POLL, stream=STREAM, agents=[agent]) as runtime,
    ):
        handles = await runtime.list()
        assert len(handles) == 2
        yield handles


async def texts(handles: Sequence[BackgroundHandle[Any]]) -> set[str]:
    """The runs' answers, each held to its stream."""
    found: set[str] = set()
    for handle in handles:
        text = (await handle.result()).text
        updates = await collect(handle.stream())
        assert [update.seq for update in updates] == list(range(1, len(updates) + 1))
        assert joined(updates) == text
        found.add(text)

    return found


def check_contexts(server: ResponsesServer) -> None:
    """Each last round has seen its two calls and their outputs once."""
    for run in server.runs.values():
        kinds = [item["type"] for item in run.context]
        assert len(kinds) in (1, 5)
        assert len({item["call_id"] for item in run.context if "call_id" in item}) == len(kinds) // 2


async def test_a_call_that_was_being_made_is_told_to_the_model_and_not_made_again(tmp_path: Path) -> None:
    """The other call of the round had ended: what it gave is told as it was."""
    desk = Desk()
    async with ResponsesServer(script=SCRIPT) as server, bounded(60):
        async with killed(server, tmp_path / "runs", hangs=["Rome"]) as process:
            await said(process, hangs=2, made=2)

        async with next_process(server, tmp_path / "runs", desk) as handles:
            (text,) = await texts(handles)

        assert text.startswith(INTERRUPTED)
        assert text.endswith(", rain in Oslo")
        assert desk.begun == []
        assert server.count("create") == 4
        check_contexts(server)


async def test_an_idempotent_call_that_was_being_made_is_made_again_under_its_id(tmp_path: Path) -> None:
    desk = Desk()
    async with ResponsesServer(script=SCRIPT) as server, bounded(60):
        async with killed(server, tmp_path / "runs", hangs=["Rome"], idempotent=True) as process:
            ids = (await said(process, hangs=2, made=2))["hangs"]

        async with next_process(server, tmp_path / "runs", desk, idempotent=True) as handles:
            assert await texts(handles) == {"rain in Rome, rain in Oslo"}

        assert desk.begun == ["Rome", "Rome"], "that which had ended is not made again"
        assert sorted(desk.ids) == sorted(ids)
        check_contexts(server)


async def test_outputs_that_were_not_sent_are_sent_by_the_next_process(tmp_path: Path) -> None:
    desk = Desk()
    denied = Status(401, on="create", after=2, times=2)
    async with ResponsesServer(script=SCRIPT, faults=[denied]) as server, bounded(60):
        async with killed(server, tmp_path / "runs") as process:
            await said(process, denied=2)

        async with next_process(server, tmp_path / "runs", desk) as handles:
            assert await texts(handles) == {"rain in Rome, rain in Oslo"}

        assert desk.begun == []
        assert server.count("create") == 6
        check_contexts(server)


async def test_outputs_that_were_sent_but_not_answered_are_sent_again_by_the_user_only(tmp_path: Path) -> None:
    desk = Desk()
    unanswered = Unanswered(on="create", after=2, times=2)
    async with ResponsesServer(script=SCRIPT, faults=[unanswered]) as server, bounded(60):
        async with killed(server, tmp_path / "runs"):
            while server.count("create") < 4:
                await asyncio.sleep(0.01)

        async with next_process(server, tmp_path / "runs", desk) as handles:
            for handle in handles:
                with pytest.raises(SubmitUnknown, match="the process ended"):
                    await handle.result()

            assert server.count("create") == 4
            for handle in handles:
                await handle.respond()

            assert await texts(handles) == {"rain in Rome, rain in Oslo"}

        assert desk.begun == []
        assert server.count("create") == 6
        check_contexts(server)


async def test_a_run_that_waits_for_its_user_is_answered_in_the_next_process(tmp_path: Path) -> None:
    desk = Desk()
    async with ResponsesServer(script=SCRIPT) as server, bounded(60):
        async with killed(server, tmp_path / "runs", approval=True) as process:
            await said(process, input_required=2)

        async with next_process(server, tmp_path / "runs", desk, requires_approval=True) as handles:
            for handle in handles:
                assert handle.status is RunStatus.INPUT_REQUIRED
                rome, oslo = handle.response.requests
                await handle.respond(rome.approve(), oslo.reject("too far"))

            (text,) = await texts(handles)

        assert text == "rain in Rome, The user did not allow this call. too far"
        assert desk.begun == ["Rome", "Rome"]
        check_contexts(server)
