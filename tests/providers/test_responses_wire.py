"""Responses and events of every shape, well-formed and not, in our words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai_wire import COMPLETED, QUEUED

from agentbg.core.assembly import Assembly
from agentbg.core.model import EventKind, RunRef
from agentbg.core.requests import output_item
from agentbg.core.status import RunStatus
from agentbg.providers.responses_wire import read_event, read_response


def make_ref(run_id: str) -> RunRef:
    return RunRef("openai", "here", {"response": run_id})


def response(status: Any = "completed", *output: Any, **fields: Any) -> dict[str, Any]:
    return {"id": "resp_1", "status": status, "output": list(output), **fields}


def call(type: str, id: str = "call_1", **fields: Any) -> dict[str, Any]:
    return {"type": type, "id": "item_1", "call_id": id, **fields}


# --- statuses ---


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("queued", RunStatus.QUEUED),
        ("in_progress", RunStatus.RUNNING),
        ("completed", RunStatus.COMPLETED),
        ("incomplete", RunStatus.INCOMPLETE),
        ("failed", RunStatus.FAILED),
        ("cancelled", RunStatus.CANCELLED),
        ("thinking_hard", RunStatus.RUNNING),
        ("", RunStatus.RUNNING),
        (None, RunStatus.RUNNING),
        (17, RunStatus.RUNNING),
    ],
)
def test_a_status_is_one_of_ours_and_the_raw_word_is_kept(word: Any, status: RunStatus):
    snapshot = read_response(response(word), make_ref)
    assert snapshot.status is status
    assert snapshot.raw_status == (word if isinstance(word, str) else "")


@pytest.mark.parametrize(
    "type", ["function_call", "custom_tool_call", "computer_call", "local_shell_call", "apply_patch_call"]
)
def test_a_call_without_its_output_waits_for_the_user(type: str):
    assert read_response(response("completed", call(type)), make_ref).status is RunStatus.INPUT_REQUIRED
    output = {"type": f"{type}_output", "call_id": "call_1"}
    assert read_response(response("completed", call(type), output), make_ref).status is RunStatus.COMPLETED
    other = {"type": f"{type}_output", "call_id": "call_2"}
    assert read_response(response("completed", call(type), other), make_ref).status is RunStatus.INPUT_REQUIRED


def test_an_approval_request_waits_until_it_is_answered():
    request = {"type": "mcp_approval_request", "id": "mcpr_1"}
    answer = {"type": "mcp_approval_response", "approval_request_id": "mcpr_1"}
    assert read_response(response("completed", request), make_ref).status is RunStatus.INPUT_REQUIRED
    assert read_response(response("completed", request, answer), make_ref).status is RunStatus.COMPLETED


@pytest.mark.parametrize(
    ("ids", "ours", "theirs"),
    [
        ({"call_id": "a", "id": "b"}, ["a", "a#2", "a#3"], ["a", "a", "a"]),
        ({"id": "b"}, ["b", "b#2", "b#3"], ["b", "b", "b"]),
        ({}, ["", "#2", "#3"], ["", "#2", "#3"]),
    ],
)
def test_calls_that_share_an_id_are_told_apart_here_and_answered_by_the_services_own(
    ids: dict[str, str], ours: list[str], theirs: list[str]
):
    items = [{"type": "function_call", "arguments": f"[{number}]", **ids} for number in range(3)]
    requests = read_response(response("completed", *items), make_ref).requests
    assert [request.id for request in requests] == ours
    assert [request.arguments for request in requests] == ["[0]", "[1]", "[2]"]
    assert [output_item(request, "42")["call_id"] for request in requests] == theirs


@pytest.mark.parametrize(
    ("written", "read"),
    [('{"n": 1}', '{"n": 1}'), ({"n": "ö"}, '{"n": "ö"}'), ([1], "[1]"), ({}, ""), (None, ""), (17, ""), ("", "")],
)
def test_arguments_that_are_no_text_are_written_as_json(written: Any, read: str):
    (request,) = read_response(response("completed", call("function_call", arguments=written)), make_ref).requests
    assert request.arguments == read


@pytest.mark.parametrize("type", ["web_search_call", "file_search_call", "code_interpreter_call", "mcp_call"])
def test_the_services_own_tools_wait_for_nobody(type: str):
    assert read_response(response("completed", call(type)), make_ref).status is RunStatus.COMPLETED


@pytest.mark.parametrize("status", ["in_progress", "failed", "incomplete", "cancelled"])
def test_only_a_completed_response_waits_for_the_user(status: str):
    assert read_response(response(status, call("function_call")), make_ref).status is not RunStatus.INPUT_REQUIRED


# --- texts, errors, usage ---


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "output_text", "text": "a"}, {"type": "output_text", "text": "b"}], "ab"),
        ([{"type": "refusal", "refusal": "No."}], ""),
        ([{"type": "output_text", "text": None}, {"type": "output_text"}, None, 3], ""),
        ("plain", "plain"),
        (None, ""),
        ({}, ""),
    ],
)
def test_the_text_is_that_of_all_text_parts(content: Any, text: str):
    body = response("completed", {"type": "message", "role": "assistant", "content": content})
    assert read_response(body, make_ref).text == text


def test_items_that_are_no_message_have_no_text():
    reasoning = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]}
    echoed = {"type": "function_call_output", "call_id": "c", "content": [{"type": "output_text", "text": "no"}]}
    assert read_response(response("completed", reasoning, echoed), make_ref).text == ""


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"error": {"code": "server_error", "message": "Oh."}}, ("server_error", "Oh.")),
        ({"error": {}}, ("error", "")),
        ({"error": None}, None),
        ({"incomplete_details": {"reason": "content_filter"}}, ("content_filter", "The answer was cut short")),
        ({"incomplete_details": {}}, ("incomplete", "The answer was cut short")),
        ({}, None),
    ],
)
def test_why_a_run_has_no_result(fields: dict[str, Any], error: tuple[str, str] | None):
    told = read_response(response("failed", **fields), make_ref).error
    assert (told is None) == (error is None)
    if told and error:
        assert told.code == error[0]
        assert told.message.startswith(error[1])


# --- events ---


@pytest.mark.parametrize(
    ("name", "body", "kind", "status"),
    [
        ("response.created", QUEUED, EventKind.STATUS, RunStatus.QUEUED),
        ("response.completed", COMPLETED, EventKind.END, RunStatus.COMPLETED),
        ("response.failed", {**QUEUED, "status": "cancelled"}, EventKind.END, RunStatus.CANCELLED),
        ("response.completed", {**QUEUED, "status": "incomplete"}, EventKind.END, RunStatus.INCOMPLETE),
        ("response.done", COMPLETED, EventKind.END, RunStatus.COMPLETED),
        ("response.incomplete", {"id": "resp_1"}, EventKind.END, RunStatus.INCOMPLETE),
        ("response.failed", {"id": "resp_1", "status": None}, EventKind.END, RunStatus.FAILED),
        ("response.queued", {"id": "resp_1"}, EventKind.STATUS, RunStatus.QUEUED),
        ("response.completed", {**QUEUED, "status": "in_progress"}, EventKind.STATUS, RunStatus.RUNNING),
    ],
)
def test_the_responses_status_counts_not_the_events_name(name: str, body: Any, kind: EventKind, status: RunStatus):
    event = read_event({"type": name, "sequence_number": 4, "response": body}, make_ref)
    assert event.snapshot is not None
    assert (event.kind, event.snapshot.status, event.cursor) == (kind, status, 4)


@pytest.mark.parametrize("shape", ["nested", "flat", "in its response"])
def test_an_error_event_is_an_error_in_every_shape(shape: str):
    error = {"code": "server_error", "message": "Oh."}
    shapes: dict[str, dict[str, Any]] = {
        "nested": {"error": error},
        "flat": error,
        "in its response": {"response": {**QUEUED, "status": None, "error": error}},
    }
    event = read_event({"type": "error", "sequence_number": 4, **shapes[shape]}, make_ref)
    assert event.error is not None
    assert (event.kind, event.error.code, event.error.message) == (EventKind.ERROR, "server_error", "Oh.")


@pytest.mark.parametrize("number", [None, "7", 7.0, True, [7]])
def test_a_number_that_is_none_moves_no_cursor(number: Any):
    event = read_event({"type": "response.output_text.delta", "delta": "a", "sequence_number": number}, make_ref)
    assert event.cursor is None


@pytest.mark.parametrize("index", [-1, 2**20, 2**70, True, "0", None])
def test_an_output_index_that_cannot_be_is_none(index: Any):
    event = read_event({"type": "response.output_item.added", "output_index": index, "item": {}}, make_ref)
    assert (event.kind, event.index) == (EventKind.ITEM, None)
    [update] = Assembly().add(event)
    assert update.position.items == 0


WORDS = "type response status output id content text error usage delta item code sequence_number output_index role"
TEXTS = "error response.created response.completed response.output_text.delta response.output_item.added message \ud800"
words = st.sampled_from([*WORDS.split(), "incomplete_details", "input_tokens", "call_id"])
texts = st.sampled_from(["", *TEXTS.split(), "function_call", "output_text", "keepalive", "completed"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=6),
    max_leaves=20,
)


@given(st.dictionaries(words, values, max_size=6))
def test_no_response_makes_reading_it_fail(body: dict[str, Any]):
    snapshot = read_response(body, make_ref)
    assert isinstance(snapshot.text, str)
    assert snapshot.status in RunStatus


@given(st.lists(st.dictionaries(words, values, max_size=6), max_size=5))
def test_no_event_makes_reading_or_assembling_it_fail(bodies: list[dict[str, Any]]):
    assembly = Assembly()
    for body in bodies:
        event = read_event(body, make_ref)
        if event.kind is not EventKind.END:
            assembly.add(event)
