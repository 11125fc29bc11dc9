"""Output types: schemas that a service can enforce, and values that come back as they were."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, make_dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from types import NoneType
from typing import Annotated, Any, Literal, Optional
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, create_model
from served import served
from typing_extensions import TypedDict

from agentbg import Agent, OutputInvalid, UsageError
from agentbg.output import Output, enforceable
from agentbg.testing import ScriptedProvider
from agentbg.testing.server import Message, Script


class Mood(Enum):
    GOOD = "good"
    BAD = "bad"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Node(BaseModel):
    """A node of a tree."""

    name: str = Field(default="root", min_length=1, max_length=20)
    children: list[Node] = []
    parent: Optional[Node] = Field(default=None, description="Where it hangs.")  # noqa: UP045 (users write this, too)


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    tricks: set[str] = set()


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]


class Point(TypedDict, total=False):
    x: int
    y: int


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    x: int


class Priced(BaseModel):
    price: Decimal
    paid: bytes = b""
    code: str = Field(pattern=r"^[A-Z]{3}$")
    other: str = Field(json_schema_extra={"x-ui": "wide", "examples": ["a"]}, default="b")


# --- schemas ---


def parts(schema: Any) -> list[Mapping[str, Any]]:
    """A schema and all the schemas in it."""
    inner = [
        *schema.get("anyOf", ()),
        *schema.get("properties", {}).values(),
        *schema.get("$defs", {}).values(),
        *([schema["items"]] if "items" in schema else ()),
    ]
    return [schema, *(part for each in inner for part in parts(each))]


GRAMMAR = {
    *("title", "description", "type", "enum", "const", "format", "pattern", "properties", "required", "items"),
    *("additionalProperties", "anyOf", "$ref", "$defs", "minItems", "maxItems", "multipleOf"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}


def assert_strict(schema: Mapping[str, Any]) -> None:
    """What OpenAI's strict mode asks of a schema."""
    assert schema["type"] == "object"
    assert "anyOf" not in schema
    for part in parts(schema):
        assert set(part) <= GRAMMAR
        assert {"type", "anyOf", "$ref"} & set(part), "a part without a type"
        if part.get("type") == "object":
            assert part["additionalProperties"] is False
            assert part["required"] == list(part["properties"])

        if "$ref" in part:
            assert set(part) == {"$ref"}
            assert part["$ref"].rpartition("/")[2] in schema["$defs"]

        assert "(?" not in part.get("pattern", "")


STRICT = [Node, Cat, Pet, Point, Priced, list[Node], list[int], Literal["a", 1], int | str, bool, Mood, Level]
STRICT += [Node | None, set[Mood], tuple[int, ...], date, Decimal, list[Pet], Literal[3], Literal["a", None]]  # noqa: PYI061 (of one type)
LOOSE = [dict[str, Any], dict[str, int], Open, JsonValue, Any, list, tuple[int, str], list[dict[str, Cat]], object]


@pytest.mark.parametrize("type_", STRICT, ids=str)
def test_a_type_with_a_strict_form_is_sent_in_it(type_: Any):
    output = Output(type_)
    assert output.strict
    assert_strict(output.schema)


@pytest.mark.parametrize("type_", LOOSE, ids=str)
def test_a_type_without_one_is_a_request_whose_root_is_still_an_object(type_: Any):
    output = Output(type_)
    assert not output.strict
    assert output.schema["type"] == "object"
    assert output.schema["title"]


def test_limits_that_cannot_be_enforced_are_told_to_the_model():
    properties = Output(Priced).schema["properties"]
    assert properties["code"]["pattern"] == "^[A-Z]{3}$"
    assert properties["paid"]["description"] == "(format: binary)"
    name = Output(Node).schema["properties"]["name"]
    assert (name["description"], "default" in name) == ("(minLength: 1, maxLength: 20)", False)


def test_what_is_said_of_a_reference_is_said_around_it():
    class Pair(BaseModel):
        """Two."""

        left: Cat = Field(description="The left one.")
        right: Cat

    properties = Output(Pair).schema["properties"]
    assert properties["left"] == {"anyOf": [{"$ref": "#/$defs/Cat"}], "description": "The left one."}
    assert properties["right"] == {"$ref": "#/$defs/Cat"}


