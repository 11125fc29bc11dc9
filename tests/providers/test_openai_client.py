"""Your own client keeps all its settings; we only switch its retries off, on a copy, and never close it."""

from __future__ import annotations

import httpx
import httpx2
import openai
import pytest
import respx
from openai_wire import BASE, COMPLETED, ON_THE_SDK, QUESTION, QUEUED, REF, gather, ok, sse

from agentbg.errors import AuthenticationFailed, ServiceUnavailable, UsageError
from agentbg.providers import OpenAIResponses
from agentbg.testing.server import ResponsesServer, Script

DONE = {"type": "response.completed", "sequence_number": 1, "response": COMPLETED}


async def test_its_headers_query_organization_and_project_are_sent(api: respx.MockRouter):
    client = openai.AsyncOpenAI(
        api_key="my-key",
        base_url=BASE,
        organization="org_1",
        project="proj_1",
        default_headers={"x-team": "research"},
        default_query={"api-version": "preview"},
    )
    provider = OpenAIResponses("gpt-5", client=client)
    post = api.post("/responses").mock(ok())
    get = api.get("/responses/resp_1").mock(ok())
    await provider.start(QUESTION, key="run_1")
    await provider.poll(REF)
    for route in (post, get):
        request = route.calls.last.request
        assert request.headers["authorization"] == "Bearer my-key"
        assert request.headers["openai-organization"] == "org_1"
        assert request.headers["openai-project"] == "proj_1"
        assert request.headers["x-team"] == "research"
        assert dict(request.url.params) == {"api-version": "preview"}

    get.mock(sse(DONE))
    await gather(provider.attach(REF, after=9))
    query = dict(get.calls.last.request.url.params)
    assert query == {"api-version": "preview", "stream": "true", "starting_after": "9"}
    await client.close()


async def test_it_is_not_closed_and_keeps_its_own_retries(api: respx.MockRouter):
    client = openai.AsyncOpenAI(api_key="key", base_url=BASE, max_retries=1)
    provider = OpenAIResponses("gpt-5", client=client)
    route = api.get("/responses/resp_1").mock(httpx.Response(503, headers={"retry-after-ms": "1"}))
    with pytest.raises(ServiceUnavailable):
        await provider.poll(REF)

    assert route.call_count == 1
    await provider.aclose()
    assert not client.is_closed()
    assert client.max_retries == 1
    with pytest.raises(openai.InternalServerError):
        await client.responses.retrieve("resp_1")

    assert route.call_count == 3, "the user's own calls are still retried"
    await client.close()


async def test_a_client_of_ours_is_closed_once_and_may_be_closed_twice(api: respx.MockRouter):
    provider = OpenAIResponses("gpt-5", api_key="key", base_url=BASE)
    api.get("/responses/resp_1").mock(ok())
    await provider.poll(REF)
    await provider.aclose()
    await provider.aclose()
    with pytest.raises(ServiceUnavailable):
        await provider.poll(REF)


async def test_a_key_that_is_a_callable_is_asked_for_each_request(api: respx.MockRouter):
    keys = iter(["first", "second"])

    async def key() -> str:
        return next(keys)

    client = openai.AsyncOpenAI(api_key=key, base_url=BASE)
    provider = OpenAIResponses("gpt-5", client=client)
    route = api.get("/responses/resp_1").mock(ok())
    await provider.poll(REF)
    await provider.poll(REF)
    assert [call.request.headers["authorization"] for call in route.calls] == ["Bearer first", "Bearer second"]
    await client.close()


async def test_an_http_client_of_its_own_is_used_and_left_open():
    seen: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.headers["x-proxy"])
        return httpx2.Response(200, json=QUEUED)

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer), headers={"x-proxy": "1"}) as http:
        client = openai.AsyncOpenAI(api_key="key", base_url=BASE, http_client=http)
        provider = OpenAIResponses("gpt-5", client=client)
        assert (await provider.poll(REF)).raw_status == "queued"
        await provider.aclose()
        assert not http.is_closed

    assert seen == ["1"]


async def test_a_legacy_http_client_works_and_its_faults_are_told_apart():
    with respx.mock(base_url=BASE) as api:
        async with httpx.AsyncClient() as http:
            client = openai.AsyncOpenAI(api_key="key", base_url=BASE, http_client=http)
            provider = OpenAIResponses("gpt-5", client=client)
            route = api.get("/responses/resp_1").mock(ok(COMPLETED))
            assert (await provider.poll(REF)).text == "Because."
            route.mock(sse(DONE))
            assert len(await gather(provider.attach(REF))) == 1
            for fault, unsent in ((httpx.ConnectError, True), (httpx.ConnectTimeout, True), (httpx.ReadTimeout, False)):
                route.mock(side_effect=fault)
                with pytest.raises(ServiceUnavailable) as caught:
                    await provider.poll(REF)

                assert caught.value.unsent is unsent

            route.mock(httpx.Response(500))
            with pytest.raises(ServiceUnavailable):
                await provider.poll(REF)


