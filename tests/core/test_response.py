import pytest
from pydantic import BaseModel, TypeAdapter

from agentbg.core.model import JSON, RunRef, Snapshot
from agentbg.core.response import build_response, item_text
from agentbg.core.status import RunStatus
from agentbg.core.token import ContinuationToken
from agentbg.errors import OutputInvalid

from .service import REF, snapshot

TOKEN = ContinuationToken(REF)


class Report(BaseModel):
    title: str


def parse(text: str) -> Report:
    return Report.model_validate_json(text)


@pytest.mark.parametrize("status", RunStatus)
def test_the_token_is_none_exactly_when_nothing_is_left(status: RunStatus) -> None:
    response = build_response(snapshot(status), TOKEN)
    assert (response.continuation_token is None) == (status not in (RunStatus.QUEUED, RunStatus.RUNNING))
    assert status.live + status.terminal + (status is RunStatus.INPUT_REQUIRED) == 1


def test_the_value_is_an_instance_of_the_output_type() -> None:
    response = build_response(snapshot(RunStatus.COMPLETED, '{"title": "a"}'), None, parse)
    assert response.value == Report(title="a")


def test_the_value_without_an_output_type_is_the_text() -> None:
    assert build_response(snapshot(RunStatus.COMPLETED, "a"), None).value == "a"


def test_the_value_of_an_output_type_may_be_anything_pydantic_reads() -> None:
    response = build_response(snapshot(RunStatus.COMPLETED, "[1, 2]"), None, TypeAdapter(list[int]).validate_json)
    assert response.value == [1, 2]


@pytest.mark.parametrize("text", ["", "no JSON", '{"name": 1}'])
def test_a_text_that_does_not_fit_says_so_and_is_not_lost(text: str) -> None:
    response = build_response(snapshot(RunStatus.COMPLETED, text), None, parse)
    with pytest.raises(OutputInvalid, match=r"does not fit .* `response\.text`") as caught:
        _ = response.value

    assert caught.value.response.text == text


@pytest.mark.parametrize("status", set(RunStatus) - {RunStatus.COMPLETED})
def test_only_a_completed_run_has_a_value(status: RunStatus) -> None:
    with pytest.raises(OutputInvalid, match=f"is {status}"):
        _ = build_response(snapshot(status, '{"title": "a"}'), None, parse).value


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ({"content": [{"type": "output_text", "text": "a"}, {"type": "output_text", "text": "b"}]}, "ab"),
        ({"content": [{"type": "refusal", "refusal": "no"}]}, ""),
        ({"content": "plain"}, "plain"),
        ({"content": None}, ""),
        ({"content": [None, "x", {"type": "output_text"}, {"type": "output_text", "text": 7}]}, ""),
        ({}, ""),
    ],
)
def test_the_text_of_a_message_is_that_of_its_text_parts(item: JSON, text: str) -> None:
    assert item_text(item) == text


def test_only_messages_are_messages() -> None:
    items: list[JSON] = [{"type": "reasoning"}, {"type": "message", "role": "assistant", "content": "a"}, {}]
    response = build_response(Snapshot(RunRef("p", "e", {}), RunStatus.COMPLETED, "completed", "a", items), None)
    assert [(message.role, message.text) for message in response.messages] == [("assistant", "a")]
    assert response.response_id == ""


def test_a_run_without_a_ref_has_no_id() -> None:
    assert build_response(snapshot(RunStatus.COMPLETED, "a", ref=None), None).response_id is None
