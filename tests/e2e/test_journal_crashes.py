"""A process is killed while it streams: every consumer's text is exact, however the journal is kept."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentbg import AgentRunResponseUpdate, AgentRuntime, UpdateType
from agentbg.stores import SQLiteStore
from agentbg.testing.server import ResponsesServer, Script

from .helpers import POLL, ROOT, STREAM, agent_of, bounded, joined

WORDS = 120
MODES = [
    {"journal": "full", "flush": "commit"},
    {"journal": "full", "flush": "pipelined"},
    {"journal": "checkpoint"},
    {"journal": "off"},
]

WATCH = """
import asyncio, json, sys
from agentbg import Agent, AgentRuntime, PollPolicy
from agentbg.providers import OpenAIResponses
from agentbg.stores import SQLiteStore

def say(what):
    print(json.dumps(what), flush=True)

async def main(url, path, mode, known, after):
    agent = Agent(OpenAIResponses("test", base_url=url, api_key="any"))
    poll = PollPolicy(initial=0.01, maximum=0.02)
    async with agent, AgentRuntime(SQLiteStore(path), poll=poll, agents=[agent], **json.loads(mode)) as runtime:
        handle = await (runtime.get(known) if known else runtime.submit(agent, "a story", stream=True))
        say(handle.id)
        async for update in handle.stream(after=int(after)):
            say([update.seq, update.type, update.text])

asyncio.run(main(*sys.argv[1:]))
"""


class Watcher:
    """A process that owns the run, and says each update as it sees it."""

    async def start(self, server: ResponsesServer, path: Path, mode: dict[str, str], known: str, after: int) -> str:
        arguments = (server.base_url, str(path), json.dumps(mode), known, str(after))
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WATCH, *arguments, cwd=ROOT, stdout=subprocess.PIPE
        )
        return await self.line()

    async def line(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(await self.process.stdout.readline())

    async def kill(self) -> list[AgentRunResponseUpdate]:
        """All that it said until it died."""
        self.process.send_signal(signal.SIGKILL)
        rest, _ = await self.process.communicate()
        lines = [line for line in rest.decode().split("\n")[:-1] if line.endswith("]")]
        return [read(json.loads(line)) for line in lines]


def read(said: list[Any]) -> AgentRunResponseUpdate:
    seq, kind, text = said
    return AgentRunResponseUpdate(UpdateType(kind), seq, text)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: "-".join(mode.values()))
async def test_a_killed_process_leaves_every_consumer_with_a_text_that_the_next_makes_whole(
    mode: dict[str, str], tmp_path: Path
) -> None:
    script = Script.story(WORDS).lasting(delay=0.01)
    async with ResponsesServer(script=script) as server, bounded(60):
        seen: list[AgentRunResponseUpdate] = []
        known = ""
        for until in (25, 60):
            watcher = Watcher()
            known = await watcher.start(server, tmp_path / "runs", mode, known, seen[-1].seq if seen else 0)
            while len(seen) < until:
                seen.append(read(await watcher.line()))

            seen += await watcher.kill()

        text = server.run(0).text
        async with (
            agent_of(server) as agent,
            AgentRuntime(SQLiteStore(tmp_path / "runs"), poll=POLL, stream=STREAM, agents=[agent], **mode) as runtime,  # type: ignore[arg-type]
        ):
            handle = await runtime.get(known)
            assert (await handle.result()).text == text
            for held in [seen[:count] for count in range(len(seen) + 1)]:
                after = held[-1].seq if held else 0
                rest = [update async for update in handle.stream(after=after)]
                assert joined([*held, *rest]) == text
                assert [update.type for update in (*held, *rest)].count(UpdateType.END) == 1
                seqs = [update.seq for update in (*held, *rest)]
                assert seqs == sorted(set(seqs))
                if mode == MODES[0]:
                    assert seqs == list(range(1, len(seqs) + 1))

        assert server.count("create") == 1