def test_a_property_may_be_named_like_a_keyword():
    type_ = create_model("Odd", **dict.fromkeys(("default", "allOf", "title", "type_", "properties"), (int, 0)))
    assert list(Output(type_).schema["properties"]) == ["default", "allOf", "title", "type_", "properties"]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": {"a": True}},
        {"type": "object", "properties": {"a": {"allOf": [{"type": "string"}]}}},
        {"type": "object", "properties": {"a": {"enum": [["a"]]}}},
        {"type": "object", "properties": {"a": {"type": "array"}}},
    ],
)
def test_a_schema_of_ones_own_that_is_open_has_no_strict_form(schema: Any):
    assert enforceable(schema) is None


def test_a_default_that_is_no_json_is_no_reason_for_a_warning():
    class Odd(BaseModel):
        x: Any = Field(default_factory=object)
        y: int | None = Field(default=object())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Output(Odd)


@pytest.mark.parametrize("type_", [Callable[[], int], list["Nowhere"], object.__init__], ids=str)  # noqa: F821 (that is the point)
def test_a_type_that_pydantic_cannot_describe_is_told_at_once(type_: Any):
    with pytest.raises(UsageError, match="output type"):
        Agent(ScriptedProvider(), output_type=type_)


# --- values ---


@pytest.mark.parametrize(
    ("type_", "text", "value"),
    [
        (list[int], '{"value": [1, 2]}', [1, 2]),
        (list[int], "[1, 2]", [1, 2]),
        (Literal["a", "b"], '{"value": "a"}', "a"),
        (int | str, '{"value": "1"}', "1"),
        (Cat | Dog, '{"value": {"kind": "cat", "lives": 9}}', Cat(lives=9)),
        (Cat | Dog, '{"kind": "cat", "lives": 9}', Cat(lives=9)),
        (dict[str, int], '{"value": 1}', {"value": 1}),
        (dict[str, int] | None, '{"value": {"value": 1}}', {"value": 1}),
        (dict[str, int] | None, '{"value": 1}', {"value": 1}),
        (JsonValue, '{"value": {"value": 1}}', {"value": 1}),
    ],
    ids=str,
)
def test_a_wrapped_value_is_unwrapped_and_a_bare_one_understood(type_: Any, text: str, value: Any):
    assert Output(type_).parse(text) == value


@pytest.mark.parametrize("text", ['{"value": ["x"]}', '{"value": [1', "[1, ", "Sorry.", "", '{"values": [1]}', '["x"]'])
async def test_what_does_not_fit_is_an_error_that_keeps_the_text(text: str):
    async with served(Script.of(Message(text)), output_type=list[int]) as (_, agent):
        response = await agent.run("x")
        assert response.text == text
        with pytest.raises(OutputInvalid) as caught:
            _ = response.value

        assert caught.value.response.text == text


@pytest.mark.parametrize(("type_", "strict"), [(list[Cat], True), (Cat, True), (dict[str, Cat], False)], ids=str)
async def test_the_service_is_asked_to_enforce_the_schema_where_it_can(type_: Any, strict: bool):
    async with served(Script.json({}), output_type=type_) as (server, agent):
        await agent.run("x")
        sent = server.requests[0].json["text"]["format"]
        assert (sent["type"], sent["strict"]) == ("json_schema", strict)
        assert sent["schema"] == Output(type_).schema


async def test_the_text_stays_what_the_service_said():
    async with served(Script.json({"value": [1, 2]}), output_type=list[int]) as (_, agent):
        response = await agent.run("x")
        assert (response.text, response.value) == ('{"value": [1, 2]}', [1, 2])


# --- any type ---


@dataclass(frozen=True)
class Kind:
    """A type, and its values."""

    type: Any
    values: st.SearchStrategy[Any]


