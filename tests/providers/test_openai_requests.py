"""What goes over the wire: one request per call, and its exact body, address and query."""

from __future__ import annotations

import json
from contextlib import nullcontext

import httpcore2
import httpx
import pytest
import respx
from openai_wire import BASE, COMPLETED, ON_THE_SDK, QUESTION, QUEUED, REF, gather, kinds, ok, sent, sse

from agentbg import Agent, AgentRunOptions, UsageError
from agentbg.core.model import RunRef, StartRequest
from agentbg.core.status import RunStatus
from agentbg.errors import ProviderError, RunNotFound, StreamRefused, Unsupported
from agentbg.providers import OpenAIResponses

INPUT = [{"type": "message", "role": "user", "content": "Why?"}]
CREATED = {"type": "response.created", "sequence_number": 0, "response": QUEUED}
DONE = {"type": "response.completed", "sequence_number": 1, "response": COMPLETED}


async def test_a_background_start_sends_background_and_store(api: respx.MockRouter, provider: OpenAIResponses):
    route = api.post("/responses").mock(ok())
    snapshot = await provider.start(QUESTION)
    assert sent(route) == {"model": "gpt-5", "input": INPUT, "store": True, "background": True}
    assert (snapshot.ref, snapshot.status, snapshot.raw_status) == (
        RunRef("openai", provider.endpoint, {"response": "resp_1"}),
        RunStatus.QUEUED,
        "queued",
    )


async def test_a_foreground_start_has_no_background_key(api: respx.MockRouter, provider: OpenAIResponses):
    route = api.post("/responses").mock(ok(COMPLETED))
    snapshot = await provider.start(StartRequest(INPUT, background=False))
    assert sent(route) == {"model": "gpt-5", "input": INPUT, "store": True}
    assert (snapshot.status, snapshot.text) == (RunStatus.COMPLETED, "Because.")


async def test_a_streamed_start_sends_stream_and_yields_the_events(api: respx.MockRouter, provider: OpenAIResponses):
    route = api.post("/responses").mock(sse(CREATED, DONE))
    events = await gather(provider.open(QUESTION))
    assert sent(route) == {"model": "gpt-5", "input": INPUT, "store": True, "background": True, "stream": True}
    assert kinds(events) == ["status", "end"]
    assert [event.cursor for event in events] == [0, 1]
    assert route.call_count == 1


async def test_everything_a_request_can_say_is_sent(api: respx.MockRouter, provider: OpenAIResponses):
    route = api.post("/responses").mock(ok())
    schema = {"title": "Report", "type": "object", "properties": {"title": {"type": "string"}}}
    request = StartRequest(
        INPUT, instructions="Be short.", tools=[{"type": "web_search"}], output_schema=schema, previous=REF
    )
    await provider.start(request)
    assert sent(route) == {
        "model": "gpt-5",
        "input": INPUT,
        "store": True,
        "background": True,
        "instructions": "Be short.",
        "tools": [{"type": "web_search"}],
        "previous_response_id": "resp_1",
        "text": {"format": {"type": "json_schema", "name": "Report", "schema": schema, "strict": False}},
    }


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Report", "Report"),
        ("Page[Report]", "Page_Report_"),
        ("Bericht über alles", "Bericht__ber_alles"),
        ("R" * 80, "R" * 64),
        ("", "output"),
        (None, "output"),
    ],
)
async def test_the_schemas_name_is_one_that_the_service_takes(
    api: respx.MockRouter, provider: OpenAIResponses, title: str | None, name: str
):
    route = api.post("/responses").mock(ok())
    await provider.start(StartRequest(INPUT, output_schema={} if title is None else {"title": title, "type": "object"}))
    if title is None:
        assert "text" not in sent(route)
    else:
        assert sent(route)["text"]["format"]["name"] == name


async def test_extra_parameters_win_over_all_else(api: respx.MockRouter, provider: OpenAIResponses):
    route = api.post("/responses").mock(ok())
    extra = {"store": False, "model": "o4-mini", "metadata": {"a": "b"}, "background": False}
    await provider.start(StartRequest(INPUT, extra=extra))
    assert sent(route) == {"input": INPUT, **extra}


async def test_a_conversation_takes_the_place_of_the_previous_response(
    api: respx.MockRouter, provider: OpenAIResponses
):
    route = api.post("/responses").mock(ok())
    await provider.start(StartRequest(INPUT, previous=REF, extra={"conversation": "conv_1"}))
    assert sent(route)["conversation"] == "conv_1"
    assert "previous_response_id" not in sent(route), "the service refuses both together"


