"""What may be asked, and answers with a type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from served import background, served

from agentbg import Message, OutputInvalid, RunStatus, UsageError
from agentbg.testing.server import Message as Says
from agentbg.testing.server import Script


@pytest.mark.parametrize(
    ("input", "items"),
    [
        ("Hello", [{"type": "message", "role": "user", "content": "Hello"}]),
        (Message("system", "Be kind."), [{"type": "message", "role": "system", "content": "Be kind."}]),
        ({"role": "user", "content": "Raw"}, [{"role": "user", "content": "Raw"}]),
        (
            [Message("user", "One"), {"type": "item_reference", "id": "msg_1"}],
            [{"type": "message", "role": "user", "content": "One"}, {"type": "item_reference", "id": "msg_1"}],
        ),
    ],
    ids=["text", "message", "item", "list"],
)
async def test_an_input_may_be_a_text_a_message_or_a_list(input: Any, items: list[Any]):
    async with served(Script.text("Yes.")) as (server, agent):
        await agent.run(input)
        assert server.requests[0].json["input"] == items


@pytest.mark.parametrize("input", [None, [], ()])
async def test_an_input_of_nothing_is_refused(input: Any):
    async with served() as (server, agent):
        with pytest.raises(UsageError, match=r"nothing|empty"):
            await agent.run(input)

        with pytest.raises(UsageError, match=r"nothing|empty"):
            agent.run_streaming(input)

        assert server.requests == []


class Report(BaseModel):
    title: str
    stars: int


@dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    ("type", "json", "value"),
    [
        (Report, {"title": "Robots", "stars": 3}, Report(title="Robots", stars=3)),
        (Point, {"x": 1}, Point(1)),
        (list[int], [1, 2], [1, 2]),
        (dict[str, Point], {"a": {"x": 1}}, {"a": Point(1)}),
        (bool, True, True),
    ],
    ids=["model", "dataclass", "list", "dict", "bool"],
)
async def test_a_value_is_of_the_agents_output_type(type: Any, json: Any, value: Any):
    async with served(Script.json(json), output_type=type) as (_, agent):
        assert (await agent.run("x")).value == value


async def test_without_an_output_type_the_value_is_the_text():
    async with served(Script.text("Hello.")) as (server, agent):
        assert (await agent.run("x")).value == "Hello."
        assert "text" not in server.requests[0].json

    async with served(Script.text("Hello."), output_type=str) as (server, agent):
        assert (await agent.run("x")).value == "Hello."
        assert "text" not in server.requests[0].json


@pytest.mark.parametrize("text", ['{"title": "Robots"}', "Sorry, no.", '{"title": "Rob', ""])
async def test_an_answer_that_does_not_fit_is_an_error_that_keeps_the_text(text: str):
    async with served(Script.of(Says(text)), output_type=Report) as (_, agent):
        response = await agent.run("x")
        assert (response.status, response.text) == (RunStatus.COMPLETED, text)
        with pytest.raises(OutputInvalid, match="output type") as caught:
            _ = response.value

        assert caught.value.response is response
        assert caught.value.response.text == text
        assert isinstance(caught.value.__cause__, ValidationError)


async def test_a_run_that_goes_on_has_no_value_and_says_so():
    async with served(Script.json({}).lasting(running=3600.0), output_type=Report) as (_, agent):
        response = await agent.run("x", agent.get_new_thread(), background())
        with pytest.raises(OutputInvalid, match="queued"):
            _ = response.value
