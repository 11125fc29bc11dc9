"""A stream that is cut anywhere, any way, any number of times, reaches its consumer as if it had not been."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import cycle, islice

import pytest

from agentbg import Agent, AgentRunResponseUpdate, AgentRuntime
from agentbg.testing.server import CutAfterByte, CutAfterEvent, Fault, ResponsesServer, Script
from agentbg.testing.server.reply import How
from agentbg.testing.server.wire import frame

from .helpers import POLL, STREAM, agent_of, background, bounded, check

pytestmark = pytest.mark.usefixtures("wire")

STORY = Script.story(291)
EVENTS = 300
HOWS: tuple[How, ...] = ("clean", "fin", "rst")
AT_ONCE = 50
"""Runs in flight at a time."""

Way = Callable[[AgentRuntime, Agent[str]], Awaitable[Sequence[AgentRunResponseUpdate]]]


async def by_runtime(runtime: AgentRuntime, agent: Agent[str]) -> Sequence[AgentRunResponseUpdate]:
    handle = await runtime.submit(agent, "a story", stream=True)
    async with handle.stream() as updates:
        return [update async for update in updates]


async def by_agent(runtime: AgentRuntime, agent: Agent[str]) -> Sequence[AgentRunResponseUpdate]:
    async with agent.run_streaming("a story", agent.get_new_thread(), background()) as updates:
        return [update async for update in updates]


ways = pytest.mark.parametrize("way", [by_runtime, by_agent])


async def tell_stories(way: Way, count: int, faults: Sequence[Fault]) -> ResponsesServer:
    """So many runs under these faults, each checked to be whole and to have been paid for once."""
    server = ResponsesServer(script=STORY, faults=faults)
    gate = asyncio.Semaphore(AT_ONCE)
    async with server, agent_of(server) as agent, AgentRuntime(poll=POLL, stream=STREAM) as runtime, bounded():

        async def tell() -> None:
            async with gate:
                updates = await way(runtime, agent)

            assert updates[-1].response is not None
            run = server.runs[updates[-1].response.response_id or ""]
            assert len(run.events) == EVENTS
            check(updates, run.text)
            assert len(updates) == EVENTS, "no update is missing, and none was made up"

        await asyncio.gather(*(tell() for _ in range(count)))

    assert server.count("create") == count
    assert server.faults.pending == []
    return server


def cuts(places: Sequence[int], kind: type[CutAfterEvent | CutAfterByte]) -> Iterator[Fault]:
    """One cut per run, each kind of end in turn."""
    for run, (n, how) in enumerate(zip(places, cycle(HOWS), strict=False)):
        yield kind(n, how, run=run)


@ways
@pytest.mark.parametrize("first", range(1, EVENTS, 100))
async def test_a_cut_at_any_event_boundary_loses_nothing_and_repeats_nothing(way: Way, first: int) -> None:
    places = range(first, min(first + 100, EVENTS))
    server = await tell_stories(way, len(places), list(cuts(places, CutAfterEvent)))

    assert server.count("attach") == len(places), "one cut, one reconnect"
    assert server.count("poll") == 0


@pytest.mark.parametrize(("way", "seed"), [(by_runtime, 1), (by_agent, 2)])
async def test_a_cut_at_any_byte_loses_nothing_and_repeats_nothing(way: Way, seed: int) -> None:
    frames = await sizes()
    first, total = frames[0], sum(frames)
    offsets = random.Random(seed).sample(range(first, total), 100)
    server = await tell_stories(way, len(offsets), list(cuts(offsets, CutAfterByte)))

    assert len(offsets) <= server.count("attach") <= 2 * len(offsets)
    assert server.count("poll") <= len(offsets)


@ways
@pytest.mark.parametrize(("every", "how"), [*zip((1, 2, 3, 7, 50, 149), HOWS * 2, strict=True)])
async def test_a_stream_that_is_cut_again_and_again_still_arrives_whole(way: Way, every: int, how: How) -> None:
    server = ResponsesServer(script=STORY, faults=[CutAfterEvent(every, how, times=None)])
    async with server, agent_of(server) as agent, AgentRuntime(poll=POLL, stream=STREAM) as runtime, bounded():
        updates = await way(runtime, agent)

    check(updates, server.run().text)
    assert len(updates) == EVENTS
    assert server.count("create") == 1
    assert server.count("attach") <= EVENTS // every + 1
    assert server.count("poll") == 0, "each connection brought something new"


async def sizes() -> list[int]:
    """The bytes of each event on the wire."""
    async with ResponsesServer(script=STORY) as server, agent_of(server) as agent:
        await agent.run("a story", agent.get_new_thread(), background())
        return [len(frame(event)) for event in islice(server.run().events, EVENTS)]