async def test_the_key_of_an_attempt_is_sent_as_a_header(api: respx.MockRouter, provider: OpenAIResponses):
    route = api.post("/responses").mock(side_effect=[ok(), sse(CREATED, DONE), ok()])
    await provider.start(QUESTION, key="run_1")
    assert route.calls.last.request.headers["idempotency-key"] == "run_1"
    await gather(provider.open(QUESTION, key="run_2"))
    assert route.calls.last.request.headers["idempotency-key"] == "run_2"
    await provider.start(QUESTION)
    assert "idempotency-key" not in route.calls.last.request.headers


@pytest.mark.parametrize("status", [200, 201, 202])
async def test_a_start_may_be_accepted_with_any_good_status(
    api: respx.MockRouter, provider: OpenAIResponses, status: int
):
    api.post("/responses").mock(httpx.Response(status, json=QUEUED))
    assert (await provider.start(QUESTION)).status is RunStatus.QUEUED


async def test_a_streamed_start_that_is_answered_without_a_stream_gives_the_run_first(
    api: respx.MockRouter, provider: OpenAIResponses
):
    api.post("/responses").mock(ok())
    stream = provider.open(QUESTION)
    [event] = await anext(stream)
    assert event.snapshot is not None
    assert event.snapshot.ref is not None
    assert event.snapshot.ref.id == "resp_1"
    with pytest.raises(StreamRefused):
        await anext(stream)


@pytest.mark.parametrize(
    ("written", "read"), [(r"a \ud83d", "a \ufffd"), (r"\ud83e\udd8a \udd8a", "🦊 \ufffd"), (r"\\ud83d", r"\ud83d")]
)
async def test_half_a_character_makes_no_answer_unreadable(
    api: respx.MockRouter, provider: OpenAIResponses, written: str, read: str
):
    api.get("/responses/resp_1").respond(200, text=json.dumps(COMPLETED).replace("Because.", written))
    snapshot = await provider.poll(REF)
    assert (snapshot.status, snapshot.text) == (RunStatus.COMPLETED, read)


async def test_a_poll_asks_for_the_run_and_for_nothing_else(api: respx.MockRouter, provider: OpenAIResponses):
    route = api.get("/responses/resp_1").mock(ok(COMPLETED))
    snapshot = await provider.poll(REF)
    request = route.calls.last.request
    assert str(request.url) == f"{BASE}/responses/resp_1"
    assert request.content == b""
    assert (snapshot.text, snapshot.status) == ("Because.", RunStatus.COMPLETED)
    assert snapshot.usage is not None
    assert snapshot.usage.total_tokens == 5


@pytest.mark.parametrize(
    ("after", "query"),
    [
        (None, {"stream": "true"}),
        (0, {"stream": "true", "starting_after": "0"}),
        (9, {"stream": "true", "starting_after": "9"}),
        ("opaque", {"stream": "true"}),
    ],
)
async def test_an_attach_names_the_cursor(
    api: respx.MockRouter, provider: OpenAIResponses, after: int | str | None, query: dict[str, str]
):
    route = api.get("/responses/resp_1").mock(sse(DONE))
    assert kinds(await gather(provider.attach(REF, after=after))) == ["end"]
    assert dict(route.calls.last.request.url.params) == query


async def test_a_cancel_and_a_delete_have_their_own_addresses(api: respx.MockRouter, provider: OpenAIResponses):
    cancel = api.post("/responses/resp_1/cancel").mock(ok({**QUEUED, "status": "cancelled"}))
    delete = api.delete("/responses/resp_1").mock(ok({"id": "resp_1", "object": "response.deleted", "deleted": True}))
    snapshot = await provider.cancel(REF)
    assert snapshot is not None
    assert snapshot.status is RunStatus.CANCELLED
    assert cancel.calls.last.request.content in (b"", b"{}")
    await provider.delete(REF)
    assert delete.call_count == 1


@pytest.mark.parametrize("status", [400, 409])
async def test_a_cancel_that_comes_too_late_is_no_error(api: respx.MockRouter, provider: OpenAIResponses, status: int):
    route = api.post("/responses/resp_1/cancel").mock(httpx.Response(status, json={"error": {"message": "Too late."}}))
    assert await provider.cancel(REF) is None
    assert route.call_count == 1


async def test_deleting_what_is_gone_is_no_error(api: respx.MockRouter, provider: OpenAIResponses):
    api.delete("/responses/resp_1").mock(httpx.Response(404, json={"error": {"message": "Not found."}}))
    await provider.delete(REF)


async def test_answering_a_run_is_not_supported_yet(provider: OpenAIResponses):
    with pytest.raises(Unsupported):
        await provider.respond(REF, [])


