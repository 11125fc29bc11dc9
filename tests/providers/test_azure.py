"""Azure: OpenAI's protocol at another address, with other credentials, and a service that is slower to settle."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
import respx
from openai_wire import COMPLETED, QUESTION, QUEUED, REF, gather, kinds, ok, sse

from agentbg import Agent, AgentRuntime, Backoff, PreviousRunNotFound, RetryPolicy, RunCancelled, RunStatus
from agentbg.errors import AuthenticationFailed, ServiceUnavailable, UsageError
from agentbg.providers import AzureOpenAIResponses, OpenAIResponses
from agentbg.testing import VirtualClock, virtual_time
from agentbg.testing.server import CutAfterEvent, Fault, ResponsesServer, Script, StatusFlip

RESOURCE = "https://mine.openai.azure.com"
VERSION = "2025-04-01-preview"
BOTH: list[dict[str, Any]] = [{}, {"api_version": VERSION}]


@pytest.fixture
def azure() -> Any:
    with respx.mock(base_url=RESOURCE, using="httpcore2", assert_all_called=False) as router:
        yield router


def provider_of(**settings: Any) -> AzureOpenAIResponses:
    return AzureOpenAIResponses("my-deployment", **{"azure_endpoint": RESOURCE, "api_key": "key", **settings})


def by_token(provider: Any, **settings: Any) -> AzureOpenAIResponses:
    return provider_of(api_key=None, token_provider=provider, **settings)


async def authorization(provider: AzureOpenAIResponses, azure: respx.MockRouter) -> str:
    route = azure.route(method="GET").mock(ok())
    await provider.poll(REF)
    await provider.aclose()
    return route.calls.last.request.headers["authorization"]


# --- addresses ---


async def test_the_v1_endpoint_takes_the_deployment_as_its_model_and_no_version(azure: respx.MockRouter):
    route = azure.post("/openai/v1/responses").mock(ok())
    provider = provider_of()
    await provider.start(QUESTION)
    request = route.calls.last.request
    assert request.headers["authorization"] == "Bearer key"
    assert not request.url.params
    assert b'"model":"my-deployment"' in request.content
    await provider.aclose()


async def test_an_api_version_means_the_endpoint_of_that_version(azure: respx.MockRouter):
    provider = provider_of(api_version=VERSION)
    post = azure.post("/openai/responses").mock(ok())
    get = azure.get("/openai/responses/resp_1").mock(sse({"type": "response.completed", "response": COMPLETED}))
    await provider.start(QUESTION)
    assert post.calls.last.request.headers["api-key"] == "key"
    assert dict(post.calls.last.request.url.params) == {"api-version": VERSION}
    await gather(provider.attach(REF, after=3))
    assert dict(get.calls.last.request.url.params) == {
        "api-version": VERSION,
        "stream": "true",
        "starting_after": "3",
    }
    await provider.aclose()


@pytest.mark.parametrize("settings", BOTH)
@pytest.mark.parametrize("endpoint", [RESOURCE, f"{RESOURCE}/", f"{RESOURCE}/openai/v1/", f"{RESOURCE}/openai"])
async def test_an_endpoint_may_be_written_in_many_ways(azure: respx.MockRouter, endpoint: str, settings: Any):
    provider = provider_of(azure_endpoint=endpoint, **settings)
    path = "/openai/responses/resp_1" if settings else "/openai/v1/responses/resp_1"
    route = azure.get(path).mock(ok())
    await provider.poll(REF)
    assert route.call_count == 1
    await provider.aclose()


def test_a_token_outlives_a_change_from_one_address_of_a_resource_to_another():
    clients = [
        openai.AsyncAzureOpenAI(azure_endpoint=RESOURCE, api_version=VERSION, api_key="key"),
        openai.AsyncAzureOpenAI(azure_endpoint=RESOURCE, azure_deployment="d", api_version=VERSION, api_key="key"),
        openai.AsyncOpenAI(base_url=f"{RESOURCE}/openai/v1/", api_key="key"),
    ]
    same = [
        *(AzureOpenAIResponses("m", client=client) for client in clients),
        provider_of(),
        provider_of(api_version=VERSION),
        OpenAIResponses("m", client=clients[-1]),
    ]
    assert len({(provider.name, provider.endpoint) for provider in same}) == 1
    other = provider_of(azure_endpoint="https://other.openai.azure.com")
    assert other.endpoint != same[0].endpoint


async def test_your_own_client_is_used_and_left_open(azure: respx.MockRouter):
    client = openai.AsyncAzureOpenAI(
        azure_endpoint=RESOURCE, azure_deployment="d", api_version=VERSION, azure_ad_token="static", max_retries=1
    )
    provider = AzureOpenAIResponses("m", client=client)
    route = azure.get("/openai/responses/resp_1").mock(ok())
    await provider.poll(REF)
    await provider.aclose()
    assert route.calls.last.request.headers["authorization"] == "Bearer static"
    assert not client.is_closed()
    assert client.max_retries == 1
    await client.close()


async def test_endpoint_and_key_are_taken_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, azure: respx.MockRouter
):
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", RESOURCE)
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "from-the-environment")
    assert await authorization(AzureOpenAIResponses("m"), azure) == "Bearer from-the-environment"


def test_what_is_missing_or_too_much_is_said(monkeypatch: pytest.MonkeyPatch):
    for name in ("AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    with pytest.raises(UsageError, match="AZURE_OPENAI_ENDPOINT"):
        AzureOpenAIResponses("m", api_key="key")

    with pytest.raises(AuthenticationFailed, match="AZURE_OPENAI_API_KEY"):
        AzureOpenAIResponses("m", azure_endpoint=RESOURCE)

    with pytest.raises(UsageError, match="not both"):
        provider_of(token_provider=lambda: "token")

    with pytest.raises(UsageError, match="either"):
        AzureOpenAIResponses("m", client=openai.AsyncOpenAI(api_key="key"), api_version=VERSION)


# --- Entra ID tokens ---


class Awaited:
    async def __call__(self) -> str:
        return "awaited"


@pytest.mark.parametrize("settings", BOTH)
async def test_a_token_is_asked_for_before_each_request_and_never_on_the_loops_own_thread(
    azure: respx.MockRouter, settings: Any
):
    threads: list[int] = []

    def token() -> str:
        threads.append(threading.get_ident())
        return f"token-{len(threads)}"

    provider = by_token(token, **settings)
    route = azure.route(method="GET").mock(ok())
    await provider.poll(REF)
    await provider.poll(REF)
    assert [call.request.headers["authorization"] for call in route.calls] == ["Bearer token-1", "Bearer token-2"]
    assert "api-key" not in route.calls.last.request.headers
    assert threading.get_ident() not in threads
    await provider.aclose()


@pytest.mark.parametrize("settings", BOTH)
async def test_a_token_may_be_awaited(azure: respx.MockRouter, settings: Any):
    async def token() -> str:
        await asyncio.sleep(0)
        return "awaited"

    for each in (token, Awaited(), lambda: token()):
        assert await authorization(by_token(each, **settings), azure) == "Bearer awaited"


class ClientAuthenticationError(Exception):
    """As in azure.core.exceptions."""


class CredentialUnavailableError(ClientAuthenticationError): ...


@pytest.mark.parametrize("settings", BOTH)
@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (CredentialUnavailableError("no login"), AuthenticationFailed),
        (OSError("no network"), ServiceUnavailable),
        (None, AuthenticationFailed),
        ("", AuthenticationFailed),
    ],
)
async def test_without_a_token_nothing_is_sent(azure: respx.MockRouter, trouble: Any, kind: type, settings: Any):
    def token() -> Any:
        if isinstance(trouble, Exception):
            raise trouble

        return trouble

    provider = by_token(token, **settings)
    for call in (provider.start(QUESTION), provider.poll(REF), gather(provider.open(QUESTION))):
        with pytest.raises(kind, match="token provider") as caught:
            await call

        assert getattr(caught.value, "unsent", True), "a start may be sent again"

    assert not azure.calls
    await provider.aclose()


# --- what Azure answers otherwise than OpenAI ---


async def test_a_start_may_be_answered_in_progress_and_a_cancel_come_too_late(azure: respx.MockRouter):
    provider = provider_of()
    azure.post("/openai/v1/responses").mock(ok({**QUEUED, "status": "in_progress"}))
    assert (await provider.start(QUESTION)).status is RunStatus.RUNNING
    late = {"error": {"message": "Cannot cancel a completed response.", "code": "invalid_request_error"}}
    azure.post("/openai/v1/responses/resp_1/cancel").mock(httpx.Response(400, json=late))
    assert await provider.cancel(REF) is None
    await provider.aclose()


async def test_a_cancelled_runs_stream_ends_with_a_failure_that_says_cancelled(azure: respx.MockRouter):
    provider = provider_of()
    event = {"type": "response.failed", "sequence_number": 4, "response": {**QUEUED, "status": "cancelled"}}
    azure.get("/openai/v1/responses/resp_1").mock(sse(event))
    [end] = await gather(provider.attach(REF))
    assert kinds([end]) == ["end"]
    assert end.snapshot is not None
    assert end.snapshot.status is RunStatus.CANCELLED
    await provider.aclose()


@pytest.mark.parametrize("call", ["start", "open"])
async def test_a_previous_run_that_is_not_found_did_no_work(azure: respx.MockRouter, call: str):
    provider = provider_of()
    body = {"error": {"message": "Previous response not found.", "code": "previous_response_not_found"}}
    azure.post("/openai/v1/responses").mock(httpx.Response(400, json=body))
    with pytest.raises(PreviousRunNotFound) as caught:
        await (provider.start(QUESTION) if call == "start" else gather(provider.open(QUESTION)))

    assert (caught.value.status_code, caught.value.code) == (400, "previous_response_not_found")
    await provider.aclose()


# --- against a server that does as Azure does, in virtual time ---


@asynccontextmanager
async def served(script: Any, *faults: Fault, **settings: Any) -> AsyncIterator[tuple[ResponsesServer, Agent[Any]]]:
    retry = settings.pop("retry", RetryPolicy())
    client = settings.pop("client", {})
    async with ResponsesServer(script=script, faults=faults, api_key="key", **settings) as server:
        provider = provider_of(azure_endpoint=server.base_url.removesuffix("/v1"), **client)
        async with Agent(provider, clock=VirtualClock(), retry=retry) as agent:
            yield server, agent


def runtime() -> AgentRuntime:
    return AgentRuntime(clock=VirtualClock(), draw=lambda: 0.5)


@pytest.mark.parametrize("client", BOTH)
def test_runs_are_polled_and_streamed_at_both_endpoints(client: Any):
    @virtual_time
    async def story():
        async with served(Script.text("Hello there"), client=client) as (_, agent), runtime() as running:
            for stream in (False, True):
                handle = await running.submit(agent, "x", stream=stream)
                assert (await handle).text == "Hello there"

    story()


@virtual_time
async def test_a_streamed_run_that_is_cut_and_then_not_found_for_33_seconds_is_whole():
    async with served(Script.story(20), CutAfterEvent(10), settling=33.0) as (server, agent), runtime() as running:
        handle = await running.submit(agent, "x", stream=True)
        assert (await handle.result(timeout=60)).text == server.run().text
        assert server.count("create") == 1
        assert server.count("attach") + server.count("poll") > 3


@virtual_time
async def test_a_run_taken_up_while_it_settles_is_not_given_up():
    script = Script.story(20).lasting(delay=10)
    async with served(script, settling=33.0) as (server, agent):
        async with runtime() as running:
            token = (await running.submit(agent, "x", stream=True)).token

        await asyncio.sleep(server.run().duration + 1)
        assert token is not None
        async with runtime() as running:
            handle = await running.resume(token, agent=agent)
            assert (await handle.result(timeout=60)).text == server.run().text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_next_turn_waits_until_the_one_before_can_be_read(stream: bool, seed: int):
    @virtual_time
    async def story():
        scripts = [Script.text("One."), Script.text("Two.")]
        async with served(scripts, settling=33.0) as (server, agent), runtime() as running:
            thread = agent.get_new_thread()
            await (await running.submit(agent, "First", thread=thread, stream=True)).result()
            handle = await running.submit(agent, "Second", thread=thread, stream=stream)
            assert (await handle.result()).text == "Two."
            assert len(server.runs) == 2
            assert 5 <= server.count("create") <= 16

    story()


@pytest.mark.parametrize("stream", [False, True])
def test_a_run_before_that_is_gone_is_told_after_the_time_that_settling_may_take(stream: bool):
    @virtual_time
    async def story():
        retry = RetryPolicy(settling=10.0, backoff=Backoff(initial=1, maximum=2))
        async with served(Script.text("One."), retry=retry) as (server, agent), runtime() as running:
            thread = agent.get_new_thread()
            await (await running.submit(agent, "First", thread=thread)).result()
            server.service.forget()
            began = asyncio.get_running_loop().time()
            with pytest.raises(PreviousRunNotFound):
                await running.submit(agent, "Second", thread=thread, stream=stream)

            assert 10 <= asyncio.get_running_loop().time() - began < 10.5

    story()


@virtual_time
async def test_a_cancelled_run_that_comes_back_to_life_stays_cancelled_here():
    script = Script.text("Hello there").lasting(running=3600)
    async with served(script, StatusFlip(seconds=1.0)) as (_, agent), runtime() as running:
        handle = await running.submit(agent, "x")
        assert await handle.cancel() is RunStatus.CANCELLED
        await asyncio.sleep(120)
        with pytest.raises(RunCancelled):
            await handle
