"""Webhooks over real connections: a service that sends them, and a web application that takes them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from aiohttp import ClientSession, web

from agentbg import Agent, AgentRuntime, PollPolicy, WebhookInvalid
from agentbg.providers import OpenAIResponses
from agentbg.testing import signed_webhook
from agentbg.testing.server import ResponsesServer, Script

from .helpers import bounded

SECRET = "whsec_c2VjcmV0IG9mIHRoZSB0ZXN0cw=="
RARELY = PollPolicy(safety=3600.0)


@asynccontextmanager
async def application(runtime: AgentRuntime):
    """The web application of a user: one route. Gives its address."""

    async def take(request: web.Request) -> web.Response:
        try:
            receipt = runtime.webhook(await request.read(), request.headers)
        except WebhookInvalid:
            return web.Response(status=400)

        return web.Response(text=receipt.outcome)

    app = web.Application()
    app.router.add_post("/webhook", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/webhook"
    finally:
        await runner.cleanup()


@bounded()
async def test_runs_are_seen_when_they_are_announced_forged_replayed_and_in_any_order():
    async with ResponsesServer(script=Script.text("Hello").lasting(running=1000)) as server:
        agent = Agent(OpenAIResponses("test", base_url=server.base_url, api_key="any", webhook_secret=SECRET))
        async with agent, AgentRuntime(webhooks=True, poll=RARELY) as runtime, application(runtime) as address:
            handles = [await runtime.submit(agent, "x") for _ in range(3)]
            ids = [handle.response.response_id for handle in handles]
            async with ClientSession() as service:

                async def send(webhook: tuple[bytes, dict[str, str]]) -> tuple[int, str]:
                    async with service.post(address, data=webhook[0], headers=webhook[1]) as answer:
                        return answer.status, await answer.text()

                early = signed_webhook(ids[0], secret=SECRET)
                assert await send(early) == (200, "woken"), "the run goes on all the same: the service's word counts"
                server.advance(1000)
                assert (await send(signed_webhook(ids[1], secret="whsec_d3Jvbmc=")))[0] == 400
                for run_id in (ids[2], ids[1]):
                    assert await send(signed_webhook(run_id, secret=SECRET)) == (200, "woken")

                assert [response.text for response in await runtime.gather(handles)] == ["Hello"] * 3
                assert await send(early) == (200, "duplicate")
                assert await send(signed_webhook(ids[2], secret=SECRET)) == (200, "unknown")

            stats = runtime.stats()
            assert stats.notified == 3
            assert [handle.polls for handle in handles][1:] == [1, 1]
            assert server.count("poll") == stats.polls < 8


@bounded()
async def test_a_stream_that_brings_the_end_needs_no_poll():
    async with ResponsesServer(script=Script.text("Hello")) as server:
        agent = Agent(OpenAIResponses("test", base_url=server.base_url, api_key="any", webhook_secret=SECRET))
        async with agent, AgentRuntime(webhooks=True) as runtime:
            handle = await runtime.submit(agent, "x", stream=True)
            assert (await handle).text == "Hello"
            runtime.webhook(*signed_webhook(handle.response.response_id or "", secret=SECRET))
            await asyncio.sleep(0)
            assert server.count("poll") == 0
