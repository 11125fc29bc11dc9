"""Runs that are woken by a word from outside, and how rarely they are polled without one. In virtual time."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from base64 import b64decode, b64encode
from typing import Any

import pytest
from openai import AsyncOpenAI

from agentbg import (
    Agent,
    AgentRuntime,
    PollPolicy,
    RuntimeClosed,
    UsageError,
    WebhookInvalid,
    WebhookOutcome,
    tool,
)
from agentbg.providers import AzureOpenAIResponses, Cap, OpenAIResponses
from agentbg.stores import MemoryStore
from agentbg.testing import RunScript, ScriptedProvider, VirtualClock, outside, signed_webhook, virtual_time
from agentbg.testing.provider import ALL_CAPS
from agentbg.wakeups import EARLY, ROOM

SECRET = "whsec_c2VjcmV0IG9mIHRoZSB0ZXN0cw=="
LAZY = PollPolicy(initial=50.0, growth=0.0, maximum=50.0, jitter=0.0)


def runtime(store=None, **settings: Any) -> AgentRuntime:
    return AgentRuntime(store, draw=lambda: 0.5, clock=VirtualClock(), **settings)


def announcing(*seconds: float, **settings: Any) -> ScriptedProvider:
    """A service that sends webhooks."""
    scripts = [RunScript.text("done", seconds=each) for each in seconds]
    return ScriptedProvider(*scripts, caps=ALL_CAPS | Cap.WEBHOOKS, **settings)


def openai(secret: str | None = SECRET) -> Agent[str]:
    return Agent(OpenAIResponses("test", api_key="any", base_url="http://127.0.0.1:9/v1", webhook_secret=secret))


def now() -> float:
    return asyncio.get_running_loop().time()


# --- notify ---


@virtual_time
async def test_a_closed_runtime_is_not_told_anything():
    running = runtime()
    with pytest.raises(RuntimeClosed):
        running.notify("resp_1")

    async with running:
        pass

    with pytest.raises(RuntimeClosed):
        running.notify("resp_1")

    with pytest.raises(RuntimeClosed):
        running.webhook(b"{}", {})


@pytest.mark.parametrize("ours", [True, False])
def test_a_run_that_is_spoken_of_is_polled_at_once(ours):
    @virtual_time
    async def story():
        provider = ScriptedProvider.text("done", seconds=30)
        async with runtime(poll=LAZY) as running:
            handle = await running.submit(Agent(provider), "x")
            await asyncio.sleep(31)
            assert not handle.done()
            assert running.notify(handle.id if ours else handle.response.response_id) is True
            assert (await handle).text == "done"
            assert now() == 31

    story()


@virtual_time
async def test_an_id_that_no_run_has_is_false_and_harmless():
    provider = ScriptedProvider.text("done", seconds=5)
    async with runtime() as running:
        assert running.notify("resp_of_somebody_else") is False
        handle = await running.submit(Agent(provider), "x")
        await handle
        assert running.notify(handle.response.response_id) is False, "it is over"


@virtual_time
async def test_a_word_that_comes_before_the_answer_to_the_start_is_heeded_when_that_is_there():
    provider = ScriptedProvider.text("done", seconds=0.5, latency=3.0)
    async with runtime(poll=LAZY) as running:
        starting = asyncio.ensure_future(running.submit(Agent(provider), "x"))
        await asyncio.sleep(2)
        assert running.notify("resp_1") is False
        handle = await starting
        assert handle.response.response_id == "resp_1"
        await handle
        assert now() == 6, "the start, and the poll right after it"


@virtual_time
async def test_a_word_that_came_long_before_the_start_is_forgotten():
    provider = ScriptedProvider.text("done", seconds=0.5)
    async with runtime(poll=LAZY) as running:
        running.notify("resp_1")
        await asyncio.sleep(EARLY + 1)
        await (await running.submit(Agent(provider), "x"))
        assert now() == EARLY + 1 + 25


@virtual_time
async def test_only_so_many_unknown_ids_are_remembered_and_the_oldest_go_first():
    provider = ScriptedProvider.text("done", seconds=0.5)
    async with runtime(poll=LAZY) as running:
        running.notify("resp_1")
        for number in range(ROOM):
            running.notify(f"other_{number}")

        await (await running.submit(Agent(provider), "x"))
        assert now() == 25
        assert len(running._driver._wakeups._early) == ROOM


@virtual_time
async def test_a_poll_under_way_does_not_hide_what_happened_since_it_was_sent():
    provider = ScriptedProvider.text("done", seconds=25.5, latency=2.0)
    async with runtime(poll=LAZY) as running:
        handle = await running.submit(Agent(provider), "x")
        await asyncio.sleep(25.6)  # the first poll was answered by what the run was when it came in
        running.notify("resp_1")
        await handle
        assert now() < 35


@virtual_time
async def test_the_next_round_of_a_run_is_woken_by_its_own_name():
    @tool
    async def look() -> str:
        """Look."""
        return "seen"

    scripts = [RunScript.call("look", {}), RunScript.text("done", seconds=30)]
    provider = ScriptedProvider(scripts, caps=ALL_CAPS & ~Cap.RESPOND)
    async with runtime(poll=LAZY) as running:
        handle = await running.submit(Agent(provider, tools=[look]), "x")
        while len(provider.runs) < 2:
            await asyncio.sleep(1)

        await asyncio.sleep(31)
        first, second = provider.runs
        assert running.notify(first) is False
        assert running.notify(second) is True
        assert (await handle).text == "done"
        assert running._driver._wakeups._runs == {}


@virtual_time
async def test_a_run_is_woken_from_another_thread_through_the_loop():
    provider = ScriptedProvider.text("done", seconds=30)
    async with runtime(poll=LAZY) as running:
        handle = await running.submit(Agent(provider), "x")
        await asyncio.sleep(31)
        loop = asyncio.get_running_loop()
        with outside():
            await asyncio.to_thread(loop.call_soon_threadsafe, running.notify, "resp_1")

        await handle
        assert now() == 31


# --- how often runs are polled that are announced ---


@virtual_time
async def test_with_webhooks_a_run_is_polled_once_when_it_is_announced():
    provider = announcing(60)
    async with runtime(webhooks=True) as running:
        handle = await running.submit(Agent(provider), "x")
        await asyncio.sleep(60)
        running.notify("resp_1")
        await handle
        assert (now(), handle.polls) == (60, 1)


@virtual_time
async def test_an_announcement_that_is_lost_costs_a_safety_interval():
    provider = announcing(500)
    async with runtime(webhooks=True, poll=PollPolicy(safety=200)) as running:
        handle = await running.submit(Agent(provider), "x")
        await handle
        assert (now(), handle.polls) == (600, 4), "the draw is in the middle: each 150 s"


@virtual_time
async def test_services_that_announce_nothing_are_polled_as_ever():
    provider = ScriptedProvider.text("done", seconds=60)
    async with runtime(webhooks=True) as running:
        handle = await running.submit(Agent(provider), "x")
        await handle
        assert now() < 70


@virtual_time
async def test_a_runtime_without_webhooks_polls_as_ever():
    async with runtime() as running:
        await (await running.submit(Agent(announcing(60)), "x"))
        assert now() < 70


@virtual_time
async def test_what_was_announced_while_no_process_listened_is_seen_soon_after_the_next_one_opens():
    store, agent = MemoryStore(), Agent(announcing(60))
    async with runtime(store, webhooks=True) as running:
        handle = await running.submit(agent, "x")

    await asyncio.sleep(300)
    async with runtime(store, webhooks=True, agents=[agent]) as running:
        await (await running.get(handle.id))
        assert now() <= 301


@virtual_time
async def test_a_live_streams_end_completes_the_run_without_a_poll():
    provider = announcing(60)
    async with runtime(webhooks=True) as running:
        handle = await running.submit(Agent(provider), "x", stream=True)
        assert (await handle).text == "done"
        assert now() == 60
        await asyncio.sleep(10)
        assert (handle.polls, provider.count("poll")) == (0, 0)


@virtual_time
async def test_a_webhook_beside_a_live_stream_costs_no_poll():
    provider = announcing(60)
    async with runtime(webhooks=True) as running:
        handle = await running.submit(Agent(provider), "x", stream=True)
        await asyncio.sleep(59)
        assert running.notify("resp_1")
        await handle
        await asyncio.sleep(10)
        assert provider.count("poll") == 0


@virtual_time
async def test_a_webhook_about_a_stream_that_has_fallen_silent_is_heeded():
    provider = announcing(60).stall(2)
    async with runtime(webhooks=True) as running:
        handle = await running.submit(Agent(provider), "x", stream=True)
        await asyncio.sleep(60)
        running.notify("resp_1")
        await handle
        assert (now(), handle.polls) == (62, 1)


# --- webhooks ---


@virtual_time
async def test_a_webhook_that_is_no_run_of_ours_or_about_no_run_is_said_to_be_so():
    async with runtime(agents=[openai()]) as running:
        body, headers = signed_webhook("resp_1", secret=SECRET)
        receipt = running.webhook(body, headers)
        assert (receipt.outcome, receipt.type, receipt.response_id) == (
            WebhookOutcome.UNKNOWN,
            "response.completed",
            "resp_1",
        )
        assert receipt.id == headers["webhook-id"]
        receipt = running.webhook(*signed_webhook("batch_1", secret=SECRET, type="batch.completed"))
        assert (receipt.outcome, receipt.response_id) == (WebhookOutcome.IGNORED, None)
        receipt = running.webhook(*signed_webhook("x", secret=SECRET, type="something.new"))
        assert receipt.outcome is WebhookOutcome.IGNORED


@virtual_time
async def test_a_webhook_that_comes_twice_does_nothing_the_second_time():
    async with runtime(agents=[openai()]) as running:
        webhook = signed_webhook("resp_1", secret=SECRET)
        assert running.webhook(*webhook).outcome is WebhookOutcome.UNKNOWN
        assert running.webhook(*webhook).outcome is WebhookOutcome.DUPLICATE
        again = signed_webhook("resp_1", secret=SECRET, id=webhook[1]["webhook-id"], at=time.time() - 60)
        assert running.webhook(*again).outcome is WebhookOutcome.DUPLICATE
        assert running.webhook(*signed_webhook("resp_1", secret=SECRET)).outcome is WebhookOutcome.UNKNOWN


def spoilt(spoil: str) -> tuple[bytes, dict[str, str]]:
    body, headers = signed_webhook("resp_1", secret=SECRET)
    match spoil:
        case "another body":
            return body.replace(b"resp_1", b"resp_2"), headers
        case "another secret":
            return signed_webhook("resp_1", secret="whsec_YW5vdGhlcg==")
        case "another id":
            return body, {**headers, "webhook-id": "wh_other"}
        case "old":
            return signed_webhook("resp_1", secret=SECRET, at=time.time() - 400)
        case "from the future":
            return signed_webhook("resp_1", secret=SECRET, at=time.time() + 400)
        case "no time":
            return body, {**headers, "webhook-timestamp": "yesterday"}
        case "not UTF-8":
            return b"\xff" + body, headers
        case "empty signature":
            return body, {**headers, "webhook-signature": ""}
        case "strange signature":
            return body, {**headers, "webhook-signature": "v1,\u00e9\u4e00"}
        case _:
            return body, {name: value for name, value in headers.items() if name != spoil}


SPOILT = [
    "another body",
    "another secret",
    "another id",
    "old",
    "from the future",
    "no time",
    "not UTF-8",
    "empty signature",
    "strange signature",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
]


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_webhook_that_is_not_genuine_is_an_error_and_does_nothing(spoil):
    @virtual_time
    async def story():
        async with runtime(agents=[openai()]) as running:
            with pytest.raises(WebhookInvalid, match="not genuine") as caught:
                running.webhook(*spoilt(spoil))

            assert isinstance(caught.value, ValueError)
            assert running.webhook(*signed_webhook("resp_1", secret=SECRET)).outcome is WebhookOutcome.UNKNOWN

    story()


@pytest.mark.parametrize(
    "body", [b"[]", b"null", b"{", b'"text"', b"{}", b'{"type": 7}', b'{"type":"response.completed"}']
)
def test_a_genuine_webhook_of_any_content_does_no_harm(body):
    stamp = str(int(time.time()))
    mac = hmac.digest(b64decode(SECRET.removeprefix("whsec_")), f"wh_1.{stamp}.".encode() + body, hashlib.sha256)
    headers = {
        "webhook-id": "wh_1",
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{b64encode(mac).decode()}",
    }

    @virtual_time
    async def story():
        async with runtime(agents=[openai()]) as running:
            try:
                assert running.webhook(body, headers).outcome is WebhookOutcome.IGNORED
            except WebhookInvalid:
                assert not body.startswith(b"{") or body == b"{"

    story()


@pytest.mark.parametrize(
    "form",
    [
        lambda headers: {name.upper(): value for name, value in headers.items()},
        lambda headers: {name.title(): value for name, value in headers.items()},
        lambda headers: list(headers.items()),
        lambda headers: [(name.encode(), value.encode()) for name, value in headers.items()],
        lambda headers: {**headers, "webhook-signature": f"v1,b2xk {headers['webhook-signature']}"},
    ],
    ids=["upper", "title", "pairs", "ASGI", "two signatures"],
)
def test_headers_may_have_any_form(form):
    @virtual_time
    async def story():
        async with runtime(agents=[openai()]) as running:
            body, headers = signed_webhook("resp_1", secret=SECRET)
            assert running.webhook(body.decode(), form(headers)).outcome is WebhookOutcome.UNKNOWN
            assert running.webhook(bytearray(body), form(headers)).outcome is WebhookOutcome.DUPLICATE

    story()


@virtual_time
async def test_what_is_no_webhook_at_all_is_a_wrong_call():
    async with runtime(agents=[openai()]) as running:
        body, headers = signed_webhook("resp_1", secret=SECRET)
        parsed: Any = {"type": "response.completed"}
        with pytest.raises(UsageError, match="as it came"):
            running.webhook(parsed, headers)

        for wrong in (None, 7, [1], {"webhook-id": 7}):
            with pytest.raises(UsageError, match="headers are a mapping"):
                running.webhook(body, wrong)


@virtual_time
async def test_without_a_secret_or_a_service_that_sends_webhooks_the_call_is_wrong(monkeypatch):
    monkeypatch.delenv("OPENAI_WEBHOOK_SECRET", raising=False)
    webhook = signed_webhook("resp_1", secret=SECRET)
    azure = AzureOpenAIResponses("test", azure_endpoint="http://127.0.0.1:9", api_key="any")
    for agents in ([], [Agent(ScriptedProvider())], [Agent(azure)]):
        async with runtime(agents=agents) as running:
            with pytest.raises(UsageError, match="no agent whose service sends webhooks"):
                running.webhook(*webhook)

    async with runtime(agents=[openai(None)]) as running:
        with pytest.raises(UsageError, match="OPENAI_WEBHOOK_SECRET"):
            running.webhook(*webhook)


@virtual_time
async def test_the_secret_may_come_from_the_environment_or_the_callers_client(monkeypatch):
    client = AsyncOpenAI(api_key="any", webhook_secret=SECRET)
    async with runtime(agents=[Agent(OpenAIResponses("test", client=client))]) as running:
        assert running.webhook(*signed_webhook("resp_1", secret=SECRET)).outcome is WebhookOutcome.UNKNOWN

    await client.close()
    monkeypatch.setenv("OPENAI_WEBHOOK_SECRET", "any text")
    async with runtime(agents=[openai(None)]) as running:
        assert running.webhook(*signed_webhook("resp_1", secret="any text")).outcome is WebhookOutcome.UNKNOWN


@virtual_time
async def test_each_project_may_have_a_secret_of_its_own():
    agents = [openai("one"), openai("two")]
    agents[0].name, agents[1].name = "one", "two"
    async with runtime(agents=agents) as running:
        for secret in ("one", "two"):
            assert running.webhook(*signed_webhook("resp_1", secret=secret)).outcome is WebhookOutcome.UNKNOWN

        with pytest.raises(WebhookInvalid):
            running.webhook(*signed_webhook("resp_1", secret="three"))
