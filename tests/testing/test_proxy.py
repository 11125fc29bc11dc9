"""The cutting proxy, in front of the server that stands for a real one."""

from __future__ import annotations

import asyncio

import pytest
from responses_client import JOB, attach, create, poll, sdk

from agentbg.testing.proxy import CuttingProxy, ResponseCut
from agentbg.testing.server import Comments, Fragment, ResponsesServer, Script

STORY = Script.story(30)


class Seen:
    """The server's runs, seen through the proxy."""

    def __init__(self, server, proxy):
        self.run = server.run
        self.base_url = proxy.base_url


async def test_without_cuts_all_passes_unchanged():
    async with ResponsesServer(script=STORY) as server, CuttingProxy(server.base_url) as proxy:
        seen = Seen(server, proxy)
        assert (await create(seen, stream=True)).text == (await attach(server)).text
        async with sdk(proxy) as client:
            response = await client.responses.create(**JOB)
            assert (await client.responses.retrieve(response.id)).output_text == server.run().text


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("faults", [[], [Fragment(3, times=None)], [Comments(times=None)]])
async def test_a_stream_is_cut_after_exactly_so_many_events(how, faults):
    async with (
        ResponsesServer(script=STORY, faults=faults) as server,
        CuttingProxy(server.base_url, [ResponseCut(events=5, how=how), ResponseCut(events=1, how=how)]) as proxy,
    ):
        seen = Seen(server, proxy)
        cut = await create(seen, stream=True)
        assert (cut.numbers, cut.end, cut.whole) == ([0, 1, 2, 3, 4], how, False)
        assert (await attach(seen, 4)).numbers == [5]
        rest = await attach(seen, 5)
        assert (rest.numbers[0], rest.whole, proxy.cuts_made) == (6, True, 2)


@pytest.mark.parametrize("n", [1, 100, 5000])
async def test_a_stream_is_cut_after_exactly_so_many_bytes(n):
    async with (
        ResponsesServer(script=STORY) as server,
        CuttingProxy(server.base_url, [ResponseCut(bytes=n)]) as proxy,
    ):
        assert len((await create(Seen(server, proxy), stream=True)).body) == n


async def test_only_streams_are_cut_unless_told_otherwise():
    async with (
        ResponsesServer(script=STORY) as server,
        CuttingProxy(server.base_url, [ResponseCut(bytes=10)]) as proxy,
    ):
        seen = Seen(server, proxy)
        await create(seen)
        assert (await poll(seen)).json["status"] == "completed"
        assert (proxy.cuts_made, len(proxy.pending)) == (0, 1)
        proxy.pending.clear()
        proxy.pending.append(ResponseCut(bytes=10, streams_only=False))
        assert len((await poll(seen)).body) == 10


async def test_a_response_that_is_too_short_does_not_use_a_cut_up():
    async with (
        ResponsesServer(script=[Script.text("Hi"), STORY]) as server,
        CuttingProxy(server.base_url, [ResponseCut(events=20)]) as proxy,
    ):
        seen = Seen(server, proxy)
        assert (await create(seen, stream=True)).whole
        assert proxy.cuts_made == 0
        assert len((await create(seen, stream=True)).events) == 20


async def test_each_response_of_one_connection_is_counted_anew():
    async with (
        ResponsesServer(script=STORY) as server,
        CuttingProxy(server.base_url, [ResponseCut(events=7)]) as proxy,
        sdk(proxy) as client,
    ):
        response = await client.responses.create(**JOB)
        await client.responses.retrieve(response.id)
        numbers = []
        with pytest.raises(Exception, match="Connection error"):
            await _read(await client.responses.create(**JOB, stream=True), numbers)

        assert numbers == list(range(7))


async def _read(stream, numbers):
    async for event in stream:
        numbers.append(event.sequence_number)


async def test_a_live_stream_passes_at_once_and_ends_with_the_client():
    async with (
        ResponsesServer(script=STORY.lasting(queued=60)) as server,
        CuttingProxy(server.base_url, [ResponseCut(events=50)]) as proxy,
    ):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.03):
                await create(Seen(server, proxy), stream=True)

        server.advance(60)
        assert (await attach(Seen(server, proxy), 1)).whole


async def test_a_service_that_is_not_there_ends_the_connection():
    async with ResponsesServer() as server:
        gone = server.base_url

    async with CuttingProxy(gone) as proxy:
        assert (await create(proxy)).status == 0


def test_a_cut_needs_exactly_one_place():
    with pytest.raises(ValueError, match="events"):
        ResponseCut()

    with pytest.raises(ValueError, match="events"):
        ResponseCut(events=1, bytes=1)


def test_a_proxy_that_does_not_run_has_no_address():
    with pytest.raises(RuntimeError, match="async with"):
        _ = CuttingProxy("http://127.0.0.1:1/v1").base_url