async def test_the_sdk_over_aiohttp_works_and_its_faults_are_told_apart(unused_tcp_port: int):
    pytest.importorskip("aiohttp", reason="openai.DefaultAioHttpClient needs aiohttp")
    async with ResponsesServer(script=Script.text("Hello there")) as server, openai.DefaultAioHttpClient() as http:
        client = openai.AsyncOpenAI(api_key="key", base_url=server.base_url, http_client=http)
        provider = OpenAIResponses("gpt-5", client=client)
        started = await provider.start(QUESTION)
        assert started.ref is not None
        assert (await provider.poll(started.ref)).text == "Hello there"
        events = await gather(provider.open(QUESTION))
        assert "".join(event.text for event in events) == "Hello there"

        nobody = client.with_options(base_url=f"http://127.0.0.1:{unused_tcp_port}/v1")
        with pytest.raises(ServiceUnavailable) as caught:
            await OpenAIResponses("gpt-5", client=nobody).start(QUESTION)

        assert caught.value.unsent


def test_without_any_key_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(AuthenticationFailed, match="OPENAI_API_KEY"):
        OpenAIResponses("gpt-5")


async def test_key_and_address_are_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch, api: respx.MockRouter):
    monkeypatch.setenv("OPENAI_API_KEY", "from-the-environment")
    monkeypatch.setenv("OPENAI_BASE_URL", BASE)
    provider = OpenAIResponses("gpt-5")
    route = api.get("/responses/resp_1").mock(ok())
    await provider.poll(REF)
    assert route.calls.last.request.headers["authorization"] == "Bearer from-the-environment"
    await provider.aclose()


@ON_THE_SDK
async def test_a_poll_is_bounded_by_the_providers_time_out_and_a_start_by_the_clients(api: respx.MockRouter):
    provider = OpenAIResponses("gpt-5", api_key="key", base_url=BASE, timeout=7.0)
    route = api.route().mock(ok())
    for call, bound in ((provider.poll(REF), 7.0), (provider.cancel(REF), 7.0), (provider.start(QUESTION), 600)):
        await call
        assert route.calls.last.request.extensions["timeout"]["read"] == bound

    await provider.aclose()


# --- the fingerprint of an address ---


def endpoint(base_url: str) -> str:
    return OpenAIResponses("gpt-5", client=openai.AsyncOpenAI(api_key="key", base_url=base_url)).endpoint


async def test_one_address_has_one_fingerprint_however_it_is_written():
    base = "https://api.test/v1"
    same = [base, base + "/", "https://API.test/v1", "https://user:secret@api.test/v1", "https://api.test:443/v1"]
    assert len({endpoint(url) for url in same}) == 1
    for other in (
        "http://api.test/v1",
        "https://api.test/v2",
        "https://api.test:8443/v1",
        "https://eu.api.test/v1",
        "https://api.test/gateway/@acme/v1",
        "https://api.test/gateway/@other/v1",
    ):
        assert endpoint(other) not in {endpoint(url) for url in same}

    assert endpoint("https://a.test/team/@acme") != endpoint("https://b.test/team/@acme")
    assert "secret" not in endpoint(same[3])


@pytest.mark.parametrize("base_url", ["api.test/v1", "localhost:8000/v1", "ftp://api.test/v1", "https:///v1"])
def test_a_base_url_that_is_none_is_refused_before_anything_is_sent(base_url: str):
    with pytest.raises(UsageError, match="base URL is like https"):
        OpenAIResponses("gpt-5", api_key="key", base_url=base_url)


def test_clients_with_the_same_key_share_a_budget_and_no_key_shows():
    def provider(key: str = "sk-secret", **settings: str) -> OpenAIResponses:
        return OpenAIResponses("gpt-5", client=openai.AsyncOpenAI(api_key=key, base_url=BASE, **settings))

    credential = provider().credential
    assert provider().credential == credential
    others = {provider("sk-other").credential, provider(organization="o").credential, provider(project="o").credential}
    assert len({credential, *others}) == 4
    assert "secret" not in credential
    assert len(credential) == 16


def test_a_function_that_gives_the_key_stands_for_it():
    async def key() -> str:
        return "sk-secret"

    async def other() -> str:
        return "sk-secret"

    one, same, foreign = (
        OpenAIResponses("gpt-5", client=openai.AsyncOpenAI(api_key=source, base_url=BASE)).credential
        for source in (key, key, other)
    )
    assert one == same != foreign
