"""What the service, and the way to it, can answer, and what it means: the whole table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpcore2
import httpx
import pytest
import respx
from hypothesis import given
from hypothesis import strategies as st
from openai_wire import COMPLETED, ON_THE_SDK, QUESTION, QUEUED, REF, gather, kinds, ok, sse

from agentbg.core.status import RunStatus
from agentbg.errors import (
    AuthenticationFailed,
    ProviderError,
    RequestRejected,
    RunNotFound,
    ServiceUnavailable,
    StreamRefused,
)
from agentbg.providers import OpenAIResponses
from agentbg.providers.openai_errors import poll_after, retry_after

ERROR = {"error": {"message": "No.", "type": "some_error", "param": None, "code": "some_code"}}
TRANSIENT = [408, 409, 425, 429, 500, 501, 502, 503, 504, 520, 529, 599]
FINAL = [400, 402, 403, 405, 406, 410, 411, 413, 415, 418, 422, 451]


def answer(status: int, body: Any = ERROR, **headers: str) -> httpx.Response:
    return httpx.Response(status, json=body, headers={name.replace("_", "-"): value for name, value in headers.items()})


async def failure(provider: OpenAIResponses, call: str) -> ProviderError:
    calls = {
        "start": lambda: provider.start(QUESTION),
        "open": lambda: gather(provider.open(QUESTION)),
        "poll": lambda: provider.poll(REF),
        "attach": lambda: gather(provider.attach(REF)),
        "cancel": lambda: provider.cancel(REF),
        "delete": lambda: provider.delete(REF),
    }
    with pytest.raises(ProviderError) as caught:
        await calls[call]()

    return caught.value


ALL = ["start", "open", "poll", "attach", "cancel", "delete"]
STARTS = ["start", "open"]
OF_A_RUN = ["poll", "attach", "cancel"]


# --- statuses ---


@pytest.mark.parametrize(
    ("status", "call"),
    # A 409 to a cancel says that it comes too late, and is no error.
    [(status, call) for status in TRANSIENT for call in ALL if (status, call) != (409, "cancel")],
)
async def test_what_may_pass_is_unavailable(api: respx.MockRouter, provider: OpenAIResponses, status: int, call: str):
    api.route().mock(answer(status, x_request_id="req_1"))
    error = await failure(provider, call)
    assert type(error) is ServiceUnavailable
    assert (error.status_code, error.code, error.request_id) == (status, "some_code", "req_1")
    assert error.retry_after is None
    assert error.unsent is (status == 429), "a start may be sent again only when it surely did no work"
    assert "No." in str(error)
    assert str(status) in str(error)


@pytest.mark.parametrize("call", ["start", "open", "poll", "delete"])
@pytest.mark.parametrize("status", FINAL)
async def test_what_will_not_pass_is_rejected(api: respx.MockRouter, provider: OpenAIResponses, status: int, call: str):
    api.route().mock(answer(status))
    error = await failure(provider, call)
    assert type(error) is RequestRejected
    assert (error.status_code, error.code) == (status, "some_code")


@pytest.mark.parametrize("call", ALL)
async def test_a_401_says_what_to_check(api: respx.MockRouter, provider: OpenAIResponses, call: str):
    api.route().mock(answer(401))
    error = await failure(provider, call)
    assert type(error) is AuthenticationFailed
    assert "OPENAI_API_KEY" in str(error)


@pytest.mark.parametrize("call", ALL)
async def test_a_403_is_rejected_and_never_taken_for_a_stream_that_is_over(
    api: respx.MockRouter, provider: OpenAIResponses, call: str
):
    api.route().mock(answer(403))
    assert type(await failure(provider, call)) is RequestRejected


@pytest.mark.parametrize("call", STARTS)
async def test_a_404_of_a_start_is_rejected(api: respx.MockRouter, provider: OpenAIResponses, call: str):
    api.post("/responses").mock(answer(404, {"error": {"message": "No such model.", "code": "model_not_found"}}))
    error = await failure(provider, call)
    assert type(error) is RequestRejected
    assert error.code == "model_not_found"


@pytest.mark.parametrize("call", OF_A_RUN)
async def test_a_404_of_a_run_is_a_run_not_found(api: respx.MockRouter, provider: OpenAIResponses, call: str):
    api.route().mock(answer(404))
    error = await failure(provider, call)
    assert type(error) is RunNotFound
    assert "resp_1" in str(error)


@pytest.mark.parametrize("call", STARTS)
async def test_a_locked_conversation_may_be_asked_again_at_once(
    api: respx.MockRouter, provider: OpenAIResponses, call: str
):
    body = {"error": {"message": "Another process is operating.", "code": "conversation_locked"}}
    api.post("/responses").mock(answer(400, body))
    error = await failure(provider, call)
    assert isinstance(error, ServiceUnavailable)
    assert (error.unsent, error.code, error.status_code) == (True, "conversation_locked", 400)


@pytest.mark.parametrize(
    "message",
    [
        "This response can no longer be streamed because it is more than 5 minutes old.",
        "This response cannot be streamed because it was not created with stream=true.",
        "This response cannot be streamed because it was not created with background=true.",
    ],
)
async def test_a_stream_that_the_service_refuses_is_to_be_polled(
    api: respx.MockRouter, provider: OpenAIResponses, message: str
):
    api.get("/responses/resp_1").mock(answer(400, {"error": {"message": message, "param": "stream", "code": None}}))
    error = await failure(provider, "attach")
    assert type(error) is StreamRefused
    assert message in str(error)


@pytest.mark.parametrize("status", [405, 410, 422])
async def test_any_other_refusal_of_a_stream_is_one_too(api: respx.MockRouter, provider: OpenAIResponses, status: int):
    api.get("/responses/resp_1").mock(answer(status))
    assert type(await failure(provider, "attach")) is StreamRefused


# --- the service's wishes ---


@pytest.mark.parametrize("status", [429, 500, 503, 409])
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": "1.5"}, 1.5),
        ({"retry_after": "0"}, 0.0),
        ({"retry_after_ms": "250"}, 0.25),
        ({"retry_after_ms": "250", "retry_after": "9"}, 0.25),
        ({"retry_after": "600"}, 600.0),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "-3"}, None),
        ({"retry_after": "nan"}, None),
        ({"retry_after_ms": "x", "retry_after": "2"}, 2.0),
        ({}, None),
    ],
)
async def test_the_wish_to_wait_is_read(
    api: respx.MockRouter, provider: OpenAIResponses, status: int, headers: dict[str, str], seconds: float | None
):
    api.route().mock(answer(status, **headers))
    error = await failure(provider, "start")
    assert isinstance(error, ServiceUnavailable)
    assert error.retry_after == seconds
    assert error.unsent is (status == 429 or (status == 503 and seconds is not None))


async def test_the_wish_to_wait_may_be_a_date(api: respx.MockRouter, provider: OpenAIResponses):
    date = datetime.now(UTC) + timedelta(seconds=100)
    api.route().mock(answer(503, retry_after=format_datetime(date, usegmt=True)))
    error = await failure(provider, "poll")
    assert isinstance(error, ServiceUnavailable)
    assert error.retry_after is not None
    assert 90 < error.retry_after <= 100


@pytest.mark.parametrize("date", ["Wed, 21 Oct 2015 07:28:00 GMT", "Mon, 01 Jan 0001 00:00:00 -0000"])
def test_a_date_that_is_past_means_now(date: str):
    assert retry_after({"retry-after": date}) == 0.0


@pytest.mark.parametrize(
    "date", ["Wed, 21 Oct 99999999999 07:28:00 GMT", "Wed, 99 Oct 2035 07:28:00 GMT", "1 Jan 9999 00:00:00 +9999"]
)
def test_a_date_that_is_none_is_no_wish(date: str):
    assert retry_after({"retry-after": date}) is None


@given(st.text() | st.from_regex(r"\w{3}, \d{1,12} \w{3} \d{1,12} \d+:\d+:\d+ [+-]?\w+"))
def test_no_header_makes_reading_it_fail(value: str):
    for header in ("retry-after", "retry-after-ms", "openai-poll-after-ms"):
        seconds = poll_after({header: value})
        assert seconds is None or seconds >= 0


@pytest.mark.parametrize("call", ["start", "poll"])
async def test_a_service_that_asks_not_to_retry_is_obeyed(api: respx.MockRouter, provider: OpenAIResponses, call: str):
    api.route().mock(answer(429, {"error": {"message": "Pay.", "code": "insufficient_quota"}}, x_should_retry="false"))
    error = await failure(provider, call)
    assert type(error) is RequestRejected
    assert error.code == "insufficient_quota"


@pytest.mark.parametrize("call", STARTS)
@pytest.mark.parametrize("status", [500, 502, 504, 408])
async def test_a_start_that_may_have_worked_is_never_taken_for_a_refusal(
    api: respx.MockRouter, provider: OpenAIResponses, status: int, call: str
):
    api.route().mock(answer(status, x_should_retry="false"))
    error = await failure(provider, call)
    assert isinstance(error, ServiceUnavailable)
    assert not error.unsent


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"openai_poll_after_ms": "1500"}, 1.5),
        ({"openai_poll_after_ms": "1500", "retry_after": "9"}, 1.5),
        ({"openai_poll_after_ms": "?", "retry_after": "9"}, 9.0),
        ({"retry_after": "9"}, 9.0),
        ({"retry_after_ms": "50"}, 0.05),
    ],
)
async def test_the_wish_for_the_next_poll_is_read_from_every_good_answer(
    api: respx.MockRouter, provider: OpenAIResponses, headers: dict[str, str], seconds: float | None
):
    api.route().mock(ok(QUEUED, **headers))
    cancelled = await provider.cancel(REF)
    assert cancelled is not None
    for snapshot in (await provider.start(QUESTION), await provider.poll(REF), cancelled):
        assert snapshot.poll_after == seconds


# --- bodies that are none ---

HTML = httpx.Response(200, html="<!DOCTYPE html><title>502 Bad Gateway</title>")
BROKEN = {
    "html": HTML,
    "half of the json": httpx.Response(
        200, content=b'{"id":"resp_1","sta', headers={"content-type": "application/json"}
    ),
    "nothing": httpx.Response(200, content=b"", headers={"content-type": "application/json"}),
    "no content": httpx.Response(204),
    "a list": httpx.Response(200, json=[QUEUED]),
    "null": httpx.Response(200, content=b"null", headers={"content-type": "application/json"}),
    "something else": httpx.Response(200, json={"error": {"message": "Odd."}}),
    "no utf-8": httpx.Response(200, content=b'{"id": "\xff\xfe"}', headers={"content-type": "application/json"}),
}


@pytest.mark.parametrize("call", ALL[:-1])
@pytest.mark.parametrize("body", BROKEN)
async def test_a_good_status_with_a_bad_body_is_unavailable(
    api: respx.MockRouter, provider: OpenAIResponses, body: str, call: str
):
    api.route().mock(BROKEN[body])
    error = await failure(provider, call) if (body, call) not in SILENT else None
    if error is not None and not (call == "attach" and isinstance(error, StreamRefused)):
        assert type(error) is ServiceUnavailable
        assert not error.unsent, "the start may have worked"


@ON_THE_SDK
@pytest.mark.parametrize("call", ALL[:-1])
async def test_gzip_that_is_none_is_unavailable(api: respx.MockRouter, provider: OpenAIResponses, call: str):
    answer = httpx.Response(200, stream=httpx.ByteStream(b"no gzip"), headers={"content-encoding": "gzip"})
    api.route().mock(answer)
    assert type(await failure(provider, call)) is ServiceUnavailable


# An empty answer to a stream is a stream that was cut before its first event.
SILENT = {("no content", "open"), ("no content", "attach")}


async def test_an_empty_stream_has_no_events(api: respx.MockRouter, provider: OpenAIResponses):
    api.route().mock(httpx.Response(200, text="", headers={"content-type": "text/event-stream"}))
    assert await gather(provider.open(QUESTION)) == []
    assert await gather(provider.attach(REF)) == []


async def test_json_in_place_of_a_stream_is_a_refusal_to_stream(api: respx.MockRouter, provider: OpenAIResponses):
    api.get("/responses/resp_1").mock(ok(COMPLETED))
    assert type(await failure(provider, "attach")) is StreamRefused


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (httpx.Response(502, html="<html>Bad Gateway</html>"), "Bad Gateway"),
        (httpx.Response(502, text=""), "no reason"),
        (httpx.Response(502, json={"error": "plain words"}), "plain words"),
        (httpx.Response(502, json={"detail": "other shape"}), "other shape"),
        (httpx.Response(502, json=["list"]), "502"),
        (httpx.Response(502, json={"error": {"message": None, "code": 17}}), "502"),
    ],
    ids=["html", "nothing", "text", "detail", "list", "numbers"],
)
async def test_an_error_of_any_shape_is_told(
    api: respx.MockRouter, provider: OpenAIResponses, body: httpx.Response, said: str
):
    api.route().mock(body)
    error = await failure(provider, "poll")
    assert isinstance(error, ServiceUnavailable)
    assert said in str(error)
    assert len(str(error)) < 500


# --- streams that break ---


async def test_what_was_whole_comes_before_what_breaks(api: respx.MockRouter, provider: OpenAIResponses):
    body = b'data: {"type":"response.output_text.delta","sequence_number":4,"delta":"a"}\n\ndata: {"type":\n\n'
    api.get("/responses/resp_1").mock(httpx.Response(200, content=body, headers={"content-type": "text/event-stream"}))
    stream = provider.attach(REF)
    assert not await anext(stream), "it is open"
    [event] = await anext(stream)
    assert (event.text, event.cursor) == ("a", 4)
    with pytest.raises(ServiceUnavailable, match="no JSON"):
        await anext(stream)


async def test_comments_done_marks_and_keepalives_are_signs_of_life(api: respx.MockRouter, provider: OpenAIResponses):
    body = b': ping\n\nevent: keepalive\ndata: {"type":"keepalive","sequence_number":3}\n\ndata: [DONE]\n\n'
    api.get("/responses/resp_1").mock(httpx.Response(200, content=body, headers={"content-type": "text/event-stream"}))
    events = await gather(provider.attach(REF))
    assert kinds(events) == ["keepalive", "keepalive", "keepalive"]
    assert [event.cursor for event in events] == [None, 3, None]


@pytest.mark.parametrize("nested", [True, False])
async def test_an_error_event_is_read_in_both_its_shapes(
    api: respx.MockRouter, provider: OpenAIResponses, nested: bool
):
    details = {"code": "server_error", "message": "Broken.", "param": None}
    event = {"type": "error", "sequence_number": 5, **({"error": details} if nested else details)}
    failed = {"type": "response.failed", "sequence_number": 6, "response": {**QUEUED, "status": "failed"}}
    api.get("/responses/resp_1").mock(sse(event, failed))
    error, end = await gather(provider.attach(REF))
    assert error.error is not None
    assert (error.kind, error.error.code, error.error.message) == ("error", "server_error", "Broken.")
    assert end.snapshot is not None
    assert (end.kind, end.snapshot.status) == ("end", RunStatus.FAILED)


# --- no answer at all ---


@ON_THE_SDK
@pytest.mark.parametrize("call", ALL)
@pytest.mark.parametrize(
    ("fault", "unsent"),
    [
        (httpcore2.ConnectError("refused"), True),
        (httpcore2.ConnectTimeout, True),
        (httpcore2.PoolTimeout, True),
        (httpcore2.ReadTimeout, False),
        (httpcore2.WriteTimeout, False),
        (httpcore2.ReadError, False),
        (httpcore2.WriteError, False),
        (httpcore2.RemoteProtocolError, False),
        (httpcore2.ProxyError, False),
    ],
    ids=lambda fault: getattr(fault, "__name__", type(fault).__name__),
)
async def test_a_start_may_be_sent_again_only_when_no_connection_was_made(
    api: respx.MockRouter, provider: OpenAIResponses, fault: Any, unsent: bool, call: str
):
    api.route().mock(side_effect=fault)
    error = await failure(provider, call)
    assert type(error) is ServiceUnavailable
    assert error.unsent is unsent
    assert "http://api.test" in str(error)
    assert error.__cause__ is not None


async def test_a_refused_connection_on_a_real_port_is_unsent(unused_tcp_port: int):
    provider = OpenAIResponses("gpt-5", api_key="key", base_url=f"http://127.0.0.1:{unused_tcp_port}/v1")
    error = await failure(provider, "start")
    await provider.aclose()
    assert isinstance(error, ServiceUnavailable)
    assert error.unsent
    assert f"127.0.0.1:{unused_tcp_port}" in str(error)


async def test_no_error_shows_the_key(api: respx.MockRouter):
    provider = OpenAIResponses("gpt-5", api_key="sk-secret", base_url="http://user:hidden@api.test/v1")
    for fault in (httpx.Response(500), httpx.Response(401), httpcore2.ConnectError("refused")):
        api.route().mock(side_effect=[fault])
        error = await failure(provider, "poll")
        assert "secret" not in f"{error}{error!r}"
        assert "hidden" not in f"{error}{error!r}"

    assert "secret" not in repr(provider)
    assert "hidden" not in repr(provider)
    await provider.aclose()