@pytest.mark.parametrize(
    ("id", "path"),
    [
        ("a/b", b"a%2Fb"),
        ("a?stream=true", b"a%3Fstream=true"),
        ("a#b", b"a%23b"),
        ("ä 1", b"%C3%A4%201"),
        ("%2e%2e", b"%252e%252e"),
        ("resp_" + "bGl0ZWxsbTo=" * 40, b"resp_" + b"bGl0ZWxsbTo=" * 40),
    ],
    ids=["slash", "query", "fragment", "unicode", "escaped", "long"],
)
async def test_an_odd_id_stays_one_part_of_the_address(
    api: respx.MockRouter, provider: OpenAIResponses, id: str, path: bytes
):
    route = api.route().mock(ok())
    ref = RunRef("openai", "elsewhere", {"response": id})
    await provider.poll(ref)
    assert route.calls.last.request.url.raw_path == b"/v1/responses/" + path
    await provider.cancel(ref)
    assert route.calls.last.request.url.raw_path == b"/v1/responses/" + path + b"/cancel"


@pytest.mark.parametrize("id", ["", ".", ".."])
async def test_an_id_that_no_address_can_hold_is_not_asked_for(
    api: respx.MockRouter, provider: OpenAIResponses, id: str
):
    ref = RunRef("openai", "elsewhere", {"response": id})
    for call in (provider.poll(ref), provider.cancel(ref), provider.delete(ref), gather(provider.attach(ref))):
        with pytest.raises(RunNotFound, match="id"):
            await call

    assert not api.calls


# --- the SDK sends each request once ---


async def each_call_is_one_request(provider: OpenAIResponses, route: respx.Route, *, late: bool = False) -> None:
    """None of them works; `late`: but a cancel is told that it comes too late, which is no error."""
    calls = (
        provider.start(QUESTION),
        gather(provider.open(QUESTION)),
        provider.poll(REF),
        gather(provider.attach(REF)),
        provider.cancel(REF),
        provider.delete(REF),
    )
    for number, call in enumerate(calls, 1):
        with nullcontext() if late and number == 5 else pytest.raises(ProviderError):
            await call

        assert route.call_count == number


@pytest.mark.parametrize("status", [500, 429, 409, 408])
async def test_each_call_is_one_request_whatever_the_answer(
    api: respx.MockRouter, provider: OpenAIResponses, status: int
):
    route = api.route().mock(httpx.Response(status, json={"error": {"message": "No."}}))
    await each_call_is_one_request(provider, route, late=status == 409)


@ON_THE_SDK
@pytest.mark.parametrize("fault", [httpcore2.ReadError, httpcore2.ReadTimeout, httpcore2.ConnectError])
async def test_each_call_is_one_request_whatever_breaks(
    api: respx.MockRouter, provider: OpenAIResponses, fault: type[Exception]
):
    await each_call_is_one_request(provider, api.route().mock(side_effect=fault))


# --- what an agent makes of its options ---


async def test_an_agent_without_background_sends_no_background_key(api: respx.MockRouter, provider: OpenAIResponses):
    route = api.post("/responses").mock(ok(COMPLETED))
    await Agent(provider).run("Why?")
    assert sent(route) == {"model": "gpt-5", "input": INPUT, "store": True}


@pytest.mark.parametrize("stream", [True, False])
async def test_the_way_a_run_is_read_is_no_extra_parameter(
    api: respx.MockRouter, provider: OpenAIResponses, stream: bool
):
    agent, options = Agent(provider), AgentRunOptions(extra={"stream": stream})
    with pytest.raises(UsageError, match="run_streaming"):
        await agent.run("Why?", options=options)

    with pytest.raises(UsageError, match="run_streaming"):
        agent.run_streaming("Why?", options=options)

    assert not api.calls


@pytest.mark.parametrize(
    "extra",
    [{"a": object()}, {"a": float("nan")}, {"a": "\ud800"}, {"a": {1, 2}}],
    ids=["object", "nan", "surrogate", "set"],
)
async def test_what_is_no_json_is_refused_before_anything_is_sent(
    api: respx.MockRouter, provider: OpenAIResponses, extra: dict[str, object]
):
    agent = Agent(provider)
    with pytest.raises(UsageError, match="JSON"):
        await agent.run("Why?", options=AgentRunOptions(extra=extra))

    with pytest.raises(UsageError, match="JSON"):
        agent.run_streaming([{"type": "message", "role": "user", "content": [extra]}])

    assert not api.calls


async def test_a_text_that_no_utf_8_can_carry_is_refused_before_anything_is_sent(
    api: respx.MockRouter, provider: OpenAIResponses
):
    with pytest.raises(UsageError, match="JSON"):
        await Agent(provider).run("caf\udce9.txt")

    assert not api.calls
