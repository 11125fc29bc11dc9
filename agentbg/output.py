"""Output types: the JSON schema that a service is asked for, and the value in what it answers.

Pure, and yet not in `core`, which knows an answer only as text: types are the agent's business, and this is its part.

OpenAI enforces a schema to the letter ("strict") only when every object in it is closed, every property is required,
and no keyword is beyond its grammar. `enforceable` gives a type's schema that form: properties with a default become
required, unions become `anyOf`, and a limit that cannot be enforced (the length of a text) moves into the description,
for the model to read and for pydantic to check. Where there is no such form, the schema is a request, not a promise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

from pydantic import PydanticUserError, TypeAdapter, ValidationError, create_model
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaWarningKind
from pydantic_core import from_json

from .core.model import JSON
from .errors import UsageError

T = TypeVar("T")
WRAPPER = "value"
"""A service's answer is an object. A list, a number or a union is asked for as the only property of one."""

_KEPT = (
    *("title", "description", "type", "enum", "const", "format", "pattern"),
    *("multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems"),
)
"""What OpenAI's guide on structured outputs lists as supported, besides what `_node` handles itself."""
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
_LIMITS = ("minLength", "maxLength", "uniqueItems", "format", "pattern")
"""What a strict schema may lose. The description then names it."""
_BEYOND = frozenset(
    {
        *("allOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "contains"),
        *("prefixItems", "patternProperties", "unevaluatedProperties", "unevaluatedItems"),
    }
)
_DIGITS = "0123456789"
_LOOKAROUND = ("(?=", "(?!", "(?<=", "(?<!")
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


class Output(Generic[T]):
    """An output type. `schema` has a title; `strict` says whether a service can enforce it to the letter."""

    def __init__(self, type_: Any) -> None:
        try:
            self._type: TypeAdapter[T] = TypeAdapter(type_)
            schema = _schema_of(self._type)
            self._wrapper = None if schema.get("type") == "object" else _wrapper(type_)
            if self._wrapper is not None:
                schema = _schema_of(self._wrapper)
        except (PydanticUserError, NameError) as error:
            reason = str(error).partition("\n")[0]
            raise UsageError(
                f"pydantic cannot describe the output type {type_!r} as a JSON schema: {reason}"
            ) from error

        strict = enforceable(schema)
        self.strict = strict is not None
        self.schema: JSON = {"title": "output", **(strict or schema)}

    def parse(self, text: str) -> T:
        """The value of a final text. Raises pydantic's ValidationError.

        A service that does not follow the schema, and answers a bare list or number for one that was to be wrapped, is
        understood all the same.
        """
        if self._wrapper is None or not _is_wrapped(text):
            return self._type.validate_json(text)

        try:
            return cast("T", getattr(self._wrapper.validate_json(text), WRAPPER))
        except ValidationError as error:
            try:
                return self._type.validate_json(text)  # one of a union's models may look like a wrapper
            except ValidationError:
                raise error from None

    def partial(self, text: str, whole: bool) -> Any:
        """The data of a text, that is not `whole` perhaps; None where nothing can be read. Nothing is validated."""
        if not whole:
            text = text.rstrip(_DIGITS)  # 12 may be on its way to 125

        try:
            data: Any = from_json(text, allow_partial="trailing-strings")
        except (ValueError, TypeError):  # a TypeError is for a lone surrogate
            return None

        if not isinstance(data, dict):
            return None if self._wrapper is None else data

        members = cast("dict[str, Any]", data)
        wrapped = self._wrapper is not None and members.keys() <= {WRAPPER}
        return members.get(WRAPPER) if wrapped else members


def enforceable(schema: JSON) -> JSON | None:
    """The strict form of a schema whose root is an object; None when it has none.

    It has none with open objects (`dict[str, Any]`, models with extra fields), tuples of several types, and `Any`.
    Recursive types are fine.
    """
    try:
        return _node(schema)
    except _Loose:
        return None


class _Loose(Exception):
    """This part of a schema has no strict form."""


class _Generate(GenerateJsonSchema):
    def emit_warning(self, kind: JsonSchemaWarningKind, detail: str) -> None:
        """A default that is no JSON is no reason for a warning: defaults are not sent."""


def _schema_of(adapter: TypeAdapter[Any]) -> dict[str, Any]:
    return _root(adapter.json_schema(schema_generator=_Generate))


def _wrapper(type_: Any) -> TypeAdapter[Any]:
    fields: dict[str, Any] = {WRAPPER: (type_, ...)}
    return TypeAdapter(create_model("output", **fields))


def _root(schema: dict[str, Any]) -> dict[str, Any]:
    """A recursive type's schema is a reference to one of its own definitions: that one in its place."""
    definitions = schema.get("$defs", {})
    while "$ref" in schema:
        schema = {**definitions[schema["$ref"].rpartition("/")[2]], "$defs": definitions}

    return schema


def _is_wrapped(text: str) -> bool:
    try:
        value: Any = from_json(text)
    except ValueError:
        return False

    return isinstance(value, dict) and list(cast("dict[str, Any]", value)) == [WRAPPER]


def _node(schema: Any) -> dict[str, Any]:
    """The strict form of one part, with all that is in it."""
    if not isinstance(schema, Mapping) or _BEYOND & schema.keys():
        raise _Loose

    source = cast("JSON", schema)
    node = {key: source[key] for key in _KEPT if key in source and _supported(key, source[key])}
    if "$ref" in source:
        return _reference(source)

    node.update(_inside(source))
    if not {"type", "anyOf"} & node.keys():
        node["type"] = _types_of(node)

    lost = [f"{key}: {source[key]}" for key in _LIMITS if key in source and key not in node]
    if lost:
        node["description"] = " ".join(filter(None, [node.get("description"), f"({', '.join(lost)})"]))

    return node


def _inside(source: JSON) -> dict[str, Any]:
    """The parts that have parts of their own."""
    inside: dict[str, Any] = {}
    kind = source.get("type")
    if kind == "object":
        inside.update(_closed(source))

    if kind == "array":
        inside["items"] = _node(source.get("items"))

    if choices := source.get("anyOf") or source.get("oneOf"):
        inside["anyOf"] = [_node(choice) for choice in choices]

    if definitions := source.get("$defs"):
        inside["$defs"] = {name: _node(definition) for name, definition in definitions.items()}

    return inside


def _closed(source: JSON) -> JSON:
    """An object with exactly these properties. One that says nothing of its properties, or takes any, is none."""
    properties: JSON | None = source.get("properties")
    if properties is None or source.get("additionalProperties"):
        raise _Loose

    return {
        "properties": {name: _node(value) for name, value in properties.items()},
        "required": list(properties),
        "additionalProperties": False,
    }


def _reference(source: JSON) -> dict[str, Any]:
    """A reference stands alone; what was said beside it is said around it."""
    reference = {"$ref": source["$ref"]}
    if "description" not in source:
        return reference

    return {"anyOf": [reference], "description": source["description"]}


def _supported(key: str, value: Any) -> bool:
    if key == "format":
        return value in _FORMATS

    return key != "pattern" or not any(mark in value for mark in _LOOKAROUND)


def _types_of(node: JSON) -> str | Sequence[str]:
    """The types of an enumeration's values, which pydantic leaves out when they differ."""
    values: Sequence[Any] = node.get("enum", [node["const"]] if "const" in node else [])
    kinds = {_TYPES.get(value.__class__): None for value in values}
    if not kinds or None in kinds:
        raise _Loose

    names = [kind for kind in kinds if kind is not None]
    return names[0] if len(names) == 1 else names
