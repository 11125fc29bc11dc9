"""What one process began, another goes on with: by a token, or by the store."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentbg import AgentRuntime, RunStatus, SubmitUnknown
from agentbg.stores import SQLiteStore
from agentbg.testing.server import CutAfterEvent, FullReplay, ResponsesServer, Script, SlowBody, TooOld

from .helpers import POLL, ROOT, STREAM, agent_of, background, bounded, check, joined, python

STORY = Script.story(20)
EVENTS = 29

RESUME = """
import asyncio, json, sys
from agentbg import Agent, AgentRunOptions
from agentbg.providers import OpenAIResponses

async def resume(agent, token):
    options = AgentRunOptions(allow_background_responses=True, continuation_token=token)
    updates = agent.run_streaming(thread=agent.get_new_thread(), options=options)
    return [[update.seq, update.type, update.text] async for update in updates]

async def main(url, tokens):
    async with Agent(OpenAIResponses("test", base_url=url, api_key="any")) as agent:
        print(json.dumps([await resume(agent, token) for token in json.loads(tokens)]))

asyncio.run(main(*sys.argv[1:]))
"""

DRIVE = """
import asyncio, sys
from agentbg import Agent, AgentRuntime, PollPolicy
from agentbg.providers import OpenAIResponses
from agentbg.stores import SQLiteStore

async def main(url, path, how):
    agent = Agent(OpenAIResponses("test", base_url=url, api_key="any"))
    async with agent, AgentRuntime(SQLiteStore(path), poll=PollPolicy(initial=0.01, maximum=0.02)) as runtime:
        handles = [await runtime.submit(agent, "a story", stream=streamed) for streamed in (False, True)]
        async with handles[1].stream() as updates:
            async for update in updates:
                print(update.text, end="", flush=True)
                if update.seq == 12:
                    break

        print("", *(handle.id for handle in handles), sep="\\n", flush=True)
        if how == "kill":
            await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


async def held_until(agent: Any, last: int) -> list[Any]:
    """The updates of a new run up to `last`, then a break."""
    held = []
    async with agent.run_streaming("a story", agent.get_new_thread(), background()) as updates:
        async for update in updates:
            held.append(update)
            if update.seq == last:
                break

    return held


@pytest.mark.parametrize("fault", ["none", "cuts", "replay", "too old"])
async def test_a_token_of_any_update_gives_another_process_exactly_the_rest(fault: str) -> None:
    """Across all places at once: a token for each update, all resumed by one new process."""
    faults = {
        "none": [],
        "cuts": [CutAfterEvent(3, "rst", on="attach", times=None)],
        "replay": [FullReplay()],
        "too old": [TooOld(times=None)],
    }
    async with ResponsesServer(script=STORY, faults=faults[fault]) as server, agent_of(server) as agent, bounded(60):
        places = range(1, EVENTS) if fault == "none" else range(1, EVENTS, 4)
        held = [await held_until(agent, last) for last in places]
        tokens = [str(updates[-1].continuation_token) for updates in held]
        rests, _ = await python(RESUME, server.base_url, json.dumps(tokens))

        for index, (before, rest) in enumerate(zip(held, rests, strict=True)):
            seqs = [update.seq for update in before] + [seq for seq, _, _ in rest]
            assert seqs == list(range(1, len(seqs) + 1))
            assert "reset" not in [kind for _, kind, _ in rest]
            assert rest[-1][1] == "end"
            assert joined(before) + "".join(text for _, _, text in rest) == server.run(index).text
            assert fault == "too old" or len(seqs) == EVENTS

        assert server.count("create") == len(held)


async def test_a_token_given_on_from_process_to_process_still_gives_exactly_the_rest() -> None:
    async with ResponsesServer(script=STORY) as server, agent_of(server) as agent, bounded(60):
        text, last = "", 0
        token: Any = None
        while True:
            options = background(token)
            thread = agent.get_new_thread()
            async with agent.run_streaming(None if token else "a story", thread, options) as updates:
                update = await anext(updates)

            assert update.seq == last + 1
            last, text, token = update.seq, text + update.text, update.continuation_token
            if token is None:
                break

            token = str(token)  # all that a process leaves to the next

        assert text == server.run().text
        assert last == EVENTS
        assert server.count("create") == 1


@pytest.mark.parametrize("how", ["exit", "kill"])
async def test_runs_of_a_process_that_is_gone_go_on_in_the_next(how: str, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    script = STORY.lasting(delay=0.02)
    async with ResponsesServer(script=script) as server, bounded(60):
        seen, polled, streamed = await drive(server, path, how)
        assert server.run(1).text.startswith(seen)
        async with (
            agent_of(server) as agent,
            AgentRuntime(SQLiteStore(path), poll=POLL, stream=STREAM, agents=[agent]) as runtime,
        ):
            handle = await runtime.get(streamed)
            rest = [update async for update in handle.stream(after=12)]
            check(rest, server.run(1).text, after=12, before=seen)
            assert 12 + len(rest) in (EVENTS, EVENTS + 1)
            assert (await handle.result()).text == server.run(1).text
            assert joined([update async for update in handle.stream()]) == server.run(1).text

            handle = await runtime.get(polled)
            assert (await handle.result()).text == server.run(0).text
            check([update async for update in handle.stream()], server.run(0).text)
            assert [handle.status for handle in await runtime.list()] == [RunStatus.COMPLETED] * 2

        assert server.count("create") == 2


@pytest.mark.parametrize("how", ["exit", "kill"])
async def test_runs_that_ended_while_no_process_looked_give_their_results(how: str, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    async with ResponsesServer(script=STORY.lasting(delay=0.02)) as server, bounded(60):
        seen, polled, streamed = await drive(server, path, how)
        server.advance(3600)  # too late for streams, too
        async with (
            agent_of(server) as agent,
            AgentRuntime(SQLiteStore(path), poll=POLL, stream=STREAM, agents=[agent]) as runtime,
        ):
            rest = [update async for update in (await runtime.get(streamed)).stream(after=12)]
            check(rest, server.run(1).text, after=12, before=seen)
            assert (await (await runtime.get(polled)).result()).text == server.run(0).text


async def test_an_intent_whose_process_died_before_the_answer_is_a_submit_nobody_knows_of(tmp_path: Path) -> None:
    path = tmp_path / "runs"
    async with ResponsesServer(script=STORY, faults=[SlowBody(60, on="create")]) as server, bounded(60):
        process = await start(DRIVE, server.base_url, str(path), "kill")
        while not server.requests:
            assert process.returncode is None
            await asyncio.sleep(0.01)

        process.send_signal(signal.SIGKILL)
        await process.wait()
        async with agent_of(server) as agent, AgentRuntime(SQLiteStore(path), poll=POLL, agents=[agent]) as runtime:
            (handle,) = await runtime.list()
            with pytest.raises(SubmitUnknown, match="not known whether"):
                await handle.result()

        assert server.count("create") == 1


async def drive(server: ResponsesServer, path: Path, how: str) -> tuple[str, str, str]:
    """Start two runs in a process of their own, read twelve updates of the second, and lose the process."""
    process = await start(DRIVE, server.base_url, str(path), how)
    assert process.stdout is not None
    seen, polled, streamed = [(await process.stdout.readline()).decode().removesuffix("\n") for _ in range(3)]
    if how == "kill":
        process.send_signal(signal.SIGKILL)

    assert await process.wait() == (-signal.SIGKILL if how == "kill" else 0)
    assert streamed.startswith("run_")
    return seen, polled, streamed


async def start(code: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *arguments, cwd=ROOT, stdout=subprocess.PIPE
    )
