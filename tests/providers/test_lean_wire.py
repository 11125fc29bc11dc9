"""The lean wire sends what the SDK would send, means what it would mean, and steps aside when it must be the SDK."""

from __future__ import annotations

import asyncio
import functools
import gc
import gzip
import json
import logging
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import httpx2
import openai
import pytest
import respx
from openai_wire import COMPLETED, QUESTION, QUEUED, REF, gather

from agentbg.core.model import RunRef, StartRequest
from agentbg.errors import AuthenticationFailed, ProviderError, ServiceUnavailable
from agentbg.providers import AzureOpenAIResponses, OpenAIResponses, _lean_wire, _sdk_forms, _sdk_private
from agentbg.providers._lean_wire import LeanWire
from agentbg.providers._wire import SDKWire
from agentbg.testing import virtual_time
from agentbg.testing.loopback import Listener, cut
from agentbg.testing.server import ResponsesServer, Script

VERSION = "2025-04-01-preview"
DELTA = b'data: {"type":"response.output_text.delta","sequence_number":4,"delta":"a"}\n\n'
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
Reply = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Service(Listener):
    """Keeps the requests it gets, and gives the same answer to each: bytes, or what a function writes."""

    def __init__(self, reply: bytes | Reply, port: int) -> None:
        super().__init__(self._answer, port)
        self.reply = reply
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.gone = asyncio.Event()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def headers(self, number: int) -> dict[str, str]:
        lines = self.heads[number].split("\r\n")[1:-2]
        return {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.heads.append(head)
                self.bodies.append(await reader.readexactly(int(self.headers(-1).get("content-length", 0))))
            except (asyncio.IncompleteReadError, ConnectionError):
                self.gone.set()
                return

            if isinstance(self.reply, bytes):
                writer.write(self.reply)
            else:
                await self.reply(writer)


@asynccontextmanager
async def service(reply: bytes | Reply, *, port: int = 0) -> AsyncIterator[Service]:
    listener = Service(reply, port)
    await listener.start()
    yield listener
    await listener.stop()


def http_answer(body: object = QUEUED, status: str = "200 OK", *headers: str) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = (f"HTTP/1.1 {status}", "content-type: application/json", f"content-length: {len(content)}", *headers)
    return "\r\n".join((*lines, "", "")).encode() + content


def lean(client: openai.AsyncOpenAI, timeout: float = 5.0) -> LeanWire:
    wire = _lean_wire.wire_of(client, timeout)
    assert isinstance(wire, LeanWire)
    return wire


def on_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a new SDK has renamed a part that is not public."""
    monkeypatch.setattr(_sdk_private, "_CLIENTS", ())


# --- the same requests ---


async def key() -> str:
    return "asked-for"


CLIENTS: dict[str, Callable[[str], openai.AsyncOpenAI]] = {
    "plain": lambda url: openai.AsyncOpenAI(api_key="key", base_url=url),
    "settings": lambda url: openai.AsyncOpenAI(
        api_key="key",
        base_url=url,
        organization="org_1",
        project="proj_1",
        default_headers={"x-team": "research", "host": "gateway.test", "accept-encoding": "identity"},
        default_query={"api-version": "preview", "tag": "a b&c"},
        timeout=openai.Timeout(30, connect=3),
    ),
    "no time-out": lambda url: openai.AsyncOpenAI(api_key="key", base_url=url, timeout=None),
    "a key that is asked for": lambda url: openai.AsyncOpenAI(api_key=key, base_url=url),
    "a key that headers replace": lambda url: openai.AsyncOpenAI(
        api_key=key, base_url=url, default_headers={"Authorization": "Basic own"}
    ),
    "a query in the address": lambda url: openai.AsyncOpenAI(api_key="key", base_url=f"{url}/a%20b?x=1"),
    "azure": lambda url: openai.AsyncAzureOpenAI(azure_endpoint=url, api_version=VERSION, api_key="key"),
    "azure, a key that is asked for": lambda url: openai.AsyncAzureOpenAI(
        azure_endpoint=url, api_version=VERSION, api_key=key
    ),
    "azure, a token": lambda url: openai.AsyncAzureOpenAI(
        azure_endpoint=url, api_version=VERSION, azure_ad_token="token"
    ),
    "azure, a token that is asked for": lambda url: openai.AsyncAzureOpenAI(
        azure_endpoint=url, api_version=VERSION, azure_ad_token_provider=key
    ),
}
ADDED_BY_THE_TRANSPORT = {"accept-encoding", "connection"}


async def requests(provider: OpenAIResponses) -> None:
    await provider.poll(REF)
    for stream in (provider.attach(REF), provider.attach(REF, after=7), provider.open(QUESTION, key="run_1")):
        with pytest.raises(ProviderError):  # JSON is no stream
            await gather(stream)

    await provider.aclose()


@pytest.mark.parametrize("make", CLIENTS)
async def test_it_sends_what_the_sdk_sends(make: str, monkeypatch: pytest.MonkeyPatch):
    async with service(http_answer()) as server:
        client = CLIENTS[make](server.base_url)
        leaner = OpenAIResponses("gpt-5", client=client)
        assert isinstance(leaner._wire, LeanWire)
        on_the_sdk(monkeypatch)
        plain = OpenAIResponses("gpt-5", client=client)
        assert isinstance(plain._wire, SDKWire)
        await requests(leaner)
        await requests(plain)
        await client.close()

    count = len(server.heads) // 2
    assert count == 4
    for number in range(count):
        lines = [server.heads[at].split("\r\n", 1)[0] for at in (number, number + count)]
        assert lines[0] == lines[1]
        ours, theirs = server.headers(number), server.headers(number + count)
        for name in ADDED_BY_THE_TRANSPORT if make != "settings" else {"connection"}:
            ours.pop(name, None)
            theirs.pop(name, None)

        assert ours == theirs
        assert server.bodies[number] == server.bodies[number + count]


@pytest.mark.parametrize(
    ("timeout", "read", "connect"), [(openai.Timeout(30, connect=3), 30, 3), (12.0, 12, 12), (None, None, None)]
)
async def test_the_clients_time_outs_bound_a_stream_and_the_providers_a_poll(timeout: Any, read: Any, connect: Any):
    client = openai.AsyncOpenAI(api_key="key", base_url="http://127.0.0.1/v1", timeout=timeout)
    forms = await lean(client, 7.0)._ready()
    assert forms is not None
    for form in (forms.attach, forms.attach_after, forms.open):
        bounds = _lean_wire._bounds(form)
        assert (bounds.sock_read, bounds.sock_connect, bounds.total) == (read, connect, None)

    assert (_lean_wire._bounds(forms.poll).sock_read, _lean_wire._bounds(forms.poll).sock_connect) == (7, 7)
    await client.close()


async def test_the_forms_are_learned_once_however_many_ask_first(monkeypatch: pytest.MonkeyPatch):
    learned = 0
    forms_of = _lean_wire.forms_of

    async def counted(client: openai.AsyncOpenAI, timeout: float) -> Any:
        nonlocal learned
        learned += 1
        return await forms_of(client, timeout)

    monkeypatch.setattr(_lean_wire, "forms_of", counted)
    async with service(http_answer()) as server:
        provider = OpenAIResponses("gpt-5", api_key="key", base_url=server.base_url)
        await asyncio.gather(*(provider.poll(REF) for _ in range(20)))
        assert (learned, len(server.heads)) == (1, 20)
        await provider.aclose()


async def test_a_key_is_asked_for_before_each_request_and_not_for_learning_the_forms():
    keys = iter(["first", "second"])

    async def next_key() -> str:
        return next(keys)

    async with service(http_answer()) as server:
        client = openai.AsyncOpenAI(api_key=next_key, base_url=server.base_url)
        provider = OpenAIResponses("gpt-5", client=client)
        await provider.poll(REF)
        await provider.poll(REF)
        assert [server.headers(number)["authorization"] for number in (0, 1)] == ["Bearer first", "Bearer second"]
        await provider.aclose()


@pytest.mark.parametrize("given", ["", None, 7])
async def test_a_key_that_is_none_is_said(given: Any):
    async def no_key() -> Any:
        return given

    async with service(http_answer()) as server:
        provider = OpenAIResponses("gpt-5", client=openai.AsyncOpenAI(api_key=no_key, base_url=server.base_url))
        with pytest.raises(AuthenticationFailed, match="no key"):
            await provider.poll(REF)

        assert not server.heads


async def test_an_azure_provider_with_a_token_provider_is_lean():
    async with service(http_answer()) as server:
        provider = AzureOpenAIResponses(
            "d", azure_endpoint=f"http://127.0.0.1:{server.port}", token_provider=lambda: "entra"
        )
        assert isinstance(provider._wire, LeanWire)
        await provider.poll(REF)
        assert server.headers(0)["authorization"] == "Bearer entra"
        await provider.aclose()


async def test_a_large_request_is_sent_whole():
    text = "ä" * 3_000_000
    async with service(http_answer()) as server:
        provider = OpenAIResponses("gpt-5", api_key="key", base_url=server.base_url)
        with pytest.raises(ProviderError):
            await gather(provider.open(StartRequest([{"role": "user", "content": text}])))

        assert json.loads(server.bodies[0])["input"][0]["content"] == text
        await provider.aclose()


async def test_cookies_are_shared_with_the_sdk():
    async with service(http_answer(QUEUED, "200 OK", "set-cookie: node=a; Path=/")) as server:
        provider = OpenAIResponses("gpt-5", api_key="key", base_url=server.base_url)
        await provider.start(QUESTION)
        server.reply = http_answer(QUEUED, "200 OK", "set-cookie: node=b; Path=/")
        await provider.poll(REF)
        await provider.poll(REF)
        await provider.cancel(REF)
        cookies = [server.headers(number).get("cookie") for number in range(4)]
        assert cookies == [None, "node=a", "node=b", "node=b"]
        await provider.aclose()


# --- when it must be the SDK ---


def wire_for(client: openai.AsyncOpenAI) -> type:
    return type(OpenAIResponses("gpt-5", client=client)._wire)


class Own(openai.AsyncOpenAI):
    """May do what it likes with a request."""


async def test_a_client_with_more_than_settings_is_used_as_it_is():
    settings: dict[str, Any] = {"api_key": "key", "base_url": "http://127.0.0.1/v1"}
    assert wire_for(openai.AsyncOpenAI(**settings)) is LeanWire
    async with httpx2.AsyncClient() as own, openai.DefaultAsyncHttpxClient() as default:
        for client in (
            openai.AsyncOpenAI(**settings, http_client=own),
            openai.AsyncOpenAI(**settings, http_client=default),
            Own(**settings),
            openai.AsyncOpenAI(**{**settings, "base_url": "http://user:word@127.0.0.1/v1"}),
        ):
            assert wire_for(client) is SDKWire


@pytest.mark.parametrize(
    ("environment", "kind"),
    [
        ({"HTTP_PROXY": "http://127.0.0.1:9"}, SDKWire),
        ({"ALL_PROXY": "http://127.0.0.1:9"}, SDKWire),
        ({"HTTPS_PROXY": "http://127.0.0.1:9"}, LeanWire),
        ({"HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": "service.test"}, LeanWire),
    ],
)
async def test_a_proxy_of_the_environment_is_the_sdks_business(
    environment: dict[str, str], kind: type, monkeypatch: pytest.MonkeyPatch
):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)

    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    client = openai.AsyncOpenAI(api_key="key", base_url="http://service.test/v1")
    assert wire_for(client) is kind
    await client.close()


async def test_a_mock_and_a_tracer_of_the_sdk_see_every_request():
    async with ResponsesServer(script=Script.text("Hello")) as server:
        provider = OpenAIResponses("gpt-5", api_key="key", base_url=server.base_url)
        ref = (await provider.start(QUESTION)).ref
        assert ref is not None
        with respx.mock(using="httpcore2") as api:
            route = api.get(f"{server.base_url}/responses/{ref.id}").respond(json=COMPLETED)
            assert (await provider.poll(ref)).text == "Because."
            assert route.call_count == 1

        other = OpenAIResponses("gpt-5", api_key="key", base_url=server.base_url)
        retrieve = openai.resources.responses.AsyncResponses.retrieve
        seen: list[str] = []

        @functools.wraps(retrieve)
        async def traced(self: Any, response_id: str, **options: Any) -> Any:
            seen.append(response_id)
            return await retrieve(self, response_id, **options)

        with mock.patch.object(openai.resources.responses.AsyncResponses, "retrieve", traced):
            await other.poll(ref)

        assert seen == [ref.id]
        await other.aclose()
        await provider.aclose()


@pytest.mark.parametrize("gone", ["_client", "_provider", "workload_identity"])
async def test_a_part_of_the_sdk_that_is_gone_is_a_reason_to_use_the_sdk(gone: str):
    client = openai.AsyncOpenAI(api_key="key", base_url="http://127.0.0.1/v1")
    assert _sdk_private.plain_http(client) is not None
    delattr(client, gone)
    assert _sdk_private.plain_http(client) is None


async def test_without_any_private_part_of_the_sdk_all_works(monkeypatch: pytest.MonkeyPatch):
    on_the_sdk(monkeypatch)
    async with ResponsesServer(script=Script.text("Hello there")) as server:
        provider = OpenAIResponses("gpt-5", api_key="key", base_url=server.base_url)
        assert isinstance(provider._wire, SDKWire)
        events = await gather(provider.open(QUESTION))
        assert "".join(event.text for event in events) == "Hello there"
        snapshot = events[-1].snapshot
        assert snapshot is not None
        assert snapshot.ref is not None
        assert (await provider.poll(snapshot.ref)).text == "Hello there"
        assert len(await gather(provider.attach(snapshot.ref, after=events[1].cursor))) == len(events) - 2
        await provider.aclose()


class Changed(SDKWire):
    """An SDK that writes a request in another way."""

    async def poll(self, run_id: str) -> Any:
        return await super().poll("elsewhere")


class Broken(SDKWire):
    """An SDK that needs more than it is given."""

    async def poll(self, run_id: str) -> Any:
        raise TypeError("a new argument is missing")


@pytest.mark.parametrize("sdk", [Changed, Broken])
async def test_requests_that_are_not_written_as_expected_are_the_sdks(sdk: type, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_sdk_forms, "SDKWire", sdk)
    async with service(http_answer(COMPLETED)) as server:
        provider = OpenAIResponses("gpt-5", api_key="key", base_url=server.base_url)
        assert (await provider.poll(REF)).text == "Because."
        assert server.heads[0].startswith("GET /v1/responses/resp_1 ")
        assert isinstance(provider._wire, LeanWire)
        assert await provider._wire._ready() is None
        await provider.aclose()


async def test_an_odd_id_is_written_by_the_sdk():
    async with service(http_answer()) as server:
        provider = OpenAIResponses("gpt-5", api_key="key", base_url=server.base_url)
        await provider.poll(RunRef("openai", "e", {"response": "a/b ?ü"}))
        assert server.heads[0].startswith("GET /v1/responses/a%2Fb%20%3F%C3%BC HTTP/1.1")
        await provider.aclose()


async def test_a_closed_client_says_so():
    async with service(http_answer()) as server:
        client = openai.AsyncOpenAI(api_key="key", base_url=server.base_url)
        provider = OpenAIResponses("gpt-5", client=client)
        await provider.poll(REF)
        await provider.aclose()
        await provider.poll(REF)
        await client.close()
        with pytest.raises(ServiceUnavailable, match="closed"):
            await provider.poll(REF)

        await provider.aclose()


# --- redirects ---


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_of_a_poll_or_a_stream_is_followed(status: int):
    async with service(http_answer(COMPLETED)) as new, service(b"") as old:
        old.reply = http_answer(b"", f"{status} Moved", f"location: {new.base_url}/responses/resp_1")
        provider = OpenAIResponses("gpt-5", api_key="key", base_url=old.base_url)
        assert (await provider.poll(REF)).text == "Because."
        new.reply = http_answer(DELTA).replace(b"application/json", b"text/event-stream")
        assert [event.text for event in await gather(provider.attach(REF))] == ["a"]
        await provider.aclose()


@pytest.mark.parametrize(("status", "posts"), [(307, 2), (308, 2), (303, 1), (302, 1), (301, 1)])
async def test_a_start_is_sent_again_only_where_the_redirect_asks_for_it(status: int, posts: int):
    stream = http_answer(DELTA).replace(b"application/json", b"text/event-stream")
    async with service(stream) as new, service(b"") as old:
        old.reply = http_answer(b"", f"{status} Moved", f"location: {new.base_url}/responses")
        provider = OpenAIResponses("gpt-5", api_key="key", base_url=old.base_url)
        if posts == 2:
            assert [event.text for event in await gather(provider.open(QUESTION))] == ["a"]
            assert new.heads[0].startswith("POST /v1/responses")
        else:
            with pytest.raises(ServiceUnavailable, match="make its address the base URL") as caught:
                await gather(provider.open(QUESTION))

            assert not caught.value.unsent

        assert len(old.heads) == posts
        await provider.aclose()


# --- what breaks ---


async def test_a_refused_connection_is_unsent(unused_tcp_port: int):
    provider = OpenAIResponses("gpt-5", api_key="key", base_url=f"http://127.0.0.1:{unused_tcp_port}/v1")
    for call in (gather(provider.open(QUESTION)), provider.poll(REF), gather(provider.attach(REF))):
        with pytest.raises(ServiceUnavailable, match=f"127.0.0.1:{unused_tcp_port}") as caught:
            await call

        assert caught.value.unsent

    await provider.aclose()


@pytest.mark.parametrize("reset", [True, False])
async def test_a_start_whose_connection_ends_is_sent_once_and_was_sent(reset: bool):
    async def end(writer: asyncio.StreamWriter) -> None:
        await cut(writer, reset=reset)

    async with service(http_answer()) as server:
        provider = OpenAIResponses("gpt-5", api_key="key", base_url=server.base_url)
        await provider.poll(REF)  # a connection that is used again may be the one that breaks
        server.reply = end
        with pytest.raises(ServiceUnavailable, match="no answer") as caught:
            await gather(provider.open(QUESTION))

        assert not caught.value.unsent
        assert len(server.heads) == 2
        await provider.aclose()


@virtual_time
async def test_silence_is_bounded_and_a_start_that_met_it_was_sent():
    async def nothing(_: asyncio.StreamWriter) -> None: ...

    async with service(nothing) as server:
        client = openai.AsyncOpenAI(api_key="key", base_url=server.base_url, timeout=600)
        provider = OpenAIResponses("gpt-5", client=client, timeout=60)
        now = asyncio.get_running_loop().time
        for call, bound in (
            (gather(provider.open(QUESTION)), 600),
            (provider.poll(REF), 60),
            (gather(provider.attach(REF)), 600),
        ):
            began = now()
            with pytest.raises(ServiceUnavailable, match="no answer") as caught:
                await call

            assert not caught.value.unsent
            assert now() - began == pytest.approx(bound, abs=2)

        await provider.aclose()


@pytest.mark.parametrize("reset", [True, False])
async def test_what_came_whole_before_a_cut_comes_first(reset: bool):
    ended = asyncio.Event()

    async def halves(writer: asyncio.StreamWriter) -> None:
        writer.write(SSE + b"%x\r\n%s\r\n" % (len(DELTA), DELTA) + b"ff\r\ndata: {")
        await cut(writer, reset=reset)
        ended.set()

    async with service(halves) as server:
        provider = OpenAIResponses("gpt-5", api_key="key", base_url=server.base_url)
        for stream in (provider.open(QUESTION), provider.attach(REF)):
            texts: list[str] = []
            ended.clear()
            with pytest.raises(ServiceUnavailable):  # noqa: PT012 (it has to be read up to there)
                async for batch in stream:
                    texts += [event.text for event in batch]
                    await ended.wait()
                    for _ in range(10):  # the cut comes while nobody waits for it
                        await asyncio.sleep(0)

            assert texts == ["a"]

        await provider.aclose()


async def test_gzip_is_read_and_what_is_none_is_unavailable():
    async with service(
        http_answer(gzip.compress(json.dumps(COMPLETED).encode()), "200 OK", "content-encoding: gzip")
    ) as server:
        provider = OpenAIResponses("gpt-5", api_key="key", base_url=server.base_url)
        assert (await provider.poll(REF)).text == "Because."
        server.reply = http_answer(b"no gzip", "200 OK", "content-encoding: gzip").replace(b"/json", b"/any")
        for call in (provider.poll(REF), gather(provider.open(QUESTION)), gather(provider.attach(REF))):
            with pytest.raises(ServiceUnavailable):
                await call

        server.reply = http_answer(
            gzip.compress(b'{"error": {"message": "No."}}'), "500 Oh", "content-encoding: gzip", "x-request-id: req_1"
        )
        with pytest.raises(ServiceUnavailable, match="HTTP 500: No") as caught:
            await provider.poll(REF)

        assert caught.value.request_id == "req_1"
        await provider.aclose()


# --- letting go ---


async def endless(writer: asyncio.StreamWriter) -> None:
    writer.write(SSE + b"%x\r\n%s\r\n" % (len(DELTA), DELTA))
    await writer.drain()


@pytest.mark.parametrize("call", ["open", "attach"])
async def test_a_stream_that_is_closed_closes_its_connection_at_once(call: str):
    async with service(endless) as server:
        provider = OpenAIResponses("gpt-5", api_key="key", base_url=server.base_url)
        stream = provider.open(QUESTION) if call == "open" else provider.attach(REF)
        async for batch in stream:
            if batch:
                break

        await stream.aclose()
        async with asyncio.timeout(5):
            await server.gone.wait()

        await provider.aclose()


async def test_a_cancelled_poll_closes_its_connection_and_leaves_nothing():
    asked = asyncio.Event()

    async def nothing(_: asyncio.StreamWriter) -> None:
        asked.set()

    async with service(nothing) as server:
        provider = OpenAIResponses("gpt-5", api_key="key", base_url=server.base_url)
        poll = asyncio.ensure_future(provider.poll(REF))
        await asked.wait()
        before = asyncio.all_tasks() - {poll}
        poll.cancel()
        with pytest.raises(asyncio.CancelledError):
            await poll

        async with asyncio.timeout(5):
            await server.gone.wait()

        assert asyncio.all_tasks() <= before
        await provider.aclose()


async def test_polls_share_a_connection():
    async with service(http_answer()) as server:
        provider = OpenAIResponses("gpt-5", api_key="key", base_url=server.base_url)
        for _ in range(5):
            await provider.poll(REF)

        assert server.connections == 1
        await provider.aclose()


def test_a_provider_may_be_used_in_one_loop_after_another(unused_tcp_port: int):
    client = openai.AsyncOpenAI(api_key="key", base_url=f"http://127.0.0.1:{unused_tcp_port}/v1")
    provider = OpenAIResponses("gpt-5", client=client)

    async def poll() -> None:
        async with service(http_answer(), port=unused_tcp_port):
            await provider.poll(REF)

    for _ in range(2):
        asyncio.run(poll())

    asyncio.run(provider.aclose())


@pytest.mark.parametrize("when", ["in the loop", "after the loop"])
def test_a_provider_that_nobody_closes_is_dropped_in_silence(when: str, caplog: pytest.LogCaptureFixture):
    kept: list[OpenAIResponses] = []

    async def poll() -> None:
        async with service(http_answer()) as server:
            provider = OpenAIResponses("gpt-5", api_key="key", base_url=server.base_url)
            await provider.poll(REF)
            if when == "in the loop":
                del provider
                gc.collect()
                async with asyncio.timeout(5):
                    await server.gone.wait()
            else:
                kept.append(provider)

    asyncio.run(poll())
    kept.clear()
    gc.collect()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


# --- TLS ---


async def test_the_certificates_of_the_environment_are_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    key_file, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    make = (
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout {key_file} -out {certificate} -subj /CN=localhost"
    )
    try:
        subprocess.run([*make.split(), "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl, which makes a certificate, is not installed")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key_file)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(http_answer(COMPLETED))
        await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "localhost", 0, ssl=context) as server:
        url = f"https://localhost:{server.sockets[0].getsockname()[1]}/v1"
        stranger = OpenAIResponses("gpt-5", api_key="key", base_url=url)
        with pytest.raises(ServiceUnavailable, match="certificate"):
            await stranger.poll(REF)

        await stranger.aclose()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        provider = OpenAIResponses("gpt-5", api_key="key", base_url=url)
        assert isinstance(provider._wire, LeanWire)
        assert (await provider.poll(REF)).text == "Because."
        await provider.aclose()