def leaf(type_: Any, values: st.SearchStrategy[Any] | None = None) -> Kind:
    return Kind(type_, st.from_type(type_) if values is None else values)


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(codec="utf-8"))
LEAVES = [
    leaf(int),
    leaf(str, TEXT),
    leaf(bool),
    leaf(float, FLOATS),
    leaf(NoneType),
    leaf(Mood),
    leaf(Level),
    leaf(UUID),
    leaf(date),
    leaf(datetime, st.datetimes()),
    leaf(timedelta, st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=900))),
    leaf(Decimal, st.decimals(allow_nan=False, allow_infinity=False, places=3)),
    leaf(Literal["a", 1] | None, st.sampled_from(["a", 1, None])),
    leaf(Pet, st.builds(Cat, lives=st.integers()) | st.builds(Dog, tricks=st.sets(TEXT))),
    leaf(int | str, st.integers() | TEXT),
    leaf(Node, st.builds(Node, name=TEXT.filter(lambda text: 0 < len(text) <= 20), children=st.just([Node()]))),
]
NAMES = st.lists(st.sampled_from(["a", "b", "value", "title", "default"]), min_size=1, max_size=3, unique=True)


def model_of(fields: dict[str, Kind]) -> Kind:
    type_ = create_model("Made", **{name: (kind.type, ...) for name, kind in fields.items()})
    return Kind(type_, st.builds(type_, **{name: kind.values for name, kind in fields.items()}))


def dataclass_of(fields: dict[str, Kind]) -> Kind:
    type_ = make_dataclass("Data", [(name, kind.type) for name, kind in fields.items()])
    return Kind(type_, st.builds(type_, **{name: kind.values for name, kind in fields.items()}))


def typed_dict_of(fields: dict[str, Kind]) -> Kind:
    type_ = TypedDict("Typed", {name: kind.type for name, kind in fields.items()})
    return Kind(type_, st.fixed_dictionaries({name: kind.values for name, kind in fields.items()}))


def larger(kinds: st.SearchStrategy[Kind]) -> st.SearchStrategy[Kind]:
    fields = NAMES.flatmap(lambda names: st.fixed_dictionaries(dict.fromkeys(names, kinds)))
    return st.one_of(
        kinds.map(lambda kind: Kind(list[kind.type], st.lists(kind.values, max_size=3))),
        kinds.map(lambda kind: Kind(Optional[kind.type], st.none() | kind.values)),  # noqa: UP045 (made of a variable)
        kinds.map(lambda kind: Kind(tuple[kind.type, ...], st.lists(kind.values, max_size=3).map(tuple))),
        kinds.map(lambda kind: Kind(tuple[kind.type, int], st.tuples(kind.values, st.integers()))),
        kinds.map(lambda kind: Kind(dict[str, kind.type], st.dictionaries(TEXT, kind.values, max_size=3))),
        fields.map(model_of),
        fields.map(dataclass_of),
        fields.map(typed_dict_of),
    )


def fits(value: Any, schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> bool:
    """Whether a value keeps the rules of a strict schema about types, properties and choices."""
    if "$ref" in schema:
        return fits(value, definitions[schema["$ref"].rpartition("/")[2]], definitions)

    if "anyOf" in schema:
        return any(fits(value, choice, definitions) for choice in schema["anyOf"])

    if value not in schema.get("enum", [value]) or schema.get("const", value) != value:
        return False

    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if isinstance(value, dict):
        return (
            "object" in kinds
            and set(value) == set(schema["required"]) == set(schema["properties"])
            and all(fits(value[name], part, definitions) for name, part in schema["properties"].items())
        )

    if isinstance(value, list):
        return "array" in kinds and all(fits(item, schema["items"], definitions) for item in value)

    names = {str: {"string"}, bool: {"boolean"}, int: {"integer", "number"}, float: {"number"}, NoneType: {"null"}}
    return bool(names[type(value)] & set(kinds))


@settings(deadline=None, max_examples=200)
@given(st.data(), st.recursive(st.sampled_from(LEAVES), larger, max_leaves=5))
def test_a_value_of_any_type_keeps_the_schema_and_comes_back_as_it_was(data: st.DataObject, kind: Kind):
    value = data.draw(kind.values)
    output = Output(kind.type)
    written = TypeAdapter(kind.type).dump_json(value).decode()
    bare = TypeAdapter(kind.type).validate_json(written)
    wrapped = written if output._wrapper is None else f'{{"value": {written}}}'
    if output.strict:
        assert_strict(output.schema)
        assert fits(json.loads(wrapped), output.schema, output.schema.get("$defs", {}))

    assert output.parse(wrapped) == bare
    assert bare == value
